//! The store itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::abandoning::Abandonment;
use super::error::{OpenError, unavailable};
use super::hearing::Hearing;
use super::held::HeldCalls;
use super::migrations::{self, Migration, Schema};
use super::one_statement::{OneStatement, OneStatementOutcome};
use super::options::PostgresOptions;
use super::pool::Pool;
use super::room::Room;
use super::run::{NO_ROWS, NothingHeld, Run, RunHandle};
use super::stored::{corrupt, get, number, time};
use super::time::SeenClock;
use super::{asking, claiming, committing, holding, journaling, one_statement, settling, sweeping};
use crate::clock::ClockGuard;
use crate::journal::{AbandonedPage, Journal, StepResolution};
use crate::transaction::{
    CommitError, CommitFuture, Row, RowRange, Transaction, TransactionalStore, Work,
};
use crate::transition::Circumstances;
use crate::{
    Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, ClockSuspicion, Cursor, DoubtReason,
    FencingToken, Inspect, KeyDigest, KeyState, KeyView, Lease, ListPage, ListRequest, NoteError,
    Operator, Question, Resolution, Scope, ScopedKey, SessionRequest, SessionState, SettleError,
    StepName, StepNote, Store, StoreError, StoreFuture, StoreId, StoreStats, Swept, Timestamp,
};

/// A [`Store`] in a schema of a PostgreSQL database, which any number of processes share.
///
/// Take it where several servers answer for the same keys. One server alone is faster on the embedded
/// store, and needs no database.
///
/// What was acknowledged is committed: with `fsync` and `synchronous_commit` as PostgreSQL comes, it
/// survives a crash of the database. A call in progress belongs to a process that only its lease tells
/// to be alive; when that lapses, the call is in doubt.
///
/// Handlers work in a transaction of the database, with statements of their own: see
/// [`Sql`](super::Sql). It keeps no tables of the kind that embedded stores keep for them.
///
/// Needs a running tokio runtime with I/O and time. Questions go on when their future is dropped, as
/// [`Store`] says.
///
/// ```no_run
/// use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
///
/// # async fn example() -> Result<(), onlyonce_storage::postgres::OpenError> {
/// let options = PostgresOptions::new("postgres://app@db.example/app");
/// PostgresStore::migrate(&options).await?;
/// let store = PostgresStore::open(options).await?;
/// # Ok(()) }
/// ```
pub struct PostgresStore {
    shared: Arc<Shared>,
    runtime: Handle,
}

pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) id: StoreId,
    pub(super) clock: SeenClock,
    pub(super) room: Room,
    pub(super) held: Arc<HeldCalls>,
    pub(super) hearing: Hearing,
    pub(super) abandonment: Arc<Abandonment>,
    guard: Mutex<ClockGuard>,
}

// === impl PostgresStore ===

impl PostgresStore {
    /// Opens the store that is in the schema, and raises its incarnation.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]: each says what to do. Takes at most some of
    /// [`answer_within`](PostgresOptions::answer_within).
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        let horizon = options.retention.horizon;
        let pool = Arc::new(Pool::open(options).await?);
        let opened = pool.rows(|_| {
            pool.told(
                "UPDATE {schema}.store SET
                    incarnation = incarnation + 1,
                    last_used = greatest(last_used, COALESCE($1, {schema}.now_ms()))
                FROM (SELECT last_used AS before FROM {schema}.store) earlier
                RETURNING earlier.before, forgotten_until,
                    COALESCE($1, {schema}.now_ms()) AS now_ms",
            )
            .time(pool.options().told_now())
        });
        let failed = |error: StoreError| OpenError::Failed {
            reason: error.to_string(),
        };
        let rows = opened.await.map_err(failed)?;
        let noted = rows.first().ok_or_else(|| failed(corrupt("no row")));
        let row = noted?;
        let last_used = time(row, "before").map_err(failed)?;
        let until = time(row, "forgotten_until").map_err(failed)?;
        let now = time(row, "now_ms").map_err(failed)?;
        let clock = SeenClock::start(pool.options(), now, until);
        let guard = ClockGuard::start(&clock.reading(now), Some(last_used), horizon);
        let hearing = Hearing::start(&pool, &runtime);
        let shared = Shared {
            abandonment: Arc::new(Abandonment::start(Arc::clone(&pool), &runtime)),
            id: pool.id(),
            pool,
            clock,
            room: Room::default(),
            held: Arc::default(),
            hearing,
            guard: Mutex::new(guard),
        };
        Ok(Self {
            shared: Arc::new(shared),
            runtime,
        })
    }

    /// Makes the schema, or brings it to the newest version, in one transaction: the versions that
    /// it went through, none where nothing was to be done. Of several programs that do so at once,
    /// one does.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. A schema of a newer version is left as it is.
    pub async fn migrate(options: &PostgresOptions) -> Result<Vec<i32>, OpenError> {
        migrations::apply(options).await
    }

    /// What [`migrate`](Self::migrate) does, as SQL: to be read, or applied by somebody else. Who
    /// does that also makes the table `migrations` and the row of `store`; `migrate` on an empty
    /// database is the shorter way.
    ///
    /// # Errors
    ///
    /// [`OpenError::SchemaName`].
    pub fn migrations(schema: &str) -> Result<Vec<Migration>, OpenError> {
        Ok(migrations::all(&Schema::parse(schema)?))
    }

    /// Makes a call whose whole effect is one statement: claim, effect and answer are one round trip and one
    /// commit. Take it where the answer is known before: it is kept and replayed as it is told here, and a
    /// statement that changes other than the [expected](OneStatement::rows) rows has not happened. It
    /// costs less than a transaction that is begun for a handler.
    ///
    /// It runs at what a connection begins with, whatever [`isolation`](PostgresOptions::isolation) says: at
    /// *read committed*, but behind a pooler with a role of another default. It takes no
    /// longer than [`answer_within`](PostgresOptions::answer_within) each time that it is asked. What it
    /// fires at the commit, a deferred constraint or trigger, is part of it.
    ///
    /// ```no_run
    /// use onlyonce_storage::postgres::{OneStatement, OneStatementOutcome, PostgresStore, SqlValue};
    /// use onlyonce_storage::{Answer, AnswerFormat, ClaimRequest, StoreError};
    ///
    /// # async fn example(store: &PostgresStore, request: ClaimRequest) -> Result<(), StoreError> {
    /// let values: [&dyn SqlValue; 2] = [&500_i64, &"alice"];
    /// let effect = OneStatement::new(
    ///     "UPDATE accounts SET cents = cents - $1 WHERE name = $2 AND cents >= $1",
    ///     &values,
    /// );
    /// let answer = Answer::new(AnswerFormat::new(1), "paid");
    /// match store.execute_once(request, effect.rows(1), answer).await? {
    ///     OneStatementOutcome::Executed { .. } => println!("paid"),
    ///     OneStatementOutcome::NotExecuted(known) => println!("asked before: {known:?}"),
    ///     OneStatementOutcome::OtherRows { .. } => println!("not enough"),
    ///     OneStatementOutcome::Refused(why) => println!("nothing has happened: {why}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nobody knows yet whether it was executed. Call again under the same key: it is
    /// executed once, and who asks after it was is told the answer. [`StoreError::AnswerTooLarge`] is said
    /// before anything is done.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves open what became of it, as an error does.
    pub async fn execute_once(
        &self,
        request: ClaimRequest,
        effect: OneStatement<'_>,
        answer: Answer,
    ) -> Result<OneStatementOutcome, StoreError> {
        one_statement::execute(&self.shared, request, effect, &answer).await
    }

    /// Does the work in a task of its own: a question that nobody waits for any more is still asked,
    /// and the claim that it may bring is dropped, which puts its key in doubt.
    fn detached<T, E, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> StoreFuture<'_, T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.shared));
        Box::pin(async move {
            match self.runtime.spawn(work).await {
                Ok(answer) => answer,
                // The runtime ends.
                Err(_) => Err(StoreError::Closed.into()),
            }
        })
    }
}

impl Store for PostgresStore {
    fn id(&self) -> StoreId {
        self.shared.id
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        self.detached(|shared| async move { claiming::claim(&shared, &request).await })
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        let (key, token) = (claim.digest(), claim.token());
        let renewed = self.detached(move |shared| async move {
            match shared.held.of(key, token) {
                None => settling::renew(&shared.pool, key, token, lease).await,
                Some(call) if call.is_alive(shared.pool.options().answer_within).await => {
                    Ok(Lease::until(shared.clock.now().plus(lease)))
                }
                Some(_) => Err(SettleError::Fenced),
            }
        });
        Box::pin(async move {
            claim.renewed_until(renewed.await?);
            Ok(())
        })
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        self.detached(|shared| async move {
            let (key, token) = claim.spend();
            let completed = match shared.held.of(key, token) {
                None => settling::complete(&shared.pool, key, token, answer).await,
                Some(call) => committing::complete(&shared, &call, token, answer).await,
            };
            shared.hearing.tell(key);
            completed
        })
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        self.detached(|shared| async move {
            let (key, token) = claim.spend();
            let released = match shared.held.remove(key, token) {
                None => settling::release(&shared.pool, key, token).await,
                Some(call) => {
                    call.undo().await;
                    Ok(())
                }
            };
            shared.hearing.tell(key);
            released
        })
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.detached(move |shared| async move {
            let (key, token) = claim.spend();
            let doubted = match shared.held.of(key, token) {
                None => settling::doubt(&shared.pool, key, token, reason, answer).await,
                Some(call) => committing::doubt(&shared, &call, token, reason, answer).await,
            };
            shared.hearing.tell(key);
            doubted
        })
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        self.detached(move |shared| async move {
            asking::ask(&shared, question, &key, first_sent).await
        })
    }

    fn session(&self, scope: Scope, request: SessionRequest) -> StoreFuture<'_, SessionState> {
        self.detached(move |shared| async move { session(&shared.pool, &scope, request).await })
    }

    fn until_told(&self, key: &ScopedKey) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.shared.hearing.settled(key.digest()))
    }

    fn transactions(&self) -> Option<&dyn TransactionalStore> {
        Some(self)
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }
}

impl Journal for PostgresStore {
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError> {
        self.detached(move |shared| async move {
            journaling::note(&shared.pool, key, token, &note).await
        })
    }

    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage> {
        self.detached(move |shared| async move {
            journaling::abandoned(&shared.pool, after, calls_max).await
        })
    }

    fn resolve_step(
        &self,
        key: ScopedKey,
        token: FencingToken,
        name: StepName,
        resolution: StepResolution,
    ) -> StoreFuture<'_, (), SettleError> {
        self.detached(move |shared| async move {
            journaling::resolve_step(&shared.pool, &key, token, &name, &resolution).await
        })
    }
}

impl TransactionalStore for PostgresStore {
    fn begin(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        self.detached(|shared| holding::begin_call(shared, request))
    }

    fn start(&self, claim: &Claim) -> Transaction {
        match self.shared.held.of(claim.digest(), claim.token()) {
            None => Transaction::new(Arc::new(NothingHeld)),
            Some(call) => {
                let run = Run::start(Arc::clone(&self.shared), call);
                Transaction::new(Arc::new(RunHandle(run)))
            }
        }
    }

    fn commit(&self, claim: Claim, work: Work, answer: Answer) -> CommitFuture<'_> {
        let committed = committing::commit(Arc::clone(&self.shared), claim, work, answer);
        let committed = self.runtime.spawn(committed);
        Box::pin(async move {
            match committed.await {
                Ok(committed) => committed,
                // The runtime ends.
                Err(_) => Err(CommitError::Unknown(StoreError::Closed)),
            }
        })
    }

    fn read(&self, _: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async { Err(unavailable(NO_ROWS)) })
    }
}

impl Inspect for PostgresStore {
    fn list(&self, request: ListRequest) -> StoreFuture<'_, ListPage> {
        self.detached(|shared| async move { asking::list(&shared.pool, &request).await })
    }

    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView> {
        self.detached(move |shared| async move { asking::show(&shared.pool, &key, answer).await })
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        self.detached(|shared| async move { asking::stats(&shared).await })
    }

    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError> {
        self.detached(move |shared| async move {
            let resolved = settling::resolve(&shared.pool, &key, token, resolution, by).await;
            shared.hearing.tell(key.digest());
            resolved
        })
    }

    fn sweep(&self) -> StoreFuture<'_, Swept> {
        self.detached(|shared| async move { sweeping::sweep(&shared).await })
    }

    /// For this process: another one has its own idea of how much time has passed.
    fn confirm_clock(&self) -> StoreFuture<'_, ()> {
        self.detached(|shared| async move {
            let now = sweeping::now(&shared).await?;
            let reading = shared.clock.reading(now);
            shared.guard.lock().confirm(&reading);
            Ok(())
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("id", &self.shared.id)
            .field("options", self.shared.pool.options())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Notes what an answer says of the clock.
    pub(super) fn circumstances(
        &self,
        now: Timestamp,
        forgotten_until: Timestamp,
    ) -> Circumstances {
        self.clock.note(now, forgotten_until);
        asking::circumstances(&self.pool, now, forgotten_until)
    }

    /// Why the database's clock, which shows `now`, is not trusted to forget by.
    pub(super) fn suspicion(&self, now: Timestamp) -> Option<ClockSuspicion> {
        self.guard.lock().suspicion(&self.clock.reading(now))
    }
}

async fn session(
    pool: &Pool,
    scope: &Scope,
    request: SessionRequest,
) -> Result<SessionState, StoreError> {
    let scope = scope.of_principal().digest();
    let options = pool.options();
    let limits = options.limits;
    let (session, first) = match request {
        SessionRequest::Open => return open_session(pool, scope).await,
        SessionRequest::Resume { session } => (session, None),
        SessionRequest::Acknowledge {
            session,
            first_unanswered,
        } => (session, Some(first_unanswered)),
    };
    let rows = pool.rows(|_| {
        pool.told(
            "SELECT known, first_unanswered FROM {schema}.use_session(
                COALESCE($1, {schema}.now_ms()), $2, $3, $4, $5)",
        )
        .time(options.told_now())
        .number(session)
        .bytes(Some(scope.as_bytes()))
        .number(first)
        .span(limits.session_idle)
    });
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("a session was not answered"))?;
    Ok(match get::<i32>(row, "known")? {
        0 => SessionState::Live {
            session,
            first_unanswered: number(get(row, "first_unanswered")?)?,
        },
        5 => SessionState::Expired,
        _ => SessionState::Unknown,
    })
}

async fn open_session(pool: &Pool, scope: crate::ScopeDigest) -> Result<SessionState, StoreError> {
    let (options, limits) = (pool.options(), pool.options().limits);
    let rows = pool.rows(|_| {
        pool.told("SELECT session, bound FROM {schema}.open_session($1, $2, $3, $4, $5)")
            .time(options.told_now())
            .bytes(Some(scope.as_bytes()))
            .span(limits.session_idle)
            .number(limits.sessions_max as u64)
            .number(limits.sessions_in_all_max as u64)
    });
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("a session was not answered"))?;
    let bound: Option<i32> = get(row, "bound")?;
    if let Some(bound) = bound {
        let limit = match bound {
            1 => limits.sessions_max,
            _ => limits.sessions_in_all_max,
        };
        return Ok(SessionState::TooMany { limit });
    }
    Ok(SessionState::Live {
        session: number(get(row, "session")?)?,
        first_unanswered: 0,
    })
}
