//! The wire between the layers, as a service.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_chaos::fault::{Phase, What};
use onlyonce_chaos::history::Happened;
use tokio::time::sleep;
use tower::{Service, ServiceExt};

use super::Run;
use super::server::Server;
use crate::rpc::{Reply, Request, TransportError};

/// Carries the attempts of one call.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) run: Run,
    pub(super) server: Server,
    pub(super) call: u64,
}

/// One attempt, on its way there and back.
struct Attempt {
    link: Link,
    number: u32,
}

// === impl Link ===

impl Service<Request> for Link {
    type Response = Reply;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let attempt = Attempt {
            link: self.clone(),
            number: self.run.next_attempt(self.call),
        };
        Box::pin(attempt.carry(request))
    }
}

// === impl Attempt ===

impl Attempt {
    async fn carry(self, request: Request) -> Result<Reply, TransportError> {
        if let (Some(stamp), Some(store)) = (&request.stamp, self.link.server.store) {
            stamp.call.bind(store);
        }
        self.note(Happened::Sent);
        self.suffer(Phase::RequestSent, &request).await?;
        let pause = self
            .link
            .run
            .seed()
            .draw(&[PAUSES, self.link.call, self.number.into()]);
        sleep(Duration::from_micros(pause.within(100..=900))).await;
        self.note(Happened::Received);
        self.suffer(Phase::RequestReceived, &request).await?;
        let reply = self.ask(request.clone()).await?;
        self.note(Happened::Replied);
        self.suffer(Phase::ReplySent, &request).await?;
        sleep(Duration::from_micros(pause.within(100..=900))).await;
        self.suffer(Phase::ReplyReceived, &request).await?;
        Ok(reply)
    }

    async fn suffer(&self, phase: Phase, request: &Request) -> Result<(), TransportError> {
        let run = &self.link.run;
        for (fault, draw) in run.strikes(self.link.call, self.number, phase) {
            run.struck(fault, self.link.call, self.number, phase);
            match fault.what {
                What::Delay { .. } => sleep(fault.what.delay(draw).unwrap_or_default()).await,
                What::Duplicate { later_ms } => {
                    let (link, number, request) = (self.link.clone(), self.number, request.clone());
                    // No caller waits for it, and it may come when the call is long over.
                    self.link.run.comes_later(async move {
                        sleep(Duration::from_millis(later_ms)).await;
                        link.run.note(link.call, number, Happened::Received);
                        let _ = link.server.oneshot(request).await;
                    });
                }
                What::Close | What::Reset => {
                    let error = io::Error::from(io::ErrorKind::ConnectionReset);
                    return Err(TransportError::Lost(Arc::new(error)));
                }
                // Whoever waits is told nothing.
                _ => pending().await,
            }
        }
        Ok(())
    }

    /// Asks the server in a task of its own: whoever goes away takes nothing with it.
    async fn ask(&self, request: Request) -> Result<Reply, TransportError> {
        let asked = tokio::spawn(self.link.server.clone().oneshot(request));
        match asked.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(never)) => match never {},
            Err(failed) => Err(TransportError::Lost(Arc::new(io::Error::other(failed)))),
        }
    }

    fn note(&self, what: Happened) {
        self.link.run.note(self.link.call, self.number, what);
    }
}

const PAUSES: u64 = 0x6c69_6e6b;
