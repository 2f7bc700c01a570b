//! What the author of a route says of its requests and answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, request, response};
use onlyonce_storage::Scope;

use super::ScopeOf;
use super::fidelity::CREDENTIALS;
use super::fingerprint::FingerprintRules;
use super::handler::Keep;
use super::intake::Intake;
use super::journal::JournalRules;
use crate::server::Guarantee;

/// What the author of a route says.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) scope: Arc<dyn ScopeOf>,
    pub(super) operation: Option<Box<str>>,
    pub(super) key: KeyRule,
    pub(super) guarantee: Guarantee,
    pub(super) journal: JournalRules,
    pub(super) deadline_max: Option<Duration>,
    pub(super) intake: Intake,
    pub(super) fingerprint: FingerprintRules,
    pub(super) keep: Keep,
    pub(super) answer_bytes_max: usize,
    /// Headers that are not kept.
    pub(super) withheld: Vec<HeaderName>,
    pub(super) releases_503: bool,
    pub(super) exposes_to_cors: bool,
    pub(super) on_replay: Option<OnReplay>,
}

/// Whether requests carry a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyRule {
    Optional,
    /// They must not: one key cannot stand for several items.
    Refused,
    Required,
}

/// Asks whether the caller may still see the answer that is kept.
pub(crate) type OnReplay = Arc<dyn Fn(request::Parts, response::Parts) -> Allowed + Send + Sync>;

pub(crate) type Allowed = Pin<Box<dyn Future<Output = bool> + Send>>;

// === impl Rules ===

impl Rules {
    pub(super) fn new(scope: impl ScopeOf) -> Self {
        Self {
            scope: Arc::new(scope),
            operation: None,
            key: KeyRule::Required,
            guarantee: Guarantee::Claimed,
            journal: JournalRules::default(),
            deadline_max: None,
            intake: Intake::default(),
            fingerprint: FingerprintRules::default(),
            keep: Keep::Whole,
            answer_bytes_max: ANSWER_BYTES_MAX,
            withheld: CREDENTIALS.to_vec(),
            releases_503: false,
            exposes_to_cors: false,
            on_replay: None,
        }
    }

    /// The scope of a request; `None` where its caller is nobody.
    pub(super) fn scope_of(&self, request: &request::Parts) -> Option<Scope> {
        let scope = self.scope.scope_of(request)?;
        match &self.operation {
            None => Some(scope),
            // OK because the layer has tried the name.
            Some(operation) => scope.operation(operation).ok(),
        }
    }

    /// Whether a request with this method must carry a key.
    pub(super) fn requires_key(&self, method: &Method) -> bool {
        self.key == KeyRule::Required && (method == Method::POST || method == Method::PATCH)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("operation", &self.operation)
            .field("key", &self.key)
            .field("guarantee", &self.guarantee)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// What stores record by default.
const ANSWER_BYTES_MAX: usize = 1 << 20;
