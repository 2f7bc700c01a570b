//! Words of an outbox whose answers do not come, or come late; and places that are not what they were.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::conformance;
use onlyonce_storage::outbox::{OutboxChange, OutboxError, OutboxState, OutboxStore as _, Written};
use onlyonce_storage::postgres::{OutboxOpenError, PostgresStore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::owners::{LEASE, call, key, open, options, schema, sent};
use crate::postgres_rig::{self, Durable, Server};

/// G7: the commit that takes a call for unsent hangs, and lands only after the next run has said that
/// the call is sent. What was sent stays sent, and cannot be cancelled.
#[test]
fn a_word_that_lands_late_does_not_make_a_sent_call_unsent() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        let (schema, database) = postgres_rig::named(server);
        PostgresStore::migrate(&database).await.unwrap();
        let outbox = Arc::new(open(options(database)).await.unwrap());
        assert_eq!(outbox.write(call("a")).await, Ok(Written::New));
        let late = server.client().await;
        let unsent = format!("SELECT entry FROM {schema}.outbox_calls");
        let unsent: Vec<u8> = late.query_one(&unsent, &[]).await.unwrap().get(0);
        let mark = OutboxChange::MarkSent(sent());
        assert_eq!(outbox.change(&key("a"), mark.clone()).await, Ok(()));

        // As `NotExecuted` whose commit hangs.
        late.batch_execute("BEGIN").await.unwrap();
        let word = format!(
            "SELECT {schema}.outbox_change(o.name, o.epoch, c.number, c.version, $1, NULL)
            FROM {schema}.outboxes o JOIN {schema}.outbox_calls c ON c.outbox = o.name"
        );
        let outcome: i32 = late.query_one(&word, &[&unsent]).await.unwrap().get(0);
        assert_eq!(outcome, 0);
        let marking = {
            let outbox = Arc::clone(&outbox);
            tokio::spawn(async move { outbox.change(&key("a"), mark).await })
        };
        sleep(Duration::from_millis(200)).await;
        late.batch_execute("COMMIT").await.unwrap();
        assert_eq!(marking.await.unwrap(), Ok(()));
        let state = outbox.load(&key("a")).await.unwrap().entry.state;
        assert_eq!(state, OutboxState::Sent(sent()));
        let cancelled = outbox.change(&key("a"), OutboxChange::Cancel).await;
        assert_eq!(cancelled, Err(OutboxError::MaybeExecuted));
    });
}

/// G7, K4: those that queue for the next number are refused when their own time is over.
#[test]
fn calls_that_queue_behind_a_database_that_hangs_are_all_refused_in_time() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    conformance::run(async {
        let within = Duration::from_millis(500);
        let database = schema(&server).await.answer_within(within);
        let options = options(database).lease(Duration::from_secs(60));
        let outbox = Arc::new(open(options).await.unwrap());
        assert_eq!(outbox.write(call("first")).await, Ok(Written::New));
        server.freeze(true);
        let began = Instant::now();
        let mut writing = JoinSet::new();
        for number in 0..8 {
            let outbox = Arc::clone(&outbox);
            writing.spawn(async move { outbox.write(call(&format!("call-{number}"))).await });
        }
        let written = writing.join_all().await;
        let took = began.elapsed();
        server.freeze(false);
        for written in written {
            assert!(
                matches!(written, Err(OutboxError::Unavailable(_))),
                "{written:?}"
            );
        }
        assert!(took < within * 5, "{took:?}");
    });
}

/// G2: whoever has an outbox that stands elsewhere by now is refused every word, and does not keep others
/// from it either. Another system on the same timeline is another place, and so is a restored copy that was
/// said to be one.
#[test]
fn an_owner_whose_database_is_another_one_keeps_nobody_from_the_outbox() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        for elsewhere in ["''", "'7' || substr(place, strpos(place, '/'))"] {
            let (schema, database) = postgres_rig::named(server);
            PostgresStore::migrate(&database).await.unwrap();
            let options = options(database);
            let owner = open(options.clone()).await.unwrap();
            assert_eq!(owner.write(call("a")).await, Ok(Written::New));
            let moved = format!("UPDATE {schema}.outboxes SET place = {elsewhere}");
            let beside = server.client().await;
            beside.batch_execute(&moved).await.unwrap();
            let refused = Err(OutboxError::OwnedElsewhere);
            assert_eq!(owner.write(call("b")).await.map(drop), refused);
            assert_eq!(owner.list().await.map(drop), refused);
            let mark = OutboxChange::MarkSent(sent());
            assert_eq!(owner.change(&key("a"), mark).await, refused);

            sleep(LEASE * 2).await;
            let opened = open(options.clone()).await.map(drop);
            assert!(
                matches!(opened, Err(OutboxOpenError::Moved { .. })),
                "{opened:?}"
            );
            let next = open(options.after_failover()).await.unwrap();
            let state = next.load(&key("a")).await.unwrap().entry.state;
            assert!(matches!(state, OutboxState::Unknown { .. }), "{state:?}");
            let late = owner.change(&key("a"), OutboxChange::ForgetMaybeExecuted);
            assert_eq!(late.await, refused);
        }
    });
}

/// G7, D1: an opening whose answer was lost is asked again and has it; and a clock that was set back by a
/// day keeps nobody out for a day.
#[test]
fn a_lost_answer_and_a_clock_that_was_set_back_keep_nobody_from_an_outbox() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    conformance::run(async {
        let (schema, database) = postgres_rig::named(server);
        PostgresStore::migrate(&database).await.unwrap();
        let beside = server.client().await;
        let open = async |now: i64, opening: u8| -> (i32, i64) {
            let sql = format!(
                "SELECT outcome, epoch FROM {schema}.outbox_open($1, 'o', $2, $3, 30000, false)"
            );
            let (opening, scope) = (vec![opening; 16], vec![0_u8; 32]);
            let row = beside.query_one(&sql, &[&now, &opening, &scope]).await;
            let row = row.unwrap();
            (row.get(0), row.get(1))
        };
        const DAY: i64 = 86_400_000;
        assert_eq!(open(2 * DAY, 1).await, (0, 1));
        assert_eq!(open(2 * DAY + 10, 1).await, (0, 2));
        assert_eq!(open(2 * DAY + 20, 2).await.0, 1);
        // A clock that is put right by a little is no reason to take it away.
        assert_eq!(open(2 * DAY - 5_000, 2).await.0, 1);
        assert_eq!(open(DAY, 2).await, (0, 3));
        assert_eq!(open(DAY + 30_001, 3).await, (0, 4));
    });
}
