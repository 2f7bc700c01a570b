//! A call of one statement that stands still half-way, while others do something under its key.
//!
//! One statement has one picture of the database, from its beginning on. So these tests stop it after that was taken,
//! at a gate that they hold: in a trigger of the user's table, or in the place of the lock of its key.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::{
    OneStatement, OneStatementOutcome, PostgresOptions, PostgresStore, SqlValue,
};
use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{
    ClaimOutcome, ClaimRequest, Clock as _, Inspect as _, KeyState, ManualClock, RetentionOptions,
    ScopedKey, Store as _, StoreError, SystemClock,
};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::bank::{Bank, begin, commit};
use crate::calls::{answer, key, request, run};
use crate::postgres_rig::{self, Server};

/// Longer than any answer and any trace of one is kept.
const FORGOTTEN: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// A slow machine is no reason for the database to end what stands at the gate.
const STANDS_AT_MOST: Duration = Duration::from_secs(60);

/// A bank of which the tests move the clock, and a gate that statements stop at.
struct Race {
    bank: Arc<Bank>,
    clock: Arc<ManualClock>,
    gate: tokio_postgres::Client,
}

impl Race {
    async fn open(server: &Server) -> Self {
        let bank = Arc::new(Bank::open(server).await);
        bank.run(
            "CREATE FUNCTION {schema}.gate() RETURNS bigint LANGUAGE sql IMMUTABLE AS
                $$ SELECT hashtext('{schema}')::bigint $$;
            CREATE FUNCTION {schema}.pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_advisory_xact_lock_shared({schema}.gate());
                RETURN NEW;
            END $$;
            CREATE TRIGGER passes BEFORE UPDATE ON {schema}.accounts
                FOR EACH ROW EXECUTE FUNCTION {schema}.pass()",
        )
        .await;
        // Not before the store was made, which is at the database's time.
        let now = SystemClock.now().plus(Duration::from_secs(60));
        Self {
            bank,
            clock: Arc::new(ManualClock::new(now)),
            gate: server.client().await,
        }
    }

    fn options(&self) -> PostgresOptions {
        let options = self.bank.options.clone().clock_of_tests(self.clock.clone());
        options.answer_within(STANDS_AT_MOST)
    }

    async fn store(&self) -> Arc<PostgresStore> {
        self.bank.store_with(self.options()).await
    }

    async fn close(&self) {
        let close = self.bank.sql("SELECT pg_advisory_lock({schema}.gate())");
        self.gate.batch_execute(&close).await.unwrap();
    }

    async fn open_again(&self) {
        let open = self.bank.sql("SELECT pg_advisory_unlock({schema}.gate())");
        self.gate.batch_execute(&open).await.unwrap();
    }

    /// Returns once so many wait: at the gate, or for a row of who stands there.
    async fn until_stopped(&self, count: i64) {
        let stopped = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name = '{schema}' AND wait_event_type = 'Lock'";
        for _ in 0..6_000 {
            if self.bank.number(stopped).await == count {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing stands at the gate");
    }

    /// So that nothing is to be counted for the next call, and one statement is all of it.
    async fn warm(&self, store: &PostgresStore, name: &str) {
        let warm = add(store, &self.bank, request(&key(name)), "alice").await;
        let Ok(OneStatementOutcome::Executed { rows: 1 }) = warm else {
            panic!("{warm:?}");
        };
    }

    fn spawn(&self, store: &Arc<PostgresStore>, request: ClaimRequest) -> Asked {
        let (bank, store) = (Arc::clone(&self.bank), Arc::clone(store));
        tokio::spawn(async move { add(&store, &bank, request, "bob").await })
    }

    async fn is_forgotten(&self, name: &str) -> bool {
        let count = format!(
            "SELECT count(*) FROM {{schema}}.records WHERE convert_from(name, 'UTF8') = '{name}'"
        );
        self.bank.number(&count).await == 0
    }
}

type Asked = JoinHandle<Result<OneStatementOutcome, StoreError>>;

async fn add(
    store: &PostgresStore,
    bank: &Bank,
    request: ClaimRequest,
    name: &str,
) -> Result<OneStatementOutcome, StoreError> {
    let sql = bank.sql("UPDATE {schema}.accounts SET cents = cents + 5 WHERE name = $1");
    let values: [&dyn SqlValue; 1] = [&name];
    let effect = OneStatement::new(&sql, &values).rows(1);
    store.execute_once(request, effect, answer("paid")).await
}

fn first_sent_now(race: &Race, key: &ScopedKey) -> ClaimRequest {
    let mut asked = request(key);
    asked.first_sent = Some(race.clock.now());
    asked
}

/// E7: the picture of a late duplicate shows the record and that nothing is forgotten; by the time at which it writes
/// its own the record is swept away. It says when it was first sent, so it is stale and never executed.
#[test]
fn a_late_duplicate_that_a_sweep_overtakes_has_no_second_effect() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let race = Race::open(server).await;
        let (store, other) = (race.store().await, race.store().await);
        let asked = first_sent_now(&race, &key("late"));
        let first = add(&store, &race.bank, asked.clone(), "bob").await;
        let Ok(OneStatementOutcome::Executed { rows: 1 }) = first else {
            panic!("{first:?}");
        };
        race.clock.advance(FORGOTTEN);
        race.warm(&store, "warm").await;
        race.close().await;
        let late = race.spawn(&store, asked);
        race.until_stopped(1).await;
        let swept = other.sweep().await.unwrap();
        assert_eq!((swept.paused, swept.tombstones), (None, 1));
        assert!(race.is_forgotten("late").await);
        race.open_again().await;
        let late = late.await.unwrap();
        assert_eq!(race.bank.cents("bob").await, 105);
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = late else {
            panic!("{late:?}");
        };
    });
}

/// A2: a statement that has the key has it until its record is there, however long it stands still: nobody executes
/// the call meanwhile, so that there is nothing of it to be swept away before.
#[test]
fn while_a_statement_stands_still_nobody_else_is_given_its_call() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let race = Race::open(server).await;
        let (store, other) = (race.store().await, race.store().await);
        let key = key("stands");
        race.warm(&store, "warm").await;
        race.warm(&other, "warm-too").await;
        race.close().await;
        let stands = race.spawn(&store, first_sent_now(&race, &key));
        race.until_stopped(1).await;
        for racer in [&store, &other] {
            for outcome in [
                racer.begin(request(&key)).await,
                racer.claim(request(&key)).await,
            ] {
                let Ok(ClaimOutcome::InProgress { .. }) = outcome else {
                    panic!("{outcome:?}");
                };
            }
            let sealed = racer.seal(key.clone()).await;
            assert!(
                matches!(sealed, Ok(KeyState::InProgress { .. })),
                "{sealed:?}"
            );
        }
        let rival = race.spawn(&other, first_sent_now(&race, &key));
        race.until_stopped(2).await;
        race.clock.advance(FORGOTTEN);
        assert_eq!(other.sweep().await.unwrap().paused, None);
        race.open_again().await;
        let stands = stands.await.unwrap();
        let Ok(OneStatementOutcome::Executed { rows: 1 }) = stands else {
            panic!("{stands:?}");
        };
        let rival = rival.await.unwrap();
        let Ok(OneStatementOutcome::NotExecuted(_)) = rival else {
            panic!("{rival:?}");
        };
        assert_eq!(race.bank.cents("bob").await, 105);
    });
}

/// Between its picture and the lock of its key, one statement; and what another server did meanwhile.
struct Overtaken {
    race: Race,
    other: Arc<PostgresStore>,
    overtaken: Asked,
}

impl Overtaken {
    async fn start(server: &Server, retention: RetentionOptions) -> Self {
        let race = Race::open(server).await;
        // In the place of the database's own, for one of the two servers.
        race.bank
            .run(
                "CREATE FUNCTION {schema}.pg_try_advisory_xact_lock(bigint) RETURNS boolean
                LANGUAGE plpgsql AS $$ BEGIN
                    PERFORM pg_advisory_xact_lock_shared({schema}.gate());
                    RETURN pg_catalog.pg_try_advisory_xact_lock($1);
                END $$",
            )
            .await;
        let (schema, url) = (&race.bank.schema, server.url());
        let url = format!(
            "{url}?application_name={schema}&options=-c%20search_path%3D{schema},pg_catalog"
        );
        let slow = PostgresOptions::new(url)
            .schema(schema)
            .clock_of_tests(race.clock.clone())
            .answer_within(STANDS_AT_MOST);
        let slow = race.bank.store_with(slow.retention(retention)).await;
        let other = race.options().retention(retention);
        let other = race.bank.store_with(other).await;
        race.warm(&slow, "warm").await;
        let key = key("overtaken");
        race.close().await;
        let overtaken = race.spawn(&slow, first_sent_now(&race, &key));
        race.until_stopped(1).await;
        let (claim, transaction) = begin(&other, &key).await;
        let opens = "INSERT INTO {schema}.accounts VALUES ('carol', 5)";
        let sql = transaction.sql().unwrap();
        let opened = sql.execute(&race.bank.sql(opens), &[]).await;
        assert_eq!(opened, Ok(1));
        commit(&other, claim, &transaction, "theirs").await.unwrap();
        Self {
            race,
            other,
            overtaken,
        }
    }

    /// Lets it go on. What is known of the call, of which the other server's effect is the only one.
    async fn goes_on(self) -> ClaimOutcome {
        self.race.open_again().await;
        let outcome = self.overtaken.await.unwrap();
        let bank = &self.race.bank;
        let cents = (bank.cents("bob").await, bank.cents("carol").await);
        assert_eq!(cents, (100, 5), "{outcome:?}");
        match outcome {
            Ok(OneStatementOutcome::NotExecuted(known)) => known,
            other => panic!("{other:?}"),
        }
    }
}

/// B7: in the instant between its picture and the lock of its key another server executes the call. There is one
/// record for each key: its own cannot be written, its effect is undone, and it is told the other's answer.
#[test]
fn a_statement_that_another_server_overtakes_before_it_has_the_key_has_no_effect() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let overtaken = Overtaken::start(server, RetentionOptions::default()).await;
        let ClaimOutcome::Completed(completion) = overtaken.goes_on().await else {
            panic!("the answer should be told");
        };
        assert_eq!(&completion.answer.body()[..], b"theirs");
    });
}

/// E7: the same, and the other's record is past its horizon at once. A sweep leaves its trace for as long as a
/// statement may take that has missed it.
#[test]
fn what_is_past_its_horizon_is_not_swept_away_under_a_statement_that_has_missed_it() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let at_once = RetentionOptions::new(Duration::ZERO, Duration::ZERO).unwrap();
        let overtaken = Overtaken::start(server, at_once).await;
        overtaken.race.clock.advance(STANDS_AT_MOST);
        let swept = overtaken.other.sweep().await.unwrap();
        assert_eq!((swept.paused, swept.tombstones), (None, 0));
        let known = overtaken.goes_on().await;
        assert!(matches!(known, ClaimOutcome::Stale), "{known:?}");
    });
}
