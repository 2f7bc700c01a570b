//! A server that stands still with a transaction, and a database that fails over under one.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::{Transaction, TransactionalStore as _};
use onlyonce_storage::{Claim, ClaimOutcome, ScopedKey};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::bank::{Bank, begin, commit, replayed};
use crate::calls::{given, key, leased, run};
use crate::postgres_rig::{self, Durable, Server};

const LEASE: Duration = Duration::from_millis(600);

/// B10, B21: the owner of a transaction is stopped for five leases. The database ends its transaction,
/// another server executes the call, and what the first one says afterwards changes nothing.
#[test]
fn a_process_that_stood_still_for_five_leases_has_nothing_committed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let store = bank.store().await;
        let mut owner = Process::start(&server.url(), &bank.schema);
        assert_eq!(owner.next().as_deref(), Some("held"));
        let key = key("held");
        let outcome = store.begin(leased(&key, LEASE)).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::InProgress { .. }),
            "{outcome:?}"
        );
        owner.signal(Signal::STOP);
        sleep(LEASE * 5).await;
        let (claim, transaction) = until_begun(&store, &key).await;
        assert_eq!(bank.add(&transaction, "bob", 7).await, Ok(1));
        commit(&store, claim, &transaction, "the second")
            .await
            .unwrap();
        owner.signal(Signal::CONT);
        owner.say("go");
        let late = owner.next().unwrap();
        assert!(late.starts_with("Err("), "{late}");
        assert_eq!(bank.cents("bob").await, 107, "one effect: the second's");
        assert_eq!(replayed(&store, &key).await, "the second");
    });
}

/// B22, G2: the primary crashes with a transaction open, and a standby that has all that was acknowledged
/// takes over: what was committed is there with its answer, what was open has had no effect, and runs once.
#[test]
fn after_a_failover_what_was_committed_is_replayed_and_what_was_open_runs_once() {
    let Some(primary) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let bank = Bank::open(&primary).await;
        let standby = primary.standby();
        let both = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=owner dbname=postgres \
             target_session_attrs=read-write",
            primary.port, standby.port
        );
        let options = PostgresOptions::new(both).schema(&bank.schema);
        let store = bank.store_with(options).await;
        let (done, open) = (key("done"), key("open"));
        let (claim, transaction) = begin(&store, &done).await;
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        commit(&store, claim, &transaction, "done").await.unwrap();
        let there = standby.client().await;
        let cents = bank.sql("SELECT cents FROM {schema}.accounts WHERE name = 'bob'");
        let give_up_at = Instant::now() + Duration::from_secs(30);
        while there.query_one(&cents, &[]).await.unwrap().get::<_, i64>(0) != 105 {
            assert!(Instant::now() < give_up_at, "the standby does not follow");
            sleep(Duration::from_millis(20)).await;
        }

        let (claim, transaction) = begin(&store, &open).await;
        assert_eq!(bank.add(&transaction, "bob", 7).await, Ok(1));
        primary.crash();
        standby.promote();
        let ended = commit(&store, claim, &transaction, "lost").await;
        assert!(ended.is_err(), "{ended:?}");
        let (claim, transaction) = until_begun(&store, &open).await;
        assert_eq!(bank.add(&transaction, "bob", 7).await, Ok(1));
        commit(&store, claim, &transaction, "once").await.unwrap();

        let there = standby.client().await;
        let row = there.query_one(&cents, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 112);
        assert_eq!(replayed(&store, &done).await, "done");
        assert_eq!(replayed(&store, &open).await, "once");
    });
}

/// Begins as soon as nobody else has the call, and the database answers.
async fn until_begun(store: &PostgresStore, key: &ScopedKey) -> (Claim, Transaction) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    loop {
        match store.begin(leased(key, LEASE * 20)).await {
            Ok(ClaimOutcome::Claimed(claim)) => {
                let transaction = store.start(&claim);
                return (claim, transaction);
            }
            Ok(ClaimOutcome::InProgress { .. }) | Err(_) => {
                assert!(Instant::now() < give_up_at, "it stays in progress");
                sleep(Duration::from_millis(50)).await;
            }
            Ok(other) => panic!("{other:?}"),
        }
    }
}

/// A process that was started as a test of its own, and does what its environment says.
struct Process {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(url: &str, schema: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "interrupted::a_process_of_these_tests"])
            .arg("--nocapture")
            .env("ONLYONCE_TEST_URL", url)
            .env("ONLYONCE_TEST_SCHEMA", schema)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    fn say(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
    }

    /// What it says next, but for what the test harness says.
    fn next(&mut self) -> Option<String> {
        let mut told = self.lines.by_ref().map_while(Result::ok);
        told.find_map(|line| line.strip_prefix("> ").map(str::to_owned))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // OK to ignore because it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process does that a test of this file has started. By itself it does nothing.
#[test]
fn a_process_of_these_tests() {
    let Ok(url) = std::env::var("ONLYONCE_TEST_URL") else {
        return;
    };
    let schema = std::env::var("ONLYONCE_TEST_SCHEMA").unwrap();
    run(async {
        let options = PostgresOptions::new(url).schema(&schema);
        let store = PostgresStore::open(options).await.unwrap();
        let claim = given(store.begin(leased(&key("held"), LEASE)).await.unwrap());
        let transaction = store.start(&claim);
        let sql = format!("UPDATE {schema}.accounts SET cents = cents + 5 WHERE name = 'bob'");
        let done = transaction.sql().unwrap().execute(&sql, &[]).await;
        assert_eq!(done, Ok(1));
        // A line of its own, whatever the harness has begun.
        println!("\n> held");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let late = commit(&store, claim, &transaction, "the first").await;
        println!("\n> {late:?}");
    });
}
