//! What a journaled handler's steps promise, and what becomes of a call whose run ends half-way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onlyonce_middleware::server::{Refusal, Served, StepError, Unfinished};
use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::{
    DoubtReason, FencingToken, InDoubt, Journal, KeyState, ManualClock, MemoryOptions, MemoryStore,
    StepName, Store,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::doubts::{in_doubt, key};
use crate::journaled_calls::{Peer, is_in_progress, journaled, result, unknown};
use crate::protocol::{Ask, Effects, Handler, NoAnswer, Told, done, send};
use crate::watched::Watched;

fn order() -> Ask {
    Ask::new("k", "order")
}

fn executed(body: &str) -> Told {
    Told::Done(body.to_owned(), Served::Executed)
}

async fn doubt(store: &MemoryStore) -> InDoubt {
    match store.peek(key("k")).await.unwrap() {
        KeyState::InDoubt(doubt) => doubt,
        other => panic!("{other:?}"),
    }
}

async fn resolve(store: &MemoryStore, token: FencingToken, step: &str, what: StepResolution) {
    let step = StepName::parse(step).unwrap();
    let resolved = store.resolve_step(key("k"), token, step, what).await;
    resolved.unwrap();
}

fn watching() -> (Arc<Watched>, MemoryStore) {
    let memory = MemoryStore::default();
    let watched = Watched::new(Arc::new(memory.clone()));
    watched.journals.store(true, Ordering::SeqCst);
    (watched, memory)
}

/// Charges at the peer, then ships once; what is told of the shipping stands in the function.
fn shop<F>(peer: &Peer, shipped: &Effects, ship: F) -> Handler
where
    F: Fn(u32) -> Result<(), Unfinished> + Clone + Send + Sync + 'static,
{
    let (peer, shipped) = (peer.clone(), shipped.clone());
    journaled(move |run, steps, _| {
        let (peer, shipped, ship) = (peer.clone(), shipped.clone(), ship.clone());
        async move {
            steps
                .run_keyed("charge", async |run| Ok(peer.ask(&run)))
                .await?;
            let ship = async |_| {
                ship(run)?;
                shipped.apply("ship");
                Ok("shipped".into())
            };
            steps.run_once("ship", ship).await?;
            Ok(done(&format!("run {run}")))
        }
    })
}

// B1
#[tokio::test]
async fn a_step_that_is_finished_is_not_run_again_by_the_next_run() {
    let (peer, shipped) = (Peer::default(), Effects::default());
    let closed = |run| match run {
        0 => Err(Unfinished::NotExecuted("closed".to_owned())),
        _ => Ok(()),
    };
    let server = shop(&peer, &shipped, closed).over(Arc::new(MemoryStore::default()));
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!((peer.asked(), shipped.total()), (1, 0));
    assert_eq!(send(&server, order()).await, executed("run 1"));
    assert_eq!((peer.asked(), shipped.total()), (1, 1));
    let replayed = Told::Done("run 1".to_owned(), Served::Replayed);
    assert_eq!(send(&server, order()).await, replayed);
    assert_eq!((peer.asked(), shipped.total()), (1, 1));
}

// B1
#[tokio::test]
async fn a_keyed_step_without_a_result_is_asked_for_again_with_the_same_key() {
    let peer = Peer::default();
    let server = {
        let peer = peer.clone();
        journaled(move |run, steps, _| {
            let peer = peer.clone();
            async move {
                let charge = async |step| match (peer.ask(&step), run) {
                    (_, 0) => Err(unknown()),
                    (answer, _) => Ok(answer),
                };
                let answer = steps.run_keyed("charge", charge).await?;
                Ok(done(std::str::from_utf8(&answer).unwrap()))
            }
        })
        .over(Arc::new(MemoryStore::default()))
    };
    assert!(is_in_progress(&send(&server, order()).await));
    let told = send(&server, order()).await;
    assert!(matches!(told, Told::Done(_, Served::Executed)), "{told:?}");
    assert_eq!((peer.asked(), peer.effects()), (2, 1));
}

// B6: nobody can know, so nobody runs it again.
#[tokio::test]
async fn a_once_step_that_was_cut_off_is_in_doubt_until_somebody_says_what_became_of_it() {
    for (what, effects) in [
        (StepResolution::Done("by hand".into()), 1),
        (StepResolution::NotExecuted, 2),
    ] {
        let (peer, shipped) = (Peer::default(), Effects::default());
        let store = MemoryStore::default();
        let seen = shipped.clone();
        let dies = move |run| {
            if run == 0 {
                seen.apply("ship");
                panic!("in the step");
            }
            Ok(())
        };
        let server = shop(&peer, &shipped, dies).over(Arc::new(store.clone()));
        for _ in 0..3 {
            let told = send(&server, order()).await;
            assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed), "{told:?}");
        }
        assert_eq!(shipped.total(), 1);
        resolve(&store, doubt(&store).await.token, "ship", what).await;
        assert_eq!(send(&server, order()).await, executed("run 1"));
        assert_eq!((peer.asked(), shipped.total()), (1, effects));
    }
}

#[tokio::test]
async fn a_once_step_that_says_it_does_not_know_leaves_its_call_in_doubt() {
    let (peer, shipped) = (Peer::default(), Effects::default());
    let store = MemoryStore::default();
    let server = shop(&peer, &shipped, |_| Err(unknown())).over(Arc::new(store.clone()));
    for _ in 0..2 {
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
    }
    let what = StepResolution::Done("shipped".into());
    resolve(&store, doubt(&store).await.token, "ship", what).await;
    assert_eq!(send(&server, order()).await, executed("run 1"));
}

// B18, B19
#[tokio::test(start_paused = true)]
async fn a_once_step_that_is_dropped_half_way_leaves_its_call_in_doubt_whatever_is_answered() {
    let server = journaled(|_, steps, _| async move {
        let ship = async |_| {
            sleep(Duration::from_secs(5)).await;
            Ok("shipped".into())
        };
        let shipping = steps.run_once("ship", ship);
        let _ = timeout(Duration::from_secs(1), shipping).await;
        Ok(done("all is well"))
    })
    .over(Arc::new(MemoryStore::default()));
    for _ in 0..2 {
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed), "{told:?}");
    }
}

// B6, B7
#[tokio::test]
async fn a_run_that_was_superseded_begins_no_step() {
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions::new().clock(clock.clone());
    let store = MemoryStore::with_options(options);
    let (gate, effects) = (Arc::new(Notify::new()), Effects::default());
    let errors = Arc::new(Mutex::new(Vec::new()));
    let zombie = {
        let (gate, effects, errors) = (gate.clone(), effects.clone(), errors.clone());
        journaled(move |_, steps, _| {
            let (gate, effects, errors) = (gate.clone(), effects.clone(), errors.clone());
            async move {
                steps.run_once("first", |_| result("1")).await?;
                gate.notified().await;
                let second = async |_| {
                    effects.apply("second");
                    Ok("2".into())
                };
                let second = steps.run_once("second", second).await;
                errors.lock().push(second.unwrap_err());
                Err(NoAnswer)
            }
        })
        .over(Arc::new(store.clone()))
    };
    let caller = tokio::spawn(async move { send(&zombie, order()).await });
    let is_held = || async {
        let state = store.peek(key("k")).await.unwrap();
        matches!(state, KeyState::InProgress { .. })
    };
    while !is_held().await {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(31));
    let elsewhere = {
        let effects = effects.clone();
        journaled(move |_, steps, _| {
            let effects = effects.clone();
            async move {
                steps.run_once("first", |_| result("again")).await?;
                let second = async |_| {
                    effects.apply("second");
                    Ok("2".into())
                };
                steps.run_once("second", second).await?;
                Ok(done("elsewhere"))
            }
        })
        .over(Arc::new(store.clone()))
    };
    assert_eq!(send(&elsewhere, order()).await, executed("elsewhere"));
    gate.notify_one();
    let told = caller.await.unwrap();
    assert!(is_in_progress(&told), "{told:?}");
    assert_eq!(*errors.lock(), [StepError::Superseded]);
    assert_eq!(effects.of("second"), 1);
    let state = store.peek(key("k")).await.unwrap();
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
}

#[tokio::test]
async fn whatever_is_answered_after_a_step_without_a_result_is_not_the_answer() {
    let answers = [
        Ok(done("all is well")),
        Err(NoAnswer),
        Ok(Told::TryLater(Served::Unprotected)),
        Ok(Told::Broken("500".to_owned(), Served::Unprotected)),
    ];
    for answer in answers {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let store = MemoryStore::default();
        let server = journaled(move |run, steps, _| {
            let answer = answer.clone();
            async move {
                let charge = async |_| match run {
                    0 => Err(unknown()),
                    _ => Ok("1".into()),
                };
                match (steps.run_keyed("charge", charge).await, run) {
                    (Err(_), _) => answer.lock().take().unwrap(),
                    (Ok(_), _) => Ok(done("charged")),
                }
            }
        })
        .over(Arc::new(store));
        let told = send(&server, order()).await;
        assert!(is_in_progress(&told), "{told:?}");
        assert_eq!(send(&server, order()).await, executed("charged"));
    }
}

#[tokio::test]
async fn after_a_step_without_a_result_no_other_begins() {
    let effects = Effects::default();
    let seen = effects.clone();
    let server = journaled(move |_, steps, _| {
        let effects = effects.clone();
        async move {
            let first = steps.run_keyed("first", |_| std::future::ready(Err(unknown())));
            drop(first.await);
            let second = async |_| {
                effects.apply("second");
                Ok("2".into())
            };
            let second = steps.run_once("second", second).await;
            assert_eq!(second, Err(StepError::Interrupted));
            Err(NoAnswer)
        }
    })
    .over(Arc::new(MemoryStore::default()));
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!(seen.total(), 0);
}

#[tokio::test]
async fn not_executed_is_believed_before_the_first_step_and_never_after_one() {
    let store = MemoryStore::default();
    let server = journaled(|run, steps, _| async move {
        let later = Ok(Told::TryLater(Served::Unprotected));
        if run == 0 {
            return later;
        }
        steps.run_keyed("charge", |_| result("1")).await?;
        if run == 1 {
            return later;
        }
        Ok(done("charged"))
    })
    .over(Arc::new(store.clone()));
    let told = send(&server, order()).await;
    assert_eq!(told, Told::TryLater(Served::NotExecuted));
    assert_eq!(store.peek(key("k")).await.unwrap(), KeyState::Absent);
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!(doubt(&store).await.reason, DoubtReason::OwnerGone);
    assert_eq!(send(&server, order()).await, executed("charged"));
}

#[tokio::test]
async fn not_executed_of_a_later_run_is_not_believed_though_no_step_is_kept() {
    let store = MemoryStore::default();
    let server = journaled(|run, steps, _| async move {
        match run {
            // It may have had its effect.
            0 => drop(
                steps
                    .run_keyed("charge", |_| std::future::ready(Err(unknown())))
                    .await,
            ),
            1 => return Ok(Told::TryLater(Served::Unprotected)),
            _ => {}
        }
        Ok(done("charged"))
    })
    .over(Arc::new(store.clone()));
    for _ in 0..2 {
        assert!(is_in_progress(&send(&server, order()).await));
        assert_eq!(doubt(&store).await.reason, DoubtReason::OwnerGone);
    }
    assert_eq!(send(&server, order()).await, executed("charged"));
}

#[tokio::test]
async fn a_name_that_is_used_twice_or_is_none_stops_the_run() {
    for (second, expected) in [
        ("charge", Some(StepError::NameTwice)),
        ("two words", None),
        ("", None),
    ] {
        let effects = Effects::default();
        let seen = effects.clone();
        let server = journaled(move |_, steps, _| {
            let (effects, expected) = (effects.clone(), expected.clone());
            async move {
                steps.run_keyed("charge", |_| result("1")).await?;
                let twice = async |_| {
                    effects.apply("twice");
                    Ok("2".into())
                };
                let error = steps.run_once(second, twice).await.unwrap_err();
                match expected {
                    Some(expected) => assert_eq!(error, expected),
                    None => assert!(matches!(error, StepError::Name(_)), "{error:?}"),
                }
                Ok(done("all is well"))
            }
        })
        .over(Arc::new(MemoryStore::default()));
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone), "{told:?}");
        assert_eq!(seen.total(), 0);
    }
}

// A4
#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_steps_run_stops_none_of_them() {
    let (peer, shipped) = (Peer::default(), Effects::default());
    let (slow_peer, slow_ship) = (peer.clone(), shipped.clone());
    let server = journaled(move |_, steps, _| {
        let (peer, shipped) = (slow_peer.clone(), slow_ship.clone());
        async move {
            let charge = async |run| {
                sleep(Duration::from_secs(3)).await;
                Ok(peer.ask(&run))
            };
            steps.run_keyed("charge", charge).await?;
            let ship = async |_| {
                sleep(Duration::from_secs(3)).await;
                shipped.apply("ship");
                Ok("shipped".into())
            };
            steps.run_once("ship", ship).await?;
            Ok(done("ordered"))
        }
    })
    .over(Arc::new(MemoryStore::default()));
    let told = send(&server, order().within(Duration::from_secs(1))).await;
    let late = Refusal::DeadlinePassed { executing: true };
    assert_eq!(told, Told::Refused(late));
    sleep(Duration::from_secs(9)).await;
    let replayed = Told::Done("ordered".to_owned(), Served::Replayed);
    assert_eq!(send(&server, order()).await, replayed);
    assert_eq!((peer.asked(), shipped.total()), (1, 1));
}

#[tokio::test]
async fn a_panic_between_steps_is_told_in_doubt_and_the_call_goes_on_when_it_is_asked_for() {
    let (effects, seen) = (Effects::default(), Effects::default());
    let applied = (effects.clone(), seen.clone());
    let server = journaled(move |run, steps, _| {
        let (effects, _) = applied.clone();
        async move {
            let ship = async |_| {
                effects.apply("ship");
                Ok("shipped".into())
            };
            steps.run_once("ship", ship).await?;
            assert!(run > 0, "between two steps, as the test wants");
            Ok(done("ordered"))
        }
    })
    .over(Arc::new(MemoryStore::default()));
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
    assert_eq!(send(&server, order()).await, executed("ordered"));
    assert_eq!(effects.total(), 1);
}

// B14
#[tokio::test]
async fn a_store_without_journals_refuses_journaled_calls_and_claims_nothing() {
    let memory = MemoryStore::default();
    let watched = Watched::new(Arc::new(memory.clone()));
    let (peer, shipped) = (Peer::default(), Effects::default());
    let server = shop(&peer, &shipped, |_| Ok(())).over(watched.clone());
    let told = send(&server, order()).await;
    let Told::Refused(Refusal::Unavailable { reason, .. }) = &told else {
        panic!("{told:?}");
    };
    assert!(reason.contains("keeps no journals"), "{reason}");
    assert_eq!(watched.claims.load(Ordering::SeqCst), 0);
    assert_eq!(memory.peek(key("k")).await.unwrap(), KeyState::Absent);
    assert_eq!(peer.asked(), 0);
}

// B14
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_moment_is_asked_again_for_a_note() {
    for refused in [0..1, 1..3, 2..4] {
        let (watched, _) = watching();
        *watched.notes_refused.lock() = refused;
        let (peer, shipped) = (Peer::default(), Effects::default());
        let server = shop(&peer, &shipped, |_| Ok(())).over(watched);
        assert_eq!(send(&server, order()).await, executed("run 0"));
        assert_eq!((peer.asked(), shipped.total()), (1, 1));
    }
}

// B14: each note is tried four times.
#[tokio::test(start_paused = true)]
async fn a_keyed_step_whose_result_cannot_be_kept_is_asked_for_again_with_its_key() {
    let (watched, _) = watching();
    *watched.notes_refused.lock() = 0..4;
    let (peer, shipped) = (Peer::default(), Effects::default());
    let server = shop(&peer, &shipped, |_| Ok(())).over(watched);
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!((peer.asked(), shipped.total()), (1, 0));
    assert_eq!(send(&server, order()).await, executed("run 1"));
    assert_eq!((peer.asked(), peer.effects(), shipped.total()), (2, 1, 1));
}

// B14
#[tokio::test(start_paused = true)]
async fn a_once_step_that_cannot_be_noted_beforehand_does_not_run() {
    let (watched, memory) = watching();
    *watched.notes_refused.lock() = 1..9;
    let (peer, shipped) = (Peer::default(), Effects::default());
    let server = shop(&peer, &shipped, |_| Ok(())).over(watched);
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!(shipped.total(), 0);
    assert_eq!(doubt(&memory).await.reason, DoubtReason::OwnerGone);
    assert_eq!(send(&server, order()).await, executed("run 1"));
    assert_eq!((peer.asked(), shipped.total()), (1, 1));
}

// B14, B6
#[tokio::test(start_paused = true)]
async fn a_once_step_whose_result_cannot_be_kept_is_in_doubt() {
    let (watched, memory) = watching();
    *watched.notes_refused.lock() = 2..6;
    let (peer, shipped) = (Peer::default(), Effects::default());
    let server = shop(&peer, &shipped, |_| Ok(())).over(watched);
    for _ in 0..2 {
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed), "{told:?}");
    }
    let what = StepResolution::Done("shipped".into());
    resolve(&memory, doubt(&memory).await.token, "ship", what).await;
    assert_eq!(send(&server, order()).await, executed("run 1"));
    assert_eq!((peer.asked(), shipped.total()), (1, 1));
}

// B7
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_between_steps_leaves_a_call_that_goes_on() {
    let (watched, _) = watching();
    watched.refuse_renewals.store(true, Ordering::SeqCst);
    let effects = Effects::default();
    let seen = effects.clone();
    let server = journaled(move |run, steps, _| {
        let effects = effects.clone();
        async move {
            let ship = async |_| {
                effects.apply("ship");
                Ok("shipped".into())
            };
            steps.run_once("ship", ship).await?;
            if run == 0 {
                sleep(Duration::from_secs(60)).await;
            }
            Ok(done("ordered"))
        }
    })
    .over(watched);
    assert!(is_in_progress(&send(&server, order()).await));
    assert_eq!(send(&server, order()).await, executed("ordered"));
    assert_eq!(seen.total(), 1);
}

#[tokio::test]
async fn a_handle_that_outlives_its_run_begins_nothing() {
    let (gate, effects) = (Arc::new(Notify::new()), Effects::default());
    let (late, seen) = (Arc::new(Mutex::new(None)), effects.clone());
    let server = {
        let (gate, late) = (gate.clone(), late.clone());
        journaled(move |_, steps, _| {
            let (gate, effects, late) = (gate.clone(), effects.clone(), late.clone());
            async move {
                let task = tokio::spawn(async move {
                    gate.notified().await;
                    let ship = async |_| {
                        effects.apply("ship");
                        Ok("shipped".into())
                    };
                    steps.run_once("ship", ship).await
                });
                *late.lock() = Some(task);
                Ok(done("ordered"))
            }
        })
        .over(Arc::new(MemoryStore::default()))
    };
    assert_eq!(send(&server, order()).await, executed("ordered"));
    gate.notify_one();
    let task = late.lock().take().unwrap();
    assert_eq!(task.await.unwrap(), Err(StepError::Ended));
    assert_eq!(seen.total(), 0);
}

#[tokio::test]
async fn an_answer_is_not_the_calls_while_a_step_is_under_way() {
    for (once, expected) in [(true, Some(DoubtReason::LeaseLapsed)), (false, None)] {
        let server = journaled(move |_, steps, _| async move {
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let never = async |_| {
                    begun.send(()).unwrap();
                    std::future::pending().await
                };
                match once {
                    true => steps.run_once("ship", never).await,
                    false => steps.run_keyed("ship", never).await,
                }
            });
            has_begun.await.unwrap();
            Ok(done("all is well"))
        })
        .over(Arc::new(MemoryStore::default()));
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), expected, "{told:?}");
        assert_eq!(is_in_progress(&told), expected.is_none(), "{told:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_larger_than_a_journal_is_refused_and_not_executed() {
    let store = MemoryStore::default();
    let (peer, shipped) = (Peer::default(), Effects::default());
    let server = shop(&peer, &shipped, |_| Ok(())).over(Arc::new(store.clone()));
    let large = format!("order {}", "x".repeat(2 * 1024 * 1024));
    let told = send(&server, Ask::new("k", &large)).await;
    assert!(
        matches!(told, Told::Refused(Refusal::TooLarge { .. })),
        "{told:?}"
    );
    assert_eq!(store.peek(key("k")).await.unwrap(), KeyState::Absent);
    assert_eq!(peer.asked(), 0);
}
