//! The naive control: whatever is doubled there is the work of faults.

use onlyonce::chaos::sim::{campaign, exhaust, plans};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};

/// How many operations of these seeds' runs of the naive program have more than one effect.
fn doubled(scenario: &Scenario, seeds: impl IntoIterator<Item = u64>) -> u64 {
    let naive = scenario.clone().naive();
    let of_seed = |seed| {
        campaign::judged(&naive, seed)
            .unwrap()
            .report
            .figures()
            .duplicated
    };
    seeds.into_iter().map(of_seed).sum()
}

fn scenario(name: &str) -> Scenario {
    onlyonce::chaos::scenario(name).unwrap()
}

#[test]
fn without_any_fault_the_naive_program_doubles_nothing() {
    for workload in Workload::ALL {
        // The times of the gate, and those of scenarios that say nothing of them.
        for times in [
            plans::everything(Mode::Claimed, 100),
            scenario("bad-network"),
        ] {
            let mut calm = Scenario {
                workload,
                calls: 100,
                ..times
            };
            calm.faults.clear();
            assert_eq!(doubled(&calm, 1..=4), 0, "{}", workload.name());
        }
    }
}

#[test]
fn with_the_faults_of_each_job_the_naive_program_doubles_something() {
    for name in [
        "bad-network",
        "charge-refund",
        "everything",
        "lost-answers",
        "mailbox",
        "outbox",
        "rolling-restarts",
    ] {
        assert!(doubled(&scenario(name), 1..=3) > 0, "{name}");
    }
    let gate = plans::everything(Mode::Claimed, 100);
    assert!(doubled(&gate, 1..=3) > 0, "{}", gate.name);
    let singles = exhaust::atoms(1).into_iter();
    let seed = exhaust::seed(1).unwrap();
    let doubling = singles.filter(|fault| {
        let one = exhaust::schedule(Mode::Claimed, 1, vec![fault.clone()]);
        doubled(&one, [seed]) > 0
    });
    assert!(doubling.count() > 0, "every fault of one call");
}
