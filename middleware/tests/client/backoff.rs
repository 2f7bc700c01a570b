//! Delays between attempts.

use std::collections::HashSet;
use std::time::Duration;

use onlyonce_middleware::client::{Backoff, BackoffError, BackoffOptions};
use onlyonce_middleware::jitter;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn backoff(base: u64, factor: u32, cap: u64) -> Backoff {
    Backoff::new(BackoffOptions {
        base: millis(base),
        factor,
        cap: millis(cap),
    })
    .unwrap()
}

// P2
#[test]
fn no_two_calls_of_one_configuration_wait_the_same_times() {
    jitter::seed_this_thread(2);
    let shared = backoff(100, 2, 20_000);
    let mut delays: Vec<f64> = (0..1000)
        .map(|_| {
            let of_this_call = shared;
            of_this_call.delay(1).as_secs_f64() / millis(100).as_secs_f64()
        })
        .collect();

    let distinct: HashSet<_> = delays.iter().map(|delay| delay.to_bits()).collect();
    assert!(distinct.len() > 990, "{} distinct delays", distinct.len());

    delays.sort_by(f64::total_cmp);
    let distance = delays
        .iter()
        .enumerate()
        .map(|(at, delay)| {
            let (below, upto) = (at as f64 / 1000.0, (at + 1) as f64 / 1000.0);
            (delay - below).abs().max((upto - delay).abs())
        })
        .fold(0.0, f64::max);
    assert!(distance < 0.06, "{distance} from uniform");
}

// P3
#[test]
fn delays_at_the_cap_are_spread_below_it() {
    jitter::seed_this_thread(3);
    let cap = 1000.0;
    let delays: Vec<f64> = (0..2000)
        .map(|_| backoff(100, 2, 1000).delay(60).as_secs_f64() * 1000.0)
        .collect();
    let mean = delays.iter().sum::<f64>() / 2000.0;
    let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 2000.0;
    assert!(
        variance.sqrt() > 0.2 * cap,
        "deviates by {}",
        variance.sqrt()
    );
    assert!(delays.iter().all(|delay| *delay <= cap));
}

// P5
#[test]
fn the_base_is_the_first_window_and_the_factor_makes_the_next() {
    let backoff = backoff(100, 3, 5000);
    let windows: Vec<_> = (1..=5).map(|retry| backoff.window(retry)).collect();
    assert_eq!(windows, [100, 300, 900, 2700, 5000].map(millis));
}

#[test]
fn any_retry_number_has_a_window_of_at_most_the_cap() {
    for retry in [0, 1, 31, 64, u32::MAX] {
        assert!(backoff(50, 2, 20_000).window(retry) <= millis(20_000));
        assert!(backoff(50, u32::MAX, 20_000).window(retry) <= millis(20_000));
    }
}

#[test]
fn an_overloaded_peer_gets_a_second_before_the_first_retry() {
    let backoff = backoff(50, 2, 20_000);
    assert_eq!(backoff.window_when_overloaded(1), millis(1000));
    assert_eq!(backoff.window_when_overloaded(2), millis(2000));
    let short = super::backoff::backoff(50, 2, 200);
    assert_eq!(short.window_when_overloaded(1), millis(200));
}

#[test]
fn numbers_that_make_no_sense_are_refused_when_built() {
    let build = |base, factor, cap| {
        Backoff::new(BackoffOptions {
            base: millis(base),
            factor,
            cap: millis(cap),
        })
    };
    assert_eq!(build(0, 2, 100), Err(BackoffError::BaseZero));
    assert_eq!(build(50, 0, 100), Err(BackoffError::FactorZero));
    let (base, cap) = (millis(50), millis(49));
    let below = BackoffError::CapBelowBase { base, cap };
    assert_eq!(build(50, 2, 49), Err(below));
}

#[cfg(feature = "backoff")]
mod of_the_crate_backoff {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use onlyonce_middleware::client::{Outcome, Pushback, RetryBudget, Stopped};
    use tokio::time::Instant;

    use super::*;
    use crate::protocol::*;

    /// Delays of a fixed list, then no more.
    struct Listed(Vec<u64>);

    impl ::backoff::backoff::Backoff for Listed {
        fn next_backoff(&mut self) -> Option<Duration> {
            (!self.0.is_empty()).then(|| millis(self.0.remove(0)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_schedule_paces_the_retries_and_each_call_has_its_own() {
        let made = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&made);
        let retry = retry()
            .with_budget(RetryBudget::unlimited())
            .with_schedule(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Listed(vec![70, 700])
            });
        for _ in 0..2 {
            let peer = Peer::new([refused(), refused(), accepted()]);
            let began = Instant::now();
            peer.call(&retry, Request::new("pay")).await.unwrap();
            assert_eq!(began.elapsed(), millis(770));
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_schedule_ends_the_call() {
        let peer = Peer::new([refused()]);
        let retry = retry().with_schedule(|| Listed(vec![10]));
        let error = peer.call(&retry, Request::new("pay")).await.unwrap_err();
        assert_eq!(error.stopped, Stopped::Schedule);
        assert_eq!(error.outcome, Outcome::NotExecuted);
        assert_eq!(peer.attempts(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_shortened_to_the_cap_and_to_the_deadline() {
        let peer = Peer::new([refused(), accepted()]);
        let capped = retry()
            .with_backoff(backoff(50, 2, 2000))
            .with_schedule(|| Listed(vec![60_000]));
        let began = Instant::now();
        peer.call(&capped, Request::new("pay")).await.unwrap();
        assert_eq!(began.elapsed(), millis(2000));

        let peer = Peer::new([refused(), accepted()]);
        let began = Instant::now();
        peer.call_within(millis(1000), &capped, Request::new("pay"))
            .await
            .unwrap();
        assert_eq!(began.elapsed(), millis(999));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_schedule_does_not_end_the_wait_for_an_answer_in_progress() {
        let mut script = vec![answers(in_progress(Pushback::Silent)); 6];
        script.push(accepted());
        let peer = Peer::new(script);
        let retry = retry().with_schedule(|| Listed(vec![]));
        peer.call(&retry, Request::new("pay")).await.unwrap();
    }
}
