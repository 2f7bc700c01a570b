//! Forgetting: what is past is refused, never executed again by those who say when they were sent.

use super::Harness;
use super::kit::{
    DAY, MINUTE, answer, ask, claimed, completed, given, key, peek, request, settle, sweep,
};
use crate::{
    Claim, ClaimOutcome, Clock as _, ClockSuspicion, DoubtReason, Inspect, KeyState, Timestamp,
};

/// E4: past its retention a call is stale at once, whether or not it was swept.
pub async fn after_retention_a_call_is_stale_and_never_executed(harness: impl Harness) {
    let store = harness.store();
    let key = key("yesterday");
    settle(&*store, &key, "paid").await;
    harness.clock().advance(DAY - MINUTE);
    super::kit::completed(&*store, &key).await;
    harness.clock().advance(MINUTE);
    // Not swept, swept early, and swept when a whole day's answers can go.
    for wait in [MINUTE, MINUTE, DAY * 2] {
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        let state = peek(&*store, &key).await;
        assert!(matches!(state, KeyState::Tombstone { .. }), "{state:?}");
        harness.clock().advance(wait);
        sweep(&*store).await;
    }
    let outcome = ask(&*store, request(&key)).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// A call may ask for less than the store keeps, not for more.
pub async fn a_shorter_retention_is_kept_and_a_longer_one_is_not(harness: impl Harness) {
    let store = harness.store();
    for (name, asked, kept) in [("shorter", MINUTE, MINUTE), ("longer", DAY * 5, DAY)] {
        let key = key(name);
        let mut wanted = request(&key);
        wanted.retention = Some(asked);
        let claim = given(ask(&*store, wanted).await);
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        harness.clock().advance(kept - MINUTE / 2);
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");
        harness.clock().advance(MINUTE / 2);
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
}

/// Whatever time of the day it was recorded at, and however often somebody sweeps.
pub async fn a_sweep_takes_no_answer_before_its_retention(harness: impl Harness) {
    let store = harness.store();
    for round in 0..7 {
        let key = key(&round.to_string());
        settle(&*store, &key, "paid").await;
        for _ in 0..6 {
            harness.clock().advance(DAY / 6 - MINUTE / 6);
            sweep(&*store).await;
            let replayed = super::kit::completed(&*store, &key).await;
            assert_eq!(replayed.answer, answer("paid"));
        }
        // So that the next round begins at another time of the day.
        harness.clock().advance(MINUTE * 200);
        sweep(&*store).await;
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
}

/// Past the horizon the record is gone, and who was sent before is refused all the same.
pub async fn after_the_horizon_an_older_call_is_stale(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("last-week");
    harness.clock().advance(MINUTE);
    let first_sent = store.now();
    let mut first = request(&key);
    first.first_sent = Some(first_sent);
    let claim = given(ask(&*store, first.clone()).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    harness.clock().advance(DAY * 9);
    sweep(&*store).await;
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    let outcome = ask(&*store, first).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    // A new intent under the same key is nobody's duplicate.
    let mut fresh = request(&key);
    fresh.first_sent = Some(store.now());
    drop(given(ask(&*store, fresh).await));
}

/// E2: a call that runs for days is not forgotten meanwhile, not even by a store that was opened
/// anew, and its answer is kept as long as any other.
pub async fn retention_counts_from_the_completion_not_from_the_start(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("slow");
    let mut slow = request(&key);
    slow.lease = DAY * 100;
    let claim = given(ask(&*store, slow).await);
    for _ in 0..20 {
        harness.clock().advance(DAY / 2);
        sweep(&*store).await;
        let outcome = ask(&*store, request(&key)).await;
        let running = matches!(outcome, ClaimOutcome::InProgress { .. });
        assert!(running, "it is still running: {outcome:?}");
    }
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    for _ in 0..3 {
        harness.clock().advance(DAY / 3 - MINUTE / 3);
        sweep(&*store).await;
        let replayed = completed(&*store, &key).await;
        assert_eq!(replayed.answer, answer("paid"));
    }
    harness.clock().advance(MINUTE);
    // The tombstone counts from there as well.
    for _ in 0..6 {
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        harness.clock().advance(DAY - MINUTE);
        sweep(&*store).await;
    }
}

/// E3: whoever asks at the very moment is told the answer or that it is too late, never to execute.
pub async fn at_the_end_of_its_retention_or_horizon_no_call_runs_twice(harness: impl Harness) {
    let (store, clock) = (harness.store(), harness.clock());
    let (key, begin) = (key("boundary"), clock.now());
    let mut first = request(&key);
    first.first_sent = Some(store.now());
    let claim = given(ask(&*store, first.clone()).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let step = std::time::Duration::from_millis(1);
    // The end of the retention, of the horizon, and of the buckets that may outlive both.
    for end in [DAY, DAY * 2, DAY * 7, DAY * 8] {
        for at in [end - step, end, end + step] {
            clock.advance(begin.plus(at).since(clock.now()));
            let asked = (0..16).map(|_| {
                let (store, first) = (store.clone(), first.clone());
                tokio::spawn(async move { ask(&*store, first).await })
            });
            // Whatever comes first.
            let swept = {
                let store = store.clone();
                tokio::spawn(async move { sweep(&*store).await })
            };
            for asked in asked.collect::<Vec<_>>() {
                let outcome = asked.await.expect("no call panics");
                let told = match outcome {
                    ClaimOutcome::Completed(_) => at < DAY,
                    ClaimOutcome::Stale => at >= DAY,
                    _ => false,
                };
                assert!(told, "after {at:?}: {outcome:?}");
            }
            swept.await.expect("no sweep panics");
        }
    }
}

/// E8: a doubt and the answer that is kept with it outlive many horizons, sweeps and openings.
pub async fn doubts_outlive_horizons_sweeps_and_openings(mut harness: impl Harness) {
    let (bare, kept) = (key("bare"), key("kept"));
    // Over several pages, wherever they are kept.
    let body = super::kit::bytes(10_000);
    let store = harness.store();
    let claim = claimed(&*store, &bare).await;
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(doubted, Ok(()));
    let claim = claimed(&*store, &kept).await;
    let with_answer = Some(answer(body.clone()));
    let doubted = store
        .doubt(claim, DoubtReason::Ambiguous, with_answer.clone())
        .await;
    assert_eq!(doubted, Ok(()));
    let told = (
        super::kit::in_doubt(&*store, &bare).await,
        super::kit::in_doubt(&*store, &kept).await,
    );
    assert_eq!(told.1.answer, with_answer);
    drop(store);
    for round in 0..8 {
        let store = harness.store();
        // Others come and go meanwhile.
        settle(&*store, &key(&format!("other-{round}")), "paid").await;
        for _ in 0..3 {
            harness.clock().advance(DAY * 3);
            sweep(&*store).await;
        }
        drop(store);
        harness.reopen().await;
        let store = harness.store();
        let now = (
            super::kit::in_doubt(&*store, &bare).await,
            super::kit::in_doubt(&*store, &kept).await,
        );
        assert_eq!(now, told, "after round {round}");
    }
}

/// While calls are made, the days change and somebody sweeps: every answer that was acknowledged
/// is there for a day, also after reopening, and nothing can be executed again for a week.
pub async fn calls_made_while_the_days_change_are_all_remembered(mut harness: impl Harness) {
    let store = harness.store();
    let clock = harness.clock();
    // Claimed on one day and completed on another, all of them at once.
    let mut made: Vec<(String, Timestamp)> = Vec::new();
    for round in 0..12 {
        let claims = crowd(&store, round).await;
        clock.advance(DAY / 4);
        let sweeping = {
            let store = store.clone();
            tokio::spawn(async move { sweep(&*store).await })
        };
        let completing: Vec<_> = claims
            .into_iter()
            .map(|(name, claim)| {
                let store = store.clone();
                tokio::spawn(async move {
                    let recorded = store.complete(claim, answer(name.clone())).await;
                    assert_eq!(recorded, Ok(()), "{name}");
                    name
                })
            })
            .collect();
        // The clock goes on while they are completed.
        for completing in completing {
            clock.advance(MINUTE);
            let name = completing.await.expect("no call panics");
            made.push((name, clock.now()));
        }
        sweeping.await.expect("no sweep panics");
    }
    drop(store);
    for opening in 0..2 {
        let store = harness.store();
        for (name, at) in &made {
            let age = harness.clock().now().since(*at);
            match ask(&*store, request(&key(name))).await {
                ClaimOutcome::Completed(replayed) if age < DAY => {
                    assert_eq!(replayed.answer, answer(name.clone()));
                }
                // Noted a little later than it was recorded.
                ClaimOutcome::Stale if age > DAY - MINUTE * 60 => {}
                other => panic!("opening {opening}, {name} after {age:?}: {other:?}"),
            }
        }
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
}

/// Claims of 32 calls at once.
async fn crowd(store: &std::sync::Arc<dyn Inspect>, round: u32) -> Vec<(String, Claim)> {
    let claiming: Vec<_> = (0..32)
        .map(|number| {
            let (store, name) = (store.clone(), format!("{round}-{number}"));
            tokio::spawn(async move {
                let mut long = request(&key(&name));
                long.lease = DAY;
                let claim = given(ask(&*store, long).await);
                (name, claim)
            })
        })
        .collect();
    let mut claims = Vec::new();
    for claiming in claiming {
        claims.push(claiming.await.expect("no call panics"));
    }
    claims
}

/// However long it takes somebody to resolve it.
pub async fn what_is_open_is_never_forgotten(harness: impl Harness) {
    let store = harness.store();
    let (doubted, running) = (key("doubted"), key("running"));
    let claim = claimed(&*store, &doubted).await;
    let mut long = request(&running);
    long.lease = DAY * 1_000;
    let running_claim = given(ask(&*store, long).await);
    harness.clock().advance(DAY * 90);
    sweep(&*store).await;
    harness.clock().advance(DAY * 90);
    sweep(&*store).await;
    super::kit::in_doubt(&*store, &doubted).await;
    let outcome = ask(&*store, request(&running)).await;
    assert!(
        matches!(outcome, ClaimOutcome::InProgress { .. }),
        "{outcome:?}"
    );
    let settled = store.complete(running_claim, answer("paid")).await;
    assert_eq!(settled, Ok(()));
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// An earlier store may have executed it.
pub async fn a_call_first_sent_before_the_store_was_made_is_stale(harness: impl Harness) {
    let store = harness.store();
    let mut old = request(&key("old"));
    old.first_sent = Some(store.now().minus(MINUTE));
    let outcome = ask(&*store, old).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// Five minutes ahead is what clocks may differ by.
pub async fn a_call_first_sent_too_far_ahead_is_refused(harness: impl Harness) {
    let store = harness.store();
    let limit = store.now().plus(MINUTE * 5).as_millis();
    let sent_at = |name: &str, millis| {
        let mut sent = request(&key(name));
        sent.first_sent = Some(Timestamp::from_millis(millis));
        sent
    };
    let outcome = ask(&*store, sent_at("ahead", limit + 1)).await;
    assert!(
        matches!(outcome, ClaimOutcome::FirstSentAhead),
        "{outcome:?}"
    );
    drop(given(ask(&*store, sent_at("near", limit)).await));
}

/// Neither after a sweep, nor after reopening, nor when the clock was set back by days.
pub async fn a_call_first_sent_at_the_time_the_store_tells_is_never_refused(
    mut harness: impl Harness,
) {
    let start = harness.store().now();
    let fresh = |name: &str, now| {
        let mut fresh = request(&key(name));
        fresh.first_sent = Some(now);
        fresh
    };
    let store = harness.store();
    drop(given(ask(&*store, fresh("created", store.now())).await));
    settle(&*store, &key("old"), "paid").await;
    harness.clock().advance(DAY * 30);
    settle(&*store, &key("younger"), "paid").await;
    sweep(&*store).await;
    harness.clock().advance(DAY * 30);
    sweep(&*store).await;
    drop(given(ask(&*store, fresh("swept", store.now())).await));
    harness.clock().set(start);
    drop(given(ask(&*store, fresh("set-back", store.now())).await));
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    drop(given(ask(&*store, fresh("reopened", store.now())).await));
}

/// What was forgotten by a clock that was set wrong cannot be remembered again.
pub async fn nothing_is_forgotten_while_the_clock_is_not_trusted(harness: impl Harness) {
    let (store, clock) = (harness.store(), harness.clock());
    let key = key("recent");
    settle(&*store, &key, "paid").await;
    let right = clock.now();
    clock.set(right.plus(DAY * 30));
    let swept = store.sweep().await.expect("the store answers a sweep");
    assert_eq!(
        swept.paused,
        Some(ClockSuspicion::Jumped { by: DAY * 30 }),
        "{swept:?}"
    );
    clock.set(right);
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    let swept = store.sweep().await.expect("the store answers a sweep");
    assert_eq!(swept.paused, None, "the clock is right again");
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}
