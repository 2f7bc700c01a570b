//! Everything at once, from a few seeds; the command `chaos gate` runs thousands.

use onlyonce::chaos::sim::{campaign, plans};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::Mode;

#[test]
fn whatever_strikes_no_effect_happens_twice_and_no_answer_is_lost() {
    for seed in 1..=24 {
        let judged = campaign::judged(&plans::of_seed(seed, 40), seed).unwrap();
        let report = &judged.report;
        assert_eq!(report.verdict(), Verdict::Valid, "seed {seed}: {report}");
        // A disk may be full, or fail a sync, also while a store is opened on it.
        let openings = judged.run.failed_openings.iter();
        let unexplained: Vec<&String> = openings.filter(|why| *why != DISK_FAILED).collect();
        assert!(unexplained.is_empty(), "seed {seed}: {unexplained:?}");
    }
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 1..=8 {
        let scenario = plans::of_seed(seed, 40);
        let run = || campaign::judged(&scenario, seed).unwrap().run.record;
        let (first, second) = (run(), run());
        let differ = first
            .events
            .iter()
            .zip(&second.events)
            .position(|(one, other)| one != other);
        assert_eq!(differ, None, "seed {seed}: another way from this event on");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
    let hash = |seed| {
        campaign::judged(&plans::of_seed(2, 40), seed)
            .unwrap()
            .run
            .record
            .trace_hash
    };
    assert_ne!(hash(2), hash(12), "another seed is another run");
}

#[test]
fn without_dedupe_the_same_faults_are_effects_that_happen_twice() {
    let naive = plans::everything(Mode::Claimed, 100).naive();
    let duplicated: u64 = (1..=3)
        .map(|seed| {
            campaign::judged(&naive, seed)
                .unwrap()
                .report
                .figures()
                .duplicated
        })
        .sum();
    assert!(duplicated > 0);
}

const DISK_FAILED: &str = "the disk could not write";
