//! What an egress has taken and not answered, on disk: calls that outlive its process.
//!
//! Every call that gets its key here is in the outbox, with that key and its bytes, before the first byte
//! of it is sent, and goes out of it once it is known here how it ended. What an earlier run of the egress
//! left there is driven on, see [`EarlierRuns`].

use std::path::Path;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response};

use super::ProxyError;
use super::config::Egress;
use super::earlier_runs::EarlierRuns;
use super::egress::Untold;
use super::forward::EGRESS;
use crate::http::Body;
use crate::http::client::{Client, Outbox, OutboxFailure, Unfinished};
use crate::middleware::client::{Outcome, Stopped};
use crate::storage::IdempotencyKey;
use crate::storage::outbox::{OutboxError, OutboxState, OutboxStore};

/// The outbox of an egress, open.
pub(super) struct KeptCalls {
    outbox: Outbox,
    left: EarlierRuns,
    closing: Closing,
}

/// Frees the folder.
#[derive(Clone)]
pub(super) struct Closing {
    outbox: Outbox,
    #[cfg(feature = "sled")]
    store: Arc<crate::storage::SledOutbox>,
}

// === impl KeptCalls ===

impl KeptCalls {
    /// Opens the outbox in the folder `path`, whose calls `client` makes.
    pub(super) async fn open(
        path: &Path,
        egress: &Egress,
        client: Client,
    ) -> Result<Self, ProxyError> {
        let kept = open(path).await?;
        // No word about a call is kept with it, and this one is no credential, but said each time.
        let store: Arc<dyn OutboxStore> = kept.clone();
        let mut outbox = Outbox::new(client, store).with_credentials(|head| {
            head.headers.remove(&WHOLE);
            head.headers.insert(EGRESS, HeaderValue::from_static("1"));
        });
        for name in &egress.outbox_leave_out {
            outbox = outbox.leaving_out(name.clone());
        }
        let left = outbox.pending().await;
        let left = left.map_err(|error| ProxyError::Store(error.to_string()))?;
        Ok(Self {
            left: EarlierRuns::new(outbox.clone(), left, egress.outbox_unsent_max),
            closing: Closing {
                outbox: outbox.clone(),
                #[cfg(feature = "sled")]
                store: kept,
            },
            outbox,
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
        self.left.drive_on().await;
    }
}

// === impl Closing ===

impl Closing {
    /// How many calls have not ended: they are driven on by the next run.
    pub(super) async fn unended(&self) -> Result<usize, ProxyError> {
        let pending = self.outbox.pending().await;
        let pending = pending.map_err(|error| ProxyError::Store(error.to_string()))?;
        let ended = |state: &OutboxState| matches!(state, OutboxState::Answered { .. });
        Ok(pending
            .iter()
            .filter(|pending| !ended(&pending.call.state))
            .count())
    }

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
    mut request: Request<Body>,
) -> Result<Response<Body>, Untold> {
    request.headers_mut().remove(&WHOLE);
    if !leaves_out_of(&outbox, &request) {
        let said = HeaderValue::from_static("1");
        request.headers_mut().insert(WHOLE, said);
    }
    match outbox.call(request).await {
        Ok(kept) => {
            // Its client need not wait for that: what is left is taken for answered.
            tokio::spawn(async move { outbox.acknowledge(&kept.key).await });
            Ok(kept.response)
        }
        // It is the call's answer all the same, and more than that nobody can be told.
        Err(OutboxFailure::AnswerNotKept {
            key,
            error,
            response: Some(response),
        }) => {
            tracing::warn!(target: "onlyonce", %error, "an answer was told and not kept");
            // OK because what stays is driven on, and the other side has its answer.
            let _ = remove(&outbox, &key).await;
            Ok(*response)
        }
        Err(OutboxFailure::OutcomeUnknown(Unfinished {
            key,
            answer: Some(answer),
            ..
        })) => {
            let _ = remove(&outbox, &key).await;
            Ok(*answer)
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
        OutboxFailure::AnswerNotKept { key, error, .. } | OutboxFailure::Outbox { key, error } => {
            tracing::warn!(target: "onlyonce", %error, "the outcome of a call is unknown");
            Untold::unknown(Some(&key))
        }
        failure => Untold::unknown(failure.key()),
    }
}

/// Takes away a call whose outcome is not known, also one that was only held to have been sent.
pub(super) async fn remove(outbox: &Outbox, key: &IdempotencyKey) -> Result<(), OutboxError> {
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

/// Whether a call would be another one without what is not kept of it.
fn leaves_out_of(outbox: &Outbox, request: &Request<Body>) -> bool {
    let contents = request.body().contents();
    let trailers = contents.and_then(|contents| contents.trailers.as_ref());
    outbox.leaves_out_of(request.headers())
        || trailers.is_some_and(|trailers| outbox.leaves_out_of(trailers))
}

/// Whether all of a kept call is kept, as was noted when it was taken.
pub(super) fn is_whole(kept: &Request<Body>) -> bool {
    kept.headers().contains_key(&WHOLE)
}

#[cfg(feature = "sled")]
async fn open(path: &Path) -> Result<Arc<crate::storage::SledOutbox>, ProxyError> {
    use crate::storage::{OutboxOptions, Scope, SledOutbox};
    let opened = SledOutbox::open_async(path, Scope::global(), OutboxOptions::new()).await;
    let opened = opened.map_err(|error| ProxyError::Store(error.to_string()))?;
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "sled"))]
async fn open(_: &Path) -> Result<Arc<dyn OutboxStore>, ProxyError> {
    let words = "this program was built without the feature sled";
    Err(ProxyError::Store(words.to_owned()))
}

/// Kept with a call of which nothing was left out, and taken off before it is sent. What lacks it is
/// never sent again without the credentials of its client.
const WHOLE: HeaderName = HeaderName::from_static("onlyonce-kept-whole");
