//! What the author of a service says of its methods.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderName, request};
use onlyonce_storage::Scope;

use crate::grpc::Code;
use crate::grpc::methods::Methods;
use crate::http::ScopeOf;
use crate::http::server::fidelity::CREDENTIALS;
use crate::http::server::intake::Intake;
use crate::http::server::journal::JournalRules;
use crate::http::server::rules::OnReplay;
use crate::server::Guarantee;

/// What the author of a service says.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) scope: Arc<dyn ScopeOf>,
    pub(super) methods: Methods,
    pub(super) guarantee: Guarantee,
    pub(super) journal: JournalRules,
    pub(super) deadline_max: Option<Duration>,
    pub(super) intake: Intake,
    pub(super) answer_bytes_max: usize,
    /// Metadata that is not kept.
    pub(super) withheld: Vec<HeaderName>,
    /// What says that nothing was executed.
    pub(super) releases: Vec<Code>,
    pub(super) on_replay: Option<OnReplay>,
    /// Whether a handler that is said to enter was seen to succeed without: then that it did not enter
    /// proves nothing.
    pub(super) entry_forgotten: Arc<AtomicBool>,
}

// === impl Rules ===

impl Rules {
    pub(super) fn new(scope: impl ScopeOf) -> Self {
        Self {
            scope: Arc::new(scope),
            methods: Methods::default(),
            guarantee: Guarantee::Claimed,
            journal: JournalRules::default(),
            deadline_max: None,
            intake: Intake::default(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            withheld: CREDENTIALS.to_vec(),
            releases: Vec::new(),
            on_replay: None,
            entry_forgotten: Arc::default(),
        }
    }

    /// The scope of a request; `None` where its caller is nobody.
    pub(super) fn scope_of(&self, request: &request::Parts) -> Option<Scope> {
        self.scope.scope_of(request)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("methods", &self.methods)
            .field("guarantee", &self.guarantee)
            .field("releases", &self.releases)
            .finish_non_exhaustive()
    }
}

/// What stores record by default.
const ANSWER_BYTES_MAX: usize = 1 << 20;
