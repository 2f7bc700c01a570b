//! Methods whose effects are named steps, with any effect each.
#![doc = include_str!("../manual/journal.md")]

use std::future::Future;
use std::num::NonZeroU32;

use bytes::Bytes;
use onlyonce_middleware::server::{self, AbandonedCall, StepError, StepRun};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failed::CallFailure;
use super::method::Failure;
use super::router::{Caller, Handling};
use super::value::{self, ValueError};
use super::{Incoming, Reply, Status, Verb, router};

pub use onlyonce_middleware::server::Unfinished as UnfinishedStep;

/// What a journaled handler has its effects with, for one run of one call.
///
/// See [`server::Steps`] for what holds of every step. Results are any serde types, kept as bincode
/// (as arguments and replies are). A method whose steps change, be it a name, a kind or a type, needs a new
/// name while calls of it stand still: a step by another name is another step, with its effect again.
#[derive(Clone, Debug)]
pub struct Steps {
    inner: server::Steps,
}

/// How a journaled handler ends without a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupted<F> {
    /// A definitive answer that is not the reply: recorded and replayed like any answer. Steps that
    /// are finished have had their effects.
    Fault(F),
    /// The handler cannot know what became of the call. It is in doubt until an operator resolves it.
    InDoubt,
    /// Nothing was executed, and another attempt may fare better. The text goes to the client. After a
    /// step it is not believed: the call stands still and goes on later.
    NotExecuted(String),
    /// A step has no result. The call stands still and goes on at this step, or is in doubt; whatever
    /// else a handler says of such a run does not count.
    Step(StepError),
}

// === impl Steps ===

impl Steps {
    pub(super) const fn new(inner: server::Steps) -> Self {
        Self { inner }
    }

    /// Runs a step whose peer dedupes by [`StepRun::key`]: see [`server::Steps::run_keyed`]. One
    /// durable write.
    ///
    /// # Errors
    ///
    /// Why it has no result: hand it on with `?`.
    pub async fn run_keyed<T, C, Fut>(&self, name: &str, run: C) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        C: FnOnce(StepRun) -> Fut,
        Fut: Future<Output = Result<T, UnfinishedStep>>,
    {
        let run = |step| encoded(run(step));
        let result = self.inner.run_keyed(name, run).await?;
        self.decoded(&result)
    }

    /// Runs a step that must not be repeated: see [`server::Steps::run_once`]. Two durable writes.
    ///
    /// # Errors
    ///
    /// Why it has no result: hand it on with `?`.
    pub async fn run_once<T, C, Fut>(&self, name: &str, run: C) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        C: FnOnce(StepRun) -> Fut,
        Fut: Future<Output = Result<T, UnfinishedStep>>,
    {
        let run = |step| encoded(run(step));
        let result = self.inner.run_once(name, run).await?;
        self.decoded(&result)
    }

    /// The bytes that a step's result is kept as: for whoever says by hand what became of a step, with
    /// [`Journal::resolve_step`](onlyonce_storage::Journal::resolve_step).
    ///
    /// # Errors
    ///
    /// [`StepError::Unreadable`] for a value that has no bytes (a map of unknown length).
    pub fn result_bytes<T: Serialize>(result: &T) -> Result<Bytes, StepError> {
        value::encode(result).map_err(|error| StepError::Unreadable(error.to_string()))
    }

    fn decoded<T: DeserializeOwned>(&self, result: &Bytes) -> Result<T, StepError> {
        value::decode(result).map_err(|error: ValueError| self.inner.unreadable(error.to_string()))
    }
}

async fn encoded<T: Serialize>(
    running: impl Future<Output = Result<T, UnfinishedStep>>,
) -> Result<Bytes, UnfinishedStep> {
    let result = running.await?;
    value::encode(&result)
        .map_err(|error| UnfinishedStep::Unknown(format!("its result has no bytes: {error}")))
}

// === impl Interrupted ===

impl<F> From<StepError> for Interrupted<F> {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

/// What a call of our own means for the step that made it: its answer, be that a reply or the peer's
/// fault, is the step's result. Without an answer the step is unfinished, and says whether the call
/// was executed as far as its failure knows.
///
/// ```
/// use onlyonce::rpc::{Client, Method, Steps, StepError, answered};
///
/// const CHARGE: Method<u64, String, String> = Method::new("charge");
///
/// async fn charge(steps: &Steps, bank: &Client, cents: u64) -> Result<Result<String, String>, StepError> {
///     steps
///         .run_keyed("charge", async |run| answered(bank.call_as(run.key, &CHARGE, &cents).await))
///         .await
/// }
/// # let _ = charge;
/// ```
///
/// A peer whose clock differs from this server's by less than five minutes can be told when the call was
/// begun ([`StepRun::ticket`]). Once it has forgotten calls of that time it refuses the step as stale.
///
/// ```
/// # use onlyonce::rpc::{Client, Method, StepRun, UnfinishedStep, answered};
/// # const CHARGE: Method<u64, String, String> = Method::new("charge");
/// async fn charge(
///     run: StepRun,
///     bank: &Client,
///     cents: u64,
/// ) -> Result<Result<String, String>, UnfinishedStep> {
///     answered(bank.resume(run.ticket(), &CHARGE, &cents).await)
/// }
/// # let _ = charge;
/// ```
///
/// # Errors
///
/// What is to be said of the step.
pub fn answered<R, F>(called: Result<R, CallFailure<F>>) -> Result<Result<R, F>, UnfinishedStep> {
    let failure = match called {
        Ok(reply) => return Ok(Ok(reply)),
        Err(CallFailure::Fault(fault)) => return Ok(Err(fault)),
        Err(failure) => failure,
    };
    Err(match failure {
        CallFailure::NotExecuted(failed) => UnfinishedStep::NotExecuted(failed.to_string()),
        CallFailure::Refused { text, ticket, .. } if !ticket.maybe_executed => {
            UnfinishedStep::NotExecuted(text)
        }
        CallFailure::InDoubt(failed) | CallFailure::OutcomeUnknown(failed) => {
            UnfinishedStep::Unknown(failed.to_string())
        }
        CallFailure::Refused { text, .. } | CallFailure::Unreadable { text, .. } => {
            UnfinishedStep::Unknown(text)
        }
        CallFailure::Fault(_) => UnfinishedStep::Unknown("it has an answer".to_owned()),
    })
}

/// Decodes the arguments, runs the handler with its steps, encodes what it came to.
pub(super) fn handle<S, A, R, F, H, Fut>(
    handler: &H,
    state: S,
    caller: Caller,
    steps: Option<Steps>,
    arguments: &[u8],
) -> Handling
where
    A: DeserializeOwned + Send + 'static,
    R: Serialize + Send + Sync + 'static,
    F: Serialize + Send + Sync + 'static,
    H: Fn(Caller, Steps, S, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Interrupted<F>>> + Send + 'static,
{
    let refused = |status, why: String| -> Handling {
        Box::pin(std::future::ready(Reply::refusal(status, why)))
    };
    let Some(steps) = steps else {
        return refused(Status::NotExecuted, NO_STEPS.to_owned());
    };
    let arguments = match value::decode::<A>(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refused(Status::ArgumentsMalformed, error.to_string()),
    };
    let running = handler(caller, steps, state, arguments);
    Box::pin(async move {
        router::answer(&match running.await {
            Ok(reply) => Ok(reply),
            Err(Interrupted::Fault(fault)) => Err(Failure::Fault(fault)),
            Err(Interrupted::NotExecuted(why)) => Err(Failure::NotExecuted(why)),
            // Of a step without a result the layer knows more.
            Err(Interrupted::InDoubt | Interrupted::Step(_)) => Err(Failure::InDoubt),
        })
    })
}

/// What is kept of a request, so that its server can go on with it.
pub(super) fn stored(incoming: &Incoming) -> Bytes {
    let method = incoming.method.as_bytes();
    let mut bytes = Vec::with_capacity(STORED.len() + 1 + method.len() + incoming.arguments.len());
    bytes.extend_from_slice(STORED);
    // OK because the transport admits names of 1 to 255 bytes only.
    bytes.push(u8::try_from(method.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(method);
    bytes.extend_from_slice(&incoming.arguments);
    bytes.into()
}

/// The request of a call that stands still; `None` of what is not ours. It goes on with that call, or
/// does nothing.
pub(super) fn revived(call: &AbandonedCall) -> Option<Incoming> {
    let kept = call.request.strip_prefix(STORED)?;
    let (length, kept) = kept.split_first()?;
    let (method, arguments) = kept.split_at_checked(usize::from(*length))?;
    let method = std::str::from_utf8(method).ok()?;
    // What is kept under another name than its own is not believed.
    if call.key.scope().operation_name() != Some(method) {
        return None;
    }
    Some(Incoming {
        scope: call.key.scope().of_principal(),
        verb: Verb::Call,
        method: method.into(),
        key: Some(Ok(call.key.key().clone())),
        first_sent: call.first_sent,
        attempt: NonZeroU32::MIN,
        deadline: None,
        session: None,
        store: None,
        arguments: call.request.slice_ref(arguments),
        execution: None,
        transaction: None,
        steps: None,
        goes_on_from: Some(call.token),
    })
}

/// What our requests begin with, so that no other protocol takes them for its own.
const STORED: &[u8] = b"rpc\x01";

const NO_STEPS: &str =
    "the method is journaled, and the server does not stand behind a dedupe layer";

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(method: &str, arguments: &'static [u8]) -> Incoming {
        Incoming {
            scope: onlyonce_storage::Scope::global(),
            verb: Verb::Call,
            method: method.into(),
            key: None,
            first_sent: None,
            attempt: NonZeroU32::MIN,
            deadline: None,
            session: None,
            store: None,
            arguments: Bytes::from_static(arguments),
            execution: None,
            transaction: None,
            steps: None,
            goes_on_from: None,
        }
    }

    #[test]
    fn the_bytes_of_a_stored_request_never_change() {
        let stored = stored(&incoming("pay", b"\x07\x08"));
        assert_eq!(&stored[..], b"rpc\x01\x03pay\x07\x08");
    }

    #[test]
    fn a_peers_answer_is_a_result_and_anything_else_is_none() {
        assert_eq!(answered::<_, u8>(Ok(1)), Ok(Ok(1)));
        assert_eq!(answered::<u8, _>(Err(CallFailure::Fault(2))), Ok(Err(2)));
    }
}
