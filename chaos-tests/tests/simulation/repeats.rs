//! One seed is one run, also beside and after others in the same process.

use onlyonce::chaos::sim::{campaign, plans};

/// What a host that is killed has under way is dropped in an order that depends on what else the
/// process has run before: nobody may be woken in that order.
#[test]
fn forty_seeds_run_twice_in_one_process_are_forty_traces() {
    let trace = |seed| {
        let judged = campaign::judged(&plans::of_seed(seed, 40), seed).unwrap();
        judged.run.record.trace_hash
    };
    let first: Vec<u64> = (1..=40).map(trace).collect();
    // In another order, so that each one comes after other runs than before.
    let unlike: Vec<u64> = (1..=40)
        .rev()
        .filter(|seed| trace(*seed) != first[*seed as usize - 1])
        .collect();
    assert!(unlike.is_empty(), "went another way: {unlike:?}");
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 40, "different seeds are different runs");
}
