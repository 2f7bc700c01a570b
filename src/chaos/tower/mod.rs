//! The executor without sockets: our client's layers over our server's, in one process, with the
//! wire between them as a service that loses, delays and repeats.
//!
//! Its time is tokio's paused clock, so that a run of a minute takes milliseconds. The store is in
//! memory and dies with nobody: what crashes is only clients.

mod clients;
mod link;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
use onlyonce_chaos::fault::{Fault, Phase, Place, Subject, What};
use onlyonce_chaos::goals::situations;
use onlyonce_chaos::history::{Event, Fired, Happened, RunHeader, RunRecord};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};
use onlyonce_chaos::seed::Draw;
use onlyonce_chaos::workload::Plan;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::middleware::jitter;

/// Runs scenarios through our layers, in one process and in paused time.
#[derive(Clone, Copy, Debug, Default)]
pub struct TowerExecutor;

/// One run: who writes what happened, and which faults strike.
#[derive(Clone)]
struct Run {
    shared: Arc<Shared>,
}

struct Shared {
    seed: Seed,
    faults: Vec<Fault>,
    began: Instant,
    /// Requests that come again, and have not come yet.
    copies: Mutex<JoinSet<()>>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    struck: BTreeMap<String, (u64, BTreeSet<u64>)>,
    /// How many attempts each call has made.
    attempts: BTreeMap<u64, u32>,
    quiet: bool,
}

// === impl TowerExecutor ===

impl Executor for TowerExecutor {
    fn name(&self) -> &'static str {
        "tower"
    }

    fn can(&self, scenario: &Scenario) -> Result<(), NotRun> {
        match (scenario.workload, scenario.mode) {
            (Workload::RollingRestarts, _) => Err(NotRun::because(
                "its one server lives in this process, with its store in memory",
            )),
            (_, Mode::Transactional) => Err(NotRun::because(
                "its bank lies outside of the store, so that nothing commits together",
            )),
            _ => Ok(()),
        }
    }

    fn can_fault(&self, _: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        let phase = fault.when.phase;
        match fault.what {
            _ if fault.place != Place::Wire => Err(NotRun::because(
                "it has only a wire: no process, disk or clock to strike",
            )),
            _ if fault.when.after_bytes.is_some() => {
                Err(NotRun::because("a call between layers has no bytes"))
            }
            What::Duplicate { .. }
                if matches!(phase, Some(Phase::ReplySent | Phase::ReplyReceived)) =>
            {
                Err(NotRun::because(
                    "whoever waits for an answer between layers takes one",
                ))
            }
            What::Blackhole
            | What::Close
            | What::Delay { .. }
            | What::Drop
            | What::Duplicate { .. }
            | What::Partition
            | What::Reset => Ok(()),
            _ => Err(NotRun::because(
                "a call between layers has no bytes, packets or connection",
            )),
        }
    }

    fn can_reach(&self, _: &Scenario, goal: &str) -> Result<(), NotRun> {
        match goal {
            situations::ACKNOWLEDGED => Err(NotRun::because(
                "its clients have no sessions, and acknowledge nothing",
            )),
            situations::IN_DOUBT => Err(NotRun::because(
                "its server never dies, so that no handler is left half-way",
            )),
            situations::LATE_DUPLICATE => Err(NotRun::because(
                "its store is in memory, and nothing is swept",
            )),
            _ => Ok(()),
        }
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| HarnessError::io("a runtime cannot be started", error))?;
        jitter::seed_this_thread(seed.value());
        runtime.block_on(run(scenario, seed))
    }
}

async fn run(scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
    let plan = Arc::new(Plan::new(scenario, seed));
    let run = Run::new(seed, scenario);
    let server = server::Server::new(run.clone(), &plan, scenario.mode);
    clients::run(&run, scenario, &plan, &server).await?;
    run.all_has_come().await;
    let mut record = RunRecord::new(RunHeader {
        naive: scenario.mode == Mode::Naive,
        resolve_within_ms: Some(scenario.deadline_ms),
        opening: plan.opening.clone(),
        ..RunHeader::new(&scenario.name, "tower", seed)
    });
    record.accounts = Some(server.accounts());
    record.complete = true;
    let mut written = run.shared.written.lock();
    record.events = std::mem::take(&mut written.events);
    record.fired = std::mem::take(&mut written.struck)
        .into_iter()
        .map(|(name, (struck, calls))| {
            let affected = calls.len() as u64;
            (name, Fired { struck, affected })
        })
        .collect();
    record.goals = situations::seen_in(&record);
    Ok(record.seal())
}

// === impl Run ===

impl Run {
    fn new(seed: Seed, scenario: &Scenario) -> Self {
        Self {
            shared: Arc::new(Shared {
                seed,
                faults: scenario.faults.clone(),
                began: Instant::now(),
                copies: Mutex::default(),
                written: Mutex::default(),
            }),
        }
    }

    /// Takes care of a copy of a request that is still on its way.
    fn comes_later(&self, copy: impl Future<Output = ()> + Send + 'static) {
        self.shared.copies.lock().spawn(copy);
    }

    /// Waits until every copy has come: what it does belongs to the run.
    async fn all_has_come(&self) {
        let mut copies = std::mem::take(&mut *self.shared.copies.lock());
        while copies.join_next().await.is_some() {}
    }

    fn seed(&self) -> Seed {
        self.shared.seed
    }

    /// The number of a call's next attempt, from 1. A client that comes back with a call goes on with
    /// the numbers, so that it does not meet once more what it has met.
    fn next_attempt(&self, call: u64) -> u32 {
        let mut written = self.shared.written.lock();
        let made = written.attempts.entry(call).or_insert(0);
        *made += 1;
        *made
    }

    fn note(&self, call: u64, attempt: u32, what: Happened) {
        let at_us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.written.lock().events.push(Event {
            at_us,
            call,
            attempt,
            what,
        });
    }

    /// Nothing strikes from now on.
    fn end_faults(&self) {
        self.note(0, 0, Happened::FaultsEnded);
        self.shared.written.lock().quiet = true;
    }

    /// What is to strike at this moment. It has struck when it is [written down](Self::struck): what
    /// an earlier one takes away, no later one strikes.
    fn strikes(&self, call: u64, attempt: u32, phase: Phase) -> Vec<(&Fault, Draw)> {
        if self.shared.written.lock().quiet {
            return Vec::new();
        }
        let subject = Subject {
            call,
            attempt,
            phase,
            at: self.elapsed(),
        };
        let late = matches!(phase, Phase::ReplySent | Phase::ReplyReceived);
        let faults = self.shared.faults.iter();
        let possible =
            faults.filter(|fault| !(late && matches!(fault.what, What::Duplicate { .. })));
        let strikes =
            possible.filter_map(|fault| Some((fault, fault.strikes(self.shared.seed, subject)?)));
        strikes.collect()
    }

    fn struck(&self, fault: &Fault, call: u64, attempt: u32, phase: Phase) {
        let (name, what) = (fault.name.clone(), fault.what.name().to_owned());
        {
            let mut written = self.shared.written.lock();
            let (struck, calls) = written.struck.entry(name.clone()).or_default();
            *struck += 1;
            calls.insert(call);
        }
        self.note(call, attempt, Happened::Fault { name, what, phase });
    }

    fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use onlyonce_chaos::ledger::{Verdict, judge};

    use super::*;

    fn scenario(extra: &str) -> Scenario {
        let text = format!(
            "name = \"t\"\nworkload = \"transfers\"\ncalls = 60\n{extra}\n\
             [[fault]]\nname = \"lost\"\nwhere = \"wire\"\nwhat = \"drop\"\nwhen = {{ share = 0.1 }}\n\
             [[fault]]\nname = \"reset\"\nwhere = \"wire\"\nwhat = \"reset\"\nwhen = {{ phase = \"reply-sent\", share = 0.1 }}\n\
             [[fault]]\nname = \"twice\"\nwhere = \"wire\"\nwhat = {{ duplicate = {{ later_ms = 700 }} }}\nwhen = {{ share = 0.1 }}\n\
             [[fault]]\nname = \"late\"\nwhere = \"wire\"\nwhat = {{ delay = {{ min_ms = 1, max_ms = 1500 }} }}\nwhen = {{ share = 0.2 }}"
        );
        Scenario::parse(&text).unwrap()
    }

    #[test]
    fn our_layers_keep_the_promise_and_naive_retries_do_not() {
        let scenario = scenario("");
        let mut duplicated = 0;
        for seed in (1..=20).map(Seed::new) {
            let record = TowerExecutor.run(&scenario, seed).unwrap();
            let report = judge(&record);
            assert_eq!(report.verdict(), Verdict::Valid, "seed {seed}: {report}");
            assert!(
                record.goals.count(situations::REPLY_LOST) > 0,
                "seed {seed}"
            );
            let naive = TowerExecutor.run(&scenario.clone().naive(), seed).unwrap();
            duplicated += judge(&naive).figures().duplicated;
        }
        assert!(duplicated > 20, "{duplicated}");
    }

    #[test]
    fn what_comes_behind_a_fault_that_takes_the_message_away_has_not_struck() {
        let text = "name = \"t\"\nworkload = \"transfers\"\ncalls = 8\nattempt_ms = 200\n\
             [[fault]]\nname = \"lost\"\nwhere = \"wire\"\nwhat = \"drop\"\n\
             when = { phase = \"request-sent\", first_attempts = 1 }\n\
             [[fault]]\nname = \"twice\"\nwhere = \"wire\"\nwhat = { duplicate = { later_ms = 7 } }\n\
             when = { phase = \"request-sent\", first_attempts = 1 }\n";
        let mut scenario = Scenario::parse(text).unwrap();
        let struck = |scenario: &Scenario, name: &str| {
            let record = TowerExecutor.run(scenario, Seed::new(1)).unwrap();
            record.fired.get(name).map_or(0, |fired| fired.struck)
        };
        assert_eq!(struck(&scenario, "lost"), 8);
        assert_eq!(struck(&scenario, "twice"), 0);
        scenario.faults.swap(0, 1);
        assert_eq!(
            (struck(&scenario, "twice"), struck(&scenario, "lost")),
            (8, 8)
        );
    }

    #[test]
    fn every_workload_is_carried_out() {
        for workload in Workload::ALL {
            let mut scenario = scenario("");
            scenario.workload = workload;
            if TowerExecutor.can(&scenario).is_err() {
                continue;
            }
            let record = TowerExecutor.run(&scenario, Seed::new(3)).unwrap();
            let report = judge(&record);
            assert_eq!(report.verdict(), Verdict::Valid, "{workload:?}: {report}");
            assert_eq!(report.figures().calls, 60);
            if workload == Workload::Outbox {
                assert!(record.goals.count(situations::CAME_BACK) > 0);
            }
        }
    }

    #[test]
    fn a_client_that_comes_back_goes_on_with_the_numbers_of_its_attempts() {
        let mut scenario = scenario("");
        scenario.workload = Workload::Outbox;
        let (mut again, mut came_back) = (0, 0);
        for seed in (1..=5).map(Seed::new) {
            let record = TowerExecutor.run(&scenario, seed).unwrap();
            let mut sent: BTreeMap<u64, u32> = BTreeMap::new();
            let of_calls = record.events.iter();
            for event in of_calls.filter(|event| event.what == Happened::Sent) {
                let before = sent.insert(event.call, event.attempt).unwrap_or(0);
                assert_eq!(
                    event.attempt,
                    before + 1,
                    "seed {seed}: call {}",
                    event.call
                );
                again += u32::from(before > 0);
            }
            came_back += record.goals.count(situations::CAME_BACK);
        }
        assert!(again > 0 && came_back > 0, "{again}, {came_back}");
    }
}
