//! Several processes that would have one outbox, a database that fails, and one that has lost something.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::outbox::{
    FirstSent, NewCall, OutboxChange, OutboxError, OutboxState, OutboxStore as _, Unknown, Written,
};
use onlyonce_storage::postgres::{
    OutboxOpenError, PostgresOptions, PostgresOutbox, PostgresOutboxOptions, PostgresStore,
};
use onlyonce_storage::{IdempotencyKey, ManualClock, Scope, Timestamp, conformance};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::postgres_rig::{self, Durable, Server};

pub const LEASE: Duration = Duration::from_secs(1);

pub fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

pub fn call(name: &str) -> NewCall {
    NewCall::new(key(name), "m", name.to_owned().into())
}

pub fn sent() -> FirstSent {
    FirstSent {
        at: Timestamp::from_millis(70),
        store: None,
    }
}

pub fn options(database: PostgresOptions) -> PostgresOutboxOptions {
    PostgresOutboxOptions::new(database, "shop-7").lease(LEASE)
}

pub async fn open(options: PostgresOutboxOptions) -> Result<PostgresOutbox, OutboxOpenError> {
    PostgresOutbox::open(Scope::global(), options).await
}

pub async fn schema(server: &Server) -> PostgresOptions {
    let options = postgres_rig::options(server);
    PostgresStore::migrate(&options).await.unwrap();
    options
}

/// Opens it as soon as nobody has it any more.
async fn take_over(options: &PostgresOutboxOptions) -> PostgresOutbox {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    loop {
        match open(options.clone()).await {
            Ok(outbox) => return outbox,
            Err(OutboxOpenError::OwnedElsewhere { free_in, .. }) if Instant::now() < give_up_at => {
                assert!(free_in <= LEASE, "{free_in:?}");
                sleep(free_in + Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// B10, for a client: whoever was silent for longer than its lease is refused every word, sends nothing
/// more, and does not get in the way of the next.
#[test]
fn an_owner_that_was_silent_for_too_long_is_refused_every_word() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        let clock = Arc::new(ManualClock::default());
        let database = schema(server).await.clock_of_tests(clock.clone());
        let options = options(database).lease(Duration::from_secs(30));
        let first = open(options.clone()).await.unwrap();
        for name in ["a", "b"] {
            assert_eq!(first.write(call(name)).await, Ok(Written::New));
        }
        let change = OutboxChange::MarkSent(sent());
        assert_eq!(first.change(&key("a"), change.clone()).await, Ok(()));
        clock.advance(Duration::from_secs(29));
        let early = open(options.clone()).await.unwrap_err();
        let free_in = Duration::from_secs(1);
        assert!(
            matches!(&early, OutboxOpenError::OwnedElsewhere { free_in: told, .. } if *told == free_in),
            "{early:?}"
        );
        clock.advance(Duration::from_secs(2));
        // Nobody has taken it: what it says still holds.
        assert_eq!(first.change(&key("a"), change.clone()).await, Ok(()));
        let second = open(options.clone()).await.unwrap();
        let states: Vec<_> = second.list().await.unwrap();
        assert_eq!(states[0].state, OutboxState::Sent(sent()));
        assert_eq!(states[1].state, OutboxState::Unsent);

        // Also the word that would change nothing: an attempt is about to leave.
        for (name, change) in [
            ("a", change.clone()),
            ("b", change),
            ("a", OutboxChange::Answer("late".into())),
            ("b", OutboxChange::Cancel),
        ] {
            let late = first.change(&key(name), change).await;
            assert_eq!(late, Err(OutboxError::OwnedElsewhere));
        }
        let late = Err(OutboxError::OwnedElsewhere);
        assert_eq!(first.write(call("c")).await.map(drop), late);
        assert_eq!(first.load(&key("a")).await.map(drop), late);
        assert_eq!(first.list().await.map(drop), late);
        // Its end does not open what another one has.
        first.close().await;
        let third = open(options).await.unwrap_err();
        assert!(matches!(third, OutboxOpenError::OwnedElsewhere { .. }));
        assert_eq!(second.change(&key("b"), OutboxChange::Cancel).await, Ok(()));
    });
}

/// H7, B21, B22: a client is killed with -9, another stands still for five leases and goes on.
#[test]
fn another_process_goes_on_with_the_calls_of_one_that_was_killed_or_stood_still() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        let (schema, database) = postgres_rig::named(server);
        PostgresStore::migrate(&database).await.unwrap();
        let options = options(database);
        for signal in [Signal::KILL, Signal::STOP] {
            let mut owner = Process::start(&server.url(), &schema);
            assert_eq!(owner.next().as_deref(), Some("sent"));
            // For as long as it is there it renews its lease.
            sleep(LEASE + LEASE / 2).await;
            let refused = open(options.clone()).await.unwrap_err();
            assert!(matches!(refused, OutboxOpenError::OwnedElsewhere { .. }));
            owner.signal(signal);
            if signal == Signal::STOP {
                sleep(LEASE * 5).await;
            }
            let outbox = take_over(&options).await;
            let calls = outbox.list().await.unwrap();
            let states: Vec<_> = calls.iter().map(|call| &call.state).collect();
            assert_eq!(states, [&OutboxState::Sent(sent()), &OutboxState::Unsent]);
            assert_eq!(outbox.change(&key("b"), OutboxChange::Cancel).await, Ok(()));
            if signal == Signal::STOP {
                owner.signal(Signal::CONT);
                owner.say("go");
                // What was cancelled is not sent.
                assert_eq!(owner.next().as_deref(), Some("Err(OwnedElsewhere)"));
            }
            let change = OutboxChange::ForgetMaybeExecuted;
            assert_eq!(outbox.change(&key("a"), change).await, Ok(()));
            outbox.close().await;
            owner.end();
        }
    });
}

/// G7, for a client: while the database is gone nothing is taken, and nothing is sent; afterwards what it
/// acknowledged is there, and it goes on without being opened again.
#[test]
fn an_outbox_whose_database_is_gone_fails_closed_and_goes_on_when_it_is_back() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    conformance::run(async {
        let database = schema(&server).await;
        let options = options(database.answer_within(Duration::from_millis(500)))
            .lease(Duration::from_secs(60));
        let outbox = open(options).await.unwrap();
        assert_eq!(outbox.write(call("a")).await, Ok(Written::New));
        server.crash();
        let mark = || outbox.change(&key("a"), OutboxChange::MarkSent(sent()));
        for refused in [mark().await, outbox.write(call("b")).await.map(drop)] {
            let unavailable = matches!(refused, Err(OutboxError::Unavailable(_)));
            assert!(unavailable, "{refused:?}");
        }
        server.up_again();
        let give_up_at = Instant::now() + Duration::from_secs(20);
        while mark().await.is_err() {
            assert!(Instant::now() < give_up_at);
            sleep(Duration::from_millis(50)).await;
        }
        let calls = outbox.list().await.unwrap();
        assert_eq!(calls.len(), 1, "what was refused is not there");
        assert_eq!(calls[0].state, OutboxState::Sent(sent()));
    });
}

/// G2, for a client: a standby that never heard that a call was sent does not say that it was not.
#[test]
fn after_a_failover_no_call_is_taken_for_unsent() {
    let Some(primary) = Server::start(Durable::No) else {
        return;
    };
    conformance::run(async {
        let (schema, database) = postgres_rig::named(&primary);
        PostgresStore::migrate(&database).await.unwrap();
        let outbox = open(options(database)).await.unwrap();
        assert_eq!(outbox.write(call("a")).await, Ok(Written::New));
        let standby = primary.standby();
        // It follows no more: what is acknowledged from here on is lost.
        let change = OutboxChange::MarkSent(sent());
        primary.set("max_wal_senders = 0");
        primary.stop();
        primary.up();
        let give_up_at = Instant::now() + Duration::from_secs(20);
        while outbox.change(&key("a"), change.clone()).await.is_err() {
            assert!(Instant::now() < give_up_at);
            sleep(Duration::from_millis(50)).await;
        }
        primary.crash();
        standby.promote();
        let there = PostgresOptions::new(standby.url()).schema(&schema);
        PostgresStore::open(there.clone()).await.unwrap();
        sleep(LEASE).await;
        let refused = open(options(there.clone())).await.unwrap_err();
        assert!(
            matches!(refused, OutboxOpenError::Moved { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("after_failover"));
        // As an opening leaves it that was killed before it had marked every call.
        let unsure =
            format!("UPDATE {schema}.outboxes SET place = {schema}.place(), is_unsure = true");
        standby.client().await.batch_execute(&unsure).await.unwrap();
        let refused = open(options(there.clone())).await.unwrap_err();
        assert!(
            matches!(refused, OutboxOpenError::Moved { .. }),
            "{refused}"
        );
        let outbox = open(options(there.clone()).after_failover()).await.unwrap();
        let state = outbox.load(&key("a")).await.unwrap().entry.state;
        let because = Unknown::Forgotten;
        assert!(
            matches!(&state, OutboxState::Unknown { because: told, .. } if *told == because),
            "{state:?}"
        );
        let cancelled = outbox.change(&key("a"), OutboxChange::Cancel).await;
        assert_eq!(cancelled, Err(OutboxError::MaybeExecuted));
        // From now on it is this database's.
        outbox.close().await;
        open(options(there)).await.unwrap();
    });
}

/// G5: a row that was changed behind the outbox's back, or is missing, is never believed.
#[test]
fn no_damaged_row_and_no_missing_one_is_believed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        for damage in [
            "DELETE FROM {schema}.outbox_calls WHERE number = 1",
            "UPDATE {schema}.outbox_calls SET entry = set_byte(entry, 5, 0) WHERE number = 1",
            "UPDATE {schema}.outbox_calls SET number = 7 WHERE number = 1",
            "UPDATE {schema}.outbox_calls SET entry = ''",
            "UPDATE {schema}.outboxes SET calls = 3",
            "UPDATE {schema}.outboxes SET bytes = 0",
            "UPDATE {schema}.outboxes SET next = 1",
        ] {
            let (schema, database) = postgres_rig::named(server);
            PostgresStore::migrate(&database).await.unwrap();
            let options = options(database);
            let outbox = open(options.clone()).await.unwrap();
            for name in ["a", "b"] {
                assert_eq!(outbox.write(call(name)).await, Ok(Written::New));
            }
            outbox.close().await;
            let damage = damage.replace("{schema}", &schema);
            let client = server.client().await;
            client.batch_execute(&damage).await.unwrap();
            let refused = open(options).await.unwrap_err();
            assert!(
                matches!(refused, OutboxOpenError::Corrupt { .. }),
                "{damage}: {refused}"
            );
        }
        // Bodies are looked at when they are read.
        let (schema, database) = postgres_rig::named(server);
        PostgresStore::migrate(&database).await.unwrap();
        let outbox = open(options(database)).await.unwrap();
        assert_eq!(outbox.write(call("a")).await, Ok(Written::New));
        let damage = format!("UPDATE {schema}.outbox_calls SET request = 'z'");
        server.client().await.batch_execute(&damage).await.unwrap();
        let refused = outbox.load(&key("a")).await.map(drop);
        assert!(
            matches!(refused, Err(OutboxError::Corrupt(_))),
            "{refused:?}"
        );
    });
}

/// More than one page of them.
#[test]
fn an_outbox_of_several_pages_is_listed_and_opened_whole() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        let options = options(schema(server).await);
        let outbox = Arc::new(open(options.clone()).await.unwrap());
        let mut writing = tokio::task::JoinSet::new();
        for number in 0..2_100 {
            let outbox = Arc::clone(&outbox);
            writing.spawn(async move { outbox.write(call(&format!("call-{number}"))).await });
        }
        assert!(writing.join_all().await.iter().all(Result::is_ok));
        outbox.close().await;
        let outbox = open(options).await.unwrap();
        let calls = outbox.list().await.unwrap();
        assert_eq!(calls.len(), 2_100);
        assert!(calls.is_sorted_by(|one, next| one.number < next.number));
    });
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
            .args(["owners::a_process_of_these_tests", "--exact", "--nocapture"])
            .env("ONLYONCE_TEST_URL", url)
            .env("ONLYONCE_TEST_SCHEMA", schema)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            input,
            lines,
        }
    }

    /// What it says next, but for what the test harness says.
    fn next(&mut self) -> Option<String> {
        let mut told = self.lines.by_ref().map_while(Result::ok);
        told.find_map(|line| line.strip_prefix("> ").map(str::to_owned))
    }

    fn say(&mut self, word: &str) {
        writeln!(self.input, "{word}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a process does that a test of this file has started. By itself it does nothing.
#[test]
fn a_process_of_these_tests() {
    let Ok(url) = std::env::var("ONLYONCE_TEST_URL") else {
        return;
    };
    let schema = std::env::var("ONLYONCE_TEST_SCHEMA").unwrap();
    conformance::run(async {
        let database = PostgresOptions::new(url).schema(schema);
        let outbox = open(options(database)).await.unwrap();
        for name in ["a", "b"] {
            assert_eq!(outbox.write(call(name)).await, Ok(Written::New));
        }
        let change = OutboxChange::MarkSent(sent());
        assert_eq!(outbox.change(&key("a"), change.clone()).await, Ok(()));
        // A line of its own, whatever the harness has begun.
        println!("\n> sent");
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
            .await
            .unwrap()
            .unwrap();
        let late = outbox.change(&key("b"), change).await;
        println!("\n> {late:?}");
    });
}
