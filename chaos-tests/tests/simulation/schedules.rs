//! The exchange of one call under every single fault; the command `chaos exhaust` runs every pair.

use onlyonce::chaos::sim::{campaign, exhaust, shrink};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::{Mode, Scenario};

#[test]
fn one_call_survives_every_single_fault() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        let (mut answered, mut unanswered) = (0, 0);
        for fault in exhaust::atoms(1) {
            let name = fault.name.clone();
            let scenario = exhaust::schedule(mode, 1, vec![fault]);
            let report = campaign::judged(&scenario, 1).unwrap().report;
            if report.is_only_unanswered() {
                unanswered += 1;
                continue;
            }
            answered += 1;
            let mode = mode.name();
            assert_eq!(report.verdict(), Verdict::Valid, "{name}, {mode}: {report}");
        }
        // The call is refused, or in doubt.
        assert!(answered > 5 * unanswered, "{answered}, {unanswered}");
    }
}

#[test]
fn a_schedule_is_written_as_a_scenario_that_says_the_same() {
    for faults in exhaust::atoms(1).chunks(50) {
        let scenario = exhaust::schedule(Mode::Transactional, 1, faults.to_vec());
        let read = Scenario::parse(&scenario.to_toml()).unwrap();
        assert_eq!(read.faults, scenario.faults);
        assert_eq!(
            (read.calls, read.clients, read.mode),
            (1, 1, Mode::Transactional)
        );
    }
}

#[test]
fn what_fails_is_made_small_and_fails_still() {
    let naive = onlyonce::chaos::sim::plans::everything(Mode::Claimed, 60).naive();
    let shrunk = shrink::shrink(&naive, 1, 300)
        .unwrap()
        .expect("it fails without dedupe");
    assert!(shrunk.scenario.faults.len() <= 3, "{}", shrunk.toml());
    assert!(shrunk.scenario.calls <= 5, "{}", shrunk.toml());
    let copied = Scenario::parse(&shrunk.toml()).unwrap();
    let again = campaign::judged(&copied, shrunk.seed).unwrap();
    assert_eq!(again.report.verdict(), Verdict::Violated);
    assert_eq!(again.run.record.trace_hash, shrunk.trace_hash);
}
