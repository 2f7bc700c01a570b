//! What is asked and answered: plain values, which travel over the socket and are printed as JSON.
//!
//! Times are milliseconds since the Unix epoch on the store's clock; a token is its text
//! (`3.300`).

use onlyonce_storage::inspect;
use onlyonce_storage::{
    FencingToken, IdempotencyKey, KeyView as StoreView, OpenState, RecordView as StoreRecord,
    Scope, ScopedKey, StateView as StoreState, StoreId, Timestamp,
};
use serde::{Deserialize, Serialize};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AdminRequest {
    /// A page of what is in progress and in doubt.
    List(ListQuery),
    /// One key, with the bytes of its answer if they are wanted.
    Show {
        /// Which.
        key: KeyName,
        /// Whether the bytes of its answer are wanted.
        with_answer: bool,
    },
    /// The figures of the store.
    Stats,
    /// Ends a doubt.
    Resolve {
        /// Which.
        key: KeyName,
        /// The token that is in doubt, as it was shown.
        token: String,
        /// What became known.
        outcome: Outcome,
        /// Who says so.
        by: String,
    },
    /// Says what became of a step of a call in doubt that was begun and not finished.
    ResolveStep {
        /// Which.
        key: KeyName,
        /// The token that is in doubt, as it was shown.
        token: String,
        /// The name of the step.
        step: String,
        /// What became known.
        outcome: StepOutcome,
        /// Who says so.
        by: String,
    },
    /// Makes a key impossible if nobody has used it.
    Seal {
        /// Which.
        key: KeyName,
    },
    /// Removes what is past its retention or horizon.
    Sweep {
        /// Whether somebody has looked at the clock of the server and found it right.
        confirm_clock: bool,
    },
}

/// What became known of a call in doubt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The effect happened, and this is the answer.
    Applied {
        /// The number of its encoding.
        format: u16,
        /// The answer as the adapter of that number encodes it.
        answer: Vec<u8>,
    },
    /// The effect did not happen and cannot happen any more.
    NotApplied,
}

/// What became known of a step.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// It took effect, with this result: the call goes on behind it.
    Done {
        /// The result, as the handler would have noted it.
        result: Vec<u8>,
    },
    /// It took no effect and cannot any more: the call goes on with it.
    NotExecuted,
}

/// What a call is named by.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName {
    /// The principal; `None` for the global scope.
    pub principal: Option<String>,
    /// The operation, where the scope is narrowed to one.
    pub operation: Option<String>,
    /// The idempotency key.
    pub key: String,
}

/// Which open calls are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// In this state only: `InDoubt` or `InProgress`.
    pub state: Option<StateView>,
    /// Of this principal only.
    pub principal: Option<String>,
    /// Of this operation only.
    pub operation: Option<String>,
    /// Only what has been so for at least as long.
    pub age_min_ms: u64,
    /// Behind this place: [`PageView::next`] of the page before.
    pub after: Option<String>,
    /// At most so many. A page has at most 256.
    pub records_max: u32,
}

/// What an operator is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AdminReply {
    /// To a list.
    Page(PageView),
    /// To whoever wants to see a key, and after a seal or a resolution of a call or of a step: the key as
    /// it is now.
    Key(KeyView),
    /// The doubt is not the one that was named: somebody has ended it, or it has moved on; or the step is
    /// not begun, or finished. Nothing was changed; this is the key as it is now.
    Superseded(KeyView),
    /// The figures.
    Stats(StatsView),
    /// To a sweep.
    Swept(SweptView),
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum AdminFailure {
    /// What was asked for cannot be asked so.
    #[error("{0}")]
    Invalid(String),
    /// The store failed, or did not answer in time. A change may or may not have been made.
    #[error("{0}")]
    Store(String),
}

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageView {
    /// The store's identity.
    pub store: String,
    /// The store's clock.
    pub now_ms: u64,
    /// May be empty although there is more.
    pub records: Vec<RecordView>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// A key as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The store's identity.
    pub store: String,
    /// The store's clock.
    pub now_ms: u64,
    /// What became of the key.
    pub state: StateView,
    /// The call, where there is one.
    pub record: Option<RecordView>,
    /// When it was sealed, where it was.
    pub sealed_at_ms: Option<u64>,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StateView {
    /// Nobody has used it, or it was forgotten.
    Absent,
    /// It has an answer, or had one.
    Completed,
    /// Its outcome is unknown.
    InDoubt,
    /// Somebody executes it.
    InProgress,
    /// It was sealed before anybody used it.
    Sealed,
}

/// A call.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// The principal; `None` for the global scope.
    pub principal: Option<String>,
    /// The operation, where the scope is narrowed to one.
    pub operation: Option<String>,
    /// The idempotency key.
    pub key: String,
    /// What it takes to resolve it.
    pub token: String,
    /// What became of it.
    pub state: StateView,
    /// When it was claimed.
    pub claimed_at_ms: u64,
    /// When the client first sent it.
    pub first_sent_ms: Option<u64>,
    /// Since when it is in doubt.
    pub in_doubt_since_ms: Option<u64>,
    /// Why it is in doubt.
    pub reason: Option<String>,
    /// Until when its claim holds.
    pub lease_until_ms: Option<u64>,
    /// When it was completed, or resolved.
    pub completed_at_ms: Option<u64>,
    /// Until when its answer is replayed.
    pub answer_until_ms: Option<u64>,
    /// Who resolved it, where somebody did.
    pub resolved_by: Option<String>,
    /// The answer, where one is kept.
    pub answer: Option<AnswerView>,
    /// What its handler has begun and finished so far, where it keeps a journal and is not settled. In a
    /// list only what is begun and not finished, at most 16 of them.
    pub steps: Vec<StepView>,
    /// How many steps it has.
    pub steps_noted: u64,
    /// Whether it ended half-way, and the next run goes on with it.
    pub goes_on: bool,
}

/// A step of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// How many bytes its result has; `None` where it was begun and nobody knows what became of it.
    pub result_bytes: Option<u64>,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerView {
    /// The number of its encoding.
    pub format: u16,
    /// Its length in bytes.
    pub bytes: u64,
    /// The answer itself, where it was asked for.
    pub content: Option<Vec<u8>>,
}

/// The figures of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsView {
    /// The store's identity.
    pub store: String,
    /// Which opening this is.
    pub incarnation: u64,
    /// The store's clock.
    pub now_ms: u64,
    /// Calls first sent at or before this time may have been forgotten.
    pub forgotten_until_ms: u64,
    /// How long answers are replayed.
    pub retention_ms: u64,
    /// How long settled calls are remembered.
    pub horizon_ms: u64,
    /// Why it acknowledges nothing more, if a write has failed.
    pub poisoned: Option<String>,
    /// Why sweeping pauses, if the clock is not trusted.
    pub clock_suspicion: Option<String>,
    /// Calls in progress.
    pub in_progress: u64,
    /// Calls in doubt.
    pub in_doubt: u64,
    /// Since when the oldest of them is in doubt.
    pub oldest_doubt_since_ms: Option<u64>,
    /// How many scopes have something open.
    pub scopes_open: u64,
    /// Those with most open, at most twenty.
    pub scopes: Vec<ScopeView>,
    /// Settled records: answers, tombstones and seals.
    pub settled: u64,
    /// Where they lie.
    pub buckets: Vec<BucketView>,
    /// What the files take.
    pub disk_bytes: Option<u64>,
}

/// How much one scope has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeView {
    /// The principal; `None` for the global scope.
    pub principal: Option<String>,
    /// The operation, where the scope is narrowed to one.
    pub operation: Option<String>,
    /// Calls in progress.
    pub in_progress: u64,
    /// Calls in doubt.
    pub in_doubt: u64,
}

/// The records of a stretch of time, which are forgotten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketView {
    /// When the stretch begins.
    pub start_ms: u64,
    /// When it has ended.
    pub end_ms: u64,
    /// Settled records in it.
    pub settled: u64,
    /// What they take.
    pub settled_bytes: u64,
    /// What their answers take.
    pub answers_bytes: u64,
}

/// What a sweep removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptView {
    /// The store's identity.
    pub store: String,
    /// Answers, or stretches of them in a store that drops those whole.
    pub answers: u64,
    /// Tombstones, or stretches of them in a store that drops those whole.
    pub tombstones: u64,
    /// Why nothing was removed, if the clock was not trusted.
    pub paused: Option<String>,
}

// === impl KeyName ===

impl KeyName {
    /// The key that is named so.
    ///
    /// # Errors
    ///
    /// When a part is no key, principal or operation, in words that do not repeat it.
    pub fn scoped(&self) -> Result<ScopedKey, AdminFailure> {
        let invalid = |error: &dyn std::fmt::Display| AdminFailure::Invalid(error.to_string());
        let mut scope = match &self.principal {
            None => Scope::global(),
            Some(principal) => Scope::principal(principal).map_err(|error| invalid(&error))?,
        };
        if let Some(operation) = &self.operation {
            scope = scope
                .operation(operation)
                .map_err(|error| invalid(&error))?;
        }
        let key = IdempotencyKey::parse(&self.key).map_err(|error| invalid(&error))?;
        Ok(ScopedKey::new(scope, key))
    }
}

// === impl KeyView ===

impl KeyView {
    pub(super) fn of(store: StoreId, now: Timestamp, view: StoreView) -> Self {
        let (record, sealed) = match view {
            StoreView::Call(record) => (Some(RecordView::of(record)), None),
            StoreView::Sealed { at } => (None, Some(at.as_millis())),
            // What a later version of the store tells has no words here.
            _ => (None, None),
        };
        Self {
            store: store.to_string(),
            now_ms: now.as_millis(),
            state: match (&record, sealed) {
                (Some(record), _) => record.state,
                (None, Some(_)) => StateView::Sealed,
                (None, None) => StateView::Absent,
            },
            record,
            sealed_at_ms: sealed,
        }
    }
}

// === impl RecordView ===

impl RecordView {
    pub(super) fn of(record: StoreRecord) -> Self {
        let scope = record.key.scope();
        let answer = record.answer().map(|answer| AnswerView {
            format: answer.format,
            bytes: answer.bytes,
            content: answer.answer.as_ref().map(|answer| answer.body().to_vec()),
        });
        let mut view = Self {
            principal: scope.principal_name().map(ToOwned::to_owned),
            operation: scope.operation_name().map(ToOwned::to_owned),
            key: record.key.key().as_str().to_owned(),
            token: record.token.to_string(),
            state: StateView::InProgress,
            claimed_at_ms: record.claimed_at.as_millis(),
            first_sent_ms: record.first_sent.map(Timestamp::as_millis),
            in_doubt_since_ms: None,
            reason: None,
            lease_until_ms: None,
            completed_at_ms: None,
            answer_until_ms: None,
            resolved_by: None,
            answer,
            steps: record.steps.iter().map(StepView::of).collect(),
            steps_noted: record.steps_noted,
            goes_on: record.goes_on,
        };
        match record.state {
            StoreState::Completed {
                at,
                answer_until,
                resolved_by,
                ..
            } => {
                view.state = StateView::Completed;
                view.completed_at_ms = Some(at.as_millis());
                view.answer_until_ms = Some(answer_until.as_millis());
                view.resolved_by = resolved_by.map(|by| by.as_str().to_owned());
            }
            StoreState::InDoubt { since, reason, .. } => {
                view.state = StateView::InDoubt;
                view.in_doubt_since_ms = Some(since.as_millis());
                view.reason = Some(reason.to_string());
            }
            StoreState::InProgress { lease_until } => {
                view.lease_until_ms = Some(lease_until.as_millis());
            }
            _ => {}
        }
        view
    }
}

// === impl StepView ===

impl StepView {
    fn of(step: &inspect::StepView) -> Self {
        Self {
            name: step.name.as_str().to_owned(),
            result_bytes: step.result_bytes,
        }
    }
}

// === impl StatsView ===

impl StatsView {
    pub(super) fn of(stats: inspect::StoreStats) -> Self {
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let scopes = stats.open.most.iter().map(|most| ScopeView {
            principal: most.scope.principal_name().map(ToOwned::to_owned),
            operation: most.scope.operation_name().map(ToOwned::to_owned),
            in_progress: most.in_progress,
            in_doubt: most.in_doubt,
        });
        let buckets = stats.buckets.iter().map(|bucket| BucketView {
            start_ms: bucket.start.as_millis(),
            end_ms: bucket.end.as_millis(),
            settled: bucket.settled,
            settled_bytes: bucket.settled_bytes,
            answers_bytes: bucket.answers_bytes,
        });
        Self {
            store: stats.id.to_string(),
            incarnation: stats.incarnation,
            now_ms: stats.now.as_millis(),
            forgotten_until_ms: stats.forgotten_until.as_millis(),
            retention_ms: millis(stats.retention),
            horizon_ms: millis(stats.horizon),
            clock_suspicion: stats.clock.map(|suspicion| suspicion.to_string()),
            in_progress: stats.open.in_progress,
            in_doubt: stats.open.in_doubt,
            oldest_doubt_since_ms: stats.open.oldest_doubt.map(Timestamp::as_millis),
            scopes_open: stats.open.scopes,
            scopes: scopes.collect(),
            settled: stats.settled,
            buckets: buckets.collect(),
            disk_bytes: stats.disk_bytes,
            poisoned: stats.poisoned,
        }
    }
}

// === impl StateView ===

impl StateView {
    /// The state that can be asked for in a list.
    pub(super) fn open(self) -> Result<OpenState, AdminFailure> {
        match self {
            Self::InDoubt => Ok(OpenState::InDoubt),
            Self::InProgress => Ok(OpenState::InProgress),
            Self::Absent | Self::Completed | Self::Sealed => Err(AdminFailure::Invalid(
                "only calls in progress and in doubt are listed; ask for others by their key"
                    .to_owned(),
            )),
        }
    }
}

/// The token in this text: two numbers with a point between.
pub(super) fn token_of(text: &str) -> Option<FencingToken> {
    let (incarnation, sequence) = text.split_once('.')?;
    Some(FencingToken::new(
        incarnation.parse().ok()?,
        sequence.parse().ok()?,
    ))
}

/// What is debugged ends in logs: neither a key nor an answer does.
impl std::fmt::Debug for KeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyName").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Applied { format, answer } => {
                write!(f, "Applied(format {format}, {} bytes)", answer.len())
            }
            Self::NotApplied => f.write_str("NotApplied"),
        }
    }
}

impl std::fmt::Debug for StepOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done { result } => write!(f, "Done({} bytes)", result.len()),
            Self::NotExecuted => f.write_str("NotExecuted"),
        }
    }
}

impl std::fmt::Debug for RecordView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordView")
            .field("token", &self.token)
            .field("state", &self.state)
            .field("resolved_by", &self.resolved_by)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AnswerView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AnswerView(format {}, {} bytes)",
            self.format, self.bytes
        )
    }
}
