//! The clients: each makes its calls, goes on with those that it knows nothing of, and now and then
//! asks again for an answer that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::history::{Ending, Happened, OTHER_STORE};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};
use onlyonce_chaos::sim::{Dialler, Run};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tower::ServiceExt;

use super::attempts::Attempts;
use super::bank::{TRANSFER, Transfer};
use super::native::{Naming, client_of, key_of};
use super::unrecorded::Unrecorded;
use crate::middleware::client::{AttemptTimeoutLayer, EnforceDeadlineLayer, Ticket};
use crate::middleware::stack;
use crate::rpc::simulated::channel;
use crate::rpc::{CallFailure, Client, ClientAdapter, Status};
use crate::storage::IdempotencyKey;

/// A client, and what it has written down: the calls that are over outlive its process.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) run: Run,
    pub(super) workload: Workload,
    pub(super) number: u32,
    /// Where all calls are for one thing: the one that it makes now.
    pub(super) only: Option<Arc<AtomicU64>>,
    /// How many calls of the run are over.
    pub(super) ended: Arc<AtomicU64>,
    pub(super) calls: Arc<[u64]>,
    /// Whether the server comes back with another store: then a key alone, without what its first
    /// attempt has met, protects nobody.
    pub(super) may_meet_another_store: bool,
    /// Whether its keys mean something. In the control they do not: to ask for an answer that it has, or
    /// to use the key of another call, would be a second effect without any fault there.
    pub(super) has_keys: bool,
    pub(super) twins: Twins,
    /// How many clients there are.
    pub(super) clients: u32,
    /// The keys that a client was told to be in doubt.
    pub(super) told_in_doubt: Arc<Mutex<BTreeSet<String>>>,
    pub(super) dialler: Dialler,
    pub(super) naming: Naming,
    pub(super) attempts: Attempts,
    pub(super) in_sessions: bool,
    pub(super) deadline: Duration,
    pub(super) attempt: Duration,
    pub(super) written: Arc<Mutex<Written>>,
}

/// Whose calls another client makes as well, at the same time: one intent, two callers. Nobody
/// else uses the key of a call in a session, which is forgotten when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twins {
    None,
    /// Those of clients with odd numbers: the others have sessions.
    OfOdd,
    OfAll,
}

#[derive(Default)]
pub(super) struct Written {
    /// The calls that were begun, with the call whose key each one uses: who comes back after a crash
    /// goes on under the name that it had written down.
    begun: BTreeMap<u64, u64>,
    over: BTreeSet<u64>,
}

// === impl Caller ===

impl Caller {
    /// One life of its process.
    pub(super) async fn live(self) {
        // A process is a client of its own, with a connection of its own.
        let dialler = self.dialler.clone();
        let channel = channel(move || {
            let dialler = dialler.clone();
            async move { dialler.connect().await }
        });
        let stack = stack::client(ClientAdapter)
            .with_deadline(EnforceDeadlineLayer::new().with_timeout(self.deadline))
            .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(self.attempt))
            .with_retry(|retry| retry.with_attempts_max(ATTEMPTS_MAX));
        let (naming, attempts) = (self.naming.clone(), self.attempts.clone());
        let number = move |request| attempts.number(&naming, request);
        // Of a call in a session nobody asks again when it is answered, and nobody else has its key.
        let unrecorded = Unrecorded::default();
        let client = match self.in_sessions {
            true => {
                Client::in_sessions_through(&channel, stack, |channel| channel.map_request(number))
            }
            false => {
                let heard = unrecorded.listen_to(channel);
                Client::with_stack(heard.map_request(number), stack)
            }
        };
        let at_once = if self.only.is_some() { 1 } else { AT_ONCE };
        let places = Arc::new(Semaphore::new(at_once));
        let mut tasks = tokio::task::JoinSet::new();
        for &call in &*self.calls {
            if self.written.lock().over.contains(&call) {
                continue;
            }
            // OK because it is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let pause = self.run.seed().draw(&[PAUSES, call]).within(0..=15);
            sleep(Duration::from_millis(pause)).await;
            let (caller, client) = (self.clone(), client.clone());
            let unrecorded = unrecorded.clone();
            tasks.spawn(async move {
                caller.make(&client, &unrecorded, call).await;
                caller.written.lock().over.insert(call);
                caller.ended.fetch_add(1, Ordering::Relaxed);
                drop(place);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }

    /// The call that this one asks for again, of a client that goes on at the same time.
    fn twin_of(&self, call: u64) -> Option<u64> {
        let twin = call.checked_sub(1).filter(|twin| *twin > 0)?;
        let number = client_of(twin, self.clients);
        let possible = match self.twins {
            Twins::None => false,
            Twins::OfOdd => number % 2 == 1 && self.number % 2 == 1,
            Twins::OfAll => true,
        };
        let draw = self.run.seed().draw(&[TWINS, call]).within(0..=4);
        (possible && number != self.number && draw == 0).then_some(twin)
    }

    async fn make(&self, client: &Client, unrecorded: &Unrecorded, call: u64) {
        let draw = |what| self.run.seed().draw(&[CALLS, call, what]);
        // Now and then a key that is in use already comes with another request. Two stores cannot
        // know of one another's keys: what another store has forgotten is promised to the retries of
        // one call, not to who uses its key for something else.
        // One whose record is there, and of its own: that of a session is forgotten when it is
        // acknowledged, and nobody uses its key again.
        let other = self
            .calls
            .iter()
            .rev()
            .find(|other| **other < call)
            .copied()
            .unwrap_or(call);
        let over = self.written.lock().over.contains(&other);
        let usable = call > 3
            && over
            && self.has_keys
            && !self.in_sessions
            && !self.may_meet_another_store
            && self.only.is_none();
        let misused = usable && draw(1).within(0..=5) == 0;
        let begun = self.written.lock().begun.get(&call).copied();
        let again = begun.is_some();
        let own = match &self.only {
            None => self.twin_of(call).unwrap_or(call),
            Some(only) => {
                only.store(call, Ordering::Relaxed);
                1
            }
        };
        let named = begun.unwrap_or(if misused { other } else { own });
        let poisoned = named != own;
        self.written.lock().begun.insert(call, named);
        let transfer = Transfer::of(self.run.seed(), self.workload, own);
        let key = key_of(named);
        let client_number = self.number;
        self.run.note(
            call,
            0,
            Happened::Invoked {
                client: client_number,
                key: key.clone(),
                payload: transfer.bytes(),
            },
        );
        // OK because such a key is short and printable.
        let Ok(key) = IdempotencyKey::parse(&key) else {
            return;
        };
        let mut ticket = match again || poisoned {
            true => Ticket::new(key),
            false => Ticket::never_sent(key),
        };
        let mut asked = 0;
        let mut asked_in_peace = 0;
        let mut doubts = 0;
        loop {
            asked_in_peace += u32::from(self.run.faults_ended());
            let (ending, next) = self
                .attempt(client, ticket, (call, &transfer), asked == 0 && !again)
                .await;
            asked += 1;
            if matches!(ending, Ending::Answered(_) | Ending::Declined(_))
                && unrecorded.take(&key_of(named))
            {
                self.run.note(call, 0, Happened::Unrecorded);
            }
            self.run.note(
                call,
                0,
                Happened::Ended {
                    ending: ending.clone(),
                },
            );
            let Some(next) = next else {
                // Whoever answered a session's call has forgotten it.
                if matches!(ending, Ending::Answered(_)) && self.in_sessions && asked == 1 && !again
                {
                    self.run.note(call, 0, Happened::Acknowledged);
                }
                return;
            };
            ticket = next;
            match ending {
                Ending::Answered(_) if !self.has_keys || asked > 1 || draw(3).within(0..=5) > 0 => {
                    return;
                }
                Ending::Answered(_) => {
                    sleep(Duration::from_millis(draw(4).within(0..=400))).await;
                }
                Ending::InDoubt if doubts > 0 => return,
                Ending::InDoubt => {
                    doubts += 1;
                    sleep(Duration::from_millis(draw(5).within(0..=600))).await;
                }
                Ending::Declined(_) | Ending::Refused => return,
                // While faults strike a client may lose its patience. Once nothing is in the way it has
                // to learn what became of its call.
                Ending::Unknown if asked > RESUMED_MAX && !self.run.faults_ended() => return,
                Ending::Unknown if asked_in_peace > RESUMED_MAX => return,
                Ending::Unknown => sleep(Duration::from_millis(150)).await,
            }
        }
    }

    /// Asks once, with all the attempts that the stack makes of it. What comes with the ending is
    /// what the call can be asked for again with.
    async fn attempt(
        &self,
        client: &Client,
        ticket: Ticket,
        (call, transfer): (u64, &Transfer),
        first: bool,
    ) -> (Ending, Option<Ticket>) {
        let asked = ticket.clone();
        let ended = match first && self.in_sessions {
            true => client.call_once_as(ticket, &TRANSFER, transfer).await,
            false => client.resume(ticket, &TRANSFER, transfer).await,
        };
        match ended {
            Ok(answer) if self.in_sessions || self.may_meet_another_store => {
                (Ending::Answered(answer.into_bytes()), None)
            }
            // The client has no other name for it than the one that it began with.
            Ok(answer) => (
                Ending::Answered(answer.into_bytes()),
                Some(Ticket::new(asked.key)),
            ),
            Err(CallFailure::Fault(fault)) => (Ending::Declined(fault.into_bytes()), None),
            Err(CallFailure::InDoubt(failed)) => {
                let key = failed.ticket.key.as_str().to_owned();
                self.told_in_doubt.lock().insert(key);
                (Ending::InDoubt, Some(failed.ticket))
            }
            // The word speaks of the attempts that were made. Where somebody in between has made two of
            // one, the other may still come and find the key free.
            Err(CallFailure::NotExecuted(failed)) if self.run.is_doubled(call) => {
                (Ending::Unknown, Some(failed.ticket))
            }
            Err(CallFailure::NotExecuted(_)) => (Ending::Refused, None),
            // The store that knew of it is gone for good, and the client is told so: there is nobody
            // left to ask.
            Err(CallFailure::OutcomeUnknown(failed))
                if failed.status == Some(Status::Misdirected) =>
            {
                let (who, event) = (format!("client-{}", self.number), OTHER_STORE.to_owned());
                self.run.note(call, 0, Happened::Lifecycle { who, event });
                (Ending::Unknown, None)
            }
            Err(CallFailure::OutcomeUnknown(failed)) => (Ending::Unknown, Some(failed.ticket)),
            Err(CallFailure::Refused { ticket, .. }) => match ticket.maybe_executed {
                // Another attempt would be refused as well, so that nothing more is ever learned of
                // the one before. That of a client which came back after a crash is of this kind: it
                // has written down that the call was begun, and not whether it was sent.
                true => (Ending::InDoubt, None),
                false => (Ending::Refused, None),
            },
            Err(CallFailure::Unreadable { ticket, .. }) => (Ending::Unknown, Some(ticket)),
        }
    }
}

/// Whether a workload is of clients that crash.
pub(super) fn crashes(scenario: &Scenario) -> bool {
    scenario.workload == Workload::Outbox
}

/// Whether all its calls are for one thing. The control has no keys: there each call is its own.
pub(super) fn is_hot(scenario: &Scenario) -> bool {
    scenario.workload == Workload::HotKey && scenario.mode != Mode::Naive
}

// OK because it is not zero.
const ATTEMPTS_MAX: NonZeroU32 = NonZeroU32::new(5).unwrap();
const AT_ONCE: usize = 4;
const RESUMED_MAX: u32 = 12;

// Which decision is drawn.
const PAUSES: u64 = 31;
const CALLS: u64 = 32;
const TWINS: u64 = 33;
