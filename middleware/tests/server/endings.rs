//! Owners that panic, hang, fail to record, or come back from the dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_middleware::server::{DedupeOptions, Question, Refusal, Served};
use onlyonce_storage::{
    Answer, AnswerFormat, DoubtReason, FencingToken, IdempotencyKey, Inspect, KeyState,
    ManualClock, MemoryOptions, MemoryStore, Operator, Resolution, Scope, ScopedKey, Store,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::protocol::{Ask, Effects, Handler, Told, done, send};
use crate::watched::Watched;

fn key(text: &str) -> ScopedKey {
    let scope = Scope::principal("tenant").unwrap();
    ScopedKey::new(scope, IdempotencyKey::parse(text).unwrap())
}

fn in_doubt(told: &Told) -> Option<DoubtReason> {
    match told {
        Told::Refused(Refusal::InDoubt(in_doubt)) => Some(in_doubt.reason),
        _ => None,
    }
}

// B15
#[tokio::test]
async fn a_handler_that_panics_leaves_its_call_in_doubt_and_the_key_taken() {
    let effects = Effects::default();
    let server = {
        let effects = effects.clone();
        Handler::new(move |ask: Ask| {
            effects.apply(&ask.body);
            async { panic!("after the effect") }
        })
    }
    .over(Arc::new(MemoryStore::default()));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
    let retried = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&retried), Some(DoubtReason::OwnerGone));
    assert_eq!(effects.of("pay"), 1);
    assert_eq!(server.load(), (0, 0));
}

// B15
#[tokio::test]
async fn a_handler_that_panics_while_it_is_called_leaves_its_call_in_doubt() {
    let handler = Handler::new(|_| -> std::future::Ready<_> { panic!("in `call` itself") });
    let server = handler.over(Arc::new(MemoryStore::default()));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
}

// B16
#[tokio::test]
async fn a_caller_who_goes_away_mid_handler_does_not_free_the_key_and_the_effect_is_whole() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let store = Arc::new(MemoryStore::default());
    let server = {
        let (effects, gate) = (effects.clone(), Arc::clone(&gate));
        Handler::new(move |ask: Ask| {
            let (effects, gate) = (effects.clone(), Arc::clone(&gate));
            async move {
                effects.apply("first half");
                gate.notified().await;
                effects.apply("second half");
                Ok(done(&ask.body))
            }
        })
    }
    .over(store.clone());
    let caller = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    while effects.of("first half") == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let state = store.peek(key("k")).await.unwrap();
    assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
    gate.notify_one();
    while server.load().0 > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        (effects.of("first half"), effects.of("second half")),
        (1, 1)
    );
    let retried = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(retried, Told::Done("pay".to_owned(), Served::Replayed));
}

#[tokio::test]
async fn a_runtime_that_shuts_down_leaves_what_was_running_in_doubt() {
    let effects = Effects::default();
    let store = Arc::new(MemoryStore::default());
    let server = {
        let effects = effects.clone();
        Handler::new(move |ask: Ask| {
            effects.apply(&ask.body);
            std::future::pending()
        })
    }
    .over(store.clone());
    let doomed = std::thread::spawn({
        let effects = effects.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await });
                while effects.total() == 0 {
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    doomed.join().unwrap();
    let state = store.peek(key("k")).await.unwrap();
    assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
    let retried = send(
        &Handler::applying(&effects).over(store),
        Ask::new("k", "pay"),
    )
    .await;
    assert!(in_doubt(&retried).is_some(), "{retried:?}");
    assert_eq!(effects.of("pay"), 1);
}

#[tokio::test]
async fn who_waits_for_a_call_whose_runtime_shuts_down_is_sent_back_to_ask_at_once() {
    let effects = Effects::default();
    let server = {
        let effects = effects.clone();
        Handler::new(move |ask: Ask| {
            effects.apply(&ask.body);
            std::future::pending()
        })
    }
    .over(Arc::new(MemoryStore::default()));
    let doomed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    doomed.spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    while effects.total() == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = send(&server, Ask::new("k", "pay"));
    tokio::pin!(waiting);
    assert_eq!(waiting.as_mut().now_or_never(), None);
    tokio::task::spawn_blocking(move || drop(doomed))
        .await
        .unwrap();
    // It is told now, not when it has waited for long enough.
    let told = waiting.now_or_never();
    assert!(
        matches!(told, Some(Told::Refused(Refusal::InProgress { .. }))),
        "{told:?}"
    );
    // What the store knows is what the next one hears.
    let retried = send(&server, Ask::new("k", "pay")).await;
    assert!(in_doubt(&retried).is_some(), "{retried:?}");
    assert_eq!(effects.of("pay"), 1);
}

// B14
#[tokio::test]
async fn an_answer_that_cannot_be_recorded_is_delivered_once_and_says_so() {
    let effects = Effects::default();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    let server = Handler::applying(&effects).over(store.clone());
    store.refuse_completions.store(true, Ordering::SeqCst);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Done("pay #1".to_owned(), Served::ExecutedUnrecorded)
    );
    store.refuse_completions.store(false, Ordering::SeqCst);
    let retried = send(&server, Ask::new("k", "pay")).await;
    assert!(in_doubt(&retried).is_some(), "{retried:?}");
    assert_eq!(effects.of("pay"), 1);
}

#[tokio::test]
async fn an_answer_too_large_to_record_is_delivered_once_and_leaves_the_call_in_doubt() {
    let server = Handler::new(|_| async { Ok(done(&"x".repeat(2 * 1024 * 1024))) })
        .over(Arc::new(MemoryStore::default()));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert!(matches!(told, Told::Done(_, Served::ExecutedUnrecorded)));
    let retried = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&retried), Some(DoubtReason::Unrecorded));
}

#[tokio::test]
async fn an_answer_in_doubt_that_is_too_large_to_keep_is_never_said_to_be_kept() {
    let server = Handler::new(|_| async {
        let body = "x".repeat(2 * 1024 * 1024);
        Ok(Told::Broken(body, Served::Unprotected))
    })
    .over(Arc::new(MemoryStore::default()));
    // Everybody hears the same: that it is in doubt.
    for _ in 0..2 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert!(in_doubt(&told).is_some());
    }
}

#[tokio::test]
async fn a_lease_without_end_can_be_said() {
    let effects = Effects::default();
    let mut options = DedupeOptions::default();
    options.lease = Duration::MAX;
    let store = Arc::new(MemoryStore::default());
    let server = Handler::applying(&effects).over_with(store, options);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
}

// B11
#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_renew_stops_its_handler_before_its_lease_ends() {
    let effects = Effects::default();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    store.refuse_renewals.store(true, Ordering::SeqCst);
    let mut options = DedupeOptions::default();
    options.lease = Duration::from_secs(30);
    let handler = Handler::slow(&effects, Duration::from_secs(31));
    let server = handler.over_with(store, options);
    let began = tokio::time::Instant::now();
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    assert!(began.elapsed() < Duration::from_secs(30));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(effects.total(), 0, "the handler was stopped");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_renews_may_take_many_leases() {
    let effects = Effects::default();
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let mut options = DedupeOptions::default();
    options.lease = Duration::from_secs(3);
    let server = Handler::slow(&effects, Duration::from_secs(30)).over_with(store.clone(), options);
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    for _ in 0..28 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.advance(Duration::from_secs(1));
        let state = store.peek(key("k")).await.unwrap();
        assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
    }
    assert_eq!(
        owner.await.unwrap(),
        Told::Done("pay #1".to_owned(), Served::Executed)
    );
}

/// An owner whose process is frozen while its handler runs.
struct Frozen {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    gate: Arc<Notify>,
    caller: JoinHandle<Told>,
}

impl Frozen {
    /// The handler will answer `ending`.
    async fn before(ending: Told) -> Self {
        let gate = Arc::new(Notify::new());
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::with_options(
            MemoryOptions::new().clock(clock.clone()),
        ));
        let zombie = {
            let gate = Arc::clone(&gate);
            Handler::new(move |_| {
                let (gate, ending) = (Arc::clone(&gate), ending.clone());
                async move {
                    gate.notified().await;
                    Ok(ending)
                }
            })
        }
        .over(store.clone());
        let caller = tokio::spawn(async move { send(&zombie, Ask::new("k", "pay")).await });
        while !matches!(
            store.peek(key("k")).await.unwrap(),
            KeyState::InProgress { .. }
        ) {
            tokio::task::yield_now().await;
        }
        Self {
            store,
            clock,
            gate,
            caller,
        }
    }

    /// Its lease lapses: what names the doubt.
    async fn lapsed(&self) -> FencingToken {
        self.clock.advance(Duration::from_secs(31));
        let KeyState::InDoubt(doubt) = self.store.peek(key("k")).await.unwrap() else {
            panic!("the lease has lapsed");
        };
        doubt.token
    }

    async fn resolve(&self, token: FencingToken, resolution: Resolution) {
        let resolved = {
            let by = Operator::parse("test").unwrap();
            self.store.resolve(key("k"), token, resolution, by).await
        };
        resolved.unwrap();
    }

    /// What its caller is told once it goes on.
    async fn thaw(self) -> Told {
        self.gate.notify_one();
        self.caller.await.unwrap()
    }
}

/// An owner whose lease lapsed, and a successor that took over after an operator said that nothing
/// was applied.
async fn taken_over(ending: Told) -> (Told, Told, Effects) {
    let effects = Effects::default();
    let frozen = Frozen::before(ending).await;
    let token = frozen.lapsed().await;
    let successor = Handler::applying(&effects).over(frozen.store.clone());
    // The claim writes the doubt down, so that it can be resolved.
    let told = send(&successor, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    frozen.resolve(token, Resolution::NotApplied).await;
    let first = send(&successor, Ask::new("k", "pay")).await;
    let late = frozen.thaw().await;
    let replayed = send(&successor, Ask::new("k", "pay")).await;
    assert_eq!(first, Told::Done("pay #1".to_owned(), Served::Executed));
    assert_eq!(replayed, Told::Done("pay #1".to_owned(), Served::Replayed));
    (first, late, effects)
}

// B6, B13
#[tokio::test]
async fn a_zombie_that_completes_after_a_takeover_changes_nothing_and_is_told_in_doubt() {
    let (_, late, effects) = taken_over(done("the zombie's own answer")).await;
    // The successor's answer says nothing about what the zombie's own handler did.
    assert_eq!(in_doubt(&late), Some(DoubtReason::Unrecorded));
    assert_eq!(effects.of("pay"), 1);
}

#[tokio::test]
async fn a_zombie_never_gets_the_answer_of_another_request() {
    for ending in [
        done("own"),
        Told::Broken("own".to_owned(), Served::Unprotected),
        Told::TryLater(Served::Unprotected),
    ] {
        let frozen = Frozen::before(ending).await;
        let token = frozen.lapsed().await;
        frozen.resolve(token, Resolution::NotApplied).await;
        // The key is free: somebody uses it for something else.
        let effects = Effects::default();
        let successor = Handler::applying(&effects).over(frozen.store.clone());
        let other = send(&successor, Ask::new("k", "pay 99")).await;
        assert_eq!(other, Told::Done("pay 99 #1".to_owned(), Served::Executed));
        let late = frozen.thaw().await;
        assert!(!matches!(late, Told::Done(..)), "{late:?}");
    }
}

#[tokio::test]
async fn what_an_operator_said_of_a_frozen_owners_call_is_what_its_caller_gets() {
    for ending in [
        done("own"),
        Told::Broken("own".to_owned(), Served::Unprotected),
    ] {
        let frozen = Frozen::before(ending).await;
        let token = frozen.lapsed().await;
        let answer = Answer::new(AnswerFormat::new(1), "+it happened");
        frozen.resolve(token, Resolution::Applied(answer)).await;
        let late = frozen.thaw().await;
        assert_eq!(late, Told::Done("it happened".to_owned(), Served::Replayed));
    }
}

// B7, B13
#[tokio::test]
async fn a_zombie_that_releases_after_a_takeover_does_not_free_the_successors_key() {
    let (_, _, effects) = taken_over(Told::TryLater(Served::Unprotected)).await;
    assert_eq!(effects.of("pay"), 1);
}

#[tokio::test]
async fn what_became_known_of_a_doubt_is_what_everybody_gets() {
    let store = Arc::new(MemoryStore::default());
    let server = Handler::new(|_| async { panic!("who knows") }).over(store.clone());
    send(&server, Ask::new("k", "pay")).await;
    let Told::State(KeyState::InDoubt(doubt)) =
        send(&server, Ask::new("k", "").asking(Question::Peek)).await
    else {
        panic!("in doubt");
    };
    let answer = Answer::new(AnswerFormat::new(1), "+it happened");
    store
        .resolve(
            key("k"),
            doubt.token,
            Resolution::Applied(answer),
            Operator::parse("test").unwrap(),
        )
        .await
        .unwrap();
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("it happened".to_owned(), Served::Replayed));
}
