//! A whole run: a bank, its clients, what strikes them, and what comes after.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::fault::{Fault, Phase, Place, What};
use onlyonce_chaos::goals::Goals;
use onlyonce_chaos::history::{Defect, Event, Happened, OTHER_STORE, RunHeader, RunRecord};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};
use onlyonce_chaos::sim::{Order, Run, World};
use onlyonce_chaos::workload::{Plan, PlannedOutage};
use parking_lot::Mutex;

use super::attempts::Attempts;
use super::bank::{ACCOUNTS_MAX, Bank, account};
use super::clients::{Caller, Twins, Written, crashes, is_hot};
use super::defects::{client_hangs, damaged_store, needless_doubt};
use super::executor::SimRun;
use super::native::{Naming, Native, client_of, key_of};
use super::server::{Audit, Lives};
use crate::middleware::jitter;
use crate::storage::simulated::{SimDisk, SyncFate};
use crate::storage::{IdempotencyKey, KeyDigest, Scope, ScopedKey};

/// Runs a scenario once, on this thread.
pub(super) fn run(scenario: &Scenario, seed: Seed) -> Result<SimRun, HarnessError> {
    jitter::seed_this_thread(seed.value());
    let run = Run::new(seed, scenario.faults.clone());
    let disk = SimDisk::new();
    decide_syncs(&disk, &run);
    let bank = Bank::new(run.clone(), disk.clone(), scenario);
    let lives = Lives {
        run: run.clone(),
        bank: bank.clone(),
        mode: scenario.mode,
        store: Arc::new(AtomicU64::new(1)),
        world: WORLDS.fetch_add(1, Ordering::Relaxed),
        asked: Arc::default(),
        stacks: stacks(scenario, seed),
    };
    let mut town = Town {
        world: World::new(run.clone()),
        clients: Vec::new(),
        goals: Goals::default(),
        wipes: match wipes(scenario, seed) {
            true => WIPES_MAX,
            false => 0,
        },
        told_in_doubt: Arc::default(),
        hanging: Vec::new(),
        ended: Arc::default(),
        outages: match scenario.mode {
            Mode::Naive => VecDeque::new(),
            Mode::Claimed | Mode::Transactional => Plan::new(scenario, seed).outages.into(),
        },
        run,
        disk,
        lives,
    };
    town.settle(scenario);
    let complete = town.live(scenario).map_err(HarnessError::other)?;
    Ok(town.end(scenario, complete))
}

/// Counts the worlds of this process: what is known of executions is known by their stores' ids, and
/// runs side by side must not meet.
static WORLDS: AtomicU64 = AtomicU64::new(1);

struct Town<'a> {
    world: World<'a>,
    run: Run,
    disk: SimDisk,
    lives: Lives,
    clients: Vec<String>,
    goals: Goals,
    /// How often a server that crashes comes back without its disk.
    wipes: u32,
    /// Who was still at work when the time for that was over.
    hanging: Vec<String>,
    /// The keys that a client was told to be in doubt.
    told_in_doubt: Arc<Mutex<BTreeSet<String>>>,
    /// How many calls are over.
    ended: Arc<AtomicU64>,
    /// Who goes down as a part of the workload.
    outages: VecDeque<PlannedOutage>,
}

/// One run in three has a server that comes back with another store: behind a load balancer it was
/// another server. Only effects that lie elsewhere survive that, and only clients that know which
/// store they have met.
fn wipes(scenario: &Scenario, seed: Seed) -> bool {
    scenario.mode == Mode::Claimed
        && matches!(
            scenario.workload,
            Workload::Mailbox | Workload::Refunds | Workload::Transfers
        )
        && scenario.calls > 2
        && seed.draw(&[WIPES]).within(0..=2) == 0
}

/// Half of the runs have two servers over one store.
fn stacks(scenario: &Scenario, seed: Seed) -> usize {
    match scenario.mode {
        Mode::Naive => 1,
        Mode::Claimed | Mode::Transactional => 1 + seed.draw(&[STACKS]).within(0..=1) as usize,
    }
}

/// Whether nothing can happen to servers, disks and clocks.
fn is_of_the_wire(scenario: &Scenario) -> bool {
    let mut faults = scenario.faults.iter();
    scenario.workload != Workload::RollingRestarts
        && faults.all(|fault| matches!(fault.place, Place::Wire | Place::Client))
}

/// Syncs take a moment, and what the faults of the disk say.
fn decide_syncs(disk: &SimDisk, run: &Run) {
    let (run, mut number) = (run.clone(), 0);
    disk.decide_syncs(move || {
        number += 1;
        let draw = run.seed().draw(&[SYNCS, number]);
        let mut fate = SyncFate {
            takes: Duration::from_micros(draw.within(200..=2_500)),
            fails: false,
        };
        let possible = |place, what| {
            place == Place::Disk && matches!(what, What::SyncFails | What::SyncSlow { .. })
        };
        for strike in run.strikes(Phase::EffectDurable, (number, 1), possible) {
            match strike.what {
                What::SyncSlow { for_ms } => fate.takes += Duration::from_millis(for_ms),
                _ => fate.fails = true,
            }
        }
        fate
    });
}

// === impl Town ===

impl Town<'_> {
    fn settle(&mut self, scenario: &Scenario) {
        let lives = self.lives.clone();
        self.world.server(move |pipes| lives.clone().live(pipes));
        let attempts = Attempts::default();
        let sessions = !crashes(scenario) && !is_hot(scenario) && scenario.mode != Mode::Naive;
        for number in 1..=scenario.clients {
            let name = format!("client-{number}");
            let calls =
                (1..=scenario.calls).filter(|call| client_of(*call, scenario.clients) == number);
            let only = is_hot(scenario).then(Arc::<AtomicU64>::default);
            let naming = Naming::of(number, scenario.clients, only.clone());
            let caller = Caller {
                run: self.run.clone(),
                workload: scenario.workload,
                only,
                ended: Arc::clone(&self.ended),
                number,
                calls: calls.collect(),
                may_meet_another_store: self.wipes > 0,
                has_keys: scenario.mode != Mode::Naive,
                twins: match (scenario.mode, self.wipes) {
                    (Mode::Naive, _) | (_, 1..) => Twins::None,
                    _ if is_hot(scenario) => Twins::None,
                    _ if sessions => Twins::OfOdd,
                    _ => Twins::OfAll,
                },
                told_in_doubt: Arc::clone(&self.told_in_doubt),
                clients: scenario.clients,
                dialler: self.world.dialler(&name, {
                    let naming = naming.clone();
                    move || Box::new(Native::of(naming.clone()))
                }),
                naming,
                attempts: attempts.clone(),
                // Half of the clients, where nobody crashes and comes back.
                in_sessions: sessions && number % 2 == 0,
                deadline: Duration::from_millis(scenario.deadline_ms),
                attempt: Duration::from_millis(scenario.attempt_ms),
                written: Arc::new(Mutex::new(Written::default())),
            };
            self.world.client(&name, move || caller.clone().live());
            self.clients.push(name);
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let Self {
            world,
            disk,
            lives,
            wipes,
            run,
            ..
        } = self;
        world.step(&mut |order| match order {
            Order::CutPower { draw } => {
                let seed = Seed::new(*draw);
                disk.cut_power(&mut |sector| seed.draw(&[sector as u64]).happens(0.5));
            }
            Order::Crash { host, .. } if host == "server" => {
                disk.end_process();
                if *wipes > 0 && !run.faults_ended() {
                    *wipes -= 1;
                    disk.wipe();
                    let number = lives.store.fetch_add(1, Ordering::Relaxed);
                    lives.bank.forget_tokens();
                    // Another machine has a clock of its own.
                    let behind = run.seed().draw(&[OTHER_CLOCK, number]).within(0..=3_000);
                    run.jump_clock(-(behind as i64));
                    run.lifecycle("server", OTHER_STORE);
                }
            }
            Order::Crash { .. } => {}
        })
    }

    /// Takes down who is to go down when so many calls are over, one at a time: who is down already
    /// comes back first.
    fn begin_outage(&mut self) {
        let ended = self.ended.load(Ordering::Relaxed);
        let Some(next) = self.outages.front() else {
            return;
        };
        let host = match next.who.starts_with("server") {
            true => "server",
            false => next.who.as_str(),
        };
        if next.after_calls > ended || self.world.is_down(host) {
            return;
        }
        self.run.order(Order::Crash {
            host: host.to_owned(),
            back_after: Duration::from_millis(next.back_after_ms),
        });
        self.outages.pop_front();
    }

    fn clients_live(&mut self) -> bool {
        let Self { world, clients, .. } = self;
        clients.iter().any(|client| world.is_running(client))
    }

    /// Whether the books were read to their end.
    fn live(&mut self, scenario: &Scenario) -> Result<bool, String> {
        // Faults strike while calls are made for the first time; then everything is to end. They go on
        // while somebody is still to go down as part of the workload: slow calls make that late.
        let patience = patience_ms(scenario);
        let latest = patience + 20 * scenario.deadline_ms;
        loop {
            let until = match self.outages.is_empty() {
                true => patience,
                false => latest,
            };
            if !self.clients_live() || self.run.now_us() / 1_000 >= until {
                break;
            }
            self.begin_outage();
            self.step()?;
        }
        self.run.end_faults();
        let ends = self.run.now_us() / 1_000 + 20 * scenario.deadline_ms;
        while self.clients_live() && self.run.now_us() / 1_000 < ends {
            self.step()?;
        }
        if scenario.mode == Mode::Naive {
            return Ok(!self.clients_live());
        }
        let Self { world, clients, .. } = self;
        let hanging = clients.iter().filter(|client| world.is_running(client));
        self.hanging = hanging.cloned().collect();
        self.age(scenario)?;
        // What was acknowledged must be there also after this.
        self.cut_power()?;
        // A client that hangs keeps nobody from reading the books: its calls are stuck.
        self.ask_for_audit()
    }

    fn cut_power(&mut self) -> Result<(), String> {
        self.run.order(Order::CutPower {
            draw: self.run.seed().draw(&[LAST_CUT]).bits(),
        });
        for _ in 0..90 {
            self.step()?;
        }
        Ok(())
    }

    /// Lets what is remembered be forgotten, and then late duplicates come.
    fn age(&mut self, scenario: &Scenario) -> Result<(), String> {
        self.run.jump_clock(PAST_HORIZON_MS);
        self.lives.asked.lock().sweep = true;
        for _ in 0..2_000 {
            self.step()?;
            if !self.lives.asked.lock().sweep {
                break;
            }
        }
        let swept = self.lives.asked.lock().swept.take();
        let names = self.names(scenario);
        for key in swept.unwrap_or_default() {
            if let Some(key) = names.get(&key) {
                self.run.note(0, 0, Happened::Swept { key: key.clone() });
            }
        }
        // What is forgotten is forgotten also after this.
        self.cut_power()?;
        let late = self.world.kept();
        let before = self.world.replayed();
        for (hello, request) in late {
            self.world
                .replay(vec![hello, request], Duration::from_millis(60));
        }
        for _ in 0..120 {
            self.step()?;
        }
        // What the server did not answer has not come to it. No fault sends these, so that they are
        // none of the situations that a scenario can ask for.
        self.goals
            .add(LATE_BY_ITSELF, self.world.replayed().saturating_sub(before));
        Ok(())
    }

    fn names(&self, scenario: &Scenario) -> BTreeMap<KeyDigest, String> {
        let mut names = BTreeMap::new();
        let Ok(scope) = Scope::global().operation(super::bank::TRANSFER.name()) else {
            return names;
        };
        for call in 1..=scenario.calls {
            let name = key_of(call);
            if let Ok(key) = IdempotencyKey::parse(&name) {
                names.insert(ScopedKey::new(scope.clone(), key).digest(), name);
            }
        }
        names
    }

    fn ask_for_audit(&mut self) -> Result<bool, String> {
        self.lives.asked.lock().audit = true;
        for _ in 0..3_000 {
            self.step()?;
            if !self.lives.asked.lock().audit {
                break;
            }
        }
        Ok(self.lives.asked.lock().audited.is_some())
    }

    /// What no event shows.
    fn defects(&self, scenario: &Scenario) -> Vec<Defect> {
        let damaged = std::mem::take(&mut self.lives.asked.lock().damaged);
        let mut defects: Vec<Defect> = damaged.into_iter().map(damaged_store).collect();
        defects.extend(self.hanging.iter().map(|client| client_hangs(client)));
        if scenario.mode != Mode::Naive && is_of_the_wire(scenario) {
            let (told, left_open) = (self.told_in_doubt.lock(), self.lives.bank.left_open());
            let needless = told.difference(&left_open);
            defects.extend(needless.map(|key| needless_doubt(key)));
        }
        defects
    }

    fn end(self, scenario: &Scenario, complete: bool) -> SimRun {
        let audit = self.lives.asked.lock().audited.take();
        let mut header = RunHeader::new(&scenario.name, "sim", self.run.seed());
        header.naive = scenario.mode == Mode::Naive;
        header.resolve_within_ms = Some(RESOLVED_WITHIN_DEADLINES * scenario.deadline_ms);
        let mut record = RunRecord::new(header);
        let mut balances = self.lives.bank.balances();
        let mut found = Vec::new();
        if scenario.mode == Mode::Transactional {
            let Audit {
                effects,
                balances: kept,
            } = audit.unwrap_or_else(|| Audit {
                effects: Vec::new(),
                balances: BTreeMap::new(),
            });
            for (call, committed_us, what) in effects {
                found.push(Event {
                    at_us: committed_us.unwrap_or(self.run.now_us()),
                    call,
                    attempt: 0,
                    what,
                });
            }
            balances = kept;
        }
        for number in 0..ACCOUNTS_MAX {
            balances.entry(account(number)).or_insert(0);
        }
        record.defects = self.defects(scenario);
        let explicit = self.run.explicit();
        record.events = self.run.take_events();
        record.events.extend(found);
        // What was read in the end stands where it happened.
        record.events.sort_by_key(|event| event.at_us);
        record.accounts = Some(balances);
        record.complete = complete;
        record.fired = self.run.fired();
        record.goals = self.goals;
        SimRun {
            record: record.seal(),
            explicit,
        }
    }
}

/// How long faults strike.
fn patience_ms(scenario: &Scenario) -> u64 {
    FAULTS_PER_CALL_MS * scenario.calls / u64::from(scenario.clients) + 2_000
}

/// Whether the simulation has clients that do this.
pub(super) const fn knows(workload: Workload) -> bool {
    matches!(
        workload,
        Workload::HotKey
            | Workload::Mailbox
            | Workload::Outbox
            | Workload::Refunds
            | Workload::RollingRestarts
            | Workload::Transfers
    )
}

/// Whether it can do this.
pub(super) fn can(fault: &Fault) -> Result<(), &'static str> {
    match (fault.place, fault.what) {
        (_, What::Pause { .. }) => Err("all simulated hosts share one time: none can stand still"),
        (Place::Wire, _) if fault.when.after_bytes.is_some() => {
            Err("the simulated wire carries whole messages, not bytes")
        }
        (Place::Wire, _) if fault.when.phase.is_some_and(|phase| !is_of_messages(phase)) => {
            Err("the simulated wire strikes messages when they are sent")
        }
        _ => Ok(()),
    }
}

/// Whether a message is handed to the wire at this moment.
const fn is_of_messages(phase: Phase) -> bool {
    matches!(phase, Phase::RequestSent | Phase::ReplySent)
}

/// What is counted of the late duplicates that each run ends with.
const LATE_BY_ITSELF: &str = "a duplicate came when the run was over and its record swept";

/// While faults strike, a call gets this long on average.
const FAULTS_PER_CALL_MS: u64 = 200;
const WIPES_MAX: u32 = 4;

/// How long a call may be open when the faults have ended, or when it begins after that: what its client
/// asks just then takes a deadline at most; what it asks next may wait for a lease of somebody who is
/// gone, which is another; the last two are for one more of each. The slowest of 30,000 calls took 1.4.
const RESOLVED_WITHIN_DEADLINES: u64 = 4;
const PAST_HORIZON_MS: i64 = 9 * 24 * 60 * 60 * 1_000;

// Which decision is drawn.
const SYNCS: u64 = 41;
const LAST_CUT: u64 = 42;
const WIPES: u64 = 43;
const STACKS: u64 = 44;
const OTHER_CLOCK: u64 = 45;
