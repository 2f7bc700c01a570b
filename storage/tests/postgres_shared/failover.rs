//! B22: the primary is gone, and the standby that takes over has not had everything.

use std::time::Duration;

use onlyonce_storage::postgres::{OpenError, PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{
    AnswerBytes, ClaimOutcome, DoubtReason, Inspect as _, Journal as _, KeyState, KeyView,
    ListRequest, Question, SessionRequest, SessionState, StepName, StepNote, Store as _,
};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

/// A claim and its answer that the standby never had: whoever says when it first sent the call is
/// refused as stale, and nothing is executed. Tokens and sessions go on above all that were given.
/// Whoever does not say it is executed again: that is documented, and held here as what it is.
#[test]
fn after_a_failover_that_lost_a_claim_nobody_who_says_when_executes_it_again() {
    let Some(primary) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(&primary);
        PostgresStore::migrate(&options).await.unwrap();
        let standby = primary.standby();
        let url = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=owner dbname=postgres \
            target_session_attrs=read-write",
            primary.port, standby.port
        );
        let options = PostgresOptions::new(url)
            .schema(&schema)
            .answer_within(Duration::from_secs(10));
        let store = PostgresStore::open(options.clone()).await.unwrap();
        let kept = given(store.claim(request(&key("kept"))).await.unwrap());
        assert_eq!(store.complete(kept, answer("kept")).await, Ok(()));
        followed(&primary).await;
        // A standby takes no calls.
        let reading = PostgresOptions::new(standby.url()).schema(&schema);
        let refused = PostgresStore::open(reading).await.unwrap_err();
        assert!(matches!(refused, OpenError::Standby { .. }), "{refused}");

        // From here on it follows no more.
        standby.stop();
        for _ in 0..3 {
            PostgresStore::open(options.clone()).await.unwrap();
        }
        let mut lost = request(&key("lost"));
        lost.first_sent = Some(store.now());
        let claim = given(store.claim(lost.clone()).await.unwrap());
        let token = claim.token();
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        let open = store.session(key("s").scope().clone(), SessionRequest::Open);
        let Ok(SessionState::Live { session, .. }) = open.await else {
            panic!("a session is opened");
        };
        primary.crash();
        standby.up();
        standby.promote();

        let mut again = lost.clone();
        again.attempt = onlyonce_storage::AttemptId::random();
        let outcome = store.claim(again).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        assert_eq!(replayed(&store, &key("kept")).await, answer("kept"));
        let mut fresh = request(&key("fresh"));
        fresh.first_sent = Some(store.now());
        let next = given(store.claim(fresh).await.unwrap());
        assert!(next.token() > token, "{:?} after {token:?}", next.token());
        let open = store.session(key("s").scope().clone(), SessionRequest::Open);
        let Ok(SessionState::Live { session: later, .. }) = open.await else {
            panic!("a session is opened");
        };
        assert!(later > session);
        assert_eq!(store.complete(next, answer("fresh")).await, Ok(()));
        // Documented: nothing tells this call from a new one.
        let mut silent = lost;
        silent.first_sent = None;
        drop(given(store.claim(silent).await.unwrap()));
    });
}

/// B22: that a step was begun may be lost with the rest. So a call that keeps a journal and was claimed before a failover
/// does not go on after it, also where it does not say when it was first sent: it is in doubt. Those that are claimed
/// after it do. Noticed by the first who would go on, over a connection that lives on.
#[test]
fn a_call_that_was_claimed_before_a_failover_does_not_go_on_by_its_journal() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let moved = format!(
            "UPDATE {schema}.store SET place = regexp_replace(place, '.{{8}}$', '00000009')"
        );
        for (name, is_moved) in [("before", true), ("after", false)] {
            let mut journaled = request(&key(name));
            journaled.journal = Some(bytes::Bytes::from_static(b"POST /orders"));
            let claim = given(store.claim(journaled.clone()).await.unwrap());
            let note = StepNote::done(StepName::parse("reserve").unwrap(), "seat 7".into());
            let noted = store.note(claim.digest(), claim.token(), note).await;
            assert_eq!(noted, Ok(()));
            let token = claim.token();
            let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
            assert_eq!(left, Ok(()));
            if is_moved {
                client.batch_execute(&moved).await.unwrap();
            }
            journaled.rerun_of = Some(token);
            journaled.attempt = onlyonce_storage::AttemptId::random();
            let outcome = store.claim(journaled).await.unwrap();
            let goes_on = matches!(outcome, ClaimOutcome::Claimed(_));
            assert_eq!(goes_on, !is_moved, "{outcome:?}");
            assert_eq!(store.abandoned(None, 10).await.unwrap().calls, []);
            let KeyView::Call(view) = store.show(key(name), AnswerBytes::LeaveOut).await.unwrap()
            else {
                panic!("it is there");
            };
            assert_eq!((view.goes_on, view.steps_noted), (false, 1));
            let page = store.list(ListRequest::default()).await.unwrap();
            let listed = page.records.iter().filter(|view| view.key == key(name));
            assert!(
                listed
                    .clone()
                    .all(|view| !view.goes_on && view.steps_noted == 1)
            );
            assert_eq!(listed.count(), 1);
        }
    });
}

/// A pooler keeps a store's connections over a failover: no connection is made that could notice.
#[test]
fn a_failover_behind_a_connection_that_lives_on_is_noticed_by_the_claim() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let before = given(store.claim(request(&key("before"))).await.unwrap());
        let mut old = request(&key("old"));
        old.first_sent = Some(store.now());
        // As if the row had been written on another timeline.
        let client = server.client().await;
        let moved = format!(
            "UPDATE {schema}.store SET place = regexp_replace(place, '.{{8}}$', '00000009')"
        );
        client.batch_execute(&moved).await.unwrap();
        let outcome = store.claim(old).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        let after = given(store.claim(request(&key("after"))).await.unwrap());
        let (before, after) = (before.token(), after.token());
        assert!(after.incarnation() > before.incarnation());
    });
}

/// B22: a seal and a peek are asked by a client that gives its call up: after a failover that lost the record
/// neither may say that it was never executed. And a session's number is not given twice.
#[test]
fn a_failover_behind_a_connection_that_lives_on_is_noticed_by_a_seal_a_peek_and_a_session() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let moved = format!(
            "UPDATE {schema}.store SET place = regexp_replace(place, '.{{8}}$', '00000009')"
        );
        for question in [Question::Seal, Question::Peek] {
            let sent = Some(store.now());
            client.batch_execute(&moved).await.unwrap();
            let key = key(&format!("{question:?}"));
            let state = store.ask(question, key, sent).await;
            assert_eq!(state, Ok(KeyState::Stale), "{question:?}");
        }
        // One that was sealed before the failover says no more than one that was not.
        let sealed = key("sealed");
        let sent = Some(store.now());
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        for question in [Question::Seal, Question::Peek] {
            let first = store
                .ask(Question::Seal, sealed.clone(), Some(store.now()))
                .await;
            assert!(
                matches!(first, Ok(KeyState::Sealed { .. } | KeyState::Stale)),
                "{first:?}"
            );
            client.batch_execute(&moved).await.unwrap();
            let state = store.ask(question, sealed.clone(), sent).await;
            assert_eq!(state, Ok(KeyState::Stale), "{question:?}");
        }
        let scope = key("s").scope().clone();
        let open = store.session(scope.clone(), SessionRequest::Open).await;
        let Ok(SessionState::Live { session, .. }) = open else {
            panic!("a session is opened: {open:?}");
        };
        client.batch_execute(&moved).await.unwrap();
        let open = store.session(scope, SessionRequest::Open).await;
        let Ok(SessionState::Live { session: later, .. }) = open else {
            panic!("a session is opened: {open:?}");
        };
        assert!(later > session + 1, "{later} after {session}");
    });
}

/// A pooler that is pointed at a logical copy leads to another system, whose timeline may have the same
/// number: another server it is all the same. Noticed by both ways to begin a call.
#[test]
fn another_system_on_the_same_timeline_behind_a_connection_is_noticed_by_the_claim() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        // As if the row had been written by a server of another system.
        let moved = format!(
            "UPDATE {schema}.store SET place = regexp_replace(place, '^[0-9]+', '7'),
                started = started - interval '1 hour'"
        );
        let mut last = given(store.claim(request(&key("before"))).await.unwrap()).token();
        for is_transactional in [false, true] {
            let mut old = request(&key(&format!("old-{is_transactional}")));
            old.first_sent = Some(store.now());
            client.batch_execute(&moved).await.unwrap();
            let outcome = if is_transactional {
                store.begin(old).await.unwrap()
            } else {
                store.claim(old).await.unwrap()
            };
            assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
            let new = request(&key(&format!("new-{is_transactional}")));
            let token = given(store.begin(new).await.unwrap()).token();
            assert!(token.incarnation() > last.incarnation());
            last = token;
        }
        let written = format!("SELECT started = pg_postmaster_start_time() FROM {schema}.store");
        let row = client.query_one(&written, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));
    });
}

/// Waits until the standby has everything.
async fn followed(primary: &Server) {
    let client = primary.client().await;
    for _ in 0..200 {
        let asked = "SELECT COALESCE(bool_and(replay_lsn >= pg_current_wal_lsn()), false)
            FROM pg_stat_replication";
        if client.query_one(asked, &[]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the standby does not follow");
}
