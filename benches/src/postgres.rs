//! A PostgreSQL with a store, and an effect in it that is made with the layer's calls or without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_storage::postgres::{
    OneStatement, OneStatementOutcome, PostgresOptions, PostgresStore, SqlValue,
};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, Inspect, RetentionOptions, Store, Swept,
};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};

use crate::calls::{Calls, bytes};

/// Makes calls of every kind. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Bench {
    shared: Arc<Shared>,
    /// Numbers from here on are this load's alone.
    base: u64,
}

/// What one call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The effect alone: a row of 64 bytes, one statement, one commit.
    Bare,
    /// The effect alone, in a transaction that is begun and committed: three round trips.
    BareTransaction,
    /// Claim, the effect as a transaction of its own, completion: three commits.
    Claimed,
    /// Claim, effect and answer in one statement, one commit.
    OneStatement,
    /// The answer of a call that was recorded before, through the store.
    Replay,
    /// The same by the way of a transactional call, which begins a transaction to find it.
    ReplayTransactional,
    /// Claim, effect and answer in one commit, the effect a statement of the handler's own.
    Transactional,
    /// Key, effect and answer in one statement, one commit: what people write by hand.
    UniqueKey,
    /// The answer of a key, as people look for it by hand.
    UniqueKeyAgain,
}

/// In the order in which they are measured.
pub const KINDS: [Kind; 9] = [
    Kind::Bare,
    Kind::BareTransaction,
    Kind::Transactional,
    Kind::OneStatement,
    Kind::UniqueKey,
    Kind::Claimed,
    Kind::UniqueKeyAgain,
    Kind::Replay,
    Kind::ReplayTransactional,
];

/// How much room the table of records takes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Its rows.
    pub table: i64,
    /// What does not fit into them.
    pub toast: i64,
    /// Its indexes.
    pub indexes: i64,
}

#[derive(Debug)]
struct Shared {
    calls: Calls,
    store: Arc<PostgresStore>,
    /// As many as the store has at most.
    clients: Semaphore,
    idle: Mutex<Vec<Connection>>,
    admin: Client,
    url: String,
    loads: AtomicU64,
}

/// A connection with its statements prepared, as a driver keeps them.
#[derive(Debug)]
struct Connection {
    client: Client,
    effect: Statement,
    unique: Statement,
    again: Statement,
}

// === impl Bench ===

impl Bench {
    /// Makes the tables in the database at `url`.
    ///
    /// # Panics
    ///
    /// When the database does not do its work, here and in every method.
    pub async fn open(url: &str) -> Self {
        let options = PostgresOptions::new(url)
            .limits(Calls::limits())
            // What fills the database is no call that somebody waits for.
            .answer_within(Duration::from_secs(120))
            .retention(RetentionOptions::default());
        let migrated = PostgresStore::migrate(&options).await;
        migrated.expect("the schema can be made");
        let store = PostgresStore::open(options).await.expect("a store");
        let store = Arc::new(store);
        let admin = connect(url).await;
        let tables = "CREATE TABLE effects (number bigint NOT NULL, body bytea NOT NULL);
            CREATE TABLE keys (key text PRIMARY KEY, answer bytea NOT NULL)";
        admin.batch_execute(tables).await.expect("tables");
        Self {
            shared: Arc::new(Shared {
                calls: Calls::new(store.clone()),
                store,
                clients: Semaphore::new(CONNECTIONS),
                idle: Mutex::default(),
                admin,
                url: url.to_owned(),
                loads: AtomicU64::new(1),
            }),
            base: 0,
        }
    }

    /// The same, for a load whose numbers no other has.
    #[must_use]
    pub fn in_numbers_of_its_own(&self) -> Self {
        let load = self.shared.loads.fetch_add(1, Ordering::Relaxed);
        Self {
            base: load << 48,
            ..self.clone()
        }
    }

    /// Makes one call.
    pub async fn make(&self, kind: Kind, number: u64) {
        let number = self.base | number;
        match kind {
            Kind::Bare => self.effect(number).await,
            Kind::BareTransaction => self.bare_transaction(number).await,
            Kind::Claimed => self.claimed(number).await,
            Kind::Replay => self.replay(number % RECORDED).await,
            Kind::ReplayTransactional => self.replay_transactional(number % RECORDED).await,
            Kind::Transactional => self.transactional(number).await,
            Kind::OneStatement => self.one_statement(number).await,
            Kind::UniqueKey => self.unique(number).await,
            Kind::UniqueKeyAgain => self.again(number % RECORDED).await,
        }
    }

    /// Records what is replayed.
    pub async fn record_some(&self) {
        for number in 0..RECORDED {
            self.shared.calls.first(number).await;
            self.unique(number).await;
        }
    }

    /// Makes `count` first calls, 16 at a time.
    pub async fn call(&self, count: u64) {
        let loads: Vec<_> = (0..16)
            .map(|load| {
                let bench = self.in_numbers_of_its_own();
                tokio::spawn(async move {
                    for number in (load..count).step_by(16) {
                        bench.shared.calls.first(bench.base | number).await;
                    }
                })
            })
            .collect();
        for load in loads {
            load.await.expect("no call panics");
        }
    }

    async fn claimed(&self, number: u64) {
        let request = self.shared.calls.request(number);
        let store = &self.shared.store;
        let claim = match store.claim(request).await.expect("the store answers") {
            ClaimOutcome::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        };
        self.effect(number).await;
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let recorded = store.complete(claim, answer).await;
        recorded.expect("the answer is recorded");
    }

    async fn transactional(&self, number: u64) {
        let tables = self.shared.store.transactions();
        let tables = tables.expect("the store has transactions");
        let request = self.shared.calls.request(number);
        let claim = match tables.begin(request).await.expect("the store answers") {
            ClaimOutcome::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        };
        let transaction = tables.start(&claim);
        let number = i64::try_from(number).expect("a small number");
        let sql = transaction.sql().expect("the store has statements");
        let done = sql.execute(EFFECT, &[&number, &bytes(64)]).await;
        assert_eq!(done.expect("the effect is made"), 1);
        let work = transaction.end().expect("it has not failed");
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let committed = tables.commit(claim, work, answer).await;
        committed.expect("effect and answer are recorded");
    }

    async fn one_statement(&self, number: u64) {
        let request = self.shared.calls.request(number);
        let number = i64::try_from(number).expect("a small number");
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let body = bytes(64);
        let values: [&dyn SqlValue; 2] = [&number, &body];
        let effect = OneStatement::new(EFFECT, &values).rows(1);
        match self
            .shared
            .store
            .execute_once(request, effect, answer)
            .await
        {
            Ok(OneStatementOutcome::Executed { rows: 1 }) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn bare_transaction(&self, number: u64) {
        self.with(async |connection| {
            let number = i64::try_from(number).expect("a small number");
            let (client, effect) = (&connection.client, &connection.effect);
            client.batch_execute("BEGIN").await.expect("it begins");
            let done = client.execute(effect, &[&number, &bytes(64)]).await;
            assert_eq!(done.expect("the effect is made"), 1);
            client
                .batch_execute("COMMIT")
                .await
                .expect("it is committed");
        })
        .await;
    }

    async fn replay(&self, number: u64) {
        let request = self.shared.calls.request(number);
        match self.shared.store.claim(request).await {
            Ok(ClaimOutcome::Completed(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn replay_transactional(&self, number: u64) {
        let request = self.shared.calls.request(number);
        let tables = self.shared.store.transactions();
        let tables = tables.expect("the store has transactions");
        match tables.begin(request).await {
            Ok(ClaimOutcome::Completed(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn effect(&self, number: u64) {
        self.with(async |connection| {
            let number = i64::try_from(number).expect("a small number");
            let (client, effect) = (&connection.client, &connection.effect);
            let done = client.execute(effect, &[&number, &bytes(64)]).await;
            assert_eq!(done.expect("the effect is made"), 1);
        })
        .await;
    }

    async fn unique(&self, number: u64) {
        let key = format!("0199f1c2-7a3e-7b21-{number:016x}");
        self.with(async |connection| {
            let number = i64::try_from(number).expect("a small number");
            let (client, unique) = (&connection.client, &connection.unique);
            let values = (bytes(300), bytes(64));
            let done = client
                .execute(unique, &[&key, &values.0, &number, &values.1])
                .await;
            assert_eq!(done.expect("key and effect are written"), 1);
        })
        .await;
    }

    async fn again(&self, number: u64) {
        let key = format!("0199f1c2-7a3e-7b21-{number:016x}");
        self.with(async |connection| {
            let found = connection.client.query(&connection.again, &[&key]).await;
            assert_eq!(found.expect("the key is looked for").len(), 1);
        })
        .await;
    }

    async fn with(&self, work: impl AsyncFnOnce(&Connection)) {
        let _place = self.shared.clients.acquire().await;
        let idle = self.shared.idle.lock().await.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => Connection::make(&self.shared.url).await,
        };
        work(&connection).await;
        self.shared.idle.lock().await.push(connection);
    }

    /// Adds `count` records of calls that were answered `ago`, all at once: copies of one that was
    /// called, with keys and answers of their own.
    pub async fn fill(&self, count: u64, ago: Duration) {
        self.shared.calls.first(u64::MAX >> 16).await;
        let columns = "SELECT string_agg(quote_ident(column_name), ',' ORDER BY ordinal_position)
            FROM information_schema.columns WHERE table_schema = 'onlyonce'
                AND table_name = 'records'
                AND column_name NOT IN ('key','answer','at','claimed_at','answer_until','sweep_at')";
        let columns: String = self.admin_row(columns).await.get(0);
        let ago = ago.as_millis();
        // 300 bytes that cannot be made smaller.
        let answer = (0..10)
            .map(|part| format!("sha256(('{part}' || random())::bytea)"))
            .collect::<Vec<_>>()
            .join("||");
        let fill = format!(
            "INSERT INTO onlyonce.records
                (key, answer, at, claimed_at, answer_until, sweep_at, {columns})
            SELECT sha256(('filled' || i)::bytea), substr({answer}, 1, 300),
                at - {ago}, claimed_at - {ago}, answer_until - {ago}, sweep_at - {ago}, {columns}
            FROM (SELECT * FROM onlyonce.records WHERE state = 3 ORDER BY claimed_at DESC LIMIT 1) one,
                generate_series(1, {count}) i"
        );
        self.admin(&fill).await;
        self.admin("VACUUM ANALYZE onlyonce.records").await;
        self.admin("CHECKPOINT").await;
    }

    /// Sweeps as a server does, and says how long it took.
    pub async fn sweep(&self) -> (Swept, Duration) {
        let began = Instant::now();
        let swept = self.shared.store.sweep().await.expect("it is swept");
        assert_eq!(swept.paused, None);
        (swept, began.elapsed())
    }

    /// What autovacuum does in its time.
    pub async fn vacuum(&self) {
        self.admin("VACUUM ANALYZE onlyonce.records").await;
    }

    /// How many bytes of log there have been so far.
    pub async fn logged(&self) -> i64 {
        let logged = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
        self.admin_row(logged).await.get(0)
    }

    /// How often the log was made durable so far. It waits for connections to tell, which they do when they
    /// have been idle for ten seconds.
    pub async fn synced(&self) -> i64 {
        tokio::time::sleep(Duration::from_secs(11)).await;
        let synced = "SELECT wal_sync FROM pg_stat_wal";
        self.admin_row(synced).await.get(0)
    }

    /// What a sweep does with answers past their retention.
    pub async fn forget_answers(&self) {
        let forget = "UPDATE onlyonce.records SET answer = NULL, answer_format = NULL";
        self.admin(forget).await;
        self.vacuum().await;
    }

    /// Gives back what is free within the table.
    pub async fn rewrite(&self) {
        self.admin("VACUUM FULL onlyonce.records").await;
    }

    /// How much room the records take now.
    pub async fn room(&self) -> Room {
        let sizes = "SELECT pg_relation_size('onlyonce.records'),
            pg_total_relation_size(reltoastrelid), pg_indexes_size('onlyonce.records')
            FROM pg_class WHERE oid = 'onlyonce.records'::regclass";
        let row = self.admin_row(sizes).await;
        Room {
            table: row.get(0),
            toast: row.get(1),
            indexes: row.get(2),
        }
    }

    async fn admin(&self, sql: &str) {
        let done = self.shared.admin.batch_execute(sql).await;
        done.expect("the database does its work");
    }

    async fn admin_row(&self, sql: &str) -> tokio_postgres::Row {
        let row = self.shared.admin.query_one(sql, &[]).await;
        row.expect("the database answers")
    }
}

// === impl Kind ===

impl Kind {
    /// Whether it changes anything.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Bare
            | Self::BareTransaction
            | Self::Claimed
            | Self::OneStatement
            | Self::Transactional
            | Self::UniqueKey => true,
            Self::Replay | Self::ReplayTransactional | Self::UniqueKeyAgain => false,
        }
    }

    /// Its name in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::BareTransaction => "bare-transaction",
            Self::Claimed => "claimed",
            Self::Replay => "replay",
            Self::ReplayTransactional => "replay-transactional",
            Self::Transactional => "transactional",
            Self::OneStatement => "one-statement",
            Self::UniqueKey => "unique-key",
            Self::UniqueKeyAgain => "unique-key-again",
        }
    }
}

// === impl Connection ===

impl Connection {
    async fn make(url: &str) -> Self {
        let client = connect(url).await;
        let prepare = async |sql| client.prepare(sql).await.expect("a statement");
        let effect = prepare(EFFECT).await;
        let unique = prepare(
            "WITH claimed AS (
                INSERT INTO keys VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING key
            ) INSERT INTO effects SELECT $3, $4 FROM claimed",
        )
        .await;
        let again = prepare("SELECT answer FROM keys WHERE key = $1").await;
        Self {
            effect,
            unique,
            again,
            client,
        }
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

const EFFECT: &str = "INSERT INTO effects VALUES ($1, $2)";

/// Recorded calls among which replays choose.
const RECORDED: u64 = 1_000;

/// As a store has by default.
const CONNECTIONS: usize = 16;
