//! A hook asks the outside world what became of a call in doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_middleware::server::{
    DedupeLayer, DedupeOptions, InDoubtPolicy, Reconciled, Refusal, Served, Wait,
};
use onlyonce_storage::{DoubtReason, Inspect, KeyState, MemoryStore, Operator, Resolution, Store};
use tokio::sync::{Barrier, Notify};
use tower::Layer;

use crate::doubts::{Frozen, Outside, after_a_panic, answer, finding, in_doubt, key, reconcile};
use crate::protocol::{Ask, Effects, Handler, Plain, Server, Told, done, send};
use crate::watched::Watched;

fn not_executed(told: &Told) -> bool {
    matches!(
        told,
        Told::Refused(Refusal::InProgress { .. } | Refusal::DeadlinePassed { executing: false })
    )
}

// B2
#[tokio::test]
async fn what_the_outside_world_knows_to_be_applied_is_replayed_and_never_runs_again() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let (policy, asked) = finding(Reconciled::Applied(answer("receipt 7")));
    let server = Handler::applying(&effects).over_policy(store.clone(), policy);
    for _ in 0..3 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(told, Told::Done("receipt 7".to_owned(), Served::Replayed));
    }
    assert_eq!((asked.load(Ordering::SeqCst), effects.of("pay")), (1, 1));
    // It is the record's, whoever serves it.
    let plain = Handler::applying(&effects).over(store);
    let told = send(&plain, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("receipt 7".to_owned(), Served::Replayed));
}

// B2, B3
#[tokio::test]
async fn what_was_not_applied_runs_again_when_its_owner_is_known_to_be_gone() {
    let outside = Outside::new();
    let store = after_a_panic(&outside.effects, false).await;
    let (policy, asked) = finding(Reconciled::NotApplied);
    let server = outside.handler().over_policy(store, policy);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Replayed));
    assert_eq!(
        (asked.load(Ordering::SeqCst), outside.effects.of("pay")),
        (1, 1)
    );
}

#[tokio::test]
async fn the_hook_is_told_the_key_the_reason_and_whether_the_owner_is_gone() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let KeyState::InDoubt(known) = store.peek(key("k")).await.unwrap() else {
        panic!("it is in doubt");
    };
    let policy = InDoubtPolicy::Reconcile(reconcile(move |doubt| {
        assert_eq!(doubt.key, key("k"));
        assert_eq!((doubt.token, doubt.since), (known.token, known.since));
        assert_eq!((doubt.reason, doubt.answer), (DoubtReason::OwnerGone, None));
        assert!(doubt.owner_known_gone);
        std::future::ready(Ok(Reconciled::Applied(answer("seen"))))
    }));
    let server = Handler::applying(&effects).over_policy(store, policy);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("seen".to_owned(), Served::Replayed));
}

// B10: the hook is right, and the frozen owner applies it a moment later.
#[tokio::test]
async fn not_applied_ends_nothing_while_the_owner_may_still_be_at_work() {
    let outside = Outside::new();
    let frozen = Frozen::applying(&outside).await;
    frozen.lapses();
    let (policy, asked) = finding(Reconciled::NotApplied);
    let server = outside
        .handler()
        .over_policy(frozen.store.clone(), policy.clone());
    for _ in 0..2 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    }
    assert_eq!(
        (asked.load(Ordering::SeqCst), outside.effects.total()),
        (2, 0)
    );
    let late = frozen.thaw().await;
    assert_eq!(
        late,
        Told::Done("the first run's".to_owned(), Served::Executed)
    );
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Done("the first run's".to_owned(), Served::Replayed)
    );
    assert_eq!(outside.effects.of("pay"), 1);
}

// B6, B10
#[tokio::test]
async fn an_outside_world_that_enforces_tokens_permits_a_rerun_beside_a_living_owner() {
    let outside = Outside::that_enforces_fencing();
    let frozen = Frozen::applying(&outside).await;
    frozen.lapses();
    let hook = reconcile(|doubt| {
        assert!(!doubt.owner_known_gone);
        std::future::ready(Ok(Reconciled::NotApplied))
    });
    let policy = InDoubtPolicy::Reconcile(hook.outside_enforces_fencing());
    let server = outside.handler().over_policy(frozen.store.clone(), policy);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
    let late = frozen.thaw().await;
    assert!(in_doubt(&late).is_some(), "{late:?}");
    assert_eq!(outside.effects.of("pay"), 1, "the zombie is refused");
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Replayed));
}

// B11: the record says no more than "lapsed", but this process has dropped the handler itself.
#[tokio::test(start_paused = true)]
async fn an_owner_that_has_stopped_its_handler_is_known_to_be_gone() {
    let outside = Outside::new();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    let (policy, _) = finding(Reconciled::NotApplied);
    let slow = {
        let outside = outside.clone();
        Handler::new(move |ask: Ask| {
            let outside = outside.clone();
            async move {
                if !ask.execution.unwrap().is_rerun() {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                outside.apply(&ask);
                Ok(done("paid"))
            }
        })
    };
    let server = slow.over_policy(store.clone(), policy);
    store.refuse_renewals.store(true, Ordering::SeqCst);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(outside.effects.of("pay"), 1);
}

// A1, B9
#[tokio::test]
async fn of_many_duplicates_of_a_call_in_doubt_one_asks_and_all_get_the_same_answer() {
    for found in [
        Reconciled::Applied(answer("paid")),
        Reconciled::NotApplied,
        Reconciled::StillUnknown,
    ] {
        let outside = Outside::new();
        let store = after_a_panic(&Effects::default(), false).await;
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let hook = {
            let (found, asked, gate) = (found.clone(), Arc::clone(&asked), Arc::clone(&gate));
            reconcile(move |_| {
                let (found, gate) = (found.clone(), Arc::clone(&gate));
                asked.fetch_add(1, Ordering::SeqCst);
                async move {
                    gate.notified().await;
                    Ok(found)
                }
            })
        };
        let server = outside
            .handler()
            .over_policy(store, InDoubtPolicy::Reconcile(hook));
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let server = server.clone();
                tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await })
            })
            .collect();
        while server.load() != (1, 63) {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for caller in callers {
            let told = caller.await.unwrap();
            match &found {
                Reconciled::StillUnknown => assert!(in_doubt(&told).is_some(), "{told:?}"),
                _ => assert!(
                    matches!(&told, Told::Done(body, _) if body == "paid"),
                    "{told:?}"
                ),
            }
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(outside.effects.total() <= 1);
    }
}

// A3
#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_for_the_hook_no_longer_than_for_an_execution() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let hook = reconcile(|_| async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok(Reconciled::Applied(answer("paid")))
    });
    let mut options = DedupeOptions::default();
    options.wait = Wait::UpTo(Duration::from_secs(1));
    let server = DedupeLayer::with_options(store, Plain, options)
        .in_doubt(InDoubtPolicy::Reconcile(hook))
        .layer(Handler::applying(&effects));
    let first = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let began = tokio::time::Instant::now();
    let hasty = send(&server, Ask::new("k", "pay").within(Duration::from_secs(9))).await;
    assert!(not_executed(&hasty), "{hasty:?}");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(
        first.await.unwrap(),
        Told::Done("paid".to_owned(), Served::Replayed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_panics_hangs_or_cannot_say_leaves_the_call_in_doubt() {
    let policies = [
        InDoubtPolicy::Reconcile(reconcile(|_| async { Err("no route".to_owned()) })),
        InDoubtPolicy::Reconcile(reconcile(|_| async { panic!("later") })),
        InDoubtPolicy::Reconcile(reconcile(|_| -> std::future::Ready<_> {
            panic!("at once")
        })),
        InDoubtPolicy::Reconcile(reconcile(|_| std::future::pending())),
        finding(Reconciled::StillUnknown).0,
    ];
    for policy in policies {
        let effects = Effects::default();
        let store = after_a_panic(&effects, true).await;
        let server = Handler::applying(&effects).over_policy(store.clone(), policy);
        let began = tokio::time::Instant::now();
        for _ in 0..2 {
            let told = send(&server, Ask::new("k", "pay")).await;
            assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
        }
        assert!(began.elapsed() <= Duration::from_secs(10));
        assert_eq!(server.load(), (0, 0));
        // The next one may find out.
        let (policy, _) = finding(Reconciled::Applied(answer("paid")));
        let server = Handler::applying(&effects).over_policy(store, policy);
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(told, Told::Done("paid".to_owned(), Served::Replayed));
        assert_eq!(effects.of("pay"), 1);
    }
}

// D4
#[tokio::test]
async fn an_answer_that_is_kept_with_a_doubt_is_told_until_more_is_known() {
    let broken =
        || Handler::new(|_| async { Ok(Told::Broken("500".to_owned(), Served::Unprotected)) });
    let (unknown, asked) = finding(Reconciled::StillUnknown);
    let store = Arc::new(MemoryStore::default());
    let server = broken().over_policy(store.clone(), unknown);
    for _ in 0..3 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(told, Told::Broken("500".to_owned(), Served::InDoubt));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "not by the first");
    let (known, _) = finding(Reconciled::Applied(answer("paid")));
    let told = send(&broken().over_policy(store, known), Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Replayed));
}

#[tokio::test(start_paused = true)]
async fn the_outside_world_is_asked_about_a_bounded_number_of_calls_at_once() {
    const CALLS: usize = 12;
    let store = Arc::new(MemoryStore::default());
    let panics = Handler::new(|_| async { panic!("who knows") }).over(store.clone());
    for number in 0..CALLS {
        send(&panics, Ask::new(&number.to_string(), "pay")).await;
    }
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let hook = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        reconcile(move |_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(at_once, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(2)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Reconciled::Applied(answer("paid")))
            }
        })
    };
    let mut options = DedupeOptions::default();
    options.reconciles_max = 2;
    let server: Server = DedupeLayer::with_options(store, Plain, options)
        .in_doubt(InDoubtPolicy::Reconcile(hook))
        .layer(Handler::new(|_| async { panic!("never again") }));
    let callers: Vec<_> = (0..CALLS)
        .map(|number| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, Ask::new(&number.to_string(), "pay")).await })
        })
        .collect();
    let (mut known, mut crowded) = (0, 0);
    for caller in callers {
        match caller.await.unwrap() {
            Told::Done(..) => known += 1,
            told => crowded += usize::from(in_doubt(&told).is_some()),
        }
    }
    // Three rounds of two seconds begin within the five that a call waits for its turn.
    assert_eq!((known, crowded), (6, CALLS - 6));
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

// B9
#[tokio::test]
async fn of_two_processes_that_reconcile_one_doubt_one_is_recorded_and_both_tell_it() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let both = Arc::new(Barrier::new(2));
    let asking = |body: &'static str| {
        let both = Arc::clone(&both);
        let hook = reconcile(move |_| {
            let both = Arc::clone(&both);
            async move {
                both.wait().await;
                Ok(Reconciled::Applied(answer(body)))
            }
        });
        Handler::applying(&effects).over_policy(store.clone(), InDoubtPolicy::Reconcile(hook))
    };
    let (one, other) = (asking("one"), asking("other"));
    let (one, other) = tokio::join!(
        send(&one, Ask::new("k", "pay")),
        send(&other, Ask::new("k", "pay"))
    );
    assert_eq!(one, other);
    assert!(matches!(one, Told::Done(..)), "{one:?}");
    assert_eq!(effects.of("pay"), 1);
}

// B8: the owner comes back while the outside world is asked.
#[tokio::test]
async fn an_owner_that_completes_while_its_call_is_reconciled_has_said_the_last_word() {
    for found in [
        Reconciled::Applied(answer("from outside")),
        Reconciled::NotApplied,
    ] {
        let outside = Outside::new();
        let frozen = Frozen::applying(&outside).await;
        frozen.lapses();
        let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let hook = {
            let (asked, go_on) = (Arc::clone(&asked), Arc::clone(&go_on));
            reconcile(move |_| {
                let (found, asked, go_on) = (found.clone(), Arc::clone(&asked), Arc::clone(&go_on));
                async move {
                    asked.notify_one();
                    go_on.notified().await;
                    Ok(found)
                }
            })
        };
        let policy = InDoubtPolicy::Reconcile(hook.outside_enforces_fencing());
        let server = outside.handler().over_policy(frozen.store.clone(), policy);
        let caller = tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await });
        asked.notified().await;
        let first = frozen.thaw().await;
        go_on.notify_one();
        let body = "the first run's".to_owned();
        assert_eq!(first, Told::Done(body.clone(), Served::Executed));
        assert_eq!(caller.await.unwrap(), Told::Done(body, Served::Replayed));
        assert_eq!(outside.effects.of("pay"), 1);
    }
}

// B2, B8: the operator looks, the hook looks, and they see different things. What one of them has seen
// applied is not executed once more because the other has not.
#[tokio::test]
async fn what_the_hook_finds_applied_does_not_run_though_an_operator_said_not_applied() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let operator = Arc::clone(&store);
    let hook = reconcile(move |doubt| {
        let operator = Arc::clone(&operator);
        async move {
            let by = Operator::parse("night-shift").unwrap();
            let resolved = operator.resolve(doubt.key, doubt.token, Resolution::NotApplied, by);
            assert_eq!(resolved.await, Ok(()));
            Ok(Reconciled::Applied(answer("receipt 7")))
        }
    });
    let server =
        Handler::applying(&effects).over_policy(store.clone(), InDoubtPolicy::Reconcile(hook));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(effects.of("pay"), 1);
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
    // It is in doubt again, for everybody, and can be ended like any other doubt.
    let (policy, _) = finding(Reconciled::Applied(answer("receipt 7")));
    let server = Handler::applying(&effects).over_policy(store, policy);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("receipt 7".to_owned(), Served::Replayed));
    assert_eq!(effects.of("pay"), 1);
}

// Somebody else ran it again meanwhile, and that is in doubt as well: it is for the next to ask.
#[tokio::test]
async fn an_attempt_asks_once_whatever_becomes_of_the_doubt() {
    let outside = Outside::new();
    let store = after_a_panic(&Effects::default(), false).await;
    let panics = Handler::new(|_| async { panic!("again") })
        .over_policy(store.clone(), InDoubtPolicy::RerunDeclaredSafe);
    let asked = Arc::new(AtomicUsize::new(0));
    let hook = {
        let asked = Arc::clone(&asked);
        reconcile(move |_| {
            let (asked, panics) = (Arc::clone(&asked), panics.clone());
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                send(&panics, Ask::new("k", "pay")).await;
                Ok(Reconciled::NotApplied)
            }
        })
    };
    let server = outside
        .handler()
        .over_policy(store, InDoubtPolicy::Reconcile(hook));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert!(in_doubt(&told).is_some(), "{told:?}");
    assert_eq!(
        (asked.load(Ordering::SeqCst), outside.effects.total()),
        (1, 0)
    );
}

#[tokio::test]
async fn what_was_applied_and_is_too_large_to_record_stays_in_doubt_as_it_was() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, true).await;
    let (policy, _) = finding(Reconciled::Applied(answer(&"x".repeat(2 * 1024 * 1024))));
    let server = Handler::applying(&effects).over_policy(store, policy);
    for _ in 0..2 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
    }
    assert_eq!(effects.of("pay"), 1);
}

// C1
#[tokio::test]
async fn nothing_is_asked_about_another_request_or_a_key_that_is_not_in_doubt() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, false).await;
    let (policy, asked) = finding(Reconciled::NotApplied);
    let server = Handler::applying(&effects).over_policy(store.clone(), policy);
    let told = send(&server, Ask::new("k", "another body")).await;
    assert_eq!(told, Told::Refused(Refusal::Mismatch));
    store.seal(key("sealed")).await.unwrap();
    let told = send(&server, Ask::new("sealed", "pay")).await;
    assert_eq!(told, Told::Refused(Refusal::Stale));
    send(&server, Ask::new("new", "pay")).await;
    send(&server, Ask::new("new", "pay")).await;
    assert_eq!((asked.load(Ordering::SeqCst), effects.total()), (0, 1));
}
