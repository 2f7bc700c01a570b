//! Who ended a doubt stands in the server's log, also where no record is left to keep the name.
//!
//! Alone in its process: whether an event is wanted is noted for the process where it is made.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::admin::{AdminReply, AdminRequest, KeyName, Outcome, StepOutcome, execute};
use onlyonce::storage::journal::Journal as _;
use onlyonce::storage::{
    ClaimOutcome, ClaimRequest, DoubtReason, FencingToken, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey, StepName, StepNote,
    Store,
};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, span};

/// Writes down events.
#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Notebook {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "onlyonce"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

async fn doubted(store: &MemoryStore, name: &str) -> FencingToken {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("{name} is new");
    };
    let token = claim.token();
    let doubt = store.doubt(claim, DoubtReason::Ambiguous, None);
    doubt.await.unwrap();
    token
}

fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

fn resolve(name: &str, token: FencingToken, outcome: Outcome) -> AdminRequest {
    AdminRequest::Resolve {
        key: KeyName {
            principal: None,
            operation: None,
            key: name.to_owned(),
        },
        token: token.to_string(),
        outcome,
        by: "carol".to_owned(),
    }
}

/// A call in doubt whose step `charge` was begun.
async fn begun(store: &MemoryStore, name: &str) -> FencingToken {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let mut request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    request.journal = Some("POST with a secret".into());
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("{name} is new");
    };
    let token = claim.token();
    let note = StepNote::begun(StepName::parse("charge").unwrap());
    store.note(claim.digest(), token, note).await.unwrap();
    let doubt = store.doubt(claim, DoubtReason::Ambiguous, None);
    doubt.await.unwrap();
    token
}

// I3
#[test]
fn who_resolved_a_step_is_logged_by_digest_with_its_name_and_not_its_result() {
    let notes = Notebook::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _listening = tracing::subscriber::set_default(notes.clone());
    let outcomes = [
        (StepOutcome::NotExecuted, false),
        (
            StepOutcome::Done {
                result: b"a secret".to_vec(),
            },
            true,
        ),
    ];
    runtime.block_on(async {
        let store = MemoryStore::default();
        for (outcome, done) in &outcomes {
            let name = format!("order-secret-{done}");
            let token = begun(&store, &name).await;
            let request = AdminRequest::ResolveStep {
                key: KeyName {
                    principal: None,
                    operation: None,
                    key: name,
                },
                token: token.to_string(),
                step: "charge".to_owned(),
                outcome: outcome.clone(),
                by: "carol".to_owned(),
            };
            let resolved = execute(&store, request.clone()).await.unwrap();
            assert!(matches!(resolved, AdminReply::Key(_)), "{resolved:?}");
            // Who comes too late has resolved nothing.
            let late = execute(&store, request).await.unwrap();
            assert!(matches!(late, AdminReply::Superseded(_)), "{late:?}");
        }
    });
    let notes = notes.0.lock().clone();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (line, (_, done)) in notes.iter().zip(&outcomes) {
        assert!(line.contains("operator=\"carol\""), "{line}");
        assert!(line.contains("step=\"charge\""), "{line}");
        assert!(line.contains(&format!("done={done} ")), "{line}");
        let digest = format!("key={:?}", key(&format!("order-secret-{done}")).digest());
        assert!(line.contains(&digest), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }
}

// I3
#[test]
fn who_ended_a_doubt_is_logged_by_digest_also_where_no_record_is_left() {
    let notes = Notebook::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _listening = tracing::subscriber::set_default(notes.clone());
    runtime.block_on(async {
        let store = MemoryStore::default();
        let token = doubted(&store, "order-secret-1").await;
        let freed = resolve("order-secret-1", token, Outcome::NotApplied);
        execute(&store, freed.clone()).await.unwrap();
        let state = store.peek(key("order-secret-1")).await.unwrap();
        assert_eq!(state, KeyState::Absent, "the name is not kept with the key");
        // Who comes too late has resolved nothing.
        let late = execute(&store, freed).await.unwrap();
        assert!(matches!(late, AdminReply::Superseded(_)), "{late:?}");
        let token = doubted(&store, "order-secret-2").await;
        let applied = Outcome::Applied {
            format: 1,
            answer: b"paid".to_vec(),
        };
        let known = resolve("order-secret-2", token, applied);
        execute(&store, known).await.unwrap();
    });
    let notes = notes.0.lock().clone();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (line, (name, applied)) in notes
        .iter()
        .zip([("order-secret-1", false), ("order-secret-2", true)])
    {
        assert!(line.contains("operator=\"carol\""), "{line}");
        assert!(line.contains(&format!("applied={applied}")), "{line}");
        let digest = format!("key={:?}", key(name).digest());
        assert!(line.contains(&digest), "{line}");
        assert!(!line.contains("secret") && !line.contains("paid"), "{line}");
    }
}
