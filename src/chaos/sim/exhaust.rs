//! Every single fault, and every pair of them, of the exchange of one call or two.

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};

use super::campaign::judged;

/// Everything that can go wrong at one moment of the exchange, each as one fault.
///
/// The moments are those of the first two attempts of each call (each of its messages, what lies
/// before and behind its effect), of what opens the first two connections, and of the first syncs of
/// the store.
#[must_use]
pub fn atoms(calls: u64) -> Vec<Fault> {
    let mut atoms = Vec::new();
    let mut add = |place, what, phase, call: u64, attempt: u32| {
        let name = format!("{what} {place} {phase} {call}.{attempt}");
        let when = When::phase(phase).call(call).attempt(attempt);
        atoms.push(Fault::new(name, place, what).when(when));
    };
    let messages = [
        What::Drop,
        What::Duplicate { later_ms: 30 },
        LATE,
        What::Reset,
        What::Corrupt,
        What::Truncate,
        What::Close,
        What::Blackhole,
        What::Partition,
    ];
    let crash = What::Crash { back_after_ms: 30 };
    for attempt in 1..=2 {
        for phase in [Phase::RequestSent, Phase::ReplySent] {
            for what in messages {
                // Call 0 is what opens a connection.
                for call in 0..=calls {
                    add(Place::Wire, what, phase, call, attempt);
                }
            }
        }
        for call in 1..=calls {
            for phase in [
                Phase::RequestReceived,
                Phase::EffectDurable,
                Phase::ReplySent,
            ] {
                add(Place::Server, crash, phase, call, attempt);
                add(Place::Disk, What::PowerCut, phase, call, attempt);
            }
        }
    }
    for sync in 2..=2 + 2 * calls {
        add(Place::Disk, What::SyncFails, Phase::EffectDurable, sync, 1);
    }
    atoms
}

/// The exchange with these faults and no others.
#[must_use]
pub fn schedule(mode: Mode, calls: u64, faults: Vec<Fault>) -> Scenario {
    Scenario {
        name: format!("{calls} calls, {} faults, {}", faults.len(), mode.name()),
        about: String::new(),
        workload: Workload::Transfers,
        calls,
        clients: 1,
        mode,
        deadline_ms: 1_500,
        attempt_ms: 120,
        faults,
        goals: Vec::new(),
        control: true,
    }
}

/// The first seed from which each of so many calls has an effect: what is declined has no moment
/// behind its effect at which something could go wrong.
///
/// # Errors
///
/// When the simulation itself fails, or has no such seed among the first hundred.
pub fn seed(calls: u64) -> Result<u64, HarnessError> {
    for seed in 1..=100 {
        let quiet = schedule(Mode::Transactional, calls, Vec::new());
        if judged(&quiet, seed)?.report.figures().effects == calls {
            return Ok(seed);
        }
    }
    Err(HarnessError::other(
        "no seed lets every call have its effect",
    ))
}

/// The faults of the schedule of this number: the singles come first, then the pairs. `None` where
/// there is no such schedule.
#[must_use]
pub fn numbered(atoms: &[Fault], number: u64) -> Option<Vec<Fault>> {
    let count = atoms.len() as u64;
    if number < count {
        return Some(vec![atoms[number as usize].clone()]);
    }
    let mut left = number - count;
    for (at, first) in atoms.iter().enumerate() {
        let pairs = count - 1 - at as u64;
        if left < pairs {
            let second = &atoms[at + 1 + left as usize];
            return Some(vec![first.clone(), second.clone()]);
        }
        left -= pairs;
    }
    None
}

/// How many schedules there are of these: singles, or singles and pairs.
#[must_use]
pub const fn schedules(atoms: usize, pairs: bool) -> u64 {
    let atoms = atoms as u64;
    match pairs {
        true => atoms + atoms * atoms.saturating_sub(1) / 2,
        false => atoms,
    }
}

/// Later than an attempt waits.
const LATE: What = What::Delay {
    min_ms: 200,
    max_ms: 200,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_that_can_happen_to_a_message_happens_to_each() {
        let atoms = atoms(2);
        for what in [
            "drop",
            "duplicate",
            "delay",
            "corrupt",
            "truncate",
            "reset",
            "close",
            "blackhole",
            "partition",
        ] {
            let of_what = atoms.iter().filter(|atom| atom.what.name() == what);
            // Two directions, two attempts, two calls and what opens a connection.
            assert_eq!(of_what.count(), 12, "{what}");
        }
    }

    #[test]
    fn every_single_and_every_pair_has_a_number_of_its_own() {
        let atoms = atoms(1);
        let names = |faults: Vec<Fault>| -> Vec<String> {
            faults.into_iter().map(|fault| fault.name).collect()
        };
        let count = schedules(atoms.len(), true);
        let all: BTreeSet<Vec<String>> = (0..count)
            .map(|number| names(numbered(&atoms, number).expect("it is one of them")))
            .collect();
        assert_eq!(all.len() as u64, count, "no two are the same");
        assert!(numbered(&atoms, count).is_none());
    }
}
