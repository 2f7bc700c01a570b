//! Whose call it is, and whether it is the same one.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::server::{DedupeOptions, Question, Refusal, Served, Wait};
use onlyonce_storage::{KeyError, KeyPolicy, KeyState, MemoryStore, Store, StoreId};
use tokio::sync::Notify;

use crate::protocol::{Ask, Effects, Handler, Told, done, send};

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::default())
}

fn served(told: &Told) -> Option<Served> {
    match told {
        Told::Done(_, served) => Some(*served),
        _ => None,
    }
}

// C1
#[tokio::test]
async fn a_key_reused_with_another_body_is_refused_and_the_record_stays() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    send(&server, Ask::new("k", "pay 10")).await;
    assert_eq!(
        send(&server, Ask::new("k", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    assert_eq!(effects.of("pay 99"), 0);
    let told = send(&server, Ask::new("k", "pay 10")).await;
    assert_eq!(told, Told::Done("pay 10 #1".to_owned(), Served::Replayed));
}

// C4
#[tokio::test]
async fn a_handler_that_changes_its_input_completes_the_record_it_claimed() {
    let server = Handler::new(|ask: Ask| async move {
        let changed = Ask::new("another", &format!("{} and more", ask.body));
        Ok(done(&changed.body))
    })
    .over(memory());
    send(&server, Ask::new("k", "pay")).await;
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Done("pay and more".to_owned(), Served::Replayed)
    );
}

// C6, C7: the first to arrive may be the wrong one, and the table of executions must not let it
// speak for the key.
#[tokio::test]
async fn the_fingerprint_is_compared_on_every_path() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let store = memory();
    let server = {
        let (effects, gate) = (effects.clone(), Arc::clone(&gate));
        Handler::new(move |ask: Ask| {
            let (effects, gate) = (effects.clone(), Arc::clone(&gate));
            async move {
                gate.notified().await;
                effects.apply(&ask.body);
                Ok(done(&ask.body))
            }
        })
    }
    .over(store.clone());
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay 10")).await }
    });
    while server.load().0 == 0 {
        tokio::task::yield_now().await;
    }
    // In progress, in this process and in another one.
    assert_eq!(
        send(&server, Ask::new("k", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    let elsewhere = Handler::applying(&effects).over(store.clone());
    assert_eq!(
        send(&elsewhere, Ask::new("k", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    gate.notify_one();
    owner.await.unwrap();
    // Completed, in this process and in another one.
    assert_eq!(
        send(&server, Ask::new("k", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    assert_eq!(
        send(&elsewhere, Ask::new("k", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    // In doubt.
    let failing = Handler::new(|_| async { panic!("who knows") }).over(store);
    send(&failing, Ask::new("d", "pay 10")).await;
    assert_eq!(
        send(&failing, Ask::new("d", "pay 99")).await,
        Told::Refused(Refusal::Mismatch)
    );
    assert_eq!(effects.total(), 1);
}

// C6: many wrong and right requests at once.
#[tokio::test(flavor = "multi_thread")]
async fn of_racing_requests_with_one_key_a_single_body_wins_and_only_it_is_answered() {
    for _ in 0..50 {
        let effects = Effects::default();
        let server = Handler::applying(&effects).over(memory());
        let calls: Vec<_> = (0..16)
            .map(|n| {
                let server = server.clone();
                let body = if n % 2 == 0 { "left" } else { "right" };
                tokio::spawn(async move { (body, send(&server, Ask::new("k", body)).await) })
            })
            .collect();
        let mut answered = Vec::new();
        for call in calls {
            match call.await.unwrap() {
                (body, Told::Done(answer, _)) => {
                    assert_eq!(answer, format!("{body} #1"));
                    answered.push(body);
                }
                (_, Told::Refused(Refusal::Mismatch)) => {}
                (_, told) => panic!("{told:?}"),
            }
        }
        answered.dedup();
        assert_eq!(answered.len(), 1);
        assert_eq!(effects.total(), 1);
    }
}

// C9
#[tokio::test]
async fn a_protected_request_without_a_key_is_refused_not_run_unprotected() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    let mut ask = Ask::new("k", "pay");
    ask.key = None;
    assert_eq!(send(&server, ask).await, Told::Refused(Refusal::KeyMissing));
    assert_eq!(effects.total(), 0);
}

// C12
#[tokio::test(start_paused = true)]
async fn a_tenant_cannot_tell_that_another_has_used_its_key() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    send(&server, Ask::new("taken", "pay").of("alice")).await;
    // What bob gets for a key that alice has used is what he gets for one that nobody has.
    for key in ["taken", "fresh"] {
        let told = send(&server, Ask::new(key, "something else").of("bob")).await;
        assert_eq!(served(&told), Some(Served::Executed), "{key}");
        let told = send(&server, Ask::new(key, "yet another").of("bob")).await;
        assert_eq!(told, Told::Refused(Refusal::Mismatch), "{key}");
    }
    let peeked = send(
        &server,
        Ask::new("taken", "").of("carol").asking(Question::Peek),
    )
    .await;
    assert_eq!(peeked, Told::State(KeyState::Absent));
}

// C13
#[tokio::test]
async fn a_caller_without_principal_is_refused_not_given_a_shared_scope() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    let mut ask = Ask::new("k", "pay");
    ask.principal = None;
    assert_eq!(
        send(&server, ask).await,
        Told::Refused(Refusal::ScopeMissing)
    );
    assert_eq!(effects.total(), 0);
}

// C18
#[tokio::test(start_paused = true)]
async fn two_layers_over_one_store_keep_their_own_options() {
    let effects = Effects::default();
    let store = memory();
    let mut impatient = DedupeOptions::default();
    impatient.wait = Wait::No;
    let patient = Handler::slow(&effects, Duration::from_secs(1)).over(store.clone());
    let impatient = Handler::applying(&effects).over_with(store, impatient);
    let owner = tokio::spawn({
        let patient = patient.clone();
        async move { send(&patient, Ask::new("k", "pay")).await }
    });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let refused = send(&impatient, Ask::new("k", "pay")).await;
    assert!(
        matches!(refused, Told::Refused(Refusal::InProgress { .. })),
        "{refused:?}"
    );
    let attached = send(&patient, Ask::new("k", "pay")).await;
    assert_eq!(attached, Told::Done("pay #1".to_owned(), Served::Attached));
    owner.await.unwrap();
}

// C19
#[tokio::test]
async fn a_deployed_change_of_the_digest_gives_no_false_mismatch() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    send(&server, Ask::new("k", "pay 10")).await;
    let mut after_deploy = Ask::new("k", "pay 10");
    after_deploy.algorithm = 2;
    let told = send(&server, after_deploy).await;
    assert_eq!(told, Told::Done("pay 10 #1".to_owned(), Served::Replayed));
    let mut other = Ask::new("k", "pay 11");
    other.algorithm = 2;
    assert_eq!(send(&server, other).await, Told::Refused(Refusal::Mismatch));
}

// C19
#[tokio::test]
async fn a_record_of_a_digest_this_version_does_not_know_is_refused_never_guessed() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    let mut newer = Ask::new("k", "pay");
    newer.algorithm = 7;
    send(&server, newer).await;
    let told = send(&server, Ask::new("k", "pay")).await;
    assert!(
        matches!(told, Told::Refused(Refusal::Unavailable { .. })),
        "{told:?}"
    );
    assert_eq!(effects.of("pay"), 1);
}

// C20
#[tokio::test]
async fn a_guessable_key_is_refused_when_the_policy_is_on() {
    let effects = Effects::default();
    let mut options = DedupeOptions::default();
    options.key_policy = KeyPolicy::entropy_bits_min(64.0);
    let server = Handler::applying(&effects).over_with(memory(), options);
    let refused = send(&server, Ask::new("1", "pay")).await;
    assert_eq!(
        refused,
        Told::Refused(Refusal::KeyMalformed(KeyError::Guessable))
    );
    let told = send(
        &server,
        Ask::new("8e03978e-40d5-43dd-bc93-6894a57f9324", "pay"),
    )
    .await;
    assert!(matches!(told, Told::Done(_, Served::Executed)), "{told:?}");
}

#[tokio::test]
async fn a_call_bound_to_another_store_is_refused_and_nothing_is_executed() {
    let effects = Effects::default();
    let store = memory();
    let here = store.id();
    let server = Handler::applying(&effects).over(store);
    let mut ask = Ask::new("k", "pay");
    ask.store = Some(StoreId::random());
    assert_eq!(
        send(&server, ask.clone()).await,
        Told::Refused(Refusal::Misdirected { here })
    );
    assert_eq!(effects.total(), 0);
    ask.store = Some(here);
    assert!(matches!(
        send(&server, ask).await,
        Told::Done(_, Served::Executed)
    ));
}

#[tokio::test]
async fn a_sealed_key_is_never_executed_and_a_seal_never_undoes_a_call() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(memory());
    let sealed = send(&server, Ask::new("k", "").asking(Question::Seal)).await;
    assert!(
        matches!(sealed, Told::State(KeyState::Sealed { .. })),
        "{sealed:?}"
    );
    assert_eq!(
        send(&server, Ask::new("k", "pay")).await,
        Told::Refused(Refusal::Stale)
    );
    assert_eq!(effects.total(), 0);

    send(&server, Ask::new("done", "pay")).await;
    let told = send(&server, Ask::new("done", "").asking(Question::Seal)).await;
    assert!(
        matches!(told, Told::State(KeyState::Completed(_))),
        "{told:?}"
    );
    let replayed = send(&server, Ask::new("done", "pay")).await;
    assert_eq!(replayed, Told::Done("pay #1".to_owned(), Served::Replayed));
}
