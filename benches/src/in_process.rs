//! Calls within one process: no network, no protocol, a handler that is ready at once. Key and
//! fingerprint of a request of 64 bytes are digested for each call, and an answer of 300 bytes is
//! recorded in memory.

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptTimeoutLayer, Call, EnforceDeadlineLayer, Keyed, RetryLayer, StampLayer,
    Ticket, Verdict,
};
use onlyonce_middleware::observe::ObserveLayer;
use onlyonce_middleware::server::{
    Adapter, Admission, DedupeLayer, Intent, Outcome, Recording, Refusal, Served,
};
use onlyonce_middleware::{client, stack};
use onlyonce_storage::{
    Answer, AnswerFormat, Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey,
    KeyState, MemoryStore, Scope, ScopedKey, Store,
};
use tower_layer::Layer as _;
use tower_service::Service;

use crate::calls::bytes;

/// What stands around the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Bare,
    /// A key and the words of the protocol: what no call of the client's goes without.
    KeyAndStamp,
    /// And the timeout of an attempt.
    AttemptTimeout,
    /// And retries, of which none is needed.
    Retry,
    /// And the deadline of the call.
    Deadline,
    /// And metrics and spans, which nobody listens to.
    Observe,
    /// The client's stack: all of these, boxed.
    Client,
    /// Dedupe, of the server.
    Dedupe,
    /// The server's stack: dedupe, and metrics and spans, which nobody listens to.
    Server,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Bare,
        Self::KeyAndStamp,
        Self::AttemptTimeout,
        Self::Retry,
        Self::Deadline,
        Self::Observe,
        Self::Client,
        Self::Dedupe,
        Self::Server,
    ];

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::KeyAndStamp => "key-and-stamp",
            Self::AttemptTimeout => "attempt-timeout",
            Self::Retry => "retry",
            Self::Deadline => "deadline",
            Self::Observe => "observe",
            Self::Client => "client-stack",
            Self::Dedupe => "dedupe",
            Self::Server => "server-stack",
        }
    }

    /// Whether a call that comes again is another one than the first.
    #[must_use]
    pub const fn dedupes(self) -> bool {
        matches!(self, Self::Dedupe | Self::Server)
    }

    /// Makes so many calls, one after the other, and then as many of them again. `mark` is called
    /// before the first, between both, and at the end.
    pub async fn make(self, first: u64, again: u64, mark: impl FnMut() + Send) {
        let handler = Handler(Bytes::from(bytes(300)));
        let store = || Arc::new(MemoryStore::new());
        let key = AttachKeyLayer::new(Plain);
        let stamped = StampLayer::new(Plain).layer(handler.clone());
        let attempts = AttemptTimeoutLayer::new();
        let (retry, deadline) = (RetryLayer::new(Plain), EnforceDeadlineLayer::new());
        match self {
            Self::Bare => make(handler, first, again, mark).await,
            Self::KeyAndStamp => make(key.layer(stamped), first, again, mark).await,
            Self::AttemptTimeout => {
                let service = key.layer(attempts.layer(stamped));
                make(service, first, again, mark).await;
            }
            Self::Retry => {
                let service = key.layer(retry.layer(attempts.layer(stamped)));
                make(service, first, again, mark).await;
            }
            Self::Deadline => {
                let calls = deadline.layer(retry.layer(attempts.layer(stamped)));
                make(key.layer(calls), first, again, mark).await;
            }
            Self::Observe => {
                let calls = deadline.layer(retry.layer(attempts.layer(stamped)));
                let service = ObserveLayer::new().layer(key.layer(calls));
                make(service, first, again, mark).await;
            }
            Self::Client => {
                let service = stack::client(Plain).around(handler);
                make(service, first, again, mark).await;
            }
            Self::Dedupe => {
                let service = DedupeLayer::new(store(), Plain).layer(handler);
                make(service, first, again, mark).await;
            }
            Self::Server => {
                let service = stack::server(store(), Plain).layer(handler);
                make(service, first, again, mark).await;
            }
        }
    }
}

/// The server's stack over a store: for calls that are made at the same time.
#[derive(Clone)]
pub struct Server(ServerService);

type ServerService = <stack::ServerStack<Plain> as tower_layer::Layer<Handler>>::Service;

// === impl Server ===

impl Server {
    /// The stack with its defaults over `store`, around the same handler.
    #[must_use]
    pub fn over(store: Arc<dyn Store>) -> Self {
        Self(stack::server(store, Plain).layer(Handler(Bytes::from(bytes(300)))))
    }

    /// Makes call `number`, for the first time or again.
    ///
    /// # Panics
    ///
    /// When it is not answered.
    pub async fn call(&self, number: u64) {
        call(&self.0, number).await;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

async fn make<S>(service: S, first: u64, again: u64, mut mark: impl FnMut())
where
    S: Service<u64, Response = Told> + Clone,
    S::Error: Debug,
{
    mark();
    for number in 0..first {
        call(&service, number).await;
    }
    mark();
    for number in 0..again {
        call(&service, number % first).await;
    }
    mark();
}

/// As servers do it: a service for each call.
async fn call<S>(service: &S, number: u64)
where
    S: Service<u64, Response = Told> + Clone,
    S::Error: Debug,
{
    let told = service.clone().call(number).await.expect("an answer");
    assert_eq!(told.bytes.len(), 300);
}

/// Answers the same to everybody.
#[derive(Clone)]
struct Handler(Bytes);

#[derive(Debug)]
struct Told {
    bytes: Bytes,
    _served: Served,
}

impl Service<u64> for Handler {
    type Response = Told;
    type Error = Infallible;
    type Future = Ready<Result<Told, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Self::Future {
        ready(Ok(Told {
            bytes: self.0.clone(),
            _served: Served::Unprotected,
        }))
    }
}

/// A protocol whose requests are numbers, and stand for a key and a body made of it.
#[derive(Clone)]
struct Plain;

impl client::Adapter<u64> for Plain {
    type Response = Told;
    type Error = Infallible;

    fn ticket(&self, _: &u64) -> Option<Ticket> {
        None
    }

    fn stamp(&self, keyed: Keyed<u64>) -> u64 {
        keyed.into_parts().0
    }

    fn try_clone(&self, number: &u64) -> Option<u64> {
        Some(*number)
    }

    fn classify(&self, _: &Call, _: Result<&Told, &Infallible>) -> Verdict {
        Verdict::Accept
    }
}

impl Adapter for Plain {
    type Request = u64;
    type Response = Told;
    type Error = Infallible;

    async fn admit(&self, number: u64) -> Admission<u64> {
        let mut text = *b"0199f1c2-7a3e-7b21-0000000000000000";
        for (place, byte) in text[19..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
        }
        let text = std::str::from_utf8(&text).expect("digits");
        let key = IdempotencyKey::parse(text).expect("a key");
        let mut body = [7; 64];
        body[..8].copy_from_slice(&number.to_be_bytes());
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).field("body", &body);
        let key = ScopedKey::new(Scope::global(), key);
        let intent = Intent::new(key, Fingerprints::new(print.finish()));
        Admission::Protected(intent, number)
    }

    async fn record(&self, result: Result<Told, Infallible>) -> Recording<Told> {
        let Ok(told) = result;
        let answer = Answer::new(AnswerFormat::new(1), told.bytes.clone());
        Recording {
            outcome: Outcome::Record(answer),
            response: Some(told),
        }
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Told, Refusal> {
        Ok(Told {
            bytes: answer.body().clone(),
            _served: served,
        })
    }

    fn mark(&self, told: Told, served: Served) -> Told {
        Told {
            _served: served,
            ..told
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Told {
        panic!("{refusal}");
    }

    fn tell(&self, state: &KeyState) -> Told {
        panic!("nobody asks for {state:?}");
    }
}
