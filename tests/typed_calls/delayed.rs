//! Attempts that are still on their way when their call ends.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use onlyonce::middleware::client::{RetryLayer, Ticket};
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Failure, Reply, Request, Router,
    Status, TransportError,
};
use onlyonce::storage::MemoryStore;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tower::{Service, ServiceExt as _};

use super::{PAY, Payment, key, serve_behind};

/// Delivers the first request only when it is told to, and loses it for its sender.
#[derive(Clone)]
struct Delaying {
    channel: Channel,
    delayed: Arc<Mutex<Option<Request>>>,
}

impl Service<Request> for Delaying {
    type Response = Reply;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut delayed = self.delayed.lock();
        if delayed.is_none() {
            *delayed = Some(request);
            let lost = TransportError::Lost(Arc::new(std::io::ErrorKind::ConnectionReset.into()));
            return Box::pin(std::future::ready(Err(lost)));
        }
        Box::pin(self.channel.clone().oneshot(request))
    }
}

/// The other request may end without an effect. Its key is then free, and the attempt that is still
/// on its way runs.
#[tokio::test]
async fn a_mismatch_with_a_call_in_progress_says_nothing_of_an_attempt_on_its_way() {
    let paid: Arc<AtomicU32> = Arc::default();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let routes = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        Router::new(Arc::clone(&paid)).method(
            &PAY,
            move |_, paid: Arc<AtomicU32>, payment: Payment| {
                let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
                async move {
                    if payment.cents == 0 {
                        begun.notify_one();
                        go_on.notified().await;
                        return Err(Failure::NotExecuted("nothing to pay".to_owned()));
                    }
                    Ok(paid.fetch_add(1, Ordering::SeqCst) + 1)
                }
            },
        )
    };
    let routes = routes.into_routes();
    let serving = serve_behind(Arc::new(MemoryStore::default()), routes.clone(), routes).await;
    let address = serving.local_addr().to_string();
    let other = {
        let channel = Channel::new(address.clone(), ChannelOptions::default());
        let once = |retry: RetryLayer<_>| retry.with_attempts_max(NonZeroU32::MIN);
        let client = Client::with_stack(channel, stack::client(ClientAdapter).with_retry(once));
        tokio::spawn(async move {
            let nothing = Payment { cents: 0 };
            client.call_as(key("order-1"), &PAY, &nothing).await
        })
    };
    begun.notified().await;

    let transport = Delaying {
        channel: Channel::new(address, ChannelOptions::default()),
        delayed: Arc::default(),
    };
    let layers = stack::client(ClientAdapter).with_retry(RetryLayer::assume_dedupe);
    let client = Client::with_stack(transport.clone(), layers);
    let ticket = Ticket::never_sent(key("order-1"));
    let failed = client.resume(ticket, &PAY, &Payment { cents: 5 }).await;
    let failed = failed.unwrap_err();
    let CallFailure::Refused { status, ticket, .. } = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(*status, Status::Mismatch);

    go_on.notify_one();
    other.await.unwrap().unwrap_err();
    let delayed = transport.delayed.lock().take().unwrap();
    let reply = transport.channel.clone().oneshot(delayed).await.unwrap();
    assert_eq!(reply.status, Status::Executed);
    assert_eq!(paid.load(Ordering::SeqCst), 1);
    assert!(ticket.maybe_executed, "it was: {failed}");
}
