//! Capacity is reserved on the instance that is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptTimeoutLayer, EnforceDeadlineLayer, RetryLayer, StampLayer, Verdict,
};
use onlyonce_middleware::jitter;
use onlyonce_middleware::observe::ObserveLayer;
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::limit::ConcurrencyLimit;
use tower::load::Constant;
use tower::load_shed::LoadShed;
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};

use crate::protocol::*;

/// Panics when it is called on an instance that did not say it was ready. A clone is not ready, and
/// every instance has to be asked twice.
struct Probe<S> {
    inner: S,
    asked: bool,
    ready: bool,
}

impl<S> Probe<S> {
    const fn new(inner: S) -> Self {
        Self {
            inner,
            asked: false,
            ready: false,
        }
    }
}

impl<S: Clone> Clone for Probe<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S: Service<R>, R> Service<R> for Probe<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        if !std::mem::replace(&mut self.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        std::task::ready!(self.inner.poll_ready(cx))?;
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> S::Future {
        assert!(self.ready, "called without having been ready");
        (self.asked, self.ready) = (false, false);
        self.inner.call(request)
    }
}

/// The whole client over `transport`, with a probe inside of each layer.
async fn call_through_probes<S>(transport: S) -> Result
where
    S: Service<Request, Response = Answer> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send,
{
    ServiceBuilder::new()
        .layer_fn(Probe::new)
        .layer(ObserveLayer::new())
        .layer_fn(Probe::new)
        .layer(AttachKeyLayer::new(MockAdapter))
        .layer_fn(Probe::new)
        .layer(EnforceDeadlineLayer::new())
        .layer_fn(Probe::new)
        .layer(RetryLayer::new(MockAdapter))
        .layer_fn(Probe::new)
        .layer(AttemptTimeoutLayer::new())
        .layer_fn(Probe::new)
        .layer(StampLayer::new(MockAdapter))
        .layer_fn(Probe::new)
        .map_err(|_: S::Error| Fault(Verdict::RETRY_NOT_EXECUTED))
        .layer_fn(Probe::new)
        .service(transport)
        .oneshot(Request::new("pay"))
        .await
}

/// Refused twice, then answered.
fn third_time_lucky() -> (Peer, Probe<Peer>) {
    let peer = Peer::new([refused(), refused(), accepted()]);
    (peer.clone(), Probe::new(peer))
}

// P14, H9
#[tokio::test(start_paused = true)]
async fn every_layer_calls_the_instance_that_was_ready_at_every_attempt() {
    let (peer, transport) = third_time_lucky();
    call_through_probes(transport).await.unwrap();
    assert_eq!(peer.attempts(), 3);
}

// P14, H9
#[tokio::test(start_paused = true)]
async fn attempts_take_and_give_back_a_place_in_a_concurrency_limit() {
    let (peer, transport) = third_time_lucky();
    let limited = ConcurrencyLimit::new(transport, 1);
    call_through_probes(limited.clone()).await.unwrap();
    assert_eq!(peer.attempts(), 3);
    call_through_probes(limited).await.unwrap();
}

// P14, H9
#[tokio::test(start_paused = true)]
async fn attempts_go_through_a_buffer() {
    let (peer, transport) = third_time_lucky();
    call_through_probes(Buffer::new(transport, 1))
        .await
        .unwrap();
    assert_eq!(peer.attempts(), 3);
}

// P14, H9
#[tokio::test(start_paused = true)]
async fn attempts_go_through_load_shedding() {
    // Load shedding refuses what is not ready at once, so the probe stands around it.
    let peer = Peer::new([refused(), refused(), accepted()]);
    let shed = LoadShed::new(ConcurrencyLimit::new(peer.clone(), 1));
    call_through_probes(Probe::new(shed)).await.unwrap();
    assert_eq!(peer.attempts(), 3);
}

// H9
#[tokio::test(start_paused = true)]
async fn what_load_shedding_refuses_is_tried_again_when_there_is_room() {
    // So that the pauses are known to outlast the other call.
    jitter::seed_this_thread(9);
    let peer = Peer::new([after(Duration::from_millis(20), accepted())]);
    let shed = LoadShed::new(ConcurrencyLimit::new(peer.clone(), 1));
    let calls = (0..2).map(|_| call_through_probes(shed.clone()));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(peer.attempts(), 2);
}

// P14, H9
#[tokio::test(start_paused = true)]
async fn attempts_go_through_a_balancer() {
    let (peer, transport) = third_time_lucky();
    let peers = vec![
        Constant::new(transport.clone(), 1),
        Constant::new(transport, 1),
    ];
    let balance = Balance::new(ServiceList::new::<Request>(peers));
    call_through_probes(Buffer::new(balance, 4)).await.unwrap();
    assert_eq!(peer.attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn one_service_serves_many_calls_at_once() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, max) = (Arc::clone(&running), Arc::clone(&most));
    let transport = service_fn(move |_: Request| {
        let (now, max) = (Arc::clone(&now), Arc::clone(&max));
        async move {
            max.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            accepted().1
        }
    });
    let limited = ConcurrencyLimit::new(transport, 8);
    let calls = (0..64).map(|_| call_through_probes(limited.clone()));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(most.load(Ordering::Relaxed), 8);
}
