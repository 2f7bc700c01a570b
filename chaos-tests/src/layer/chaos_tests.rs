//! Each fault around a service that counts, and what is different from a call without it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt, service_fn};

use super::{ChaosLayer, FaultError};
use crate::fault::{Fault, Phase, Place, What, When};

const BEFORE: [Phase; 2] = [Phase::RequestSent, Phase::RequestReceived];
const AFTER: [Phase; 3] = [Phase::EffectDurable, Phase::ReplySent, Phase::ReplyReceived];

/// What one attempt of a call came to.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    answer: Option<Result<u64, FaultError<Infallible>>>,
    effects: u64,
    struck: u64,
    took: Duration,
}

/// The second call's first attempt, in paused time; the caller waits for a minute.
async fn come(fault: Fault) -> Came {
    let effects = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&effects);
    let service = service_fn(move |_: (u64, u32)| {
        let count = counting.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok::<_, Infallible>(count))
    });
    let name = fault.name.clone();
    let layer = ChaosLayer::new(7, [fault], |&about: &(u64, u32)| about).unwrap();
    let began = Instant::now();
    let call = layer.layer(service).oneshot((2, 1));
    let answer = timeout(Duration::from_secs(60), call).await.ok();
    let took = began.elapsed();
    // A twin may still be on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Came {
        answer,
        effects: effects.load(Ordering::SeqCst),
        struck: layer.fired()[&name].struck,
        took,
    }
}

fn fault(what: What, phase: Phase) -> Fault {
    Fault::new("it", Place::Wire, what).when(When::phase(phase).call(2))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nothing_strikes_goes_through() {
    let other = Fault::new("it", Place::Wire, What::Reset).when(When::default().call(3));
    let came = come(other).await;
    assert_eq!(
        (came.answer, came.effects, came.struck),
        (Some(Ok(1)), 1, 0)
    );
    assert_eq!(came.took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_reset_or_closed_is_an_error_at_once_before_or_after_the_effect() {
    for what in [What::Reset, What::Close] {
        for phase in BEFORE {
            let came = come(fault(what, phase)).await;
            assert_eq!(came.answer, Some(Err(FaultError::RequestLost)), "{phase}");
            assert_eq!(
                (came.effects, came.struck, came.took),
                (0, 1, Duration::ZERO)
            );
        }
        for phase in AFTER {
            let came = come(fault(what, phase)).await;
            assert_eq!(came.answer, Some(Err(FaultError::AnswerLost)), "{phase}");
            assert_eq!(
                (came.effects, came.struck, came.took),
                (1, 1, Duration::ZERO)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_or_swallowed_is_silence_before_or_after_the_effect() {
    for what in [What::Drop, What::Blackhole] {
        for (phases, effects) in [(&BEFORE[..], 0), (&AFTER[..], 1)] {
            for &phase in phases {
                let came = come(fault(what, phase)).await;
                assert_eq!((came.answer, came.effects, came.struck), (None, effects, 1));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_request_is_executed_twice() {
    for phase in BEFORE {
        let came = come(fault(What::Duplicate { later_ms: 50 }, phase)).await;
        assert_eq!(
            (came.answer, came.effects, came.struck),
            (Some(Ok(1)), 2, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_late() {
    for phase in Phase::ALL {
        let came = come(fault(
            What::Delay {
                min_ms: 20,
                max_ms: 30,
            },
            phase,
        ))
        .await;
        assert_eq!((came.answer, came.struck), (Some(Ok(1)), 1));
        assert!(
            (20..=31).contains(&came.took.as_millis()),
            "{:?}",
            came.took
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_holds_calls_until_its_window_ends() {
    let window = When {
        until_ms: Some(500),
        ..When::phase(Phase::RequestSent)
    };
    let came = come(Fault::new("it", Place::Wire, What::Partition).when(window)).await;
    assert_eq!((came.answer, came.struck), (Some(Ok(1)), 1));
    assert_eq!(came.took.as_millis(), 500);
}

#[tokio::test(start_paused = true)]
async fn nothing_strikes_once_it_is_calm() {
    let service = service_fn(|_: (u64, u32)| std::future::ready(Ok::<_, Infallible>(())));
    let drop = Fault::new("it", Place::Wire, What::Reset);
    let layer = ChaosLayer::new(7, [drop], |&about: &(u64, u32)| about).unwrap();
    let service = layer.layer(service);
    assert!(service.clone().oneshot((1, 1)).await.is_err());
    layer.calm();
    assert!(service.oneshot((1, 2)).await.is_ok());
}

#[test]
fn what_a_service_cannot_have_is_refused_with_the_reason() {
    let refused = |fault: Fault| {
        let layer = ChaosLayer::new(7, [fault], |&about: &(u64, u32)| about);
        layer.unwrap_err().reason().to_owned()
    };
    assert_eq!(
        refused(fault(What::PacketLoss, Phase::RequestSent)),
        "fault \"it\": a service has no packets; the kernel has"
    );
    assert!(refused(fault(What::Corrupt, Phase::RequestSent)).ends_with("the proxy has"));
    let twice = What::Duplicate { later_ms: 0 };
    assert!(refused(fault(twice, Phase::ReplySent)).ends_with("a call has one answer"));
    assert!(refused(Fault::new("it", Place::Disk, What::DiskFull)).ends_with("on the wire"));
}
