//! The contract between the layers above and whatever keeps the records.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use uuid::Uuid;

use crate::journal::Journal;
use crate::transaction::TransactionalStore;
use crate::{
    Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, ClockSuspicion, DoubtReason,
    FencingToken, KeyState, KeyView, ListPage, ListRequest, Operator, Scope, ScopedKey,
    SessionRequest, SessionState, SettleError, StoreError, StoreStats, Timestamp,
};

/// The random identity of a store, made once, when the store is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId([u8; 16]);

/// What a store answers, later. Boxed, so that a server holds any store as `Arc<dyn Store>`.
pub type StoreFuture<'a, T, E = StoreError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// A durable memory of calls.
///
/// # Contract
///
/// - A method that returns `Ok` has made its change durable: it survives whatever the store
///   promises to survive. A method that returns `Err` may or may not have changed anything; the
///   caller must not conclude either.
/// - Every change is compare-and-set on the record that was read. Of any number of concurrent
///   [`claim`](Self::claim)s of one key, at most one is answered `Claimed`.
/// - A fencing token is larger than all given before it, also across restarts.
/// - A change by a claim whose token is not the record's is refused with
///   [`SettleError::Fenced`] and leaves the record untouched.
/// - A record that cannot be read is an error, never an absent key.
/// - After its first failed write or sync a store acknowledges nothing more.
///
/// # Cancellation
///
/// Dropping a returned future does not undo what was asked: the change may still be made. A claim
/// that is made for a future nobody polls any more is put in doubt.
///
/// Backends prove all this by running the suite `conformance!`.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The store's identity. It never changes.
    fn id(&self) -> StoreId;

    /// The store's clock, raised above the time up to which the store has forgotten calls: a call
    /// first sent at this time is never stale from the start.
    fn now(&self) -> Timestamp;

    /// Asks for the right to execute.
    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome>;

    /// Extends the lease to `lease` from now on, and notes so in the claim.
    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: std::time::Duration,
    ) -> StoreFuture<'a, (), SettleError>;

    /// Spends a claim on the call's answer.
    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError>;

    /// Spends a claim by saying that nothing was executed: the key is absent again.
    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError>;

    /// Spends a claim by saying that its outcome is unknown, and what was answered if anything.
    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError>;

    /// Answers a question about a key, and executes nothing.
    ///
    /// `first_sent` says when the call that is asked about was first sent, on the store's clock, as
    /// far as the asker knows. An absent key whose call the store may have forgotten is
    /// [`KeyState::Stale`], never [`Absent`](KeyState::Absent) or [`Sealed`](KeyState::Sealed): it
    /// may have been executed. So is one of a principal with a live session in which calls were
    /// acknowledged, where `first_sent` is `None`: who says it asks about a call that it was not
    /// answered, who does not may have the key from anywhere. A seal is written in both cases.
    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState>;

    /// Opens a session for a principal, resumes one, or acknowledges calls in it.
    ///
    /// `scope` says whose it is; an operation in it does not count. Calls below the number that is
    /// acknowledged are stale from then on; the answers of those that have one are removed at once.
    /// What is in progress or in doubt is kept, like a call without a session.
    ///
    /// A store that has no sessions answers [`SessionState::Unsupported`], as this does if it is
    /// not overridden, and refuses calls in one.
    fn session(&self, scope: Scope, request: SessionRequest) -> StoreFuture<'_, SessionState> {
        let _ = (scope, request);
        Box::pin(async { Ok(SessionState::Unsupported) })
    }

    /// Ends once the store hears that the call under `key` may have been settled, by whatever process,
    /// since this was called. It is a hint, and may never come: who waits asks now and then as well.
    ///
    /// A store that hears nothing never ends it, as this does if it is not overridden.
    fn until_told(&self, key: &ScopedKey) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let _ = key;
        Box::pin(std::future::pending())
    }

    /// This store as one that keeps handlers' tables beside the records, if it is one.
    fn transactions(&self) -> Option<&dyn TransactionalStore> {
        None
    }

    /// This store as one that keeps journals of calls, if it is one.
    fn journal(&self) -> Option<&dyn Journal> {
        None
    }

    /// [`Question::Peek`], about whatever call.
    fn peek(&self, key: ScopedKey) -> StoreFuture<'_, KeyState> {
        self.ask(Question::Peek, key, None)
    }

    /// [`Question::Seal`], about whatever call.
    fn seal(&self, key: ScopedKey) -> StoreFuture<'_, KeyState> {
        self.ask(Question::Seal, key, None)
    }
}

/// A question about a key. Neither executes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What is known of it? Changes nothing.
    Peek,
    /// Make it impossible if it is absent, and answer [`KeyState::Sealed`]; otherwise change
    /// nothing: what is known of it?
    ///
    /// Calls that were first sent before the seal and say so are impossible for ever. Others are
    /// until the seal's own horizon is past.
    Seal,
}

/// What operators do with the records of a store.
///
/// Whoever can call these sees every key and every principal: keep them from strangers.
pub trait Inspect: Store {
    /// A page of the calls that are in progress or in doubt. Changes nothing, and takes a bounded
    /// time however much is open: see [`ListRequest`]. Settled records are not listed.
    ///
    /// A call that was in doubt from before the first page until the last was asked for is on one
    /// of them. One that is renewed, or gets in doubt, meanwhile may be on two.
    fn list(&self, request: ListRequest) -> StoreFuture<'_, ListPage>;

    /// What is known of one key, and of its answer only the size unless `answer` wants the bytes.
    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView>;

    /// The figures of the store. A store that acknowledges nothing more still says so here.
    fn stats(&self) -> StoreFuture<'_, StoreStats>;

    /// Ends a doubt: with the answer that is now known, or by saying that nothing was applied
    /// (the key is then absent again). `token` must be the one that is in doubt: of two who resolve
    /// it at once, one is told [`SettleError::Fenced`].
    ///
    /// Who resolved is kept with the answer, and when is when it was completed. Of what was not
    /// applied nothing is kept.
    ///
    /// Say [`Resolution::NotApplied`] only when the owner is known dead or the outside system
    /// refuses its fencing token: a living one may still apply the effect.
    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError>;

    /// Removes what is past its retention or horizon. What is in progress or in doubt stays.
    ///
    /// Removes nothing, and says why in [`Swept::paused`], while the clock cannot be trusted: a
    /// clock that is far ahead would make the store forget calls that are hours old.
    fn sweep(&self) -> StoreFuture<'_, Swept>;

    /// Says that somebody has looked at the clock and found it right: sweeping goes on.
    fn confirm_clock(&self) -> StoreFuture<'_, ()>;
}

/// What became known of a call in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The effect happened, and this is the answer.
    Applied(Answer),
    /// The effect did not happen and cannot happen any more.
    NotApplied,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Answers that were past their retention. Stores that drop whole days count days.
    pub answers: u64,
    /// Tombstones that were past the horizon. Stores that drop whole days count days.
    pub tombstones: u64,
    /// Why nothing was removed, if the clock was not trusted.
    pub paused: Option<ClockSuspicion>,
}

// === impl Swept ===

impl Swept {
    /// Nothing was removed, for this reason.
    #[must_use]
    pub const fn paused(suspicion: ClockSuspicion) -> Self {
        Self {
            answers: 0,
            tombstones: 0,
            paused: Some(suspicion),
        }
    }
}

// === impl StoreId ===

impl StoreId {
    /// A new random identity.
    #[must_use]
    pub fn random() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }

    /// The identity with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The identity that [`Display`](fmt::Display) wrote as `text`; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(*Uuid::try_parse(text).ok()?.as_bytes());
        // One identity has one text: the other spellings of a UUID are not it.
        (id.to_string() == text).then_some(id)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Uuid::from_bytes(self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}
