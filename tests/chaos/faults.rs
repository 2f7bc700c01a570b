//! Every fault, alone: it must strike, the rest of the run must go another way, and no promise may
//! break. What each fault does in particular is claimed in `consequences`.

use std::collections::BTreeSet;

use onlyonce::chaos::{Executor, executors};
use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::history::{Event, Happened, RunRecord};
use onlyonce_chaos::ledger::{Verdict, judge};
use onlyonce_chaos::scenario::Scenario;

/// Longer than an answer is kept: the next who asks for it notices.
const TWO_DAYS_MS: i64 = 2 * 24 * 60 * 60 * 1_000;

fn every_fault() -> Vec<(Place, Option<Phase>, What)> {
    let wire =
        |what| [Phase::RequestSent, Phase::ReplySent].map(|phase| (Place::Wire, Some(phase), what));
    let mut all = Vec::new();
    for what in [
        What::Drop,
        What::Duplicate { later_ms: 300 },
        What::Delay {
            min_ms: 5,
            max_ms: 900,
        },
        What::Corrupt,
        What::Truncate,
        What::Reset,
        What::Close,
        What::Blackhole,
        What::Partition,
    ] {
        all.extend(wire(what));
    }
    let crash = What::Crash { back_after_ms: 50 };
    all.extend([
        (Place::Server, Some(Phase::RequestReceived), crash),
        (Place::Server, Some(Phase::EffectDurable), crash),
        (Place::Disk, None, What::PowerCut),
        (Place::Disk, None, What::SyncFails),
        (Place::Disk, None, What::SyncSlow { for_ms: 200 }),
        (Place::Disk, None, What::DiskFull),
        (Place::Clock, None, What::ClockJump { by_ms: TWO_DAYS_MS }),
    ]);
    all
}

/// With shares such that calls still get through.
fn with(fault: Fault) -> Scenario {
    let text = "name = \"one fault\"\nworkload = \"transfers\"\ncalls = 40\nclients = 3\n\
                deadline_ms = 3000\nattempt_ms = 300";
    let mut scenario = Scenario::parse(text).unwrap();
    scenario.faults.push(fault);
    scenario
}

/// What happened, without the strikes: that a fault struck is no change of the run.
fn beside_strikes(record: &RunRecord) -> Vec<&Event> {
    let events = record.events.iter();
    events
        .filter(|event| !matches!(event.what, Happened::Fault { .. }))
        .collect()
}

#[test]
fn every_fault_strikes_changes_the_run_and_is_survived() {
    let mut done = BTreeSet::new();
    for executor in executors() {
        let executor: &dyn Executor = executor.as_ref();
        if !["sim", "tower"].contains(&executor.name()) {
            continue;
        }
        for (place, phase, what) in every_fault() {
            let when = When {
                phase,
                ..When::default()
            }
            .share(0.08);
            let scenario = with(Fault::new("it", place, what).when(when));
            if executor.can_fault(&scenario, &scenario.faults[0]).is_err() {
                continue;
            }
            let who = format!("{} on {place} at {phase:?} by {}", what, executor.name());
            let (mut struck, mut changed) = (0, false);
            for seed in (1..=4).map(Seed::new) {
                let record = executor.run(&scenario, seed).unwrap();
                let report = judge(&record);
                // What cannot be judged is not survived.
                assert_eq!(
                    report.verdict(),
                    Verdict::Valid,
                    "{who}, seed {seed}: {report}"
                );
                struck += record.fired.get("it").map_or(0, |fired| fired.struck);
                let quiet = executor.run(&scenario.clone().quiet(), seed).unwrap();
                changed |= beside_strikes(&quiet) != beside_strikes(&record);
            }
            assert!(struck > 0, "{who} never struck");
            assert!(changed, "{who} changed nothing");
            done.insert((executor.name(), what.name()));
        }
    }
    let by = |name| {
        done.iter()
            .filter(|(executor, _)| *executor == name)
            .count()
    };
    assert!(by("tower") >= 7, "{done:?}");
    // All but standing still, which the simulation's hosts cannot do one by one.
    assert!(by("sim") >= 13, "{done:?}");
}
