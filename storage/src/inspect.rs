//! What operators are shown of a store: its records without their answers, and its figures.

use std::time::Duration;

use crate::record::{AnswerKept, CallRecord, State};
use crate::{
    Answer, ClockSuspicion, DoubtReason, FencingToken, KeyDigest, Operator, Scope, ScopedKey,
    SessionCall, StepName, StoreId, Timestamp,
};

/// Which open calls are listed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListRequest {
    /// In this state only.
    pub state: Option<OpenState>,
    /// Of this principal only, in whatever operation.
    pub principal: Option<String>,
    /// Of this operation only, of whatever principal.
    pub operation: Option<String>,
    /// Only what has been so for at least as long: in doubt, or claimed.
    pub age_min: Duration,
    /// Behind this one: [`ListPage::next`] of the page before.
    pub after: Option<Cursor>,
    /// At most so many records, and never more than [`PAGE_RECORDS_MAX`].
    pub records_max: usize,
}

/// What a call is in that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenState {
    // In the order in which they are listed: what becomes in doubt while somebody reads on is
    // found further behind.
    /// Somebody executes it.
    InProgress,
    /// Its outcome is unknown.
    InDoubt,
}

/// A place in the list of open calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    // Field order is the order of the list.
    /// The part of the list.
    pub state: OpenState,
    /// When the lease ends, or since when it is in doubt.
    pub time: Timestamp,
    /// Which of those.
    pub key: KeyDigest,
}

/// A part of the list of open calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListPage {
    /// What was asked for, in the order of the list: what is in progress by the end of its lease,
    /// then what is in doubt, oldest first. May be empty although there is more.
    pub records: Vec<RecordView>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// A call as operators see it: everything but the bytes of its answer, unless they ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordView {
    /// The key.
    pub key: ScopedKey,
    /// The claim under which it ran; what resolves the call must name it.
    pub token: FencingToken,
    /// When it was claimed, on the store's clock.
    pub claimed_at: Timestamp,
    /// When the client first sent it, on the store's clock.
    pub first_sent: Option<Timestamp>,
    /// Its session, for a call in one.
    pub session: Option<SessionCall>,
    /// What its handler has begun and finished so far, in the order in which it was first noted. Empty for
    /// a call without a journal, and for one that is settled. A list has of each call only what is begun
    /// and not finished, and the first [`LISTED_STEPS_MAX`] of that.
    pub steps: Vec<StepView>,
    /// How many steps it has.
    pub steps_noted: u64,
    /// Whether it ended half-way and the next run with a journal goes on with it: see
    /// [`is_abandoned`](crate::transition::is_abandoned).
    pub goes_on: bool,
    /// What became of it.
    pub state: StateView,
}

/// A step of a call as operators see it: everything but the bytes of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepView {
    /// Its name.
    pub name: StepName,
    /// How large its result is; `None` where it was begun and nobody knows what became of it.
    pub result_bytes: Option<u64>,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateView {
    /// It has an answer.
    Completed {
        /// When it was recorded, or resolved.
        at: Timestamp,
        /// Until when the answer is replayed.
        answer_until: Timestamp,
        /// The answer; `None` once it is past its retention.
        answer: Option<AnswerView>,
        /// Who ended its doubt, where somebody did.
        resolved_by: Option<Operator>,
    },
    /// Its outcome is unknown.
    InDoubt {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: DoubtReason,
        /// What the handler answered, if anything.
        answer: Option<AnswerView>,
    },
    /// Somebody executes it.
    InProgress {
        /// Until when the claim holds.
        lease_until: Timestamp,
    },
}

/// An answer as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnswerView {
    /// The number of its encoding.
    pub format: u16,
    /// Its length in bytes.
    pub bytes: u64,
    /// The answer itself, where it was asked for.
    pub answer: Option<Answer>,
}

/// What a store knows of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyView {
    /// Nothing: nobody has used it, or it was forgotten.
    Absent,
    /// A call.
    Call(RecordView),
    /// It was sealed before anybody used it.
    Sealed {
        /// When, on the store's clock.
        at: Timestamp,
    },
}

/// Whether the bytes of an answer are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerBytes {
    /// Its format and length are enough.
    LeaveOut,
    /// They are: whoever asks may see them.
    Show,
}

/// The figures of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// The store's identity.
    pub id: StoreId,
    /// Which opening this is.
    pub incarnation: u64,
    /// The store's clock.
    pub now: Timestamp,
    /// Calls first sent at or before this time may have been forgotten.
    pub forgotten_until: Timestamp,
    /// How long answers are replayed.
    pub retention: Duration,
    /// How long settled calls are remembered.
    pub horizon: Duration,
    /// Why it acknowledges nothing more, if a write has failed.
    pub poisoned: Option<String>,
    /// Why sweeping pauses, if the clock is not trusted.
    pub clock: Option<ClockSuspicion>,
    /// What is open.
    pub open: OpenStats,
    /// Settled records: answers, tombstones and seals.
    pub settled: u64,
    /// Where they lie, oldest first. Empty for a store that has no buckets.
    pub buckets: Vec<BucketStats>,
    /// What its files take on the disk; `None` for a store without, or where they cannot be read.
    pub disk_bytes: Option<u64>,
}

/// How much is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenStats {
    /// Calls in progress.
    pub in_progress: u64,
    /// Calls in doubt.
    pub in_doubt: u64,
    /// Since when the oldest of them is in doubt.
    pub oldest_doubt: Option<Timestamp>,
    /// How many scopes have something open.
    pub scopes: u64,
    /// Those with most in doubt and in progress, at most [`SCOPES_SHOWN_MAX`], of the first
    /// [`SCOPES_SEEN_MAX`].
    pub most: Vec<ScopeStats>,
}

/// How much one scope has open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeStats {
    /// The scope.
    pub scope: Scope,
    /// Calls in progress.
    pub in_progress: u64,
    /// Calls in doubt.
    pub in_doubt: u64,
}

/// The records of a stretch of time, which are forgotten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketStats {
    /// When the stretch begins.
    pub start: Timestamp,
    /// When it has ended.
    pub end: Timestamp,
    /// Settled records in it.
    pub settled: u64,
    /// What they take, in bytes.
    pub settled_bytes: u64,
    /// What their answers take, in bytes; 0 once they are gone.
    pub answers_bytes: u64,
}

// === impl ListRequest ===

impl ListRequest {
    /// All open calls, from the first, in pages of the largest size.
    #[must_use]
    pub fn new() -> Self {
        Self {
            records_max: PAGE_RECORDS_MAX,
            ..Self::default()
        }
    }

    /// Whether the list goes into this part.
    #[must_use]
    pub fn wants(&self, state: OpenState) -> bool {
        self.state.is_none_or(|wanted| wanted == state)
    }

    /// Whether this call is listed at `now`.
    #[must_use]
    pub fn matches(&self, view: &RecordView, now: Timestamp) -> bool {
        let (state, since) = match view.state {
            StateView::Completed { .. } => return false,
            StateView::InDoubt { since, .. } => (OpenState::InDoubt, since),
            StateView::InProgress { .. } => (OpenState::InProgress, view.claimed_at),
        };
        let scope = view.key.scope();
        let is = |wanted: &Option<String>, name: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| name == Some(wanted))
        };
        self.wants(state)
            && is(&self.principal, scope.principal_name())
            && is(&self.operation, scope.operation_name())
            && now.since(since) >= self.age_min
    }
}

// === impl RecordView ===

impl RecordView {
    /// What is shown of a record. An answer that is in it is shown by its size, and past its
    /// retention not at all.
    #[must_use]
    pub fn of(call: &CallRecord, now: Timestamp) -> Self {
        Self {
            key: call.key.clone(),
            token: call.token,
            claimed_at: call.claimed_at,
            first_sent: call.first_sent,
            session: call.session,
            steps: steps(call),
            steps_noted: call
                .journal
                .as_ref()
                .map_or(0, |journal| journal.steps().len() as u64),
            goes_on: crate::transition::is_abandoned(call),
            state: match &call.state {
                State::Completed {
                    at,
                    answer_until,
                    answer,
                    resolved_by,
                } => StateView::Completed {
                    at: *at,
                    answer_until: *answer_until,
                    answer: AnswerView::of(answer).filter(|_| now < *answer_until),
                    resolved_by: resolved_by.clone(),
                },
                State::InDoubt {
                    since,
                    reason,
                    answer,
                } => StateView::InDoubt {
                    since: *since,
                    reason: *reason,
                    answer: answer.as_ref().and_then(AnswerView::of),
                },
                State::InProgress { lease } => StateView::InProgress {
                    lease_until: lease.expires_at(),
                },
            },
        }
    }

    /// The answer that is kept of it.
    #[must_use]
    pub const fn answer(&self) -> Option<&AnswerView> {
        match &self.state {
            StateView::Completed { answer, .. } | StateView::InDoubt { answer, .. } => {
                answer.as_ref()
            }
            StateView::InProgress { .. } => None,
        }
    }

    /// The same with the bytes of its answer.
    #[must_use]
    pub fn with_answer(mut self, bytes: Option<Answer>) -> Self {
        match &mut self.state {
            StateView::Completed { answer, .. } | StateView::InDoubt { answer, .. } => {
                match (answer, bytes) {
                    (Some(view), Some(bytes)) => view.answer = Some(bytes),
                    // It is gone by now.
                    (gone, None) => *gone = None,
                    (None, Some(_)) => {}
                }
            }
            StateView::InProgress { .. } => {}
        }
        self
    }
}

impl RecordView {
    /// As it is in a list, where many of them lie beside each other: of its steps only what somebody has
    /// to look at.
    #[must_use]
    pub fn listed(mut self) -> Self {
        self.steps.retain(|step| step.result_bytes.is_none());
        self.steps.truncate(LISTED_STEPS_MAX);
        self
    }
}

fn steps(call: &CallRecord) -> Vec<StepView> {
    let steps = call.journal.iter().flat_map(|journal| journal.steps());
    let steps = steps.map(|step| StepView {
        name: step.name().clone(),
        result_bytes: step.result().map(|result| result.len() as u64),
    });
    steps.collect()
}

// === impl AnswerView ===

impl AnswerView {
    fn of(kept: &AnswerKept) -> Option<Self> {
        let (format, bytes) = match kept {
            AnswerKept::Beside { format, length, .. } => (*format, u64::from(*length)),
            AnswerKept::Gone => return None,
            AnswerKept::Here(answer) => (answer.format().number(), answer.body().len() as u64),
        };
        Some(Self {
            format,
            bytes,
            answer: None,
        })
    }
}

/// The steps of one call in a list: who sees these sees that somebody has to look.
pub const LISTED_STEPS_MAX: usize = 16;

/// Records in a page: half a megabyte with the longest names, at most two with steps that are begun, and
/// less than a millisecond of the thread that serves all calls.
pub const PAGE_RECORDS_MAX: usize = 256;

/// Records that are looked at for a page: a filter that fits nothing ends the page here.
pub const PAGE_SEEN_MAX: usize = 1_024;

/// Scopes in the figures: as many as somebody reads.
pub const SCOPES_SHOWN_MAX: usize = 20;

/// Scopes that are looked at for them: a millisecond of the thread that serves all calls.
pub const SCOPES_SEEN_MAX: usize = 10_000;
