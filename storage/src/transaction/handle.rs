//! What a handler works on.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::work::{RowsDigest, digest, row_bytes};
use super::{
    KEY_BYTES_MAX, RANGE_ROWS_MAX, READS_MAX, ROWS_READ_MAX, ROWS_WRITTEN_MAX, Row, RowRange, Seen,
    Table, TransactionError, VALUE_BYTES_MAX, WRITTEN_BYTES_MAX, Work, Writes, merge,
};
use crate::StoreFuture;

/// One run of a handler on the tables of a store: reads are remembered, writes are kept until the
/// run is committed.
///
/// It sees what it has written itself. Nobody else does before it is committed, which only the
/// server does, once the handler has returned: a handler cannot commit half of its work. The first
/// error is final: see [`TransactionError`].
///
/// A read whose future is dropped before it has ended, as a `select!` or a timeout inside the handler
/// does, ends the run: what the handler meant to do with the row is not done, and what it did before
/// may be half of something. A part of a handler that is dropped while it waits for something else
/// cannot be seen from here; who does that says [`discard_writes`](Self::discard_writes), or returns
/// an error.
///
/// Cloning gives another handle on the same run. When the run is over every handle fails with
/// [`TransactionError::Ended`].
///
/// ```
/// use std::time::Duration;
/// use onlyonce_storage::transaction::{RowRange, Table, TransactionalStore};
/// use onlyonce_storage::{
///     Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
///     Fingerprints, IdempotencyKey, MemoryStore, Scope, ScopedKey,
/// };
///
/// const SEATS: Table = Table::new("seats");
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = MemoryStore::new();
/// let key = ScopedKey::new(Scope::global(), IdempotencyKey::unique());
/// let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).field("seat", b"12a").finish();
/// let request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
///
/// let ClaimOutcome::Claimed(claim) = store.begin(request).await? else { unreachable!() };
/// let transaction = store.start(&claim);
/// assert_eq!(transaction.get(&SEATS, b"12a").await?, None);
/// transaction.put(&SEATS, b"12a", b"alice")?;
/// store.commit(claim, transaction.end()?, Answer::new(AnswerFormat::new(1), "yours")).await?;
///
/// let rows = store.read(RowRange::of_key(&SEATS, b"12a")).await?;
/// assert_eq!(rows[0].1, "alice");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Transaction {
    rows: Arc<dyn ReadRows>,
    state: Arc<Mutex<State>>,
}

/// Where a transaction reads. Stores implement it.
pub trait ReadRows: Send + Sync + 'static {
    /// The rows in a range as they are applied now, durable or not.
    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>>;

    /// What it has of its own beside rows: statements of a database, say. Runs of stores that keep rows
    /// alone have nothing.
    fn own(&self) -> Option<&dyn OwnKind> {
        None
    }
}

/// A run that has a way of its own to have effects, and is told what becomes of them.
pub trait OwnKind: Send + Sync {
    /// Whether it can write rows as well.
    ///
    /// # Errors
    ///
    /// Why not.
    fn rows_may_be_written(&self) -> Result<(), TransactionError>;

    /// Its effects so far are not to be.
    fn discard_writes(&self);

    /// Nor any that it still wants.
    fn refuse_writes(&self);

    /// It is over: what it has failed with, if it has.
    ///
    /// # Errors
    ///
    /// Then nothing of it may be committed.
    fn end(&self) -> Result<(), TransactionError>;

    /// For the store's own crate, which knows what it is.
    fn this(&self) -> &(dyn Any + Send + Sync);
}

/// A read that has not ended: when it is dropped, its transaction has failed.
struct Waiting<'a>(&'a Mutex<State>);

#[derive(Default)]
struct State {
    seen: HashMap<RowRange, RowsDigest>,
    rows_seen: usize,
    writes: Writes,
    rows_written: usize,
    bytes_written: usize,
    /// The handler has answered that nothing is to be applied.
    refuses_writes: bool,
    /// What it has failed with for good.
    failed: Option<TransactionError>,
}

// === impl Transaction ===

impl Transaction {
    /// A transaction that reads there. Only stores call this.
    #[must_use]
    pub fn new(rows: Arc<dyn ReadRows>) -> Self {
        Self {
            rows,
            state: Arc::default(),
        }
    }

    /// The value of a key; `None` where there is none.
    ///
    /// # Errors
    ///
    /// When the key cannot be one, too much was read, somebody changed what was read before, or the
    /// store cannot tell.
    pub async fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Bytes>, TransactionError> {
        {
            let mut state = self.state.lock();
            state.check_key(key)?;
            if let Some(written) = state.writes.get(table).and_then(|rows| rows.get(key)) {
                return Ok(written.clone());
            }
        }
        let rows = self.look(RowRange::of_key(table, key)).await?;
        Ok(rows.into_iter().next().map(|(_, value)| value))
    }

    /// The first rows of a table within `bounds`, in the order of their keys: at most `rows_max` and
    /// [`RANGE_ROWS_MAX`]. A row that somebody else adds to the part that was read, or takes from
    /// it, is a conflict as well.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn range<K: AsRef<[u8]>>(
        &self,
        table: &Table,
        bounds: impl RangeBounds<K> + Send,
        rows_max: usize,
    ) -> Result<Vec<Row>, TransactionError> {
        let range = RowRange::new(table, &bounds, rows_max.min(RANGE_ROWS_MAX));
        let wanted = range.rows_max();
        let removed = {
            let state = self.state.lock();
            state.check()?;
            // So many rows may be below that are not there for this transaction.
            let own = own_in(&state.writes, &range);
            own.filter(|(_, value)| value.is_none()).count()
        };
        drop(bounds);
        let rows = self.look(range.clone().with_more(removed)).await?;
        let state = self.state.lock();
        let lower = rows.into_iter().map(Ok);
        merge(own_in(&state.writes, &range), lower)
            .take(wanted)
            .collect()
    }

    /// Writes a row, when the run is committed.
    ///
    /// # Errors
    ///
    /// When key, value, or all that was written is too large.
    pub fn put(&self, table: &Table, key: &[u8], value: &[u8]) -> Result<(), TransactionError> {
        self.rows_may_be_written()?;
        let mut state = self.state.lock();
        state.check_writes()?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(state.fail(TransactionError::ValueTooLarge {
                bytes: value.len(),
                max: VALUE_BYTES_MAX,
            }));
        }
        state.write(table, key, Some(Bytes::copy_from_slice(value)))
    }

    /// Takes a row away, when the run is committed. There need not be one.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete(&self, table: &Table, key: &[u8]) -> Result<(), TransactionError> {
        self.rows_may_be_written()?;
        self.state.lock().write(table, key, None)
    }

    /// Forgets what was written, for an answer that has no effect. What was read still counts: the
    /// answer was given because of it.
    pub fn discard_writes(&self) {
        self.state.lock().discard_writes();
        if let Some(own) = self.rows.own() {
            own.discard_writes();
        }
    }

    /// Forgets what was written, and what will be: the run ends with an answer that has no effect. A
    /// handle that is still held elsewhere, as by a task that the handler left behind, fails with
    /// [`TransactionError::Ended`] when it writes, and changes nothing. Whoever runs the handler calls
    /// this, once it has answered.
    pub fn refuse_writes(&self) {
        let mut state = self.state.lock();
        state.discard_writes();
        state.refuses_writes = true;
        if let Some(own) = self.rows.own() {
            own.refuse_writes();
        }
    }

    /// What its store offers beside rows.
    #[cfg(feature = "postgres")]
    pub(crate) fn own(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(self.rows.own()?.this())
    }

    /// Ends the run: what it came to. Whoever runs the handler calls this, and nobody else.
    ///
    /// # Errors
    ///
    /// What it failed with before, if it did: then nothing of it may be committed.
    pub fn end(&self) -> Result<Work, TransactionError> {
        let own = self.rows.own().map_or(Ok(()), OwnKind::end);
        let mut state = self.state.lock();
        let ended = State {
            failed: Some(TransactionError::Ended),
            ..State::default()
        };
        let state = std::mem::replace(&mut *state, ended);
        state.check()?;
        own?;
        let seen = state.seen.into_iter();
        Ok(Work {
            reads: seen
                .map(|(range, digest)| Seen::new(range, digest))
                .collect(),
            writes: state.writes,
        })
    }

    fn rows_may_be_written(&self) -> Result<(), TransactionError> {
        let own = self.rows.own();
        let may = own.map_or(Ok(()), OwnKind::rows_may_be_written);
        may.map_err(|error| self.state.lock().fail(error))
    }

    /// Reads in the store, and remembers what was found.
    async fn look(&self, range: RowRange) -> Result<Vec<Row>, TransactionError> {
        self.state.lock().check()?;
        let waiting = Waiting(&self.state);
        let read = self.rows.read(range.clone()).await;
        std::mem::forget(waiting);
        let mut state = self.state.lock();
        let rows = read.map_err(|error| state.fail(error.into()))?;
        state.remember(range, &rows)?;
        Ok(rows)
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Transaction")
            .field("reads", &state.seen.len())
            .field("rows_written", &state.rows_written)
            .field("failed", &state.failed)
            .finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().fail(TransactionError::ReadDropped);
    }
}

// === impl State ===

impl State {
    fn check(&self) -> Result<(), TransactionError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn discard_writes(&mut self) {
        self.writes = Writes::new();
        self.rows_written = 0;
        self.bytes_written = 0;
    }

    /// Without failing for good: the run has its answer, and somebody else came too late.
    fn check_writes(&self) -> Result<(), TransactionError> {
        self.check()?;
        if self.refuses_writes {
            return Err(TransactionError::Ended);
        }
        Ok(())
    }

    fn check_key(&mut self, key: &[u8]) -> Result<(), TransactionError> {
        self.check()?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(self.fail(TransactionError::KeyLength {
                bytes: key.len(),
                max: KEY_BYTES_MAX,
            }));
        }
        Ok(())
    }

    /// The first failure is the one that explains the others.
    fn fail(&mut self, error: TransactionError) -> TransactionError {
        self.failed.get_or_insert(error).clone()
    }

    fn remember(&mut self, range: RowRange, rows: &[Row]) -> Result<(), TransactionError> {
        self.check()?;
        let found = digest(rows);
        if let Some(before) = self.seen.get(&range) {
            if *before == found {
                return Ok(());
            }
            return Err(self.fail(TransactionError::Conflict));
        }
        self.rows_seen += rows.len();
        if self.seen.len() >= READS_MAX || self.rows_seen > ROWS_READ_MAX {
            return Err(self.fail(TransactionError::ReadsTooMany {
                reads: READS_MAX,
                rows: ROWS_READ_MAX,
            }));
        }
        self.seen.insert(range, found);
        Ok(())
    }

    fn write(
        &mut self,
        table: &Table,
        key: &[u8],
        value: Option<Bytes>,
    ) -> Result<(), TransactionError> {
        self.check_writes()?;
        self.check_key(key)?;
        let key = Bytes::copy_from_slice(key);
        let bytes = row_bytes(&key, value.as_ref());
        let rows: &mut BTreeMap<_, _> = self.writes.entry(table.clone()).or_default();
        match rows.insert(key.clone(), value) {
            Some(before) => self.bytes_written -= row_bytes(&key, before.as_ref()),
            None => self.rows_written += 1,
        }
        self.bytes_written += bytes;
        if self.rows_written > ROWS_WRITTEN_MAX || self.bytes_written > WRITTEN_BYTES_MAX {
            return Err(self.fail(TransactionError::WritesTooMany {
                rows: ROWS_WRITTEN_MAX,
                bytes: WRITTEN_BYTES_MAX,
            }));
        }
        Ok(())
    }
}

fn own_in<'a>(
    writes: &'a Writes,
    range: &'a RowRange,
) -> impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> {
    let rows = writes.get(range.table()).zip(range.bounds());
    rows.into_iter()
        .flat_map(|(rows, bounds)| rows.range::<[u8], _>(bounds))
}
