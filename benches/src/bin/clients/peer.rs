//! A server at the other end of a client's stack, in simulated time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce::rpc::{Reply, Request, Status, TransportError};
use tokio::time::sleep;
use tower::Service;

/// What becomes of the attempts.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// How many of a thousand attempts are lost: the request or its answer, which is the same to a
    /// client.
    pub lost_per_1000: u64,
    /// How a client learns of it.
    pub loss: Loss,
}

/// How a client learns that an attempt was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection ends.
    Reset,
    /// Not at all.
    Silence,
}

/// The transport to the server, and the server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Peer {
    fate: Fate,
    attempts: Arc<AtomicU64>,
}

// === impl Peer ===

impl Peer {
    /// One that nobody has called.
    pub fn new(fate: Fate) -> Self {
        Self {
            fate,
            attempts: Arc::default(),
        }
    }

    /// How many attempts were made.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl Service<Request> for Peer {
    type Response = Reply;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let is_lost = fastrand::u64(0..1_000) < self.fate.lost_per_1000;
        let loss = self.fate.loss;
        Box::pin(async move {
            sleep(Duration::from_micros(fastrand::u64(2_000..10_000))).await;
            match (is_lost, loss) {
                (false, _) => Ok(Reply::new(Status::Executed, vec![0])),
                (true, Loss::Reset) => {
                    let error = io::Error::from(io::ErrorKind::ConnectionReset);
                    Err(TransportError::Lost(Arc::new(error)))
                }
                (true, Loss::Silence) => std::future::pending().await,
            }
        })
    }
}
