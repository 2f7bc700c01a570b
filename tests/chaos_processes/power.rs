//! The power of the disk under a real server is cut.

use std::io::Write as _;

use onlyonce::chaos::{CrashExecutor, Executor, KernelExecutor, ProxyExecutor, scenario};
use onlyonce_chaos::history::Happened;
use onlyonce_chaos::ledger::{Verdict, judge};

use super::judged::{program, run};

#[test]
fn what_a_client_was_told_outlives_power_cuts_that_take_what_was_not_synced() {
    let scenario = scenario("power-cuts").unwrap();
    let executor = CrashExecutor::with_program(program());
    executor.can(&scenario).unwrap();
    if let Err(reason) = executor.can_fault(&scenario, &scenario.faults[0]) {
        let _ = writeln!(std::io::stderr(), "power cuts: {reason}");
        return;
    }
    let (judged, record) = run(&executor, &scenario, 1);
    let cut =
        |what: &Happened| matches!(what, Happened::Lifecycle { event, .. } if event == "power cut");
    let cuts = record
        .events
        .iter()
        .filter(|event| cut(&event.what))
        .count();
    assert!(cuts >= 2, "{:?}", record.fired);
    // Something unsynced lay on the disk, and was gone: a cut that takes nothing affects nothing.
    let took = record
        .fired
        .values()
        .filter(|fired| fired.affected > 0)
        .count();
    assert!(took >= 1, "{:?}", record.fired);
    let report = judge(&record);
    assert_eq!(
        report.verdict(),
        Verdict::Valid,
        "{:?}",
        report.violations()
    );
    assert_eq!(
        (judged.resolved, judged.duplicated),
        (scenario.calls, 0),
        "{judged:?}"
    );
}

#[test]
fn where_the_power_cannot_be_cut_it_is_not_run() {
    let scenario = scenario("power-cuts").unwrap();
    let executors: [Box<dyn Executor>; 2] = [
        Box::new(ProxyExecutor::with_program(program())),
        Box::new(KernelExecutor::with_program(program())),
    ];
    for executor in executors {
        let reason = executor.can_fault(&scenario, &scenario.faults[0]);
        let reason = reason.unwrap_err().to_string();
        assert_eq!(reason, "not run: the power is cut by sim and crash");
    }
    let mut at_a_phase = scenario.clone();
    at_a_phase.faults[0].when.share = Some(0.5);
    let executor = CrashExecutor::with_program(program());
    let reason = executor.can_fault(&at_a_phase, &at_a_phase.faults[0]);
    let reason = reason.unwrap_err().to_string();
    assert!(reason.contains("once, at a time of its window"), "{reason}");
}
