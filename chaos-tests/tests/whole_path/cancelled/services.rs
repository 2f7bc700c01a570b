//! A server whose calls can be cut: for sweeps over what it does with one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce::middleware::server::{Dedupe, DedupeLayer};
use onlyonce::rpc::{Incoming, Reply, Routes, Server, ServerAdapter, Serving, Status};
use onlyonce::storage::Store;
use onlyonce_chaos::cancel::{CancelAt, Ended};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt};

use crate::shop::Shop;

/// A shop behind the layer, behind a scissor.
pub struct CutServer {
    pub shop: Shop,
    pub serving: Serving,
    pub dedupe: Dedupe<Suspending, ServerAdapter>,
    scissor: Scissor,
}

/// Cuts the next call: its future is dropped where it is to be, and its client told to come back.
/// To the layer that is a caller whose connection was lost.
#[derive(Clone, Default)]
struct Scissor(Arc<Mutex<Blades>>);

#[derive(Default)]
struct Blades {
    next: Option<CancelAt>,
    ended: Option<Ended<()>>,
}

#[derive(Clone)]
struct Cut<S> {
    inner: S,
    scissor: Scissor,
}

/// The handler, with a suspension before and after what it does.
#[derive(Clone)]
pub struct Suspending(Routes);

type ReplyFuture = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

// === impl CutServer ===

impl CutServer {
    pub async fn start(store: Arc<dyn Store>) -> Self {
        let shop = Shop::new();
        let routes = shop.routes();
        let layer = DedupeLayer::new(Arc::clone(&store), ServerAdapter::new(routes.clone()));
        let dedupe = layer.layer(Suspending(routes));
        let scissor = Scissor::default();
        let service = Cut {
            inner: dedupe.clone(),
            scissor: scissor.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = Server::builder()
            .global_scope()
            .store(store.id(), move || store.now())
            .build()
            .unwrap()
            .serve(listener, service)
            .unwrap();
        Self {
            shop,
            serving,
            dedupe,
            scissor,
        }
    }

    /// The next call is cut there.
    pub fn cut_next(&self, cancel: CancelAt) {
        *self.scissor.0.lock() = Blades {
            next: Some(cancel),
            ended: None,
        };
    }

    /// How the call that was to be cut ended.
    pub fn ended(&self) -> Ended<()> {
        self.scissor.0.lock().ended.expect("a call was made")
    }

    /// Waits until no call is counted as running, waiting or unanswered.
    pub async fn until_idle(&self) {
        let idle = async {
            while self.dedupe.load() != (0, 0) || self.serving.in_flight() != 0 {
                yield_now().await;
            }
        };
        let ended = tokio::time::timeout(LEAKED_AFTER, idle).await;
        assert!(ended.is_ok(), "a call that is over is still counted");
    }
}

impl<S> Service<Incoming> for Cut<S>
where
    S: Service<Incoming, Response = Reply, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = ReplyFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, incoming: Incoming) -> Self::Future {
        let future = self.inner.call(incoming);
        let scissor = self.scissor.clone();
        let Some(cancel) = scissor.0.lock().next.take() else {
            return Box::pin(future);
        };
        Box::pin(async move {
            let (ended, reply) = match cancel.run(future).await {
                Ended::Cancelled => {
                    let reply = Reply::refusal(Status::InProgress, "cut");
                    (Ended::Cancelled, Ok(reply.retry_after(Some(SOON))))
                }
                Ended::Completed(reply) => (Ended::Completed(()), reply),
            };
            scissor.0.lock().ended = Some(ended);
            reply
        })
    }
}

impl Service<Incoming> for Suspending {
    type Response = Reply;
    type Error = Infallible;
    type Future = ReplyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, incoming: Incoming) -> Self::Future {
        let routes = self.0.clone();
        Box::pin(async move {
            yield_now().await;
            let reply = routes.oneshot(incoming).await;
            yield_now().await;
            reply
        })
    }
}

const SOON: Duration = Duration::from_millis(1);

/// Far longer than any call takes: only what is never given back is found so.
const LEAKED_AFTER: Duration = Duration::from_secs(20);
