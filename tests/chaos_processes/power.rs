//! The power of the disk under a real server is cut.

use onlyonce::chaos::{CrashExecutor, Executor, KernelExecutor, ProxyExecutor, scenario};
use onlyonce_chaos::history::Happened;
use onlyonce_chaos::ledger::{Verdict, Violation, judge};

use super::judged::{not_run, program, run};

#[test]
fn what_a_client_was_told_outlives_power_cuts_that_take_what_was_not_synced() {
    let scenario = scenario("power-cuts").unwrap();
    let executor = CrashExecutor::with_program(program());
    executor.can(&scenario).unwrap();
    if let Err(reason) = executor.can_fault(&scenario, &scenario.faults[0]) {
        return not_run("ONLYONCE_REQUIRE_POWER", "power cuts", &reason);
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
    // Something unsynced lay on the disk, and was gone: a cut that takes nothing has not struck.
    let struck: u64 = record.fired.values().map(|fired| fired.struck).sum();
    assert_eq!(struck, cuts as u64, "{:?}", record.fired);
    let felt = record.fired.values().filter(|fired| fired.affected > 0);
    assert!(felt.count() >= 1, "{:?}", record.fired);
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
fn a_service_that_answers_before_it_syncs_loses_answers_at_a_power_cut() {
    let scenario = scenario("power-cuts").unwrap().naive();
    let executor = CrashExecutor::with_program(program());
    if let Err(reason) = executor.can_fault(&scenario, &scenario.faults[0]) {
        return not_run("ONLYONCE_REQUIRE_POWER", "power cuts", &reason);
    }
    assert!(executor.control_loses(&scenario));
    assert!(!executor.control_loses(&scenario.clone().quiet()));
    let (_, record) = run(&executor, &scenario, 1);
    let report = judge(&record);
    assert!(report.figures().lost > 100, "{report}");
    let lost = |violation: &Violation| violation.name() == "lost-acked";
    assert!(report.violations().iter().any(lost), "{report}");
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
