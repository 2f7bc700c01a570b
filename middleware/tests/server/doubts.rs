//! Calls in doubt, and an outside world that can be asked about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_middleware::server::{Doubt, InDoubtPolicy, Reconciled, Reconciliation, Refusal};
use onlyonce_storage::{
    Answer, AnswerFormat, DoubtReason, FencingToken, IdempotencyKey, KeyState, ManualClock,
    MemoryOptions, MemoryStore, Scope, ScopedKey, Store,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::protocol::{Ask, Effects, Handler, Told, done, send};

pub fn key(text: &str) -> ScopedKey {
    let scope = Scope::principal("tenant").unwrap();
    ScopedKey::new(scope, IdempotencyKey::parse(text).unwrap())
}

pub fn in_doubt(told: &Told) -> Option<DoubtReason> {
    match told {
        Told::Refused(Refusal::InDoubt(in_doubt)) => Some(in_doubt.reason),
        _ => None,
    }
}

/// What a handler of the tests would have answered with.
pub fn answer(body: &str) -> Answer {
    Answer::new(AnswerFormat::new(1), format!("+{body}").into_bytes())
}

/// A hook that always finds the same, and how often it was asked.
pub fn finding(found: Reconciled) -> (InDoubtPolicy, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let policy = {
        let asked = Arc::clone(&asked);
        reconcile(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok::<_, String>(found.clone()))
        })
    };
    (InDoubtPolicy::Reconcile(policy), asked)
}

pub fn reconcile<F, Fut>(hook: F) -> Reconciliation
where
    F: Fn(Doubt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reconciled, String>> + Send + 'static,
{
    Reconciliation::new(hook)
}

/// A store in which the call `k` of the request `pay` is in doubt: its handler panicked, after its
/// effect or before.
pub async fn after_a_panic(effects: &Effects, applied: bool) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::default());
    let effects = effects.clone();
    let server = Handler::new(move |ask: Ask| {
        if applied {
            effects.apply(&ask.body);
        }
        async { panic!("who knows when") }
    })
    .over(store.clone());
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone));
    store
}

/// An owner whose process is frozen while its handler runs; it applies its effect when it goes on,
/// if the outside world takes its token.
pub struct Frozen {
    pub store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    gate: Arc<Notify>,
    caller: JoinHandle<Told>,
}

impl Frozen {
    pub async fn applying(outside: &Outside) -> Self {
        let gate = Arc::new(Notify::new());
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::with_options(
            MemoryOptions::new().clock(clock.clone()),
        ));
        let zombie = {
            let (gate, outside) = (Arc::clone(&gate), outside.clone());
            Handler::new(move |ask| {
                let (gate, outside) = (Arc::clone(&gate), outside.clone());
                async move {
                    gate.notified().await;
                    outside.apply(&ask);
                    Ok(done("the first run's"))
                }
            })
        }
        .over(store.clone());
        let caller = tokio::spawn(async move { send(&zombie, Ask::new("k", "pay")).await });
        while !matches!(
            store.peek(key("k")).await.unwrap(),
            KeyState::InProgress { .. }
        ) {
            tokio::task::yield_now().await;
        }
        Self {
            store,
            clock,
            gate,
            caller,
        }
    }

    /// Its lease lapses, and nobody knows whether it lives.
    pub fn lapses(&self) {
        self.clock.advance(Duration::from_secs(31));
    }

    /// What its caller is told once it goes on.
    pub async fn thaw(self) -> Told {
        self.gate.notify_one();
        self.caller.await.unwrap()
    }
}

/// An outside system: it has effects, and may remember the largest token it has seen.
#[derive(Clone, Debug)]
pub struct Outside {
    pub effects: Effects,
    seen: Option<Arc<parking_lot::Mutex<FencingToken>>>,
}

impl Outside {
    pub fn new() -> Self {
        Self {
            effects: Effects::default(),
            seen: None,
        }
    }

    pub fn that_enforces_fencing() -> Self {
        Self {
            effects: Effects::default(),
            seen: Some(Arc::new(parking_lot::Mutex::new(FencingToken::new(0, 0)))),
        }
    }

    pub fn apply(&self, ask: &Ask) {
        let token = ask.execution.unwrap().token;
        if let Some(seen) = &self.seen {
            let mut seen = seen.lock();
            if token < *seen {
                return;
            }
            *seen = token;
        }
        self.effects.apply(&ask.body);
    }

    pub fn handler(&self) -> Handler {
        let outside = self.clone();
        Handler::new(move |ask: Ask| {
            let outside = outside.clone();
            async move {
                outside.apply(&ask);
                Ok(done("paid"))
            }
        })
    }
}
