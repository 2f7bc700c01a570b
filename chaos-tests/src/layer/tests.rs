use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::seed::Seed;

type Attempt = (u64, u32);

/// Counts its effects, and panics where an instance is called that did not say it was ready.
#[derive(Debug, Default)]
struct Probe {
    ready: bool,
    effects: Arc<AtomicU32>,
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            effects: Arc::clone(&self.effects),
        }
    }
}

impl Service<Attempt> for Probe {
    type Response = u32;
    type Error = Infallible;
    type Future = std::future::Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Attempt) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called an instance that is not ready"
        );
        std::future::ready(Ok(self.effects.fetch_add(1, Ordering::SeqCst) + 1))
    }
}

fn subject(&(key, attempt): &Attempt) -> Subject {
    Subject { key, attempt }
}

/// What one attempt gives, and how many effects it had.
async fn call(plan: Plan, attempt: Attempt) -> (Result<u32, FaultError<Infallible>>, u32) {
    let probe = Probe::default();
    let effects = Arc::clone(&probe.effects);
    let answer = FaultLayer::new(7, plan, subject)
        .layer(probe)
        .oneshot(attempt)
        .await;
    (answer, effects.load(Ordering::SeqCst))
}

fn one(fault: Fault) -> Plan {
    Plan::none().rule(Rule::new(fault))
}

#[tokio::test]
async fn an_answer_is_lost_after_the_effect() {
    assert_eq!(
        call(one(Fault::AnswerLost), (1, 1)).await,
        (Err(FaultError::AnswerLost), 1)
    );
}

#[tokio::test]
async fn a_request_is_lost_before_the_effect() {
    assert_eq!(
        call(one(Fault::RequestLost), (1, 1)).await,
        (Err(FaultError::RequestLost), 0)
    );
}

#[tokio::test]
async fn without_faults_the_answer_passes() {
    assert_eq!(call(Plan::none(), (1, 1)).await, (Ok(1), 1));
}

#[tokio::test]
async fn an_error_is_an_answer_that_can_be_lost_too() {
    let failing = tower::service_fn(|_: Attempt| async { Err::<(), _>("refused") });
    let layer = FaultLayer::new(7, Plan::none(), subject);
    assert_eq!(
        layer.layer(failing).oneshot((1, 1)).await,
        Err(FaultError::Inner("refused"))
    );
    layer.set_plan(one(Fault::AnswerLost));
    assert_eq!(
        layer.layer(failing).oneshot((1, 1)).await,
        Err(FaultError::AnswerLost)
    );
}

#[tokio::test]
async fn the_instance_that_said_it_was_ready_is_the_one_called() {
    let mut service = FaultLayer::new(7, Plan::none(), subject).layer(Probe::default());
    for attempt in 1..=3 {
        // `Probe` panics otherwise; the clone in between must not take the readiness along.
        let ready = service.ready().await.unwrap();
        let _unasked = ready.clone();
        assert_eq!(ready.call((1, attempt)).await, Ok(attempt));
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_request_has_no_effect_before_its_time() {
    let base = Duration::from_secs(3);
    let delay = Fault::RequestDelayed {
        base,
        jitter: Duration::ZERO,
    };
    let probe = Probe::default();
    let effects = Arc::clone(&probe.effects);
    let layer = FaultLayer::new(7, one(delay), subject);
    let begun_at = Instant::now();
    let call = tokio::spawn(layer.layer(probe).oneshot((1, 1)));
    tokio::time::sleep(base - Duration::from_millis(1)).await;
    assert_eq!(effects.load(Ordering::SeqCst), 0);
    assert_eq!(call.await.unwrap(), Ok(1));
    assert_eq!(begun_at.elapsed(), base);
    assert_eq!(layer.fired(), [(FaultKind::RequestDelayed, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_on_a_delayed_answer_leaves_the_effect_behind() {
    let base = Duration::from_secs(3);
    let delay = Fault::AnswerDelayed {
        base,
        jitter: Duration::from_secs(1),
    };
    let probe = Probe::default();
    let effects = Arc::clone(&probe.effects);
    let call = FaultLayer::new(7, one(delay), subject)
        .layer(probe)
        .oneshot((1, 1));
    assert!(
        tokio::time::timeout(Duration::from_secs(2), call)
            .await
            .is_err()
    );
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn faults_end_when_the_plan_is_taken_away() {
    let layer = FaultLayer::new(7, one(Fault::RequestLost), subject);
    let service = layer.layer(Probe::default());
    assert_eq!(
        service.clone().oneshot((1, 1)).await,
        Err(FaultError::RequestLost)
    );
    layer.set_plan(Plan::none());
    assert_eq!(service.oneshot((1, 2)).await, Ok(1));
    assert_eq!(layer.fired(), [(FaultKind::RequestLost, 1)].into());
}

#[test]
fn attempts_and_keys_choose_what_is_hit() {
    let hit = |rule: Rule| -> Vec<Attempt> {
        let plan = Plan::none().rule(rule);
        let attempts = (1..=2).flat_map(|key| (1..=3).map(move |attempt| (key, attempt)));
        attempts
            .filter(|attempt| plan.script(Seed::new(1), subject(attempt)).answer_lost)
            .collect()
    };
    let lost = || Rule::new(Fault::AnswerLost);
    assert_eq!(hit(lost().nth(2)), [(1, 2), (2, 2)]);
    assert_eq!(hit(lost().first(2)), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    assert_eq!(hit(lost().key(2)), [(2, 1), (2, 2), (2, 3)]);
    assert_eq!(hit(lost().key(2).nth(3)), [(2, 3)]);
    assert!(hit(lost().probability(0.0)).is_empty());
}

#[test]
fn decisions_are_drawn_for_each_key_attempt_and_phase() {
    let plan = Plan::none()
        .rule(Rule::new(Fault::AnswerLost).probability(0.5))
        .rule(Rule::new(Fault::RequestLost).probability(0.5));
    let scripts = |plan: &Plan, seed, key| -> Vec<_> {
        (1..=64)
            .map(|attempt| plan.script(Seed::new(seed), Subject { key, attempt }))
            .collect()
    };
    assert_eq!(scripts(&plan, 1, 1), scripts(&plan, 1, 1));
    assert_ne!(scripts(&plan, 1, 1), scripts(&plan, 1, 2));
    assert_ne!(scripts(&plan, 1, 1), scripts(&plan, 2, 1));
    let mixed = scripts(&plan, 1, 1);
    assert!(
        mixed
            .iter()
            .any(|script| script.answer_lost != script.request_lost)
    );
    assert!(mixed.windows(2).any(|pair| pair[0] != pair[1]));
    // Another rule in front leaves the decisions of these alone.
    let more: Plan = [
        Rule::new(Fault::AnswerDelayed {
            base: Duration::ZERO,
            jitter: Duration::from_secs(1),
        }),
        Rule::new(Fault::RequestLost).probability(0.5),
        Rule::new(Fault::AnswerLost).probability(0.5),
    ]
    .into_iter()
    .collect();
    let without_delay = scripts(&more, 1, 1).into_iter().map(|mut script| {
        script.answer_delay = None;
        script
    });
    assert_eq!(mixed, without_delay.collect::<Vec<_>>());
}

#[test]
fn a_key_of_bytes_is_one_subject_for_all_its_attempts() {
    assert_eq!(
        Subject::of_key("order-1", 1).key,
        Subject::of_key(b"order-1", 2).key
    );
    assert_ne!(
        Subject::of_key("order-1", 1).key,
        Subject::of_key("order-2", 1).key
    );
}
