//! What an egress has taken and not answered, on disk: calls that outlive its process.
//!
//! Every call is in the outbox, with its key and its bytes, before the first byte of it is sent, and
//! goes out of it once its client was told how it ended. What an earlier run of the egress left there
//! is driven on: nobody waits for it any more, so how it ended is said in the log and counted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::egress::Untold;
use super::forward::EGRESS;
use super::{ProxyError, figures};
use crate::http::Body;
use crate::http::client::{Client, Outbox, OutboxFailure, Unfinished};
use crate::middleware::client::{Outcome, Stopped};
use crate::storage::IdempotencyKey;
use crate::storage::outbox::{OutboxError, OutboxStore};

/// The outbox of an egress, open.
pub(super) struct KeptCalls {
    outbox: Outbox,
    /// The calls of earlier runs.
    left: Vec<IdempotencyKey>,
    closing: Closing,
}

/// Frees the folder.
#[derive(Clone)]
pub(super) struct Closing {
    #[cfg(feature = "sled")]
    store: Arc<crate::storage::SledOutbox>,
}

/// How a call of an earlier run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With this answer.
    Answered(StatusCode),
    /// The other side says that it cannot know.
    InDoubt,
    /// It was refused, and nothing of it was executed.
    Refused,
    /// Nobody can tell any more.
    Unknown,
}

// === impl KeptCalls ===

impl KeptCalls {
    /// Opens the outbox in the folder `path`, whose calls `client` makes.
    pub(super) async fn open(path: &Path, client: Client) -> Result<Self, ProxyError> {
        let (store, closing) = open(path).await?;
        // No word about a call is kept with it, and this one is no credential, but said each time.
        let mut outbox = Outbox::new(client, store).with_credentials(|head| {
            head.headers.insert(EGRESS, HeaderValue::from_static("1"));
        });
        for name in ["date", "traceparent", "tracestate"] {
            outbox = outbox.leaving_out(HeaderName::from_static(name));
        }
        let left = outbox.pending().await;
        let left = left.map_err(|error| ProxyError::Store(error.to_string()))?;
        let left = left.into_iter().map(|left| left.call.key).collect();
        Ok(Self {
            outbox,
            left,
            closing,
        })
    }

    /// Makes calls by it.
    pub(super) fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Closes it.
    pub(super) fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// Drives on what earlier runs have left, until each call has ended.
    pub(super) async fn drive_on(self) {
        let Self { outbox, left, .. } = self;
        let mut left = left;
        if !left.is_empty() {
            tracing::warn!(target: "onlyonce", calls = left.len(), "calls that an earlier run had taken are driven on");
        }
        let mut pause = PAUSE;
        loop {
            #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
            gauge!(figures::LEFT_BY_EARLIER_RUNS).set(left.len() as f64);
            if left.is_empty() {
                return;
            }
            let outbox = &outbox;
            let driving = left.into_iter().map(|key| async move {
                let ended = drive(outbox, &key).await;
                ended.is_none().then_some(key)
            });
            let driven: Vec<_> = stream::iter(driving)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            left = driven.into_iter().flatten().collect();
            if !left.is_empty() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

// === impl Closing ===

impl Closing {
    pub(super) async fn close(self) -> Result<(), ProxyError> {
        #[cfg(feature = "sled")]
        {
            let closed = self.store.close().await;
            closed.map_err(|error| ProxyError::Store(error.to_string()))?;
        }
        Ok(())
    }
}

/// Makes a call by the outbox. It goes on also where its client goes away, since this is a task of its
/// own.
pub(super) async fn call(outbox: Outbox, request: Request<Body>) -> Result<Response<Body>, Untold> {
    let calling = tokio::spawn(call_once_written(outbox, request));
    // OK because a task that panicked has sent what it has sent.
    calling.await.unwrap_or_else(|_| Err(Untold::unknown(None)))
}

async fn call_once_written(
    outbox: Outbox,
    request: Request<Body>,
) -> Result<Response<Body>, Untold> {
    match outbox.call(request).await {
        Ok(kept) => {
            // Its client need not wait for that: what is left is taken for answered.
            tokio::spawn(async move { outbox.acknowledge(&kept.key).await });
            Ok(kept.response)
        }
        // Also where the call is not there any more: written anew it would be another one.
        Err(failure) => Err(told(&outbox, failure).await),
    }
}

/// What a client is told, and what becomes of its call: who is told has it in hand from then on.
async fn told(outbox: &Outbox, failure: OutboxFailure) -> Untold {
    match failure {
        OutboxFailure::InDoubt(unfinished) => {
            let _ = remove(outbox, &unfinished.key).await;
            of(Outcome::InDoubt, unfinished)
        }
        OutboxFailure::NotExecuted(unfinished) => match outbox.cancel(&unfinished.key).await {
            Ok(()) => of(Outcome::NotExecuted, unfinished),
            // It would be made when this starts anew, so nobody may be told that it was not.
            Err(_) => Untold::unknown(Some(&unfinished.key)),
        },
        OutboxFailure::OutcomeUnknown(unfinished) => {
            // OK because what stays is driven on, and may have been executed anyway.
            let _ = remove(outbox, &unfinished.key).await;
            of(Outcome::Unknown, unfinished)
        }
        OutboxFailure::NotWritten(OutboxError::Mismatch) => Untold::mismatch(),
        OutboxFailure::NotWritten(error @ OutboxError::RequestTooLarge { .. }) => {
            Untold::too_large(&error.to_string())
        }
        OutboxFailure::NotWritten(error) => {
            tracing::warn!(target: "onlyonce", %error, "a call was refused: it could not be kept");
            Untold::not_kept(&error.to_string())
        }
        OutboxFailure::Unwritable(words) => Untold::unwritable(&words),
        OutboxFailure::AnswerNotKept { key, error } | OutboxFailure::Outbox { key, error } => {
            tracing::warn!(target: "onlyonce", %error, "the outcome of a call is unknown");
            Untold::unknown(Some(&key))
        }
        failure => Untold::unknown(failure.key()),
    }
}

/// Takes away a call whose outcome is not known, also one that was only held to have been sent.
async fn remove(outbox: &Outbox, key: &IdempotencyKey) -> Result<(), OutboxError> {
    match outbox.forget_although_maybe_executed(key).await {
        Err(OutboxError::NotNow { .. }) => outbox.cancel(key).await,
        removed => removed,
    }
}

fn of(outcome: Outcome, unfinished: Unfinished) -> Untold {
    Untold {
        outcome,
        key: Some(unfinished.key),
        attempts: unfinished.attempts,
        is_final: unfinished.stopped == Stopped::Final,
        response: unfinished.response,
    }
}

/// One more run of a call that nobody waits for: how it has ended, if it has.
async fn drive(outbox: &Outbox, key: &IdempotencyKey) -> Option<Ended> {
    let ended = match outbox.resume(key).await {
        Ok(kept) => Ended::Answered(kept.response.status()),
        // Somebody else has asked for it, and was told.
        Err(OutboxFailure::Outbox {
            error: OutboxError::NotThere,
            ..
        }) => return Some(Ended::Unknown),
        Err(failure) => ended(&failure)?,
    };
    let word = match ended {
        Ended::Answered(code) => {
            tracing::warn!(target: "onlyonce", code = code.as_u16(), "a call of an earlier run has ended: answered");
            "answered"
        }
        Ended::InDoubt => {
            tracing::warn!(target: "onlyonce", "a call of an earlier run has ended: in doubt at the other side");
            "in-doubt"
        }
        Ended::Refused => {
            tracing::warn!(target: "onlyonce", "a call of an earlier run has ended: refused, not executed");
            "refused"
        }
        Ended::Unknown => {
            tracing::warn!(target: "onlyonce", "a call of an earlier run has ended: outcome unknown");
            "unknown"
        }
    };
    counter!(figures::DRIVEN_ON, "ended" => word).increment(1);
    let removed = match ended {
        Ended::Answered(_) => outbox.acknowledge(key).await,
        Ended::Refused => outbox.cancel(key).await,
        Ended::InDoubt | Ended::Unknown => remove(outbox, key).await,
    };
    if let Err(error) = removed {
        tracing::warn!(target: "onlyonce", %error, "a call that has ended stays in the outbox");
    }
    Some(ended)
}

/// What a run without an answer means for a call that nobody waits for; none where another may fare
/// better.
fn ended(failure: &OutboxFailure) -> Option<Ended> {
    let refusal = |unfinished: &Unfinished| {
        let response = unfinished.response.as_ref();
        response.is_some_and(|response| is_for_good(response.status()))
    };
    match failure {
        OutboxFailure::InDoubt(_) => Some(Ended::InDoubt),
        OutboxFailure::NotExecuted(unfinished) => refusal(unfinished).then_some(Ended::Refused),
        // Without the credentials of its client, which are not kept, it may be refused so.
        OutboxFailure::OutcomeUnknown(unfinished) => {
            (unfinished.cannot_tell.is_some() || refusal(unfinished)).then_some(Ended::Unknown)
        }
        OutboxFailure::Unreadable { .. } => Some(Ended::Unknown),
        _ => None,
    }
}

fn is_for_good(code: StatusCode) -> bool {
    code.is_client_error() && !matches!(code.as_u16(), 408 | 409 | 421 | 425 | 429)
}

#[cfg(feature = "sled")]
async fn open(path: &Path) -> Result<(Arc<dyn OutboxStore>, Closing), ProxyError> {
    use crate::storage::{OutboxOptions, Scope, SledOutbox};
    let opened = SledOutbox::open_async(path, Scope::global(), OutboxOptions::new()).await;
    let store = Arc::new(opened.map_err(|error| ProxyError::Store(error.to_string()))?);
    let closing = Closing {
        store: Arc::clone(&store),
    };
    Ok((store, closing))
}

#[cfg(not(feature = "sled"))]
async fn open(_: &Path) -> Result<(Arc<dyn OutboxStore>, Closing), ProxyError> {
    let words = "this program was built without the feature sled";
    Err(ProxyError::Store(words.to_owned()))
}

/// So that a service that has just come back is not met by all at once.
const AT_ONCE: usize = 16;

/// Pauses between the rounds in which all that is left is tried.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
