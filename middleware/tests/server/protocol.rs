//! A small protocol of the tests' own, a handler that can be steered, and a ledger of effects that
//! is independent of the layer under test.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::server::{
    AbandonedCall, Adapter, Admission, Dedupe, DedupeLayer, DedupeOptions, Execution, Guarantee,
    InDoubtPolicy, Intent, Outcome, Question, Recording, Refusal, Served, Steps,
};
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    Answer, AnswerFormat, FencingToken, Fingerprint, FingerprintAlgorithm, Fingerprints,
    IdempotencyKey, KeyState, Scope, ScopedKey, Store, StoreId,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

/// What a caller sends.
#[derive(Clone, Debug)]
pub struct Ask {
    pub key: Option<String>,
    pub principal: Option<String>,
    pub body: String,
    pub deadline: Option<Duration>,
    pub store: Option<StoreId>,
    pub question: Option<Question>,
    /// The algorithm with which the server digests, as if it had been deployed anew.
    pub algorithm: u16,
    /// What the handler is told of its run.
    pub execution: Option<Execution>,
    /// What a handler works on whose body begins with [`BOOK`].
    pub transaction: Option<Transaction>,
    /// What a handler has its effects with whose body begins with [`ORDER`].
    pub steps: Option<Steps>,
    /// The claim under which the call stands still, for who goes on with it unasked.
    pub goes_on_from: Option<FencingToken>,
}

/// What is done in a transaction begins with this.
pub const BOOK: &str = "book";

/// What is done in steps begins with this.
pub const ORDER: &str = "order";

/// What a caller gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Done(String, Served),
    Declined(String, Served),
    Broken(String, Served),
    TryLater(Served),
    Refused(Refusal),
    State(KeyState),
}

/// A handler's failure that is no answer.
#[derive(Debug, PartialEq)]
pub struct NoAnswer;

/// Speaks the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Every effect that ever happened, by body.
#[derive(Clone, Debug, Default)]
pub struct Effects(Arc<Mutex<HashMap<String, u32>>>);

/// What the handler does with each request.
pub type Handle =
    Arc<dyn Fn(Ask) -> Pin<Box<dyn Future<Output = Result<Told, NoAnswer>> + Send>> + Send + Sync>;

/// A service around [`Handle`].
#[derive(Clone)]
pub struct Handler(Handle);

pub type Server = Dedupe<Handler, Plain>;

// === impl NoAnswer ===

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for NoAnswer {}

// === impl Ask ===

impl Ask {
    pub fn new(key: &str, body: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            principal: Some("tenant".to_owned()),
            body: body.to_owned(),
            deadline: None,
            store: None,
            question: None,
            algorithm: 1,
            execution: None,
            transaction: None,
            steps: None,
            goes_on_from: None,
        }
    }

    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub fn of(mut self, principal: &str) -> Self {
        self.principal = Some(principal.to_owned());
        self
    }

    pub fn asking(mut self, question: Question) -> Self {
        self.question = Some(question);
        self
    }
}

// === impl Plain ===

impl Adapter for Plain {
    type Request = Ask;
    type Response = Told;
    type Error = NoAnswer;

    async fn admit(&self, ask: Ask) -> Admission<Ask> {
        let Some(principal) = &ask.principal else {
            return Admission::Refused(Refusal::ScopeMissing);
        };
        let Some(key) = &ask.key else {
            return match ask.body.as_str() {
                "read" => Admission::Unprotected(ask),
                _ => Admission::Refused(Refusal::KeyMissing),
            };
        };
        let key = match IdempotencyKey::parse(key) {
            Ok(key) => ScopedKey::new(Scope::principal(principal).unwrap(), key),
            Err(error) => return Admission::Refused(Refusal::KeyMalformed(error)),
        };
        if let Some(question) = ask.question {
            return Admission::Ask {
                question,
                key,
                first_sent: None,
                deadline: None,
            };
        }
        let digest = |number| {
            // The second algorithm ignores white space.
            let body = if number == 1 {
                ask.body.clone()
            } else {
                ask.body.replace(' ', "")
            };
            Fingerprint::builder(FingerprintAlgorithm::new(number))
                .field("body", body.as_bytes())
                .finish()
        };
        let mut fingerprints = Fingerprints::new(digest(ask.algorithm));
        if ask.algorithm > 1 {
            fingerprints = fingerprints.or_earlier(digest(1));
        }
        let mut intent = Intent::new(key, fingerprints);
        intent.deadline = ask.deadline.map(|left| Instant::now() + left);
        intent.store = ask.store;
        if ask.body.starts_with(BOOK) {
            intent.guarantee = Guarantee::Transactional;
        }
        if ask.body.starts_with(ORDER) {
            intent.guarantee = Guarantee::Journaled;
            intent.stored_request = Some(ask.body.clone().into());
        }
        intent.goes_on_from = ask.goes_on_from;
        Admission::Protected(intent, ask)
    }

    fn executing(&self, mut ask: Ask, execution: Execution) -> Ask {
        ask.execution = Some(execution);
        ask
    }

    fn transacting(
        &self,
        ask: &Ask,
        execution: Execution,
        transaction: &Transaction,
    ) -> Option<Ask> {
        let mut ask = ask.clone();
        ask.execution = Some(execution);
        ask.transaction = Some(transaction.clone());
        Some(ask)
    }

    fn journaling(&self, mut ask: Ask, execution: Execution, steps: &Steps) -> Option<Ask> {
        ask.execution = Some(execution);
        ask.steps = Some(steps.clone());
        Some(ask)
    }

    fn revive(&self, call: &AbandonedCall) -> Option<(Intent, Ask)> {
        let body = std::str::from_utf8(&call.request).unwrap();
        // The layer names the call.
        let other = IdempotencyKey::parse("another").unwrap();
        let other = ScopedKey::new(Scope::global(), other);
        let intent = Intent::new(other, Fingerprints::new(call.fingerprint));
        Some((intent, Ask::new(call.key.key().as_str(), body)))
    }

    async fn record(&self, result: Result<Told, NoAnswer>) -> Recording<Told> {
        let answer = |kind: &str, body: &str| {
            Answer::new(AnswerFormat::new(1), format!("{kind}{body}").into_bytes())
        };
        let outcome = match &result {
            Ok(Told::Done(body, _)) => Outcome::Record(answer("+", body)),
            Ok(Told::Declined(body, _)) => Outcome::Record(answer("-", body)),
            Ok(Told::Broken(body, _)) => Outcome::InDoubt(Some(answer("!", body))),
            Ok(_) => Outcome::NotExecuted,
            Err(NoAnswer) => Outcome::InDoubt(None),
        };
        Recording {
            outcome,
            response: result.ok(),
        }
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Told, Refusal> {
        let text = String::from_utf8(answer.body().to_vec()).unwrap();
        let body = text[1..].to_owned();
        Ok(match &text[..1] {
            "+" => Told::Done(body, served),
            "-" => Told::Declined(body, served),
            _ => Told::Broken(body, served),
        })
    }

    fn mark(&self, told: Told, served: Served) -> Told {
        match told {
            Told::Done(body, _) => Told::Done(body, served),
            Told::Declined(body, _) => Told::Declined(body, served),
            Told::Broken(body, _) => Told::Broken(body, served),
            Told::TryLater(_) => Told::TryLater(served),
            other => other,
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Told {
        Told::Refused(refusal.clone())
    }

    fn tell(&self, state: &KeyState) -> Told {
        Told::State(state.clone())
    }
}

// === impl Effects ===

impl Effects {
    pub fn apply(&self, body: &str) {
        *self.0.lock().entry(body.to_owned()).or_default() += 1;
    }

    pub fn of(&self, body: &str) -> u32 {
        self.0.lock().get(body).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u32 {
        self.0.lock().values().sum()
    }
}

// === impl Handler ===

impl Handler {
    pub fn new<F, Fut>(handle: F) -> Self
    where
        F: Fn(Ask) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Told, NoAnswer>> + Send + 'static,
    {
        Self(Arc::new(move |ask| Box::pin(handle(ask))))
    }

    /// Applies the effect at once and answers with its number.
    pub fn applying(effects: &Effects) -> Self {
        let effects = effects.clone();
        Self::new(move |ask: Ask| {
            let effects = effects.clone();
            async move {
                effects.apply(&ask.body);
                Ok(done(&format!("{} #{}", ask.body, effects.of(&ask.body))))
            }
        })
    }

    /// Takes `pause` before it applies the effect.
    pub fn slow(effects: &Effects, pause: Duration) -> Self {
        let effects = effects.clone();
        Self::new(move |ask: Ask| {
            let effects = effects.clone();
            async move {
                tokio::time::sleep(pause).await;
                effects.apply(&ask.body);
                Ok(done(&format!("{} #{}", ask.body, effects.of(&ask.body))))
            }
        })
    }

    pub fn over(self, store: Arc<dyn Store>) -> Server {
        self.over_with(store, DedupeOptions::default())
    }

    pub fn over_policy(self, store: Arc<dyn Store>, policy: InDoubtPolicy) -> Server {
        DedupeLayer::new(store, Plain).in_doubt(policy).layer(self)
    }

    pub fn over_with(self, store: Arc<dyn Store>, options: DedupeOptions) -> Server {
        DedupeLayer::with_options(store, Plain, options).layer(self)
    }
}

impl Service<Ask> for Handler {
    type Response = Told;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Told, NoAnswer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        (self.0)(ask)
    }
}

/// What the handler answers before anything is marked.
pub fn done(body: &str) -> Told {
    Told::Done(body.to_owned(), Served::Unprotected)
}

pub async fn send(server: &Server, ask: Ask) -> Told {
    server.clone().oneshot(ask).await.unwrap()
}
