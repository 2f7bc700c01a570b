//! What an egress has taken and not answered, on disk: calls that outlive its process.
//!
//! Every call that gets its key here is in the outbox, with that key and its bytes, before the first byte
//! of it is sent, and goes out of it once it is known here how it ended. What an earlier run of the egress
//! left there is driven on, see [`EarlierRuns`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::ProxyError;
use super::config::{Egress, ProxyLimits, WRITTEN_DOWN_WITHIN};
use super::earlier_runs::EarlierRuns;
use super::egress::Untold;
use super::forward::EGRESS;
use crate::http::Body;
use crate::http::client::{Client, Outbox, OutboxFailure, Unfinished};
use crate::middleware::client::{Outcome, Stopped, Ticket};
use crate::storage::IdempotencyKey;
use crate::storage::outbox::{OutboxError, OutboxState, OutboxStore};

/// The outbox of an egress, open.
pub(super) struct KeptCalls {
    calling: Calling,
    left: EarlierRuns,
    closing: Closing,
}

/// Makes calls by an outbox.
#[derive(Clone)]
pub(super) struct Calling {
    outbox: Outbox,
    /// A call takes one until it is out of the outbox, also where its client has gone.
    places: Arc<Semaphore>,
    places_max: u32,
    /// The outbox has failed, and takes nothing until it is opened anew.
    failed: Arc<AtomicBool>,
    /// So long a client waits for its call at most.
    patience: Duration,
}

/// Frees the folder.
#[derive(Clone)]
pub(super) struct Closing {
    calling: Calling,
    #[cfg(feature = "sled")]
    store: Arc<crate::storage::SledOutbox>,
}

// === impl KeptCalls ===

impl KeptCalls {
    /// Opens the outbox in the folder `path`, whose calls `client` makes.
    pub(super) async fn open(
        path: &Path,
        egress: &Egress,
        limits: &ProxyLimits,
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
        let calling = Calling::new(outbox.clone(), limits);
        Ok(Self {
            left: EarlierRuns::new(outbox, left, egress.outbox_unsent_max),
            closing: Closing {
                calling: calling.clone(),
                #[cfg(feature = "sled")]
                store: kept,
            },
            calling,
        })
    }

    /// Makes calls by it.
    pub(super) fn calling(&self) -> Calling {
        self.calling.clone()
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
    /// Ends when no call is being made.
    pub(super) async fn idle(&self) {
        self.calling.idle().await;
    }

    /// How many calls have not ended: they are driven on by the next run.
    pub(super) async fn unended(&self) -> Result<usize, ProxyError> {
        let pending = self.calling.outbox.pending().await;
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

// === impl Calling ===

impl Calling {
    fn new(outbox: Outbox, limits: &ProxyLimits) -> Self {
        let places = limits.requests_max.min(Semaphore::MAX_PERMITS);
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        Self {
            outbox,
            places: Arc::new(Semaphore::new(places as usize)),
            places_max: places,
            failed: Arc::default(),
            patience: limits.timeout.saturating_add(WRITTEN_DOWN_WITHIN),
        }
    }

    /// Makes a call. It goes on also where its client goes away, since this is a task of its own.
    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Untold> {
        if self.failed.load(Ordering::Acquire) {
            let detail = "the outbox has failed, and takes nothing until this is started anew";
            return Err(Untold::not_kept(detail));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Untold::busy());
        };
        let key = IdempotencyKey::unique();
        let ticket = Ticket::never_sent(key.clone());
        request.extensions_mut().insert(ticket);
        let calling = tokio::spawn(self.clone().call_once_written(request, place));
        match timeout(self.patience, calling).await {
            Ok(Ok(ended)) => ended,
            // It goes on, or has panicked, and has sent what it has sent.
            Ok(Err(_)) | Err(_) => Err(Untold::unknown(Some(&key))),
        }
    }

    /// Ends when no call is being made.
    async fn idle(&self) {
        // OK because nobody closes it.
        let _ = self.places.acquire_many(self.places_max).await;
    }

    /// Whether it can keep calls. It is asked for one that nobody has made.
    pub(super) async fn is_able(&self) -> bool {
        let asked = self.outbox.request(&IdempotencyKey::unique()).await;
        matches!(
            asked,
            Err(OutboxFailure::Outbox {
                error: OutboxError::NotThere,
                ..
            })
        )
    }

    async fn call_once_written(
        self,
        mut request: Request<Body>,
        place: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Untold> {
        request.headers_mut().remove(&WHOLE);
        if !leaves_out_of(&self.outbox, &request) {
            let said = HeaderValue::from_static("1");
            request.headers_mut().insert(WHOLE, said);
        }
        match self.outbox.call(request).await {
            Ok(kept) => {
                // Its client need not wait for that: what is left is taken for answered.
                tokio::spawn(async move {
                    let removed = self.outbox.acknowledge(&kept.key).await;
                    self.look_at(removed.as_ref().err());
                    drop(place);
                });
                Ok(kept.response)
            }
            // It is the call's answer all the same, and more than that nobody can be told.
            Err(OutboxFailure::AnswerNotKept {
                key,
                error,
                response: Some(response),
            }) => {
                tracing::warn!(target: "onlyonce", %error, "an answer was told and not kept");
                self.look_at(Some(&error));
                self.give_up(&key).await;
                Ok(*response)
            }
            Err(OutboxFailure::OutcomeUnknown(Unfinished {
                key,
                answer: Some(answer),
                ..
            })) => {
                self.give_up(&key).await;
                Ok(*answer)
            }
            // Also where the call is not there any more: written anew it would be another one.
            Err(failure) => Err(self.told(failure).await),
        }
    }

    /// What a client is told, and what becomes of its call: who is told has it in hand from then on.
    async fn told(&self, failure: OutboxFailure) -> Untold {
        match failure {
            OutboxFailure::InDoubt(unfinished) => {
                self.give_up(&unfinished.key).await;
                of(Outcome::InDoubt, unfinished)
            }
            OutboxFailure::NotExecuted(unfinished) => {
                match self.outbox.cancel(&unfinished.key).await {
                    Ok(()) => of(Outcome::NotExecuted, unfinished),
                    // It would be made when this starts anew, so nobody may be told that it was not.
                    Err(error) => {
                        self.look_at(Some(&error));
                        Untold::unknown(Some(&unfinished.key))
                    }
                }
            }
            OutboxFailure::OutcomeUnknown(unfinished) => {
                self.give_up(&unfinished.key).await;
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
            OutboxFailure::AnswerNotKept { key, error, .. }
            | OutboxFailure::Outbox { key, error } => {
                tracing::warn!(target: "onlyonce", %error, "the outcome of a call is unknown");
                self.look_at(Some(&error));
                Untold::unknown(Some(&key))
            }
            failure => Untold::unknown(failure.key()),
        }
    }

    /// Takes away a call whose outcome is not known.
    async fn give_up(&self, key: &IdempotencyKey) {
        // OK because what stays is driven on, and may have been executed anyway.
        let removed = remove(&self.outbox, key).await;
        self.look_at(removed.as_ref().err());
    }

    /// Takes nothing more once the outbox has failed for good: no call is written or sent by it then, so
    /// that of those that come now it is known that they were not executed.
    fn look_at(&self, error: Option<&OutboxError>) {
        let for_good = matches!(
            error,
            Some(OutboxError::Poisoned(_) | OutboxError::OwnedElsewhere)
        );
        if for_good && !self.failed.swap(true, Ordering::AcqRel) {
            tracing::error!(target: "onlyonce", "the outbox has failed: calls are refused until this is started anew");
        }
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::super::config::{Mode, ProxyConfig, Upstream};
    use super::super::egress::EgressProxy;
    use super::*;
    use crate::storage::StoreFuture;
    use crate::storage::outbox::{NewCall, OutboxCall, OutboxChange, OutboxEntry, Written};

    /// On a disk that hangs.
    #[derive(Debug)]
    struct Hanging;

    impl OutboxStore for Hanging {
        fn write(&self, _: NewCall) -> StoreFuture<'_, Written, OutboxError> {
            Box::pin(pending())
        }

        fn change(&self, _: &IdempotencyKey, _: OutboxChange) -> StoreFuture<'_, (), OutboxError> {
            Box::pin(pending())
        }

        fn load(&self, _: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError> {
            Box::pin(pending())
        }

        fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError> {
            Box::pin(pending())
        }
    }

    // G6, H10
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_holds_no_client_past_the_time_and_takes_no_more_than_the_bound() {
        let upstream = Upstream::parse("http://127.0.0.1:1", Default::default(), false).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let egress = Egress::default();
        let mut config = ProxyConfig::new(listen, upstream, Mode::Egress(egress.clone()));
        config.limits.requests_max = 2;
        let client = EgressProxy::new(&config, &egress).unwrap().client();
        let outbox = Outbox::new(client, Arc::new(Hanging));
        let calling = Calling::new(outbox, &config.limits);
        for _ in 0..2 {
            let request = Request::post("http://127.0.0.1:1/pay");
            let request = request.body(Body::from("10")).unwrap();
            let untold = calling.call(request).await.unwrap_err();
            assert_eq!(untold.outcome, Outcome::Unknown);
            assert!(untold.key.is_some(), "whoever asks on needs it");
        }
        // Those two may still be written: they keep their places.
        let request = Request::post("http://127.0.0.1:1/pay");
        let request = request.body(Body::from("10")).unwrap();
        let untold = calling.call(request).await.unwrap_err();
        assert_eq!(untold.outcome, Outcome::NotExecuted);
        assert!(timeout(calling.patience, calling.idle()).await.is_err());
    }
}
