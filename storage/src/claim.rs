//! The right to execute: what is asked for, what is given, and what comes back instead.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::{CallJournal, Completion, Fingerprints, InDoubt, KeyDigest, ScopedKey, Timestamp};

/// The number that orders claims of one store.
///
/// A store never gives the same token twice, also not after the record was released or removed,
/// and every token given after a restart is larger than all given before it: the incarnation is
/// raised durably at each opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken {
    // Field order is the order of tokens.
    incarnation: u64,
    sequence: u64,
}

/// How long a claim holds without being renewed, on the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    expires_at: Timestamp,
}

/// The random name of one attempt to claim.
///
/// A claim whose answer got lost between store and server is asked for again with the same id, and
/// the store then recognises its own claim. It never comes from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptId([u8; 16]);

/// A client's session and the place of a call in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionCall {
    /// The session, as the store issued it.
    pub session: u64,
    /// The place of this call in the session.
    pub sequence: u64,
    /// Every call below this place has been answered to the client's caller.
    pub first_unanswered: u64,
}

/// What a server asks a store for before it runs a handler.
#[derive(Clone)]
pub struct ClaimRequest {
    /// The key, in its scope.
    pub key: ScopedKey,
    /// What the request digests to.
    pub fingerprints: Fingerprints,
    /// This attempt's own random name.
    pub attempt: AttemptId,
    /// How long the claim shall hold without renewal.
    pub lease: Duration,
    /// How long the answer shall be kept, at most as long as the store keeps any.
    pub retention: Option<Duration>,
    /// When the client first sent the call, on the store's clock.
    pub first_sent: Option<Timestamp>,
    /// The session, for a call in one.
    pub session: Option<SessionCall>,
    /// The doubt that the claim may supersede: a call in doubt under this very token is claimed
    /// anew, in one step, for the same request. In every other state the key is claimed, or not,
    /// as if this were `None`; and so it is for a call that says it was first sent at a time of which
    /// the store has forgotten calls.
    ///
    /// Say it only of a doubt whose call may run again: see
    /// [`Resolution::NotApplied`](crate::Resolution::NotApplied).
    pub rerun_of: Option<FencingToken>,
    /// The request as bytes, for a call that keeps a [journal](crate::journal): with them its server
    /// runs it again. Only a store that [keeps journals](crate::Store::journal) is asked so.
    pub journal: Option<Bytes>,
}

/// The right to execute one call, until it is spent.
///
/// It is moved into [`Store::complete`](crate::Store::complete),
/// [`release`](crate::Store::release) or [`doubt`](crate::Store::doubt) and is not `Clone`, so it
/// cannot be spent twice. Dropping it unspent only tells the store, which then puts the key in
/// doubt as soon as it can; the lapse of the lease is what guarantees it.
///
/// One that [`begin`](crate::transaction::TransactionalStore::begin) gave has applied nothing before it
/// is committed: dropping it leaves its key free.
#[must_use = "a claim that is dropped leaves its key in doubt"]
pub struct Claim {
    key: ScopedKey,
    token: FencingToken,
    lease: Lease,
    journal: Option<Box<CallJournal>>,
    on_drop: Option<Arc<dyn Abandoned>>,
}

/// Is told when a [`Claim`] is dropped unspent. Must not block and must not panic.
pub trait Abandoned: Send + Sync + 'static {
    /// The claim with this token on this key is gone, its effect unknown.
    fn abandoned(&self, key: KeyDigest, token: FencingToken);
}

/// What a store answers to a [`ClaimRequest`].
#[derive(Debug)]
pub enum ClaimOutcome {
    /// The caller, and nobody else, may execute.
    Claimed(Claim),
    /// The call has an answer.
    Completed(Completion),
    /// The client says that it first sent the call further in the future than clocks may differ.
    FirstSentAhead,
    /// It is not known whether the effect happened.
    InDoubt(InDoubt),
    /// Somebody is executing. Asking again before this has passed is of little use.
    InProgress {
        /// How long to wait before asking again.
        retry_after: Duration,
    },
    /// The key was first used with another request. The record is untouched.
    Mismatch,
    /// The scope has as many records in progress or in doubt as it may have. Nothing was written.
    OverQuota,
    /// The call's session was not used for too long, and nothing is known of its key. Nothing was
    /// written, and no call in that session ever will be executed again.
    SessionExpired,
    /// The call is older than what the store still remembers, acknowledged in its session, or
    /// sealed: it is never executed.
    Stale,
    /// The store never gave such a session to the call's principal. Nothing was written.
    UnknownSession,
    /// The call is too far ahead of the first one in its session that is not acknowledged. Nothing
    /// was written; it may be sent again when that was.
    WindowFull,
}

// === impl FencingToken ===

impl FencingToken {
    /// The token with these parts.
    #[must_use]
    pub const fn new(incarnation: u64, sequence: u64) -> Self {
        Self {
            incarnation,
            sequence,
        }
    }

    /// Which opening of the store gave it.
    #[must_use]
    pub const fn incarnation(self) -> u64 {
        self.incarnation
    }

    /// Its number within that opening.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.sequence
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.sequence)
    }
}

// === impl Lease ===

impl Lease {
    /// A lease that lapses at `expires_at`.
    #[must_use]
    pub const fn until(expires_at: Timestamp) -> Self {
        Self { expires_at }
    }

    /// When it lapses.
    #[must_use]
    pub const fn expires_at(self) -> Timestamp {
        self.expires_at
    }

    /// Whether it has lapsed at `now`.
    #[must_use]
    pub fn is_lapsed(self, now: Timestamp) -> bool {
        now >= self.expires_at
    }
}

// === impl AttemptId ===

impl AttemptId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        static PROCESS: OnceLock<Uuid> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Drawing sixteen bytes for each claim would be a call of the kernel for each.
        let mut bytes = *PROCESS.get_or_init(Uuid::new_v4).as_bytes();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        bytes[8..].copy_from_slice(&count.to_le_bytes());
        Self(bytes)
    }

    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

// === impl ClaimRequest ===

impl ClaimRequest {
    /// A request for a claim of `lease`, as a new attempt, with the store's retention.
    #[must_use]
    pub fn new(key: ScopedKey, fingerprints: Fingerprints, lease: Duration) -> Self {
        Self {
            key,
            fingerprints,
            attempt: AttemptId::random(),
            lease,
            retention: None,
            first_sent: None,
            session: None,
            rerun_of: None,
            journal: None,
        }
    }
}

impl fmt::Debug for ClaimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The request is the user's; only its size is shown.
        f.debug_struct("ClaimRequest")
            .field("key", &self.key)
            .field("fingerprints", &self.fingerprints)
            .field("attempt", &self.attempt)
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .field("first_sent", &self.first_sent)
            .field("session", &self.session)
            .field("rerun_of", &self.rerun_of)
            .field("journal_bytes", &self.journal.as_ref().map(Bytes::len))
            .finish()
    }
}

// === impl Claim ===

impl Claim {
    /// The claim that a store has just written. Only stores call this.
    pub fn new(
        key: ScopedKey,
        token: FencingToken,
        lease: Lease,
        on_drop: Option<Arc<dyn Abandoned>>,
    ) -> Self {
        Self {
            key,
            token,
            lease,
            journal: None,
            on_drop,
        }
    }

    /// The claim of a journaled call. Only stores call this.
    pub fn with_journal(self, journal: Option<Box<CallJournal>>) -> Self {
        let mut claim = self;
        claim.journal = journal;
        claim
    }

    /// The claim that a doubt was left under, for whoever learned from outside that the call
    /// happened. It is for [`Store::complete`](crate::Store::complete) alone: the answer is recorded
    /// unless somebody else has ended the doubt meanwhile.
    ///
    /// Dropping it tells nobody: the doubt stays.
    pub const fn of_doubt(key: ScopedKey, doubt: &InDoubt) -> Self {
        Self {
            key,
            token: doubt.token,
            // It has ended: that is what the doubt is about.
            lease: Lease::until(doubt.since),
            journal: None,
            on_drop: None,
        }
    }

    /// The key that it is for.
    #[must_use]
    pub const fn key(&self) -> &ScopedKey {
        &self.key
    }

    /// The key's digest.
    #[must_use]
    pub const fn digest(&self) -> KeyDigest {
        self.key.digest()
    }

    /// The token that orders it among all claims of the store. Hand it to outside systems that can
    /// refuse an older one.
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        self.token
    }

    /// How long it holds.
    #[must_use]
    pub const fn lease(&self) -> Lease {
        self.lease
    }

    /// What was kept of a journaled call when this claim was given: the notes of the runs before.
    #[must_use]
    pub fn journal(&self) -> Option<&CallJournal> {
        self.journal.as_deref()
    }

    /// Notes a renewal that the store has written. Only stores call this.
    pub const fn renewed_until(&mut self, lease: Lease) {
        self.lease = lease;
    }

    /// Spends the claim: its drop no longer tells anybody. Only stores call this, before they
    /// write what it is spent on.
    pub fn spend(mut self) -> (KeyDigest, FencingToken) {
        self.on_drop = None;
        (self.digest(), self.token)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(on_drop) = self.on_drop.take() {
            on_drop.abandoned(self.digest(), self.token);
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.key)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
