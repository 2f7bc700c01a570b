//! Planted bugs, and how soon the simulation finds each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use onlyonce_chaos::ledger::Verdict;
use onlyonce_storage::mutants::{Mutant, plant};
use parking_lot::Mutex;

use super::campaign::judged;
use super::plans;
use super::shrink::{Shrunk, shrink};

/// What became of one planted bug.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The bug.
    pub mutant: Mutant,
    /// After how many seeds it was found, and what the checker called it; `None` if it survived.
    pub found: Option<(u64, String)>,
    /// The smallest schedule that shows it, where that was asked for.
    pub shrunk: Option<Shrunk>,
}

/// Hunts these bugs through the seeds from 1 to `seeds_max`, each run with so many calls, on `jobs`
/// threads. With `runs_max` what is found is made small, in at most that many runs each.
pub fn hunt(
    mutants: &[Mutant],
    seeds_max: u64,
    calls: u64,
    jobs: usize,
    runs_max: Option<u64>,
    tell: &(dyn Fn(&Hunted) + Sync),
) -> Vec<Hunted> {
    let next = AtomicUsize::new(0);
    let hunted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(&mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = hunt_one(mutant, seeds_max, calls, runs_max);
                    tell(&one);
                    hunted.lock().push(one);
                }
            });
        }
    });
    let mut hunted = hunted.into_inner();
    hunted.sort_by_key(|one| one.mutant);
    hunted
}

fn hunt_one(mutant: Mutant, seeds_max: u64, calls: u64, runs_max: Option<u64>) -> Hunted {
    let _planted = plant(Some(mutant));
    for seed in 1..=seeds_max {
        let scenario = plans::of_seed(seed, calls);
        // A bug that lets the program panic is not found by that: the checker must find it.
        let ran = catch_unwind(AssertUnwindSafe(|| judged(&scenario, seed)));
        let Ok(Ok(judged)) = ran else { continue };
        if judged.verdict() != Verdict::Violated {
            continue;
        }
        let name = judged.first_wrong().unwrap_or("violated").to_owned();
        let shrunk = runs_max.and_then(|runs_max| {
            let shrunk = catch_unwind(AssertUnwindSafe(|| shrink(&scenario, seed, runs_max)));
            shrunk.ok()?.ok()?
        });
        return Hunted {
            mutant,
            found: Some((seed, name)),
            shrunk,
        };
    }
    Hunted {
        mutant,
        found: None,
        shrunk: None,
    }
}
