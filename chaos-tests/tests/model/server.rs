//! A server: what `dedupe/owner.rs` and `dedupe/flight.rs` do, step by step.
//!
//! Those are futures and cannot be copied into a state, so this follows them by hand: the owner's
//! words to the store, in their order, and what it tells whom about each reply.

use onlyonce_storage::commit::{ClaimReply, Operation, Reply};
use onlyonce_storage::transition::Refusal;
use onlyonce_storage::{DoubtReason, FencingToken, KeyState, Question, SettleError};

use crate::mutant::Mutant;
use crate::record::{Row, answer, key, value};
use crate::state::{Body, Flight, Kind, Moment, Phase, Step, Ticket, Value, Word};
use crate::store::{self, Fate, LEASE};

/// What those who wait for an execution are told.
#[derive(Clone, Copy, Debug)]
pub enum Landing {
    /// An answer; the one who began the execution is told so by the first of the kinds.
    Answer(Kind, Kind, Value),
    /// In doubt: whoever began it has an answer that is kept nowhere, the others have none.
    Doubt(Option<Value>),
    /// Nothing was executed: the next of those who wait begins anew.
    NotExecuted,
    /// A refusal.
    Refused(Kind),
}

/// An attempt arrives. False when it changes nothing.
pub fn arrive(moment: &mut Moment, server: usize, caller: usize, mutant: Mutant) -> bool {
    let awaited = moment.callers[caller].phase == Phase::Waiting;
    let body = moment.callers[caller].body;
    let Some(ticket) = moment.callers[caller].ticket else {
        return false;
    };
    let store = moment.servers[server].store;
    if ticket.store != moment.stores[store].id && mutant != Mutant::StoreIdentityOff {
        if awaited {
            tell(moment, caller, Kind::Misdirected, None, Phase::Ended);
        }
        return awaited;
    }
    let flights = &mut moment.servers[server].flights;
    if let Some(flight) = flights.get_mut(&body) {
        return awaited && flight.lead != Some(caller) && flight.waiting.insert(caller);
    }
    let flight = Flight {
        lead: awaited.then_some(caller),
        waiting: [].into(),
        ticket,
        step: Step::Asking(Word::Claim),
    };
    flights.insert(body, flight);
    true
}

/// The store hears a word of an execution, or does not, and the owner goes on.
pub fn ask_store(moment: &mut Moment, server: usize, body: Body, fate: Fate, mutant: Mutant) {
    let flight = &moment.servers[server].flights[&body];
    let Step::Asking(word) = flight.step.clone() else {
        return;
    };
    let operation = operation(&word, body, flight.ticket);
    let reply = match fate {
        Fate::Lost => None,
        Fate::Kept => {
            drop(decide(moment, server, operation, mutant));
            None
        }
        Fate::Told => Some(decide(moment, server, operation, mutant)),
    };
    match word {
        Word::Claim => claimed(moment, server, body, reply),
        Word::Complete { token, value } => {
            let told = if mutant == Mutant::FencedAnswerTold {
                Some(value)
            } else {
                None
            };
            match (settled(reply), told) {
                (Ok(()), _) | (Err(SettleError::Fenced), Some(_)) => {
                    let landing = Landing::Answer(Kind::Executed, Kind::Attached, value);
                    land(moment, server, body, landing);
                }
                (Err(SettleError::Fenced), None) => {
                    go_on(moment, server, body, Step::Asking(Word::Fenced { token }));
                }
                (Err(_), _) => {
                    // The answer exists and cannot be kept: it is delivered this once, and says so.
                    let flight = moment.servers[server].flights.get_mut(&body);
                    let lead = flight.and_then(|flight| flight.lead.take());
                    if let Some(caller) = lead {
                        tell(moment, caller, Kind::Unrecorded, None, Phase::Ended);
                    }
                    land(moment, server, body, Landing::Doubt(None));
                }
            }
        }
        Word::Doubt { token, value } => match settled(reply) {
            Ok(()) => land(moment, server, body, Landing::Doubt(value)),
            Err(SettleError::Fenced) => {
                go_on(moment, server, body, Step::Asking(Word::Fenced { token }));
            }
            Err(_) => land(moment, server, body, Landing::Doubt(None)),
        },
        Word::Fenced { token } => {
            // Only a completion of our own claim says what our own execution did.
            let landing = match reply.map(Reply::into_state) {
                Some(Ok(KeyState::Completed(done))) if done.token == token => {
                    let value = value(&done.answer);
                    Landing::Answer(Kind::Replayed, Kind::Replayed, value)
                }
                _ => Landing::Doubt(None),
            };
            land(moment, server, body, landing);
        }
        Word::Release { .. } => match settled(reply) {
            Err(SettleError::Store(_)) => {
                land(moment, server, body, Landing::Refused(Kind::Unable));
            }
            // Nothing was executed under this claim, whoever has the key now.
            _ => land(moment, server, body, Landing::NotExecuted),
        },
    }
}

/// The owner has its lease renewed. False when that changes nothing.
pub fn renew(moment: &mut Moment, server: usize, body: Body, mutant: Mutant) {
    let Step::Running { token, .. } = moment.servers[server].flights[&body].step else {
        return;
    };
    let operation = Operation::Renew {
        key: key().digest(),
        token,
        lease: LEASE,
    };
    let reply = decide(moment, server, operation, mutant);
    if matches!(reply.into_lease(), Err(SettleError::Fenced)) {
        // The handler is dropped: what it did is unknown.
        let word = Word::Doubt { token, value: None };
        go_on(moment, server, body, Step::Asking(word));
    }
}

/// The process is gone. `dropped`: its claims were dropped on the way, as at an orderly end.
pub fn crash(moment: &mut Moment, server: usize, dropped: bool, mutant: Mutant) {
    let flights = std::mem::take(&mut moment.servers[server].flights);
    for flight in flights.into_values().filter(|_| dropped) {
        if let Step::Running { token, .. } = flight.step {
            let key = key().digest();
            drop(decide(
                moment,
                server,
                Operation::Abandon { key, token },
                mutant,
            ));
        }
    }
}

/// A question about the key. The reply reaches the caller, or nobody.
pub fn question(moment: &mut Moment, server: usize, caller: usize, told: bool, mutant: Mutant) {
    let ticket = moment.callers[caller].ticket;
    let operation = store::ask(Question::Seal, ticket);
    let reply = decide(moment, server, operation, mutant);
    let Ok(state) = reply.into_state() else {
        return;
    };
    if !told {
        return;
    }
    match state {
        KeyState::Sealed { .. } => {
            moment.told.sealed = true;
            moment.told.kinds |= Kind::Sealed.bit();
        }
        KeyState::Completed(done) => {
            let body = moment.callers[caller].body;
            // A question names no request, so only its own answer says anything to its asker.
            let value = value(&done.answer);
            if value.body == body {
                moment.told.answers.insert((body, value));
            }
        }
        _ => {}
    }
}

/// The newest token that a store, a server or the outside still knows of.
pub fn newest_token(moment: &Moment, store: usize) -> Option<FencingToken> {
    let half = &moment.stores[store];
    let rows = [&half.applied, &half.durable];
    let in_rows = rows.into_iter().flatten().filter_map(Row::token);
    let servers = moment.servers.iter().filter(|server| server.store == store);
    let held = servers.flat_map(|server| server.flights.values().filter_map(token_of));
    in_rows
        .chain(held)
        .chain(moment.outside.refuses)
        .filter(|token| token.incarnation() == half.incarnation)
        .max()
}

fn token_of(flight: &Flight) -> Option<FencingToken> {
    match &flight.step {
        Step::Asking(Word::Claim) => None,
        Step::Running { token, .. }
        | Step::Asking(
            Word::Complete { token, .. }
            | Word::Doubt { token, .. }
            | Word::Fenced { token }
            | Word::Release { token },
        ) => Some(*token),
    }
}

fn decide(moment: &mut Moment, server: usize, operation: Operation, mutant: Mutant) -> Reply {
    let store = moment.servers[server].store;
    let spent = newest_token(moment, store);
    let tick = moment.tick;
    moment.stores[store].decide(operation, spent, tick, mutant)
}

fn operation(word: &Word, body: Body, ticket: Ticket) -> Operation {
    let digest = key().digest();
    match *word {
        Word::Claim => store::claim(body, ticket),
        Word::Complete { token, value } => Operation::Complete {
            key: digest,
            token,
            answer: answer(value),
        },
        Word::Doubt { token, value } => Operation::Doubt {
            key: digest,
            token,
            reason: DoubtReason::Ambiguous,
            answer: value.map(answer),
        },
        Word::Fenced { .. } => store::ask(Question::Peek, None),
        Word::Release { token } => Operation::Release { key: digest, token },
    }
}

fn claimed(moment: &mut Moment, server: usize, body: Body, reply: Option<Reply>) {
    let Some(Reply::Claim(Ok(reply))) = reply else {
        land(moment, server, body, Landing::Refused(Kind::Unable));
        return;
    };
    let landing = match reply {
        ClaimReply::Claimed { token, .. } => {
            let effect = None;
            go_on(moment, server, body, Step::Running { token, effect });
            return;
        }
        ClaimReply::Completed(done) => {
            Landing::Answer(Kind::Replayed, Kind::Replayed, value(&done.answer))
        }
        ClaimReply::InDoubt(doubt) => Landing::Doubt(doubt.answer.as_ref().map(value)),
        ClaimReply::OverQuota => Landing::Refused(Kind::Unable),
        ClaimReply::Refused(refusal) => Landing::Refused(match refusal {
            Refusal::FirstSentAhead => panic!("nobody's clock is ahead in this world"),
            Refusal::InProgress { .. } => Kind::InProgress,
            Refusal::Mismatch => Kind::Mismatch,
            Refusal::Stale => Kind::Stale,
            Refusal::SessionExpired | Refusal::UnknownSession | Refusal::WindowFull => {
                panic!("there are no sessions in this world")
            }
        }),
        other => panic!("a claim was answered {other:?}"),
    };
    land(moment, server, body, landing);
}

/// `None` is a store that cannot be reached.
fn settled(reply: Option<Reply>) -> Result<(), SettleError> {
    let unreachable = || onlyonce_storage::StoreError::Unavailable {
        reason: String::new(),
        retry_after: LEASE,
    };
    reply.map_or_else(|| Err(unreachable().into()), Reply::into_settled)
}

fn go_on(moment: &mut Moment, server: usize, body: Body, step: Step) {
    if let Some(flight) = moment.servers[server].flights.get_mut(&body) {
        flight.step = step;
    }
}

/// Ends an execution, and tells everybody who waits for it.
fn land(moment: &mut Moment, server: usize, body: Body, landing: Landing) {
    let Some(flight) = moment.servers[server].flights.remove(&body) else {
        return;
    };
    let Flight {
        lead,
        mut waiting,
        ticket,
        ..
    } = flight;
    if let Landing::NotExecuted = landing {
        if let Some(lead) = lead {
            tell(moment, lead, Kind::NotExecuted, None, Phase::Refused);
        }
        // Those who waited begin anew: the first of them executes.
        if let Some(next) = waiting.pop_first() {
            let flight = Flight {
                lead: Some(next),
                waiting,
                ticket,
                step: Step::Asking(Word::Claim),
            };
            moment.servers[server].flights.insert(body, flight);
        }
        return;
    }
    let everybody = waiting.into_iter().map(|caller| (caller, false));
    for (caller, leads) in everybody.chain(lead.map(|caller| (caller, true))) {
        match landing {
            Landing::Answer(first, others, value) => {
                let kind = if leads { first } else { others };
                tell(moment, caller, kind, Some(value), Phase::Ended);
            }
            Landing::Doubt(None) => tell(moment, caller, Kind::InDoubt, None, Phase::Ended),
            Landing::Doubt(value) => {
                tell(moment, caller, Kind::InDoubtWithAnswer, value, Phase::Ended);
            }
            Landing::Refused(kind @ (Kind::InProgress | Kind::Unable)) => {
                tell(moment, caller, kind, None, Phase::Refused);
            }
            Landing::Refused(kind) => tell(moment, caller, kind, None, Phase::Ended),
            Landing::NotExecuted => {}
        }
    }
}

/// A caller that still waits is told. A reply that gets lost is a caller that stopped waiting
/// before; one that comes late is told early here, which breaks a promise all the sooner.
pub fn tell(moment: &mut Moment, caller: usize, kind: Kind, value: Option<Value>, then: Phase) {
    if moment.callers[caller].phase != Phase::Waiting {
        return;
    }
    moment.callers[caller].phase = then;
    let body = moment.callers[caller].body;
    moment.told.answers.extend(value.map(|value| (body, value)));
    moment.told.kinds |= kind.bit();
    for server in &mut moment.servers {
        stop_waiting(server.flights.values_mut(), caller);
    }
}

/// A caller no longer waits for what it was boarded on.
pub fn stop_waiting<'a>(flights: impl Iterator<Item = &'a mut Flight>, caller: usize) {
    for flight in flights {
        flight.waiting.remove(&caller);
        if flight.lead == Some(caller) {
            flight.lead = None;
        }
    }
}
