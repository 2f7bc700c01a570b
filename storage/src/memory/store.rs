//! The store itself: a map under a mutex.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::MemoryOptions;
use crate::clock::ClockGuard;
use crate::commit::{
    Change, Commit, CommitRefusal, GroupCore, Operation, Reply, Rows, Scan, Sight, over,
};
use crate::journal::{AbandonedPage, Journal, StepResolution};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::transaction::{
    CommitError, CommitFuture, KeyBounds, RANGE_ROWS_MAX, ReadRows, Row, RowRange, TABLES_MAX,
    Table, Transaction, TransactionalStore, Work, Writes,
};
use crate::transition::{self, Circumstances};
use crate::{
    Abandoned, Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, Clock, Cursor, DoubtReason,
    FencingToken, Inspect, KeyDigest, KeyState, KeyView, ListPage, ListRequest, NoteError,
    Operator, Question, Resolution, Scope, ScopedKey, SessionRequest, SessionState, SettleError,
    StepName, StepNote, Store, StoreError, StoreFuture, StoreId, StoreStats, Swept, Timestamp,
};

/// A [`Store`] in memory.
///
/// Cloning gives another handle on the same records. Every method finishes at its first poll.
/// A claim that is dropped unspent puts its key in doubt at once.
///
/// ```
/// use std::time::Duration;
/// use onlyonce_storage::{
///     Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
///     Fingerprints, IdempotencyKey, MemoryStore, Scope, ScopedKey, Store,
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let key = ScopedKey::new(Scope::principal("alice")?, IdempotencyKey::unique());
/// let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).field("body", b"100").finish();
/// let ask = || ClaimRequest::new(key.clone(), Fingerprints::new(print), Duration::from_secs(30));
///
/// let ClaimOutcome::Claimed(claim) = store.claim(ask()).await? else { unreachable!() };
/// // ... the effect happens here, and nowhere else ...
/// store.complete(claim, Answer::new(AnswerFormat::new(1), "paid")).await?;
///
/// let ClaimOutcome::Completed(first) = store.claim(ask()).await? else { unreachable!() };
/// assert_eq!(first.answer.body(), "paid");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: StoreId,
    clock: Arc<dyn Clock>,
    /// As the core has it, for those who only ask for the time.
    forgotten_until_ms: AtomicU64,
    state: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    core: GroupCore,
    guard: ClockGuard,
    rows: Records,
}

#[derive(Debug)]
struct Records {
    /// Boxed, since a map that grows moves what it holds, and everybody waits meanwhile.
    records: HashMap<KeyDigest, Box<Record>>,
    records_max: usize,
    tables: Writes,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store with the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(MemoryOptions::new())
    }

    /// An empty store with these options.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are built for one store and given away"
    )]
    pub fn with_options(options: MemoryOptions) -> Self {
        // A call first sent before this store existed may have been executed by an earlier one.
        let created = options.clock.now();
        let core = GroupCore::new(INCARNATION, created, options.retention, options.limits);
        let rows = Records {
            records: HashMap::new(),
            records_max: options.records_max,
            tables: Writes::new(),
        };
        Self {
            shared: Arc::new(Shared {
                id: StoreId::random(),
                clock: Arc::clone(&options.clock),
                forgotten_until_ms: AtomicU64::new(created.as_millis()),
                state: Mutex::new(Memory {
                    core,
                    guard: ClockGuard::start(&*options.clock, None, options.retention.horizon),
                    rows,
                }),
            }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn transactions(&self) -> Option<&dyn TransactionalStore> {
        Some(self)
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn id(&self) -> StoreId {
        self.shared.id
    }

    fn now(&self) -> Timestamp {
        let forgotten_until = self.shared.forgotten_until_ms.load(Ordering::Acquire);
        let forgotten_until = Timestamp::from_millis(forgotten_until);
        transition::now_told(self.shared.clock.now(), forgotten_until)
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(async move {
            let on_drop = Arc::clone(&self.shared) as Arc<dyn Abandoned>;
            let reply = self.shared.ask(Operation::Claim(request));
            reply.into_claim(on_drop)
        })
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        Box::pin(async move {
            let (key, token) = (claim.digest(), claim.token());
            let reply = self.shared.ask(Operation::Renew { key, token, lease });
            claim.renewed_until(reply.into_lease()?);
            Ok(())
        })
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let (key, token) = claim.spend();
            self.shared
                .ask(Operation::Complete { key, token, answer })
                .into_settled()
        })
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let (key, token) = claim.spend();
            self.shared
                .ask(Operation::Release { key, token })
                .into_settled()
        })
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let (key, token) = claim.spend();
            self.shared
                .ask(Operation::Doubt {
                    key,
                    token,
                    reason,
                    answer,
                })
                .into_settled()
        })
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        Box::pin(async move {
            self.shared
                .ask(Operation::Ask {
                    question,
                    key,
                    first_sent,
                })
                .into_state()
        })
    }

    fn session(&self, scope: Scope, request: SessionRequest) -> StoreFuture<'_, SessionState> {
        Box::pin(async move {
            let operation = Operation::Session { scope, request };
            self.shared.ask(operation).into_session()
        })
    }
}

impl Journal for MemoryStore {
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError> {
        Box::pin(async move {
            let operation = Operation::Note { key, token, note };
            self.shared.ask(operation).into_noted()
        })
    }

    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage> {
        Box::pin(async move {
            let operation = Operation::Abandoned { after, calls_max };
            self.shared.ask(operation).into_abandoned()
        })
    }

    fn resolve_step(
        &self,
        key: ScopedKey,
        token: FencingToken,
        name: StepName,
        resolution: StepResolution,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let operation = Operation::ResolveStep {
                key: key.digest(),
                token,
                name,
                resolution,
            };
            self.shared.ask(operation).into_settled()
        })
    }
}

impl TransactionalStore for MemoryStore {
    fn begin(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(async move {
            let on_drop = Arc::clone(&self.shared) as Arc<dyn Abandoned>;
            let reply = self.shared.ask(Operation::Begin(request));
            reply.into_claim(on_drop)
        })
    }

    fn start(&self, _: &Claim) -> Transaction {
        Transaction::new(Arc::clone(&self.shared) as Arc<dyn ReadRows>)
    }

    fn commit(&self, claim: Claim, work: Work, answer: Answer) -> CommitFuture<'_> {
        Box::pin(async move {
            let commit = Box::new(Commit {
                key: claim.digest(),
                token: claim.token(),
                work,
                answer,
            });
            let reply = self.shared.ask(Operation::Commit(commit));
            match reply.into_committed() {
                Ok(()) => {
                    claim.spend();
                    Ok(())
                }
                Err(CommitRefusal::Conflict) => Err(CommitError::Conflict(claim)),
                Err(CommitRefusal::Fenced) => Err(CommitError::Fenced),
                Err(CommitRefusal::Refused(error)) => Err(CommitError::Refused(error)),
            }
        })
    }

    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        ReadRows::read(&*self.shared, range.at_most(RANGE_ROWS_MAX))
    }
}

impl Inspect for MemoryStore {
    fn list(&self, request: ListRequest) -> StoreFuture<'_, ListPage> {
        Box::pin(async move { self.shared.ask(Operation::List(request)).into_page() })
    }

    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView> {
        Box::pin(async move { self.shared.ask(Operation::Show { key, answer }).into_view() })
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async move {
            let now = self.now();
            let state = self.shared.state.lock();
            let open = state.core.open_stats();
            let records = state.rows.records.len() as u64;
            let retention = state.core.retention();
            Ok(StoreStats {
                id: self.shared.id,
                incarnation: state.core.incarnation(),
                now,
                forgotten_until: state.core.forgotten_until(),
                retention: retention.answer,
                horizon: retention.horizon,
                poisoned: None,
                clock: state.guard.suspicion(&*self.shared.clock),
                settled: records.saturating_sub(open.in_progress + open.in_doubt),
                open,
                buckets: Vec::new(),
                disk_bytes: None,
            })
        })
    }

    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            self.shared
                .ask(Operation::Resolve {
                    key,
                    token,
                    resolution,
                    by,
                })
                .into_settled()
        })
    }

    fn sweep(&self) -> StoreFuture<'_, Swept> {
        Box::pin(async move {
            let now = self.shared.clock.now();
            let mut state = self.shared.state.lock();
            if let Some(suspicion) = state.guard.suspicion(&*self.shared.clock) {
                return Ok(Swept::paused(suspicion));
            }
            let swept = state.sweep(now);
            // Under the mutex: who finds a record gone is told a time after it.
            let forgotten_until = state.core.forgotten_until().as_millis();
            self.shared
                .forgotten_until_ms
                .store(forgotten_until, Ordering::Release);
            Ok(swept)
        })
    }

    fn confirm_clock(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.shared.state.lock().guard.confirm(&*self.shared.clock);
            Ok(())
        })
    }
}

// === impl Shared ===

impl Shared {
    fn ask(&self, operation: Operation) -> Reply {
        let now = self.clock.now();
        self.state.lock().ask(operation, now)
    }
}

impl Abandoned for Shared {
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        // OK to ignore because nobody waits for the reply, and a claim that was fenced meanwhile
        // has nothing left to put in doubt.
        let _ = self.ask(Operation::Abandon { key, token });
    }
}

impl ReadRows for Shared {
    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let sight = Sight::Applied;
            self.ask(Operation::Read { range, sight }).into_rows()
        })
    }
}

// === impl Memory ===

impl Memory {
    fn ask(&mut self, operation: Operation, now: Timestamp) -> Reply {
        let (changes, rows, reply) = self.core.decide_alone(operation, &self.rows, now);
        self.rows.apply(changes);
        self.rows.apply_rows(rows);
        reply
    }

    fn sweep(&mut self, now: Timestamp) -> Swept {
        // A group puts some of the lapsed calls in doubt; empty ones do the rest.
        loop {
            let group = self.core.decide(Vec::new(), &self.rows, now);
            if !group.changes_anything() {
                break;
            }
            self.rows.apply(group.changes);
        }
        let at = Circumstances {
            now,
            retention: self.core.retention(),
            forgotten_until: self.core.forgotten_until(),
            sole_incarnation: Some(INCARNATION),
        };
        let mut swept = Swept::default();
        let Self { core, rows, .. } = self;
        rows.records.retain(|_, record| {
            if record.is_held() {
                return true;
            }
            let forgotten = transition::forgotten_with(record);
            if transition::is_past_horizon(record, &at) && forgotten.is_some() {
                // Nobody sees the record gone before this is raised: both are under the mutex.
                core.forget_until(forgotten.unwrap_or_default());
                swept.tombstones += 1;
                return false;
            }
            if let Record::Call(call) = &mut **record
                && transition::is_past_retention(call, &at)
                && let State::Completed { answer, .. } = &mut call.state
                && *answer != AnswerKept::Gone
            {
                *answer = AnswerKept::Gone;
                swept.answers += 1;
            }
            true
        });
        swept
    }
}

// === impl Records ===

impl Records {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.after {
                None => {
                    self.records.remove(&change.key);
                }
                Some(record) => match self.records.entry(change.key) {
                    Entry::Occupied(mut kept) => **kept.get_mut() = record,
                    Entry::Vacant(place) => {
                        place.insert(Box::new(record));
                    }
                },
            }
        }
    }
}

impl Records {
    /// Rows that are gone leave nothing behind.
    fn apply_rows(&mut self, writes: Writes) {
        for (table, rows) in writes {
            let kept = self.tables.entry(table).or_default();
            for (key, value) in rows {
                match value {
                    None => kept.remove(&key),
                    Some(value) => kept.insert(key, Some(value)),
                };
            }
        }
    }
}

impl Rows for Records {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(&key).map(|record| (**record).clone()))
    }

    fn answer(&self, _: KeyDigest, _: &CallRecord) -> Result<Option<Answer>, StoreError> {
        // OK because this store keeps every answer in its record.
        Ok(None)
    }

    fn room(&self) -> Result<(), StoreError> {
        if self.records.len() < self.records_max {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            reason: format!("it holds its maximum of {} records", self.records_max),
            retry_after: FULL_RETRY_AFTER,
        })
    }

    fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        over(self.tables.get(table), bounds, Box::new(std::iter::empty()))
    }

    fn room_for(&self, writes: &Writes) -> Result<(), StoreError> {
        let new = |table: &&Table| !self.tables.contains_key(*table);
        let tables = self.tables.len() + writes.keys().filter(new).count();
        let rows = self.tables.values().chain(writes.values());
        let rows: usize = rows.map(std::collections::BTreeMap::len).sum();
        if tables <= TABLES_MAX && rows <= self.records_max {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            reason: format!(
                "it keeps at most {} rows in {TABLES_MAX} tables",
                self.records_max
            ),
            retry_after: FULL_RETRY_AFTER,
        })
    }
}

/// There is one opening of a store that lives in memory.
const INCARNATION: u64 = 1;

/// Room is made by sweeps, which somebody has to call: there is no sense in asking sooner.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(60);
