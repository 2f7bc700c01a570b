//! The journal of a call: what its handler has finished so far, step by step, so that a run after a
//! crash goes on where the run before it stopped.
//!
//! A journaled call is a claimed one whose record also keeps the request and the results of its steps.
//! A run that ends half-way (its process died, its lease lapsed, a peer did not answer) leaves the call
//! in doubt, and whoever claims it again is given the journal: steps with a result are not run again.
//! A step that was begun and has no result is what nobody can know about; a call with one is not claimed
//! again before somebody who looked has said what became of the step.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce_storage::journal::Journal;
//! use onlyonce_storage::{
//!     ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint, FingerprintAlgorithm, Fingerprints,
//!     IdempotencyKey, MemoryStore, Scope, ScopedKey, StepName, StepNote, Store,
//! };
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = MemoryStore::new();
//! let key = ScopedKey::new(Scope::principal("alice")?, IdempotencyKey::unique());
//! let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).field("body", b"100").finish();
//! let mut ask = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
//! ask.journal = Some("transfer 100".into());
//!
//! let ClaimOutcome::Claimed(claim) = store.claim(ask.clone()).await? else { unreachable!() };
//! let reserve = StepName::parse("reserve")?;
//! let note = StepNote::done(reserve.clone(), "seat 12a".into());
//! store.note(claim.digest(), claim.token(), note).await?;
//! // The run ends half-way, and is found by whoever finishes what was left.
//! store.doubt(claim, DoubtReason::OwnerGone, None).await?;
//! let abandoned = store.abandoned(None, 10).await?.calls;
//! assert_eq!(abandoned[0].request, "transfer 100");
//!
//! // The next run goes on behind the step.
//! ask.rerun_of = Some(abandoned[0].token);
//! let ClaimOutcome::Claimed(claim) = store.claim(ask).await? else { unreachable!() };
//! let step = claim.journal().and_then(|journal| journal.step(&reserve)).unwrap();
//! assert_eq!(step.result().unwrap(), "seat 12a");
//! # store.release(claim).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::fmt;

use bytes::Bytes;

use crate::{
    Cursor, FencingToken, Fingerprint, KeyDigest, ScopedKey, SettleError, Store, StoreError,
    StoreFuture, Timestamp,
};

/// What is kept of a journaled call beside its claim.
#[derive(Clone, PartialEq, Eq)]
pub struct CallJournal {
    request: Bytes,
    steps: Vec<Step>,
}

/// A step of a call.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    name: StepName,
    result: Option<Bytes>,
}

/// The name of a step, unique within its call: 1 to 255 bytes of visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepName(Box<str>);

/// What is noted of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepNote {
    /// Which step.
    pub name: StepName,
    /// What is known of it.
    pub what: Noted,
}

/// What is known of a step.
#[derive(Clone, PartialEq, Eq)]
pub enum Noted {
    /// It is about to take effect, and must not do so twice.
    Begun,
    /// It is finished, with this result.
    Done(Bytes),
    /// It was begun and has taken no effect, nor ever will.
    NotExecuted,
}

/// A journaled call that ended half-way, and that can go on.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedCall {
    /// The key.
    pub key: ScopedKey,
    /// What its request digests to.
    pub fingerprint: Fingerprint,
    /// The claim under which it ran last: what claims it again names it.
    pub token: FencingToken,
    /// Since when it stands still, on the store's clock.
    pub since: Timestamp,
    /// When the client first sent it, on the store's clock.
    pub first_sent: Option<Timestamp>,
    /// The request that was kept when it was first claimed.
    pub request: Bytes,
}

/// A part of the list of abandoned calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedPage {
    /// Calls that can go on: those whose lapse nobody has written down yet, then the others, and of
    /// each those that stand still for longest first. May be empty although there is more.
    pub calls: Vec<AbandonedCall>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Why a note was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The claim does not hold any more, or belongs to somebody else by now. Nothing was written.
    #[error("claim is superseded: its call goes on elsewhere, or was settled")]
    Fenced,
    /// The journal does not take it. Nothing was written.
    #[error(transparent)]
    Refused(#[from] NoteRefused),
    /// The store failed: the note may or may not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a journal does not take a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteRefused {
    /// The step has a result already, which is not this one.
    #[error("the step is finished already, with another result")]
    Finished,
    /// The call was not claimed as a journaled one.
    #[error("the call keeps no journal")]
    NoJournal,
    /// The journal would be larger than the store keeps.
    #[error(
        "a journal of {size} bytes is larger than the {limit} bytes that the store keeps of one"
    )]
    TooLarge {
        /// Its size in bytes: the request, and the names and results of its steps.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The call has as many steps as one may have.
    #[error("a call has at most {limit} steps")]
    TooManySteps {
        /// The limit.
        limit: usize,
    },
}

/// Why a text is no name of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step's name has 1 to 255 bytes of visible ASCII")]
pub struct StepNameError;

/// A [`Store`] that keeps journals of calls.
///
/// # Contract
///
/// - A call that is claimed with a [journal](crate::ClaimRequest::journal) keeps that request, durable
///   with the claim. [`Claim::journal`](crate::Claim::journal) says what is kept, also of runs before.
/// - A note is durable once [`note`](Self::note) returns `Ok`. It is made only while the claim holds:
///   of two runs of a call, only the one that was claimed last writes. A result of a step that was begun
///   is also taken from the owner of a claim that has lapsed, until somebody else claims the call.
/// - A call in doubt is not claimed again with a journal while one of its steps is begun and not
///   finished: it stays in doubt until that step is [resolved](Self::resolve_step), or the call is.
///   Nor where its handler has said that it does not know, or has given an answer: see
///   [`is_abandoned`](crate::transition::is_abandoned).
/// - Nor is a call claimed again with a journal that was first claimed without one.
/// - A journal goes when its call is settled.
///
/// Backends prove it by running the suite `conformance_journal!`.
///
/// # Cancellation
///
/// Dropping a future leaves open whether its note is written.
pub trait Journal: Store {
    /// Notes something of a step of the call that `token` claims. Noting the same twice is noting it
    /// once, so that whoever lost an answer may ask again.
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError>;

    /// A page of the calls in doubt that can go on, at most `calls_max`, never more than
    /// [`ABANDONED_CALLS_MAX`], and fewer where their requests are more than [`ABANDONED_BYTES_MAX`]:
    /// see [`is_abandoned`](crate::transition::is_abandoned). Changes nothing and takes a bounded
    /// time.
    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage>;

    /// Says what became of a step that was begun and not finished, of a call in doubt under `token`:
    /// its result, or that it took no effect and never will. The call stays in doubt, and can go on when
    /// this was its only such step.
    ///
    /// Say the latter only where whoever ran the step is known dead, or refused outside.
    ///
    /// # Errors
    ///
    /// [`SettleError::Fenced`] where the call is not in doubt under `token`, or that step is not begun,
    /// or is finished. [`StoreError::JournalTooLarge`] for a result that does not fit.
    fn resolve_step(
        &self,
        key: ScopedKey,
        token: FencingToken,
        name: StepName,
        resolution: StepResolution,
    ) -> StoreFuture<'_, (), SettleError>;
}

/// What became known of a step.
#[derive(Clone, PartialEq, Eq)]
pub enum StepResolution {
    /// It took effect, with this result.
    Done(Bytes),
    /// It took no effect, and cannot any more.
    NotExecuted,
}

// === impl CallJournal ===

impl CallJournal {
    /// The journal of a call that begins, which keeps this request.
    #[must_use]
    pub const fn new(request: Bytes) -> Self {
        Self {
            request,
            steps: Vec::new(),
        }
    }

    /// The journal with these steps, in the order in which they were first noted.
    #[must_use]
    pub const fn with_steps(request: Bytes, steps: Vec<Step>) -> Self {
        Self { request, steps }
    }

    /// The request that was kept when the call was first claimed.
    #[must_use]
    pub const fn request(&self) -> &Bytes {
        &self.request
    }

    /// Its steps, in the order in which they were first noted.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step of this name.
    #[must_use]
    pub fn step(&self, name: &StepName) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == *name)
    }

    /// The first step that was begun and has no result.
    #[must_use]
    pub fn unfinished(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.result.is_none())
    }

    /// Its size in bytes, as it counts for the limit: the request, and the names and results of its
    /// steps.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(Step::bytes);
        self.request.len() + steps.sum::<usize>()
    }

    /// The journal after this note.
    ///
    /// # Errors
    ///
    /// Why it does not take it.
    pub fn noted(&self, note: &StepNote, limits: JournalLimits) -> Result<Self, NoteRefused> {
        let mut journal = self.clone();
        let place = self.steps.iter().position(|step| step.name == note.name);
        match (&note.what, place) {
            (Noted::NotExecuted, None) => {}
            (Noted::NotExecuted, Some(at)) if self.steps[at].result.is_none() => {
                journal.steps.remove(at);
            }
            (Noted::Begun, Some(at)) if self.steps[at].result.is_none() => {}
            (Noted::Done(result), Some(at)) => match &self.steps[at].result {
                None => journal.steps[at].result = Some(result.clone()),
                Some(kept) if kept == result => {}
                Some(_) => return Err(NoteRefused::Finished),
            },
            (Noted::Begun | Noted::NotExecuted, Some(_)) => return Err(NoteRefused::Finished),
            (Noted::Begun, None) => journal.steps.push(Step::begun(note.name.clone())),
            (Noted::Done(result), None) => {
                let step = Step::done(note.name.clone(), result.clone());
                journal.steps.push(step);
            }
        }
        // What is there already is within the bounds, or within those of before.
        if journal.steps.len() > self.steps.len() && journal.steps.len() > limits.steps_max {
            let limit = limits.steps_max;
            return Err(NoteRefused::TooManySteps { limit });
        }
        let (size, limit) = (journal.bytes(), limits.bytes_max);
        if size > limit && size > self.bytes() {
            return Err(NoteRefused::TooLarge { size, limit });
        }
        Ok(journal)
    }
}

impl fmt::Debug for CallJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallJournal")
            .field("request", &Sized(&self.request))
            .field("steps", &self.steps)
            .finish()
    }
}

/// How large a journal may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Its size in bytes: the request, and the names and results of its steps.
    pub bytes_max: usize,
    /// How many steps it has.
    pub steps_max: usize,
}

// === impl Step ===

impl Step {
    /// A step that was begun.
    #[must_use]
    pub const fn begun(name: StepName) -> Self {
        Self { name, result: None }
    }

    /// A step that is finished.
    #[must_use]
    pub const fn done(name: StepName, result: Bytes) -> Self {
        Self {
            name,
            result: Some(result),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &StepName {
        &self.name
    }

    /// Its result; `None` where it was begun and nobody knows what became of it.
    #[must_use]
    pub const fn result(&self) -> Option<&Bytes> {
        self.result.as_ref()
    }

    fn bytes(&self) -> usize {
        self.name.0.len() + self.result.as_ref().map_or(0, Bytes::len)
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            None => write!(f, "Step({}, begun)", self.name),
            Some(result) => write!(f, "Step({}, {:?})", self.name, Sized(result)),
        }
    }
}

// === impl Noted ===

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun => f.write_str("Begun"),
            Self::Done(result) => write!(f, "Done({:?})", Sized(result)),
            Self::NotExecuted => f.write_str("NotExecuted"),
        }
    }
}

// === impl StepResolution ===

impl fmt::Debug for StepResolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(result) => write!(f, "Done({:?})", Sized(result)),
            Self::NotExecuted => f.write_str("NotExecuted"),
        }
    }
}

// === impl AbandonedCall ===

impl fmt::Debug for AbandonedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbandonedCall")
            .field("key", &self.key)
            .field("token", &self.token)
            .field("since", &self.since)
            .field("first_sent", &self.first_sent)
            .field("request", &Sized(&self.request))
            .finish_non_exhaustive()
    }
}

// === impl StepNote ===

impl StepNote {
    /// The step is about to take effect.
    #[must_use]
    pub const fn begun(name: StepName) -> Self {
        let what = Noted::Begun;
        Self { name, what }
    }

    /// The step is finished.
    #[must_use]
    pub const fn done(name: StepName, result: Bytes) -> Self {
        let what = Noted::Done(result);
        Self { name, what }
    }

    /// The step was begun and has taken no effect.
    #[must_use]
    pub const fn not_executed(name: StepName) -> Self {
        let what = Noted::NotExecuted;
        Self { name, what }
    }
}

impl StepNote {
    /// How many bytes it brings.
    pub(crate) fn bytes(&self) -> usize {
        match &self.what {
            Noted::Done(result) => self.name.0.len() + result.len(),
            Noted::Begun | Noted::NotExecuted => self.name.0.len(),
        }
    }
}

// === impl StepName ===

impl StepName {
    /// The name that this text is.
    ///
    /// # Errors
    ///
    /// When it is empty, longer than 255 bytes, or not visible ASCII.
    pub fn parse(name: &str) -> Result<Self, StepNameError> {
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        match visible && (1..=STEP_NAME_BYTES_MAX).contains(&name.len()) {
            true => Ok(Self(name.into())),
            false => Err(StepNameError),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest name of a step.
pub const STEP_NAME_BYTES_MAX: usize = 255;

/// The calls of one page of abandoned ones: each brings its request.
pub const ABANDONED_CALLS_MAX: usize = 64;

/// The requests of one page, in bytes: after the one with which it has more, the page ends.
pub const ABANDONED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is printed of the user's bytes: how many they are.
struct Sized<'a>(&'a Bytes);

impl fmt::Debug for Sized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
