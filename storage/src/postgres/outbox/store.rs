//! The outbox itself.

use std::fmt;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::open::{Opened, OutboxOpenError, open, release, renew};
use super::options::PostgresOutboxOptions;
use super::rows::{self, ChangeAnswer, Place};
use crate::outbox::change::Changed;
use crate::outbox::codec::encode;
use crate::outbox::{
    Body, NewCall, OUTBOX_BODY_BYTES_LIMIT, OutboxCall, OutboxChange, OutboxEntry, OutboxError,
    OutboxLimits, OutboxState, OutboxStore, Written,
};
use crate::postgres::pool::Pool;
use crate::{Clock, IdempotencyKey, Scope, StoreFuture, StoreId};

/// A durable [`OutboxStore`] in the schema of a store on PostgreSQL, for one process at a time.
///
/// Take it where a client's own disk does not outlive it, as in a container: another process opens the
/// outbox and goes on with its calls. Several clients that make calls at the same time have an outbox
/// each, under names of their own, in one database.
///
/// Who has it open renews a lease. When that has lapsed, anybody may open it; whoever had it before is
/// then answered [`OutboxError::OwnedElsewhere`] to every word, so that it sends nothing more. It belongs
/// to one scope: the calls of one principal, to one server.
///
/// A database that does not answer is [`OutboxError::Unavailable`], within
/// [`answer_within`](crate::postgres::PostgresOptions::answer_within): nothing is sent, and later changes
/// are decided by what is there. Needs a running tokio runtime with I/O and time.
///
/// ```no_run
/// use onlyonce_storage::Scope;
/// use onlyonce_storage::postgres::{PostgresOptions, PostgresOutbox, PostgresOutboxOptions};
///
/// # async fn example() -> Result<(), onlyonce_storage::postgres::OutboxOpenError> {
/// let database = PostgresOptions::new("postgres://app@db.example/app").connections_max(4);
/// let options = PostgresOutboxOptions::new(database, "shop-7");
/// let outbox = PostgresOutbox::open(Scope::global(), options).await?;
/// # Ok(()) }
/// ```
pub struct PostgresOutbox {
    shared: Arc<Shared>,
    runtime: Handle,
    renewing: JoinHandle<()>,
}

struct Shared {
    pool: Pool,
    place: Place,
    id: StoreId,
    limits: OutboxLimits,
    clock: Arc<dyn Clock>,
    closed: AtomicBool,
    /// Somebody else has it, or the database is another one: as a renewal was told.
    lost: AtomicBool,
    /// The next number. Held while a call is written: they are, in the order of their numbers.
    next: Mutex<u64>,
    /// The changes of one call take effect in the order in which they were asked for.
    turns: [Arc<Mutex<()>>; TURNS],
}

// === impl PostgresOutbox ===

impl PostgresOutbox {
    /// Opens the outbox, or makes one where there is none of this name. The schema must be there
    /// ([`PostgresStore::migrate`](crate::postgres::PostgresStore::migrate)).
    ///
    /// `scope` says whose calls these are: the principal that the server takes the client's
    /// credential for, [`Scope::global`] where the server has only that. It is the same whenever
    /// the outbox is opened, also with a credential that was refreshed.
    ///
    /// All calls are read and checked, in pages of 1,000.
    ///
    /// # Errors
    ///
    /// See [`OutboxOpenError`]. At once where another process has it.
    pub async fn open(
        scope: Scope,
        options: PostgresOutboxOptions,
    ) -> Result<Self, OutboxOpenError> {
        let Opened {
            pool,
            place,
            id,
            next,
        } = open(&scope, &options).await?;
        let shared = Arc::new(Shared {
            pool,
            place,
            id,
            limits: options.limits,
            clock: options.clock,
            closed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            next: Mutex::new(next),
            turns: std::array::from_fn(|_| Arc::default()),
        });
        let runtime = Handle::current();
        let renewing = runtime.spawn(keep_renewing(Arc::clone(&shared), options.lease));
        Ok(Self {
            shared,
            runtime,
            renewing,
        })
    }

    /// The random identity of this outbox, made once.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.shared.id
    }

    /// Lets others open it at once. What is asked later is answered [`OutboxError::Closed`]. What was
    /// asked before may still be made. Dropping it does the same, without waiting for it.
    pub async fn close(&self) {
        if !self.shared.closed.swap(true, Ordering::SeqCst) {
            self.renewing.abort();
            release(&self.shared.pool, &self.shared.place).await;
        }
    }

    /// Does the work in a task of its own, once what was asked before about the same call is done: also
    /// where nobody waits for either any more.
    fn in_turn<T, F>(
        &self,
        key: &IdempotencyKey,
        work: impl FnOnce(Arc<Shared>) -> F + Send + 'static,
    ) -> StoreFuture<'_, T, OutboxError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OutboxError>> + Send + 'static,
    {
        let turn = self.shared.turn(key);
        Box::pin(async move {
            self.shared.is_open()?;
            // Waited for here, in the order of asking, and not in the task.
            let turn = turn.lock_owned().await;
            let work = work(Arc::clone(&self.shared));
            let worked = self.runtime.spawn(async move {
                let worked = work.await;
                drop(turn);
                worked
            });
            // The runtime ends.
            worked.await.unwrap_or(Err(OutboxError::Closed))
        })
    }
}

impl OutboxStore for PostgresOutbox {
    fn write(&self, call: NewCall) -> StoreFuture<'_, Written, OutboxError> {
        let key = call.key.clone();
        self.in_turn(&key, |shared| async move { shared.write(call).await })
    }

    fn change(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> StoreFuture<'_, (), OutboxError> {
        let of = key.clone();
        self.in_turn(
            key,
            |shared| async move { shared.change(&of, &change).await },
        )
    }

    fn load(&self, key: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError> {
        let of = key.clone();
        self.in_turn(key, |shared| async move {
            rows::load(&shared.pool, &shared.place, &of).await
        })
    }

    fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            shared.is_open()?;
            rows::all(&shared.pool, &shared.place).await
        })
    }
}

impl Drop for PostgresOutbox {
    fn drop(&mut self) {
        self.renewing.abort();
        if !self.shared.closed.swap(true, Ordering::SeqCst) {
            let shared = Arc::clone(&self.shared);
            self.runtime
                .spawn(async move { release(&shared.pool, &shared.place).await });
        }
    }
}

impl fmt::Debug for PostgresOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOutbox")
            .field("id", &self.shared.id)
            .field("name", &self.shared.place.name)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn is_open(&self) -> Result<(), OutboxError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(OutboxError::Closed);
        }
        match self.lost.load(Ordering::SeqCst) {
            true => Err(OutboxError::OwnedElsewhere),
            false => Ok(()),
        }
    }

    fn turn(&self, key: &IdempotencyKey) -> Arc<Mutex<()>> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        // OK to cut the hash because any of its bits will do.
        let place = hasher.hash_one(key.as_str()) as usize % TURNS;
        Arc::clone(&self.turns[place])
    }

    async fn write(&self, call: NewCall) -> Result<Written, OutboxError> {
        let (size, limit) = (call.request.len(), body_max(self.limits.request_bytes_max));
        if size > limit {
            // One that is there is the same call or another one, whatever its size.
            return match rows::find(&self.pool, &self.place, &call.key).await {
                Ok(found) => is_the_same(&found.entry, &call),
                Err(OutboxError::NotThere) => Err(OutboxError::RequestTooLarge { size, limit }),
                Err(error) => Err(error),
            };
        }
        let within = self.pool.options().answer_within;
        let numbered = timeout(within, self.write_numbered(&call));
        numbered.await.unwrap_or_else(|_| {
            let reason = format!("the database did not take the call within {within:?}");
            Err(OutboxError::Unavailable(reason))
        })
    }

    /// Writes it under the next number, once those that were asked before are written or given up.
    async fn write_numbered(&self, call: &NewCall) -> Result<Written, OutboxError> {
        let mut next = self.next.lock().await;
        let entry = OutboxEntry {
            number: *next,
            key: call.key.clone(),
            method: call.method.clone(),
            maybe_sent_elsewhere: call.maybe_sent_elsewhere,
            written_at: self.clock.now(),
            timeout: call.timeout,
            request: Body::of(&call.request),
            state: OutboxState::Unsent,
        };
        let limits = (self.limits.calls_max as u64, self.limits.bytes_max);
        // It may be taken also where no answer comes.
        *next += 1;
        let encoded = encode(&entry);
        let entry = (&entry, &encoded[..]);
        let answer = rows::write(&self.pool, &self.place, entry, &call.request, limits).await?;
        match (answer.outcome, answer.there) {
            (0, _) => Ok(Written::New),
            // Asked again, since the first answer got lost.
            (1, Some(there)) if there.number == entry.0.number => Ok(Written::New),
            (1, Some(there)) => is_the_same(&there, call),
            (2, _) => Err(OutboxError::CallsFull {
                limit: self.limits.calls_max,
            }),
            (3, _) => Err(OutboxError::BytesFull {
                held: answer.held,
                limit: self.limits.bytes_max,
            }),
            _ => Err(OutboxError::Unavailable(
                "a later call was written before this one".to_owned(),
            )),
        }
    }

    async fn change(&self, key: &IdempotencyKey, change: &OutboxChange) -> Result<(), OutboxError> {
        let answer = match change {
            OutboxChange::Answer(bytes) => Some(&bytes[..]),
            _ => None,
        };
        let mut before: Option<(u64, Option<OutboxState>)> = None;
        for _ in 0..CONFLICTS_MAX {
            let read = match (rows::find(&self.pool, &self.place, key).await, &before) {
                // An earlier asking has removed it.
                (Err(OutboxError::NotThere), Some((_, None))) => return Ok(()),
                (Ok(read), Some((number, Some(state))))
                    if read.entry.number == *number && read.entry.state == *state =>
                {
                    return Ok(());
                }
                (read, _) => read?,
            };
            let (size, limit) = (
                answer.map_or(0, <[u8]>::len),
                body_max(self.limits.answer_bytes_max),
            );
            if size > limit {
                return Err(OutboxError::AnswerTooLarge { size, limit });
            }
            let (entry, state) = match read.entry.change(change)? {
                // An earlier change whose answer was lost may yet arrive, and would make the call one that
                // was never sent: after this word it finds another version.
                Changed::Not if matches!(change, OutboxChange::MarkSent(_)) => {
                    let entry = &read.entry;
                    (Some(encode(entry)), Some(entry.state.clone()))
                }
                Changed::Not => return Ok(()),
                Changed::Gone => (None, None),
                Changed::To(state) => {
                    let mut entry = read.entry.clone();
                    entry.state = state.clone();
                    (Some(encode(&entry)), Some(state))
                }
            };
            let changed = rows::change(&self.pool, &self.place, &read, entry.as_deref(), answer);
            match changed.await? {
                ChangeAnswer::Done => return Ok(()),
                ChangeAnswer::Passed { asked_again } => {
                    before = asked_again.then_some((read.entry.number, state));
                }
            }
        }
        Err(OutboxError::Unavailable(
            "the call is changed by others all the time".to_owned(),
        ))
    }
}

/// Says now and then that this process is there, until somebody else has the outbox or the database is
/// another one.
async fn keep_renewing(shared: Arc<Shared>, lease: Duration) {
    loop {
        sleep(lease / 3).await;
        // A database that does not answer now may do so before the lease has lapsed.
        if let Ok(false) = renew(&shared.pool, &shared.place, lease).await {
            shared.lost.store(true, Ordering::SeqCst);
            return;
        }
    }
}

fn is_the_same(there: &OutboxEntry, call: &NewCall) -> Result<Written, OutboxError> {
    match there.is(call) {
        true => Ok(Written::There),
        false => Err(OutboxError::Mismatch),
    }
}

fn body_max(set: usize) -> usize {
    set.min(OUTBOX_BODY_BYTES_LIMIT)
}

/// So many calls may be changed at the same time: more than a process has connections.
const TURNS: usize = 64;

/// Nobody else changes what this process has open, so one is already much.
const CONFLICTS_MAX: usize = 10;
