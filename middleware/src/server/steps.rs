//! The steps of a journaled call: each has its effect at most once, however often its handler runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::journal::{NoteRefused, StepNameError};
use onlyonce_storage::{
    CallJournal, FencingToken, IdempotencyKey, KeyDigest, NoteError, StepName, StepNote, Store,
    StoreError, Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::Ticket;
use crate::jitter;
use crate::observe::server as observe;

/// What a journaled handler has its effects with, for one run of one call.
///
/// Each step has a name, which is the same in every run of the call. A step that has a result is not
/// run again: a later run of the call, after a crash, is given the result that was kept. How a step
/// that was cut off is treated is the choice between [`run_keyed`](Self::run_keyed) and
/// [`run_once`](Self::run_once).
///
/// After the first step that has no result the run is interrupted: no other step begins, and
/// whatever the handler answers is not the call's answer. Hand the [`StepError`] on with `?`. The call
/// goes on when it is asked for again, or by the server itself.
///
/// A run asks for the same steps as the runs before it, in the same order. One that would run another
/// step before it has asked for all that are finished is stopped before that step has an effect: its
/// code has changed, and may know the same effect by another name. Steps may be asked for at the same
/// time; then a step waits up to 5 s until all that are finished have been asked for.
///
/// A run that breaks these rules, or whose step the journal does not take, is stopped as well, and its
/// caller is told that the call is in doubt: it goes on once the handler is mended.
///
/// Clones are of the same run. Once the handler has returned they begin nothing any more; a step that
/// is still under way then counts as one that was cut off.
#[derive(Clone)]
pub struct Steps {
    run: Arc<Run>,
}

/// What the code of a step is given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepRun {
    /// The same key in every run of this step of this call, and in no other: for a peer that dedupes.
    pub key: IdempotencyKey,
    /// Orders this run of the call among all others: for a peer that refuses an older token.
    pub token: FencingToken,
    /// When the call was first claimed, on the clock of this server's store: the same in every run. No
    /// attempt of this step is older. A peer that can be told when a call was first sent, and refuses
    /// what is older than it remembers, is safe whenever the step is asked for again: see
    /// [`ticket`](Self::ticket).
    pub begun_at: Timestamp,
}

/// What the code of a step says if it has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It took no effect, and what it has set going cannot take any: no request of its is on the way.
    /// The text goes to the server's log; it must hold no key and no content.
    NotExecuted(String),
    /// It may or may not have taken effect. The text goes to the server's log, as above.
    Unknown(String),
}

/// Why a step has no result. It stops the run: hand it on with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The run is over: its handler has returned. This step did not begin, or is not noted.
    #[error("the run of the handler is over")]
    Ended,
    /// An earlier step of this run has no result, so that this one did not begin.
    #[error("an earlier step of this run has no result")]
    Interrupted,
    /// The name cannot be one: a mistake of the handler.
    #[error(transparent)]
    Name(#[from] StepNameError),
    /// Another step of this run has this name: a mistake of the handler.
    #[error("two steps of one run have this name")]
    NameTwice,
    /// A run before has finished a step that this run has not asked for: the handler has changed, or
    /// does not ask for its steps in the same order each time.
    #[error(
        "step {finished} was finished by a run before, and this run has not asked for it first"
    )]
    OutOfOrder {
        /// The step that was finished.
        finished: StepName,
    },
    /// The step says that it took no effect.
    #[error("the step was not executed: {0}")]
    NotExecuted(String),
    /// The journal does not take the step.
    #[error(transparent)]
    Refused(#[from] NoteRefused),
    /// The store failed: it is not known to have noted the step.
    #[error("the step could not be noted: {0}")]
    Store(#[from] StoreError),
    /// The claim does not hold any more: somebody else goes on with the call, or has settled it.
    #[error("the claim of the call does not hold any more")]
    Superseded,
    /// The step says that it does not know whether it took effect.
    #[error("it is not known whether the step took effect: {0}")]
    Unknown(String),
    /// The result that was kept is not what the handler expects: the code of the step has changed.
    #[error("the result that was kept of the step cannot be read: {0}")]
    Unreadable(String),
}

/// How the steps of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// No run of this handler can go on with the call as the handler is.
    Mistaken { why: String },
    /// Each that began has a result. Whether there are any, also of runs before, and whether this run
    /// has asked for one.
    Whole { any: bool, named: bool },
    /// One has none, and can be run again.
    Interrupted,
    /// Nobody can know whether this one took effect; whether its own code says so.
    Cut { step: StepName, said: bool },
}

/// What is done about a step that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeats {
    Keyed,
    Never,
}

struct Run {
    store: Arc<dyn Store>,
    key: KeyDigest,
    token: FencingToken,
    begun_at: Timestamp,
    state: Mutex<State>,
    /// Tells who waits for it that a step was asked for.
    asked: Notify,
}

#[derive(Default)]
struct State {
    /// Of the runs before; `None` of a step that was begun and has no result.
    kept: BTreeMap<StepName, Option<Bytes>>,
    /// All names that this run has used.
    named: BTreeSet<StepName>,
    /// Those that are under way, and whether they must not be cut off.
    under_way: BTreeMap<StepName, bool>,
    /// The first that must not be repeated and has no result, and whether its own code says so.
    cut: Option<(StepName, bool)>,
    interrupted: bool,
    /// Why the handler cannot go on with the call, where that is for it to mend.
    mistaken: Option<String>,
    ended: bool,
}

/// A step of this run that has no result yet. Dropping it says that it gets none.
struct UnderWay<'a> {
    run: &'a Run,
    /// `None` once it is known how it ended.
    name: Option<StepName>,
}

// === impl Steps ===

impl Steps {
    /// The steps of a run under this claim, with what was kept of the runs before.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        (key, token): (KeyDigest, FencingToken),
        journal: &CallJournal,
    ) -> Self {
        let kept = journal.steps().iter();
        let kept = kept.map(|step| (step.name().clone(), step.result().cloned()));
        let state = State {
            kept: kept.collect(),
            ..State::default()
        };
        Self {
            run: Arc::new(Run {
                store,
                key,
                token,
                begun_at: journal.begun_at(),
                state: Mutex::new(state),
                asked: Notify::new(),
            }),
        }
    }

    /// Runs a step whose peer dedupes: `run` hands the peer [`StepRun::key`], and the peer has the
    /// effect at most once for that key. The result is kept with one durable write.
    ///
    /// A step that was cut off is run again with the same key when the call goes on. So the peer must
    /// remember the key for longer than calls are gone on with
    /// ([`DedupeOptions::go_on_within`](super::DedupeOptions::go_on_within), 20 h).
    ///
    /// # Errors
    ///
    /// Why it has no result. The run is interrupted: see [`Steps`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts the step off.
    pub async fn run_keyed<F, Fut>(&self, name: &str, run: F) -> Result<Bytes, StepError>
    where
        F: FnOnce(StepRun) -> Fut,
        Fut: Future<Output = Result<Bytes, Unfinished>>,
    {
        self.step(Repeats::Keyed, name, run).await
    }

    /// Runs a step that must not be repeated, with two durable writes: that it begins, and its
    /// result.
    ///
    /// A step that was cut off, or that says [`Unfinished::Unknown`], leaves the call in doubt: it does
    /// not go on before an operator has said what became of the step. One that says
    /// [`Unfinished::NotExecuted`] is run again when the call goes on.
    ///
    /// # Errors
    ///
    /// Why it has no result. The run is interrupted: see [`Steps`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts the step off.
    pub async fn run_once<F, Fut>(&self, name: &str, run: F) -> Result<Bytes, StepError>
    where
        F: FnOnce(StepRun) -> Fut,
        Fut: Future<Output = Result<Bytes, Unfinished>>,
    {
        self.step(Repeats::Never, name, run).await
    }

    /// Says that the result that was kept of a step cannot be read. The run is interrupted, since its
    /// handler cannot go on. For those who give results types.
    #[must_use]
    pub fn unreadable(&self, why: String) -> StepError {
        self.run.mistaken(StepError::Unreadable(why))
    }

    /// Whether this run has come to a step.
    #[cfg(feature = "http")]
    pub(crate) fn has_come_to_one(&self) -> bool {
        !self.run.state.lock().named.is_empty()
    }

    /// Ends the run: no clone of this begins anything any more.
    pub(crate) fn end(&self) -> Ran {
        let mut state = self.run.state.lock();
        state.ended = true;
        let under_way = state.under_way.iter();
        let mut unfinished = under_way.filter(|(_, never)| **never);
        let unfinished = unfinished.next().map(|(name, _)| (name.clone(), false));
        if let Some((step, said)) = state.cut.clone().or(unfinished) {
            return Ran::Cut { step, said };
        }
        if let Some(why) = state.mistaken.clone() {
            return Ran::Mistaken { why };
        }
        if state.interrupted || !state.under_way.is_empty() {
            return Ran::Interrupted;
        }
        // The answer of a handler that knows nothing of what was done is not the call's.
        if let Some(finished) = state.not_asked_for() {
            let why = StepError::OutOfOrder { finished }.to_string();
            // One that has asked for none may have been turned away before the first.
            return match state.named.is_empty() {
                true => Ran::Interrupted,
                false => Ran::Mistaken { why },
            };
        }
        let named = !state.named.is_empty();
        let any = named || !state.kept.is_empty();
        Ran::Whole { any, named }
    }

    async fn step<F, Fut>(&self, repeats: Repeats, name: &str, code: F) -> Result<Bytes, StepError>
    where
        F: FnOnce(StepRun) -> Fut,
        Fut: Future<Output = Result<Bytes, Unfinished>>,
    {
        let run = &*self.run;
        let name = run.enter(name)?;
        if let Some(result) = run.kept(&name)? {
            observe::step("replayed");
            return Ok(result);
        }
        run.in_order().await?;
        let under_way = run.begin(&name)?;
        if repeats == Repeats::Never {
            run.note_begun(&name).await?;
            onlyonce_storage::kill_point!("journal: step begun, not run");
        }
        let result = code(run.step_run(&name)).await;
        match result {
            Ok(result) => {
                onlyonce_storage::kill_point!("journal: step run, result not kept");
                run.note(StepNote::done(name, result.clone())).await?;
                onlyonce_storage::kill_point!("journal: step kept, handler not told");
                under_way.finished();
                observe::step("run");
                Ok(result)
            }
            Err(Unfinished::NotExecuted(why)) => {
                if repeats == Repeats::Never {
                    run.note(StepNote::not_executed(name)).await?;
                }
                under_way.not_executed();
                observe::step("not_executed");
                Err(StepError::NotExecuted(why))
            }
            Err(Unfinished::Unknown(why)) => {
                under_way.says_unknown();
                observe::step("unknown");
                Err(StepError::Unknown(why))
            }
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps")
            .field("key", &self.run.key)
            .field("token", &self.run.token)
            .finish_non_exhaustive()
    }
}

// === impl StepRun ===

impl StepRun {
    /// The step as a call of this crate's clients, first sent when this server's call was begun. A peer
    /// of this crate that has forgotten calls of that time refuses it as stale, and never executes it
    /// again.
    ///
    /// Only where the clocks of the two stores differ by less than five minutes: a peer whose clock is
    /// further behind refuses such a call, as sent in the future. Elsewhere give the peer the
    /// [`key`](Self::key) alone.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket::new(self.key.clone()).first_sent(self.begun_at)
    }
}

// === impl Run ===

impl Run {
    /// The name of a step that this run has not had.
    fn enter(&self, name: &str) -> Result<StepName, StepError> {
        let mut state = self.state.lock();
        state.may_begin()?;
        let name = match StepName::parse(name) {
            Ok(name) if state.named.insert(name.clone()) => name,
            wrong => {
                drop(state);
                let error = wrong.map_or_else(StepError::from, |_| StepError::NameTwice);
                return Err(self.mistaken(error));
            }
        };
        drop(state);
        self.asked.notify_waiters();
        Ok(name)
    }

    /// Waits until all that runs before have finished was asked for, for as long as a handler that asks
    /// for several at the same time may take.
    async fn in_order(&self) -> Result<(), StepError> {
        let give_up_at = Instant::now() + ORDER_WAIT;
        loop {
            // Registered before it is looked, so that what is asked for in between is heard of.
            let mut asked = pin!(self.asked.notified());
            asked.as_mut().enable();
            let Some(finished) = self.state.lock().not_asked_for() else {
                return Ok(());
            };
            if timeout_at(give_up_at, asked).await.is_err() {
                return Err(self.mistaken(StepError::OutOfOrder { finished }));
            }
        }
    }

    /// Notes that the handler is to be mended before the call can go on.
    fn mistaken(&self, error: StepError) -> StepError {
        let mut state = self.state.lock();
        state.interrupted = true;
        state.mistaken.get_or_insert_with(|| error.to_string());
        error
    }

    /// The result that a run before has left.
    fn kept(&self, name: &StepName) -> Result<Option<Bytes>, StepError> {
        let mut state = self.state.lock();
        match state.kept.get(name) {
            None => Ok(None),
            Some(Some(result)) => Ok(Some(result.clone())),
            // OK because a store does not give a call with such a step; one that does is not followed.
            Some(None) => {
                state.cut = Some((name.clone(), false));
                let why = "a run before was cut off in it".to_owned();
                Err(StepError::Unknown(why))
            }
        }
    }

    fn begin(&self, name: &StepName) -> Result<UnderWay<'_>, StepError> {
        let mut state = self.state.lock();
        state.may_begin()?;
        state.under_way.insert(name.clone(), false);
        let name = Some(name.clone());
        Ok(UnderWay { run: self, name })
    }

    /// Notes that a step begins which must not be repeated. From then on it must not be cut off.
    async fn note_begun(&self, name: &StepName) -> Result<(), StepError> {
        let noted = self.note(StepNote::begun(name.clone())).await;
        let may_run = noted.and_then(|()| self.must_not_be_cut_off(name));
        match may_run {
            Ok(()) => Ok(()),
            Err(error @ (StepError::Superseded | StepError::Refused(_))) => Err(error),
            Err(error) => {
                // It does not run, so the note that it begins, wherever that is, is taken back. One
                // that stays is for an operator to take back.
                let _ = self.note(StepNote::not_executed(name.clone())).await;
                Err(error)
            }
        }
    }

    fn must_not_be_cut_off(&self, name: &StepName) -> Result<(), StepError> {
        let mut state = self.state.lock();
        state.may_begin()?;
        state.under_way.insert(name.clone(), true);
        Ok(())
    }

    /// Notes something, and asks again where the store's word of it got lost: noting twice is noting
    /// once.
    async fn note(&self, note: StepNote) -> Result<(), StepError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Some(journal) = self.store.journal() else {
                return Err(StepError::Refused(NoteRefused::NoJournal));
            };
            let error = match journal.note(self.key, self.token, note.clone()).await {
                Ok(()) => return Ok(()),
                Err(NoteError::Store(error)) => error,
                Err(NoteError::Refused(refused)) => return Err(self.mistaken(refused.into())),
                Err(_) => return Err(StepError::Superseded),
            };
            if attempt == NOTES_MAX || !matches!(error, StoreError::Unavailable { .. }) {
                return Err(error.into());
            }
            let pause = error.retry_after().clamp(NOTE_PAUSE_MIN, NOTE_PAUSE_MAX);
            sleep(pause + jitter::up_to(pause)).await;
        }
    }

    fn step_run(&self, name: &StepName) -> StepRun {
        StepRun {
            key: step_key(self.key, name),
            token: self.token,
            begun_at: self.begun_at,
        }
    }
}

// === impl State ===

impl State {
    /// A step that a run before has finished and this one has not asked for.
    fn not_asked_for(&self) -> Option<StepName> {
        let mut kept = self.kept.keys();
        kept.find(|kept| !self.named.contains(*kept)).cloned()
    }

    fn may_begin(&self) -> Result<(), StepError> {
        if self.ended {
            return Err(StepError::Ended);
        }
        match self.interrupted || self.cut.is_some() {
            true => Err(StepError::Interrupted),
            false => Ok(()),
        }
    }
}

// === impl UnderWay ===

impl UnderWay<'_> {
    fn finished(mut self) {
        if let Some(name) = self.name.take() {
            self.run.state.lock().under_way.remove(&name);
        }
    }

    fn not_executed(mut self) {
        if let Some(name) = self.name.take() {
            let mut state = self.run.state.lock();
            state.under_way.remove(&name);
            state.interrupted = true;
        }
    }

    fn says_unknown(mut self) {
        self.cut_off(true);
    }

    fn cut_off(&mut self, said: bool) {
        let Some(name) = self.name.take() else {
            return;
        };
        let mut state = self.run.state.lock();
        // What was said of it when the run ended stays.
        if state.ended {
            return;
        }
        let never = state.under_way.remove(&name) == Some(true);
        state.interrupted = true;
        if never && state.cut.is_none() {
            state.cut = Some((name, said));
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.cut_off(false);
    }
}

/// The key of a step: of the call's key in its scope, and the step's name. It never changes: a peer
/// that was given another would have the effect again.
fn step_key(key: KeyDigest, name: &StepName) -> IdempotencyKey {
    let id = [key.as_bytes(), name.as_str().as_bytes()].concat();
    IdempotencyKey::derived("onlyonce step", &id)
}

/// How often a note is tried. A lease that cannot be renewed either ends the run before.
const NOTES_MAX: u32 = 4;
const NOTE_PAUSE_MIN: Duration = Duration::from_millis(20);
const NOTE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// More than a handler that asks for steps at the same time reads or thinks between two of them.
const ORDER_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use onlyonce_storage::{Scope, ScopedKey};

    use super::*;

    #[test]
    fn the_key_of_a_step_never_changes() {
        let scope = Scope::principal("alice").unwrap();
        let scope = scope.operation("order.place").unwrap();
        let key = IdempotencyKey::parse("order-4711").unwrap();
        let key = ScopedKey::new(scope, key).digest();
        let of = |name: &str| step_key(key, &StepName::parse(name).unwrap());
        assert_eq!(of("charge").as_str(), GOLDEN);
        assert_ne!(of("ship"), of("charge"));
    }

    const GOLDEN: &str = "e1ffa15a045843643023534a5eeacdf6911e660f12a54343090748eb07e1c7c1";
}
