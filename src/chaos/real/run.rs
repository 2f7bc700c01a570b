//! One run: starts everything, lets faults strike, heals, resumes, reads what is on disk.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{HarnessError, NotRun};
use onlyonce_chaos::fault::{Fault, Place, What};
use onlyonce_chaos::goals::{Goals, Registry, situations};
use onlyonce_chaos::history::{Event, Fired, Happened, RunHeader, RunRecord, Seen};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};
use onlyonce_chaos::workload::Plan;
use tokio::sync::oneshot;

use super::clients::{self, ChaosClientsOptions, Ears};
use super::disk::Disk;
use super::felt::felt;
use super::log::Log;
use super::order::{Entry, opening};
use super::process::folder;
use super::remote::ClientsProcess;
use super::server::ChaosServerOptions;
use super::supervisor::{Enter, Restart, Supervisor};
use super::{books, commits, points, tables};

/// A run of real processes.
pub(in super::super) struct Run<'a, W> {
    pub(in super::super) executor: &'static str,
    pub(in super::super) program: &'a Path,
    pub(in super::super) scenario: &'a Scenario,
    pub(in super::super) seed: Seed,
    pub(in super::super) wire: W,
}

/// What is between clients and server.
pub(in super::super) trait Wire: Sync {
    /// Where the server listens: its first address.
    fn listen(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    /// What starts the program where the server runs.
    fn enter(&self, program: &Path) -> std::process::Command {
        std::process::Command::new(program)
    }

    /// Makes all calls while its faults strike; when they have ended once, stops its faults, awaits
    /// `calm`, and resumes what is open. Says how often its faults have struck.
    fn work(
        &self,
        work: Work,
        calm: impl Future<Output = Result<(), HarnessError>> + Send,
    ) -> impl Future<Output = Result<BTreeMap<String, Fired>, HarnessError>>;
}

/// What a wire is given to do.
pub(in super::super) struct Work {
    pub(in super::super) program: PathBuf,
    pub(in super::super) server: SocketAddr,
    pub(in super::super) options: ChaosClientsOptions,
    pub(in super::super) faults: Vec<Fault>,
    /// When the clients go down, if that belongs to the workload.
    pub(super) outages: Vec<Restart>,
    pub(super) log: Arc<Log>,
    pub(in super::super) goals: Registry,
}

// === impl Run ===

impl<W: Wire> Run<'_, W> {
    /// Blocks until it is over.
    pub(in super::super) fn run(self) -> Result<RunRecord, HarnessError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| HarnessError::io("no runtime", error))?;
        runtime.block_on(async {
            match tokio::time::timeout(LONGEST, self.all()).await {
                Ok(record) => record,
                Err(_) => Err(HarnessError::other(format!(
                    "the run took longer than {LONGEST:?}"
                ))),
            }
        })
    }

    async fn all(self) -> Result<RunRecord, HarnessError> {
        let Self {
            executor,
            program,
            scenario,
            seed,
            wire,
        } = self;
        let folder = folder()?;
        let mut header = RunHeader::new(&scenario.name, executor, seed);
        header.naive = scenario.mode == Mode::Naive;
        header.resolve_within_ms = Some(scenario.deadline_ms);
        header.opening = opening();
        let mut record = RunRecord::new(header);

        let log = Arc::new(Log::new());
        let goals = Registry::default();
        let cuts = scenario.faults.iter();
        let cuts = cuts
            .filter(|fault| matches!(fault.what, What::PowerCut))
            .count();
        let disk = match cuts {
            0 => None,
            _ => Some(Arc::new(Disk::below(folder.path())?)),
        };
        let server = ChaosServerOptions {
            folder: disk
                .as_ref()
                .map_or_else(|| folder.path().to_owned(), |disk| disk.at()),
            listen: wire.listen(),
            mode: scenario.mode,
            seed: seed.value(),
            began_us: log.began_us,
            faults: scenario.faults.clone(),
        };
        let command = match &disk {
            Some(disk) => disk.enter(program)?,
            None => wire.enter(program),
        };
        let enter: Enter = Box::new(move || again(&command));
        let supervisor = Supervisor::start(
            enter,
            server,
            outages(scenario, seed, "server"),
            Arc::clone(&log),
            disk.clone(),
        )
        .await?;
        let work = Work {
            program: program.to_owned(),
            server: supervisor.address(),
            options: ChaosClientsOptions {
                began_us: log.began_us,
                ..clients_options(scenario, seed, folder.path(), supervisor.address())
            },
            faults: scenario.faults.clone(),
            outages: outages(scenario, seed, "client"),
            log: Arc::clone(&log),
            goals: goals.clone(),
        };
        let (calm, calmed) = oneshot::channel();
        let (up, is_up) = oneshot::channel();
        let supervising = async {
            let supervisor = supervisor.run(calmed).await?;
            // OK because nobody waits where the work has failed already.
            let _ = up.send(());
            Ok(supervisor)
        };
        let healing = async {
            drop(calm);
            is_up
                .await
                .map_err(|_| HarnessError::other("the server is gone"))?;
            log.say(0, 0, Happened::FaultsEnded);
            Ok(())
        };
        let (supervisor, fired) = tokio::try_join!(supervising, wire.work(work, healing))?;
        record.fired = fired;
        record.fired.extend(supervisor.stop().await?);

        if let Some(disk) = &disk {
            disk.copy_to(folder.path())?;
        }
        record.events = log.take();
        let (entries, balances) = match scenario.mode {
            Mode::Transactional => tables::read(folder.path()).await?,
            Mode::Claimed | Mode::Naive => books::read(folder.path())
                .map_err(|error| HarnessError::io("the books cannot be read", error))?,
        };
        let at_us = u64::try_from(log.elapsed().as_micros()).unwrap_or(u64::MAX);
        let times = commits::read(folder.path())
            .map_err(|error| HarnessError::io("the times of effects cannot be read", error))?;
        let invoked = invoked(&record.events);
        let effects = entries.iter().map(|entry| {
            let committed_us = times.get(&entry.receipt.entry).copied();
            effect(entry, &invoked, committed_us, at_us)
        });
        record.events.extend(effects);
        // What happened at one time keeps its order, but for effects: their answers come after them.
        let is_no_effect = |event: &Event| !matches!(event.what, Happened::Effect { .. });
        record
            .events
            .sort_by_key(|event| (event.at_us, is_no_effect(event)));
        for (name, calls) in felt(&record.events, &scenario.faults) {
            record.fired.entry(name).or_default().affected = calls;
        }
        record.accounts = Some(balances);
        record.complete = true;
        record.goals = goals_of(&record, &goals.goals());
        Ok(record.seal())
    }
}

/// Whether they can do this to the server's process.
pub(in super::super) fn can_server_fault(scenario: &Scenario, fault: &Fault) -> Result<(), NotRun> {
    use onlyonce_chaos::fault::Phase;
    let because = |reason: &str| Err(NotRun::because(reason));
    match fault.place {
        Place::Server => {}
        Place::Disk if matches!(fault.what, What::PowerCut) => {
            return because("the power is cut by sim and crash");
        }
        Place::Client => {
            return because(
                "clients crash by themselves, in the workload `outbox`; no fault can aim at one",
            );
        }
        Place::Disk => {
            return because(
                "disks fail in the simulation, and in the power cuts of the store's tests",
            );
        }
        Place::Clock => return because("clocks jump in the simulation only"),
        _ => return because("nothing real does that"),
    }
    if !matches!(fault.what, What::Crash { .. } | What::Pause { .. }) {
        return because("a server's process can be killed or paused");
    }
    if let Some(point) = &fault.when.point {
        return points::can(point);
    }
    match fault.when.phase {
        Some(Phase::RequestSent | Phase::ReplyReceived) => {
            because("the server's process knows nothing of that phase")
        }
        Some(Phase::EffectDurable) if scenario.mode == Mode::Transactional => {
            because("effect and answer commit together: there is nothing between")
        }
        None if fault.when.call.is_some() || fault.when.share.is_some() => {
            because("without a phase it strikes once, at a time of its window")
        }
        _ => Ok(()),
    }
}

/// Whether this situation can arise between real processes.
pub(in super::super) fn can_reach(scenario: &Scenario, goal: &str) -> Result<(), NotRun> {
    let because = |reason: &str| Err(NotRun::because(reason));
    let in_sessions = scenario.mode != Mode::Naive
        && !matches!(scenario.workload, Workload::HotKey | Workload::Outbox);
    match goal {
        situations::LATE_DUPLICATE => because("answers are kept for longer than a run lasts"),
        situations::MISUSED => because("no client uses a key for something else"),
        situations::TWINS if scenario.workload != Workload::HotKey => {
            because("each call has a key of its own, but in the workload `hot-key`")
        }
        situations::IN_DOUBT if scenario.mode == Mode::Transactional => {
            because("effect and answer commit together, so that none is in doubt")
        }
        situations::ACKNOWLEDGED if !in_sessions => {
            because("its clients have no sessions in this workload")
        }
        _ => Ok(()),
    }
}

fn clients_options(
    scenario: &Scenario,
    seed: Seed,
    folder: &Path,
    server: SocketAddr,
) -> ChaosClientsOptions {
    let keeps = scenario.workload == Workload::Outbox;
    ChaosClientsOptions {
        address: server.to_string(),
        seed: seed.value(),
        began_us: 0,
        workload: scenario.workload,
        calls: scenario.calls,
        clients: scenario.clients,
        attempt_ms: scenario.attempt_ms,
        deadline_ms: scenario.deadline_ms,
        naive: scenario.mode == Mode::Naive,
        folder: keeps.then(|| folder.join("clients")),
    }
}

/// The outages that are part of the workload, of servers or of clients. There is one process of
/// each kind: it takes the turns of all.
fn outages(scenario: &Scenario, seed: Seed, of: &str) -> Vec<Restart> {
    if !matches!(
        scenario.workload,
        Workload::Outbox | Workload::RollingRestarts
    ) {
        return Vec::new();
    }
    let outages = Plan::new(scenario, seed).outages.into_iter();
    let outages = outages.filter(|outage| outage.who.starts_with(of));
    let restart = outages.map(|outage| Restart {
        after_calls: outage.after_calls,
        back_after_ms: outage.back_after_ms,
    });
    restart.collect()
}

/// The same command, not yet started.
fn again(command: &std::process::Command) -> std::process::Command {
    let mut again = std::process::Command::new(command.get_program());
    again.args(command.get_args());
    again
}

/// The first call of each key.
fn invoked(events: &[Event]) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for event in events {
        if let Happened::Invoked { key, .. } = &event.what {
            calls.entry(key.clone()).or_insert(event.call);
        }
    }
    calls
}

fn effect(
    entry: &Entry,
    invoked: &BTreeMap<String, u64>,
    committed_us: Option<u64>,
    read_us: u64,
) -> Event {
    let Entry {
        asked,
        receipt,
        legs,
        ..
    } = entry;
    Event {
        at_us: committed_us.unwrap_or(read_us),
        call: invoked.get(&asked.key).copied().unwrap_or(0),
        attempt: 0,
        what: Happened::Effect {
            index: receipt.entry,
            key: asked.key.clone(),
            payload: asked.order.clone(),
            answer: receipt.answer(),
            legs: legs.clone(),
            seen: match committed_us {
                Some(_) => Seen::AtCommit,
                None => Seen::AtTheEnd,
            },
        },
    }
}

/// What the history shows by itself, and what only the clients could see: that an answer came from
/// the record, of an attempt whose own answer was lost in packets.
fn goals_of(record: &RunRecord, seen_by_clients: &Goals) -> Goals {
    let mut goals = situations::seen_in(record);
    for (name, times) in seen_by_clients.iter() {
        if goals.count(name) == 0 {
            goals.add(name, times);
        }
    }
    goals
}

// === impl Work ===

impl Work {
    /// How long the run has lasted.
    pub(in super::super) fn elapsed(&self) -> Duration {
        self.log.elapsed()
    }

    pub(in super::super) fn lifecycle(&self, who: &str, event: &str) {
        self.log.lifecycle(who, event);
    }

    /// Takes note of what happens, from anywhere.
    pub(in super::super) fn teller(&self) -> impl Fn(u64, u32, Happened) + Send + Sync + 'static {
        let log = Arc::clone(&self.log);
        move |call, attempt, what| log.say(call, attempt, what)
    }

    /// How many calls needed more than one attempt.
    pub(in super::super) fn tried_again(&self) -> u64 {
        self.log.tried_again()
    }

    pub(super) fn goals_add(&self, goal: &str, times: u64) {
        for _ in 0..times {
            self.goals.reached(goal);
        }
    }

    /// Clients in this process.
    fn ears(&self) -> Ears {
        Ears {
            say: Arc::new(self.teller()),
            goals: self.goals.clone(),
        }
    }

    /// Makes all calls to `address`, and resumes what is open when `healed` is.
    pub(in super::super) async fn call_and_resume(
        &self,
        address: SocketAddr,
        healed: impl Future<Output = Result<(), HarnessError>>,
    ) -> Result<(), HarnessError> {
        let mut options = self.options.clone();
        options.address = address.to_string();
        // Clients that are killed have a process of their own, and all that they know on disk.
        if options.folder.is_some() {
            let program = self.program.clone();
            let enter: Enter = Box::new(move || std::process::Command::new(&program));
            let mut clients = ClientsProcess::start(enter, self, &options)?;
            clients.until_all_ended(self).await?;
            healed.await?;
            return clients.resume(self).await;
        }
        let ears = self.ears();
        let open = clients::call_all(&options, &ears)
            .await
            .map_err(HarnessError::other)?;
        healed.await?;
        clients::resume_all(&options, open, &ears)
            .await
            .map_err(HarnessError::other)
    }
}

/// What takes longer hangs.
const LONGEST: Duration = Duration::from_secs(3_600);
