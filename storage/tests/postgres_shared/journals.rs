//! Journals that several processes share: of a run that was superseded, of one that was killed, and of a
//! database that is restarted between two notes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::{
    AnswerBytes, Claim, ClaimOutcome, ClaimRequest, DoubtReason, FencingToken, Inspect as _,
    Journal as _, KeyView, NoteError, ScopedKey, StepName, StepNote, Store as _,
};
use rustix::process::Signal;

use crate::calls::{LEASE, answer, given, key, leased, replayed, run};
use crate::postgres_rig::pooler::Pooler;
use crate::postgres_rig::{self, Durable, Server};
use crate::processes::{Process, SHORT_LEASE, say, wait_for_go};

const REQUEST: &[u8] = b"POST /orders";

/// B6, B7: the owner is stopped for five leases while another one goes on with its call. When it wakes up it
/// begins nothing, and finishes nothing that is not its own any more.
#[test]
fn a_process_that_stood_still_begins_no_step_of_a_call_that_goes_on_elsewhere() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let mut owner = Process::start("journaled", &server.url(), &schema, 0);
        owner.say("go");
        assert_eq!(owner.next().as_deref(), Some("noted"));
        owner.signal(Signal::STOP);
        tokio::time::sleep(SHORT_LEASE * 5).await;
        let claim = taken_over(&store, &key("owned")).await;
        assert_eq!(kept(&claim), [("reserve", Some("seat 7"))]);
        noted(&store, &claim, StepNote::begun(step("charge"))).await;
        owner.signal(Signal::CONT);
        owner.say("go");
        for said in ["begun", "done", "of the other", "complete"] {
            let told = owner.next().unwrap();
            assert_eq!(told, format!("{said} Err(Fenced)"));
        }
        noted(&store, &claim, done("charge", "paid 100")).await;
        assert_eq!(store.complete(claim, answer("second")).await, Ok(()));
        assert_eq!(replayed(&store, &key("owned")).await, answer("second"));
        assert_eq!(rows(server, &schema).await, 0);
    });
}

/// Nobody has to come back for a call whose process was killed: another one finds it, with its request,
/// as soon as its lease has lapsed, and goes on at its step.
#[test]
fn a_call_of_a_killed_process_is_found_by_another_and_goes_on_at_its_step() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let mut owner = Process::start("journaled", &server.url(), &schema, 0);
        owner.say("go");
        assert_eq!(owner.next().as_deref(), Some("noted"));
        owner.kill();
        let mut waited = Duration::ZERO;
        let call = loop {
            let mut page = store.abandoned(None, 10).await.unwrap();
            assert_eq!(page.next, None);
            if let Some(call) = page.calls.pop() {
                assert!(page.calls.is_empty());
                break call;
            }
            assert!(waited < SHORT_LEASE * 20, "its lease lapses");
            waited += SHORT_LEASE / 10;
            tokio::time::sleep(SHORT_LEASE / 10).await;
        };
        assert_eq!(call.key, key("owned"));
        assert_eq!(&call.request[..], REQUEST);
        let mut rerun = journaled(&call.key, LEASE);
        rerun.rerun_of = Some(call.token);
        // The lapse is written down first.
        let outcome = store.claim(rerun.clone()).await.unwrap();
        assert!(
            matches!(&outcome, ClaimOutcome::InDoubt(doubt) if doubt.token == call.token),
            "{outcome:?}"
        );
        let claim = given(store.claim(rerun).await.unwrap());
        assert_eq!(kept(&claim), [("reserve", Some("seat 7"))]);
        assert!(store.abandoned(None, 10).await.unwrap().calls.is_empty());
        assert_eq!(store.complete(claim, answer("done")).await, Ok(()));
        assert_eq!(rows(server, &schema).await, 0);
    });
}

/// E9: whoever looks for calls that can go on looks through so many at a time, however many are in doubt that
/// keep no journal.
#[test]
fn a_page_of_abandoned_calls_ends_after_what_it_may_look_through() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let plain = format!(
            "INSERT INTO {schema}.records (key, version, state, at)
            SELECT sha256(int8send(n)), 1, 2, n FROM generate_series(1, 2500) n"
        );
        client.batch_execute(&plain).await.unwrap();
        let claim = given(store.claim(journaled(&key("a"), LEASE)).await.unwrap());
        let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(left, Ok(()));
        let (mut after, mut pages) = (None, 0);
        let call = loop {
            let mut page = store.abandoned(after, 10).await.unwrap();
            pages += 1;
            after = page.next;
            if after.is_none() {
                break page.calls.pop();
            }
            assert!(page.calls.is_empty() && pages < 10);
        };
        assert_eq!(call.map(|call| call.key), Some(key("a")));
        assert_eq!(pages, 3);
    });
}

/// What the two tests above start: see `processes.rs`.
pub async fn owner(store: &PostgresStore) {
    let claim = store.claim(journaled(&key("owned"), SHORT_LEASE)).await;
    let claim = given(claim.unwrap());
    noted(store, &claim, StepNote::begun(step("reserve"))).await;
    noted(store, &claim, done("reserve", "seat 7")).await;
    say("noted");
    wait_for_go();
    let (key, token) = (claim.digest(), claim.token());
    let begun = store.note(key, token, StepNote::begun(step("ship"))).await;
    say(&format!("begun {begun:?}"));
    let finished = store.note(key, token, done("ship", "box 9")).await;
    say(&format!("done {finished:?}"));
    let other = store.note(key, token, done("charge", "paid 100")).await;
    say(&format!("of the other {other:?}"));
    let completed = store.complete(claim, answer("first")).await;
    say(&format!("complete {completed:?}"));
}

/// What was noted is on the disk.
#[test]
fn a_database_that_is_killed_between_begun_and_done_keeps_both() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    run(async {
        let options = postgres_rig::options(&server).answer_within(Duration::from_secs(10));
        let store = postgres_rig::store(options).await;
        let restart = async || {
            server.crash();
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.up();
        };
        let claim = given(store.claim(journaled(&key("a"), LEASE)).await.unwrap());
        noted(&store, &claim, done("reserve", "seat 7")).await;
        noted(&store, &claim, StepNote::begun(step("charge"))).await;
        restart().await;
        let steps = shown(&store, &key("a")).await;
        assert_eq!(
            steps,
            [("reserve".into(), Some(6)), ("charge".into(), None)]
        );
        noted(&store, &claim, done("charge", "paid 100")).await;
        restart().await;
        let steps = shown(&store, &key("a")).await;
        assert_eq!(steps[1], ("charge".into(), Some(8)));
        let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(left, Ok(()));
        let claim = taken_over(&store, &key("a")).await;
        let both = [("reserve", Some("seat 7")), ("charge", Some("paid 100"))];
        assert_eq!(kept(&claim), both);
        assert_eq!(store.release(claim).await, Ok(()));
    });
}

/// B8: a step was begun while the claim held, and that is being written when the claim has lapsed. Whoever
/// takes the call over waits for it, and sees that he must not.
#[test]
fn whoever_takes_a_call_over_waits_for_a_note_that_is_being_written() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = Arc::new(postgres_rig::store(options).await);
        let client = server.client().await;
        let lease = Duration::from_secs(2);
        let claim = given(store.claim(journaled(&key("a"), lease)).await.unwrap());
        client.batch_execute("BEGIN").await.unwrap();
        let sql = format!(
            "SELECT outcome FROM {schema}.note(NULL, $1, $2, $3, 'charge', 1, NULL, 1000, 10, false)"
        );
        let (digest, [incarnation, sequence]) = told(&claim);
        let values: Values<'_> = [&digest, &incarnation, &sequence];
        let row = client.query_one(&sql, &values).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 0, "the claim still holds");
        tokio::time::sleep(lease + Duration::from_millis(100)).await;
        let other = Arc::clone(&store);
        let taking =
            tokio::spawn(async move { other.claim(journaled(&key("a"), LEASE)).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!taking.is_finished(), "it waits");
        client.batch_execute("COMMIT").await.unwrap();
        let ClaimOutcome::InDoubt(doubt) = taking.await.unwrap() else {
            panic!("its lease has lapsed");
        };
        let mut rerun = journaled(&key("a"), LEASE);
        rerun.rerun_of = Some(doubt.token);
        let outcome = store.claim(rerun).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
        assert!(store.abandoned(None, 10).await.unwrap().calls.is_empty());
        // Somebody has looked: it was not charged.
        let resolved = store.resolve_step(
            key("a"),
            doubt.token,
            step("charge"),
            StepResolution::NotExecuted,
        );
        assert_eq!(resolved.await, Ok(()));
        let again = taken_over(&store, &key("a")).await;
        assert_eq!(kept(&again), []);
        assert_eq!(store.release(again).await, Ok(()));
    });
}

/// B6: the other way round. A step is to be begun while the call is put in doubt elsewhere: it is not begun.
#[test]
fn a_note_waits_for_who_is_taking_the_call_over_and_is_fenced() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = Arc::new(postgres_rig::store(options).await);
        let client = server.client().await;
        let claim = given(store.claim(journaled(&key("a"), LEASE)).await.unwrap());
        let doubt = format!(
            "UPDATE {schema}.records SET state = 2, version = version + 1, reason = 2
            WHERE key = $1 AND incarnation = $2 AND sequence = $3"
        );
        client.batch_execute("BEGIN").await.unwrap();
        let (digest, [incarnation, sequence]) = told(&claim);
        let values: Values<'_> = [&digest, &incarnation, &sequence];
        let changed = client.execute(&doubt, &values).await.unwrap();
        assert_eq!(changed, 1);
        let (other, digest, token) = (Arc::clone(&store), claim.digest(), claim.token());
        let noting = tokio::spawn(async move {
            let note = StepNote::begun(step("charge"));
            other.note(digest, token, note).await
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!noting.is_finished(), "it waits");
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(noting.await.unwrap(), Err(NoteError::Fenced));
        assert_eq!(shown(&store, &key("a")).await, []);
        let again = taken_over(&store, &key("a")).await;
        assert_eq!(kept(&again), []);
        assert_eq!(store.release(again).await, Ok(()));
    });
}

/// B6: many leases lapse while their owners begin a step and others take the calls over. A step that was
/// begun keeps its call from going on.
#[test]
fn no_call_goes_on_elsewhere_once_its_owner_has_begun_a_step() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let options = postgres_rig::options(server);
        let ours = Arc::new(postgres_rig::store(options.clone()).await);
        let theirs = Arc::new(PostgresStore::open(options).await.unwrap());
        let calls = (0..120).map(|call| {
            let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
            tokio::spawn(async move {
                let name = key(&format!("call-{call}"));
                let lease = Duration::from_millis(100);
                let claim = given(ours.claim(journaled(&name, lease)).await.unwrap());
                let began = async {
                    tokio::time::sleep(Duration::from_millis(70 + call / 2)).await;
                    let note = StepNote::begun(step("charge"));
                    ours.note(claim.digest(), claim.token(), note).await
                };
                let went_on = async {
                    let mut rerun = journaled(&name, LEASE);
                    rerun.rerun_of = Some(ended(&theirs, &name).await);
                    theirs.claim(rerun).await.unwrap()
                };
                let (began, outcome) = tokio::join!(began, went_on);
                let goes_on = matches!(outcome, ClaimOutcome::Claimed(_));
                (began.is_ok(), goes_on)
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut counts = [0; 2];
        for call in calls {
            let (began, goes_on) = call.await.unwrap();
            assert_ne!(began, goes_on, "one of both");
            counts[usize::from(began)] += 1;
        }
        println!("{counts:?} went on elsewhere, or had begun");
    });
}

/// Nothing of a journal depends on the connection: each note is one statement, without a name.
#[test]
fn journals_are_kept_behind_a_pooler_by_transaction() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let Some(pooler) = Pooler::start(server, 2).await else {
            return;
        };
        let options = PostgresOptions::new(pooler.url())
            .schema(&schema)
            .connections_max(4)
            .without_listening();
        let ours = Arc::new(PostgresStore::open(options.clone()).await.unwrap());
        let theirs = Arc::new(PostgresStore::open(options).await.unwrap());
        let calls = (0..24).map(|call| {
            let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
            tokio::spawn(async move {
                let name = key(&format!("call-{call}"));
                let claim = given(ours.claim(journaled(&name, LEASE)).await.unwrap());
                noted(&ours, &claim, done("reserve", "seat 7")).await;
                noted(&ours, &claim, StepNote::begun(step("charge"))).await;
                noted(&ours, &claim, done("charge", "paid 100")).await;
                let left = ours.doubt(claim, DoubtReason::OwnerGone, None).await;
                assert_eq!(left, Ok(()));
                let claim = taken_over(&theirs, &name).await;
                let both = [("reserve", Some("seat 7")), ("charge", Some("paid 100"))];
                assert_eq!(kept(&claim), both);
                assert_eq!(theirs.complete(claim, answer("paid")).await, Ok(()));
            })
        });
        let calls: Vec<_> = calls.collect();
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(rows(server, &schema).await, 0);
    });
}

pub fn journaled(key: &ScopedKey, lease: Duration) -> ClaimRequest {
    let mut request = leased(key, lease);
    request.journal = Some(Bytes::from_static(REQUEST));
    request
}

pub fn step(name: &str) -> StepName {
    StepName::parse(name).unwrap()
}

pub fn done(name: &str, result: &'static str) -> StepNote {
    StepNote::done(step(name), Bytes::from_static(result.as_bytes()))
}

pub async fn noted(store: &PostgresStore, claim: &Claim, note: StepNote) {
    let noted = store.note(claim.digest(), claim.token(), note).await;
    assert_eq!(noted, Ok(()));
}

/// Until the call is in doubt: under which token.
async fn ended(store: &PostgresStore, key: &ScopedKey) -> FencingToken {
    loop {
        match store.claim(journaled(key, LEASE)).await.unwrap() {
            ClaimOutcome::InDoubt(doubt) => return doubt.token,
            ClaimOutcome::InProgress { retry_after } => tokio::time::sleep(retry_after).await,
            other => panic!("{other:?}"),
        }
    }
}

/// The claim of who goes on with a call.
async fn taken_over(store: &PostgresStore, key: &ScopedKey) -> Claim {
    let mut rerun = journaled(key, LEASE);
    rerun.rerun_of = Some(ended(store, key).await);
    given(store.claim(rerun).await.unwrap())
}

/// What was kept of the steps of a call whose request is there.
pub fn kept(claim: &Claim) -> Vec<(&str, Option<&str>)> {
    let journal = claim.journal().unwrap();
    assert_eq!(&journal.request()[..], REQUEST);
    let steps = journal.steps().iter().map(|step| {
        let result = step.result().map(|result| std::str::from_utf8(result));
        (step.name().as_str(), result.map(Result::unwrap))
    });
    steps.collect()
}

/// What operators see of the steps of a call.
async fn shown(store: &PostgresStore, key: &ScopedKey) -> Vec<(String, Option<u64>)> {
    let view = store.show(key.clone(), AnswerBytes::LeaveOut).await;
    let KeyView::Call(view) = view.unwrap() else {
        panic!("the call is there");
    };
    let steps = view.steps.into_iter();
    let steps = steps.map(|step| (step.name.to_string(), step.result_bytes));
    steps.collect()
}

pub type Values<'a> = [&'a (dyn tokio_postgres::types::ToSql + Sync); 3];

/// A claim by which its record is found.
pub fn told(claim: &Claim) -> (Vec<u8>, [i64; 2]) {
    let parts = [claim.token().incarnation(), claim.token().sequence()];
    let digest = claim.digest().as_bytes().to_vec();
    (digest, parts.map(|part| i64::try_from(part).unwrap()))
}

/// How many rows there are in journals.
pub async fn rows(server: &Server, schema: &str) -> i64 {
    let client = server.client().await;
    let sql = format!("SELECT count(*) FROM {schema}.journal");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}
