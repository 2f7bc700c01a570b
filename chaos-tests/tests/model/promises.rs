//! What must hold at every moment.

use std::collections::BTreeSet;

use onlyonce_storage::KeyState;

use crate::mutant::Mutant;
use crate::server;
use crate::state::{Moment, OPERATOR, Step};
use crate::store::Fate;

/// The effect of a call happens at most once per key.
pub fn at_most_once(moment: &Moment) -> bool {
    moment.outside.effects.len() <= 1
}

/// Whoever gets an answer gets the same answer, and it answers what was asked and tells of
/// something that happened.
pub fn same_answer(moment: &Moment) -> bool {
    let told = &moment.told.answers;
    let answers: BTreeSet<_> = told.iter().map(|(_, value)| value).collect();
    let true_of = |body, of: u8| {
        of == OPERATOR || moment.outside.effects.get(usize::from(of) - 1) == Some(body)
    };
    answers.len() <= 1
        && told
            .iter()
            .all(|(body, value)| value.body == *body && true_of(body, value.of))
}

/// Whoever is told that a key is sealed can rely on it.
pub fn never_both_sealed_and_executed(moment: &Moment) -> bool {
    !moment.told.sealed || moment.outside.effects.is_empty()
}

/// From here, once nothing more goes wrong, the key comes to rest: whether the servers go on or all
/// of them die, nobody is told *in progress* after the lease.
pub fn no_stuck_key(moment: &Moment, mutant: Mutant) -> bool {
    // Were all servers to die now, only what the stores hold would be left.
    let alone = rests(moment, mutant);
    alone && finish(moment, mutant).is_some_and(|done| rests(&done, mutant))
}

/// Every execution goes on to its end, each word heard. `None` when one has no end.
fn finish(moment: &Moment, mutant: Mutant) -> Option<Moment> {
    let mut moment = moment.clone();
    for _ in 0..STEPS_MAX {
        let open = moment.servers.iter().enumerate().find_map(|(at, server)| {
            let (body, flight) = server.flights.first_key_value()?;
            Some((at, *body, flight.step.clone()))
        });
        let Some((server, body, step)) = open else {
            return Some(moment);
        };
        match step {
            Step::Asking(_) => server::ask_store(&mut moment, server, body, Fate::Told, mutant),
            Step::Running { token, .. } => {
                let word = crate::state::Word::Doubt { token, value: None };
                if let Some(flight) = moment.servers[server].flights.get_mut(&body) {
                    flight.step = Step::Asking(word);
                }
            }
        }
    }
    None
}

/// After the lease no store says that the call is in progress.
fn rests(moment: &Moment, mutant: Mutant) -> bool {
    moment.stores.iter().enumerate().all(|(store, half)| {
        if !half.in_progress() {
            return true;
        }
        let spent = server::newest_token(moment, store);
        // Any lease is one tick.
        let state = half.peek(spent, moment.tick + 1, mutant);
        !matches!(state, KeyState::InProgress { .. })
    })
}

/// Each execution has at most a claim, an end and a look at what became of it; each of those who
/// wait may begin one.
const STEPS_MAX: usize = 64;
