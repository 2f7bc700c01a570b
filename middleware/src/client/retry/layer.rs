use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::attempt_times::AttemptTimes;
use super::policy::RetryPolicy;
use super::schedule::Schedules;
use super::{Backoff, Retry, RetryBudget};

/// The least worth calling retry: one for a blip, one for a blip of the retry. AWS, the SRE book
/// and resilience4j agree.
const ATTEMPTS_DEFAULT: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

/// As long as the default deadline of a call.
const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// Makes attempts until one is answered, or another may not be made.
///
/// Stands inside of [`EnforceDeadlineLayer`](super::super::EnforceDeadlineLayer) and around
/// [`AttemptTimeoutLayer`](super::super::AttemptTimeoutLayer). Inside of the attempt's timeout all
/// attempts would share the time of one; outside of the deadline nothing would bound them; and
/// outside of [`AttachKeyLayer`](super::super::AttachKeyLayer) each attempt would get a key of its
/// own, and so an effect of its own. That order does not compile, because this layer takes only
/// requests that have their key:
///
/// ```compile_fail,E0277
/// # use onlyonce_middleware::client::{Adapter, AttachKeyLayer, AttemptError, Keyed, RetryLayer};
/// # use tower::{Layer, Service};
/// fn called_with<Req, S: Service<Req>>(_: S) {}
///
/// fn key_inside_of_retry<A, S>(adapter: A, transport: S)
/// where
///     A: Adapter<String>,
///     S: Service<Keyed<String>, Response = A::Response, Error = AttemptError<A::Error>>
///         + Clone + Send + 'static,
///     S::Future: Send,
/// {
///     let keyed = AttachKeyLayer::new(adapter.clone()).layer(transport);
///     called_with::<String, _>(RetryLayer::new(adapter).layer(keyed));
/// }
/// ```
///
/// ```
/// # use onlyonce_middleware::client::{Adapter, AttachKeyLayer, AttemptError, Keyed, RetryLayer};
/// # use tower::{Layer, Service};
/// fn called_with<Req, S: Service<Req>>(_: S) {}
///
/// fn key_outside_of_retry<A, S>(adapter: A, transport: S)
/// where
///     A: Adapter<String>,
///     S: Service<Keyed<String>, Response = A::Response, Error = AttemptError<A::Error>>
///         + Clone + Send + 'static,
///     S::Future: Send,
/// {
///     let retry = RetryLayer::new(adapter.clone()).layer(transport);
///     called_with::<String, _>(AttachKeyLayer::new(adapter).layer(retry));
/// }
/// ```
///
/// One layer for each destination: all services that a layer (or its clones) makes share the
/// budget and what is known of how long attempts take.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RetryLayer<A> {
    pub(super) adapter: A,
    pub(super) policy: RetryPolicy,
    pub(super) schedules: Schedules,
    pub(super) budget: RetryBudget,
    pub(super) times: Arc<AttemptTimes>,
}

impl<A> RetryLayer<A> {
    /// Retries as the defaults say: 3 attempts; full jitter from 50 ms, doubling, up to 20 s; a
    /// budget of 20 % of the answered calls plus 10 a second.
    pub fn new(adapter: A) -> Self {
        Self {
            adapter,
            policy: RetryPolicy {
                attempts_max: ATTEMPTS_DEFAULT,
                assume_dedupe: false,
                within_calls: false,
                wait_max: WAIT_MAX_DEFAULT,
            },
            schedules: Schedules::new(Backoff::default()),
            budget: RetryBudget::default(),
            times: Arc::default(),
        }
    }

    /// At most this many attempts in all, the first one included. Asking for an answer that is
    /// being made (`409` and in progress) is none of them.
    pub const fn with_attempts_max(mut self, attempts_max: NonZeroU32) -> Self {
        self.policy.attempts_max = attempts_max;
        self
    }

    /// Retries also within a handler whose own caller retries. By default such a call is attempted
    /// once, so that retries do not multiply from service to service; a handler that is not called
    /// again by anybody else (its peer is a queue, say) may want it.
    ///
    /// Which handler a call is made within is known by its task: what it spawns is not within it.
    pub const fn retry_within_calls(mut self) -> Self {
        self.policy.within_calls = true;
        self
    }

    /// Waits as `backoff` says. Its cap also bounds a foreign schedule (see `with_schedule`).
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.schedules.set_backoff(backoff);
        self
    }

    /// Takes retries from `budget`, which others can share. A budget that is shared between
    /// destinations lets a dead one spend what the others have earned.
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Takes the delays before retries from any schedule of the crate `backoff`. `make` is called
    /// once a call, when its first attempt has failed. A delay above the cap of the
    /// [`Backoff`], or past the deadline, is shortened to it; `None` ends the call
    /// ([`Stopped::Schedule`](super::super::Stopped::Schedule)). What the peer asks for is added.
    /// Asking for an answer that is being made is paced by the [`Backoff`] all the same.
    #[cfg(feature = "backoff")]
    pub fn with_schedule<F, B>(mut self, make: F) -> Self
    where
        F: Fn() -> B + Send + Sync + 'static,
        B: backoff::backoff::Backoff + Send + 'static,
    {
        self.schedules.set_foreign(make);
        self
    }

    /// How long a call *without a deadline* goes on asking for an answer that is being made, since
    /// it began. 30 s (default). A call with a deadline asks until that.
    pub const fn with_wait_max(mut self, wait_max: Duration) -> Self {
        self.policy.wait_max = wait_max;
        self
    }

    /// Takes it on your word that the peer dedupes, and that all its servers share one store.
    ///
    /// **This weakens the promise.** If it is not so, an attempt whose answer was lost is executed
    /// again. Without it such an attempt is retried only if the peer has named its store.
    pub const fn assume_dedupe(mut self) -> Self {
        self.policy.assume_dedupe = true;
        self
    }
}

impl<A: Clone, S> Layer<S> for RetryLayer<A> {
    type Service = Retry<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(inner, self.clone())
    }
}

impl<A> fmt::Debug for RetryLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.policy)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
