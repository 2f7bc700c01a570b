//! The outbox of an HTTP client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response};
use onlyonce_storage::outbox::{
    FirstSent, NewCall, OUTBOX_BODY_BYTES_LIMIT, OutboxCall, OutboxChange, OutboxEntry,
    OutboxError, OutboxState, OutboxStore,
};
use onlyonce_storage::{IdempotencyKey, RetentionOptions};
use tokio::time::{Instant, timeout};

use super::request::{LeftOut, Stored};
use super::{Noting, OutboxFailure, Unfinished};
use crate::client::outbox::{Ended, KeptCalls, NoteSentLayer, Unanswered, policy};
use crate::client::{Call, Outcome, Ticket, Verdict};
use crate::http::client::stack::is_safe;
use crate::http::client::{Client, Deadline};
use crate::http::server::answer::Recorded;
use crate::http::server::fidelity;
use crate::http::{Body, Read};

/// An HTTP client whose calls outlive its process.
///
/// The rule: **a call is in the outbox, durably, with its key and its exact bytes, before the first
/// byte of it is sent, and stays there until its answer is acknowledged, it is cancelled before it
/// was ever sent, or somebody says by name that it shall be forgotten although it may have been
/// executed.** A process that was killed finds its calls again in [`pending`](Self::pending), and goes
/// on with the same keys.
///
/// Use it where the caller cannot derive the key again: a key that dies with its process is as good
/// as none.
///
/// Kept of a request are its method, URI, headers, body and trailers, up to 1 MiB together. Credentials
/// are not: `Authorization`, `Cookie`, `Proxy-*`, `X-Api-Key` and the like, every header whose value is
/// marked as sensitive, and [those that you name](Self::leaving_out). The run of
/// [`call`](Self::call) sends what was on the request; later ones what
/// [`with_credentials`](Self::with_credentials) gives. What stands in the URI's query or in the body is
/// kept as it is.
///
/// Kept of an answer are its status, its body, its trailers, and its headers but for those of one
/// connection, `Date`, `Content-Length`, `Idempotency-*`, `Set-Cookie` and other credentials.
///
/// An outbox belongs to one principal. Its calls may be for any number of peers. Cloning it is cheap;
/// clones share everything. Of each store there must be one outbox.
///
/// # Cancellation
///
/// Dropping the future of a call leaves the call in the outbox, as one that may have been sent, or
/// unsent if nothing of it was. If it was not yet written it may be there or not, also a while later:
/// look for it in [`pending`](Self::pending) before you make it anew under another key. Before a call is
/// cancelled or forgotten, whoever is at it is waited for.
#[derive(Clone)]
pub struct Outbox {
    client: Client,
    calls: KeptCalls,
    horizon: Duration,
    timeout: Option<Duration>,
    credentials: Option<Arc<Credentials>>,
    left_out: LeftOut,
}

/// An answer, and the key under which it is kept until it is acknowledged.
#[derive(Debug)]
#[must_use = "an answer is kept until its key is acknowledged"]
pub struct Kept {
    /// The key, for [`Outbox::acknowledge`].
    pub key: IdempotencyKey,
    /// The answer, whatever its code. Its body is in memory.
    pub response: Response<Body>,
}

/// A call that is in an outbox: for its answer, for somebody to take its answer, or for somebody's
/// word.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pending {
    /// How long ago it was written, on this machine's clock; zero where that was set back. Nothing
    /// is decided by it.
    pub age: Duration,
    /// The call: its key, its method and address, its state. The first-sent time of one whose
    /// [store](FirstSent::store) is `None` is of this machine's clock.
    pub call: OutboxEntry,
}

/// How a call that was resumed with all others has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// Its key.
    pub key: IdempotencyKey,
    /// What is known of it now. With [`OutboxState::Answered`] its answer can be fetched.
    pub state: OutboxState,
    /// Why it has no answer.
    pub unfinished: Option<Unfinished>,
}

type Credentials = dyn Fn(&mut Parts) + Send + Sync;

// === impl Outbox ===

impl Outbox {
    /// The calls in `store`, made by `client`. Calls that were first sent more than 7 days ago, which
    /// is what stores remember by default, are not sent.
    #[must_use]
    pub fn new(client: Client, store: Arc<dyn OutboxStore>) -> Self {
        Self {
            client,
            calls: KeptCalls::new(store),
            horizon: RetentionOptions::default().horizon,
            timeout: None,
            credentials: None,
            left_out: LeftOut::new(),
        }
    }

    /// Sends calls until they are as old as this, on the server's clock; then their outcome is unknown.
    /// Take what the server's store remembers ([`RetentionOptions::horizon`]), or less.
    #[must_use]
    pub const fn with_horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// For calls each run of which may take `timeout`, if the client's own is not sooner. It is written
    /// with the call, and holds when that is resumed.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Gives every run of a call its credentials: `give` is asked before each, also before the first,
    /// and puts them among the request's headers. Credentials that the caller of
    /// [`call`](Self::call) has put on the request replace them, in that run. What `give` makes of
    /// method and URI is undone: the call stays the one that it was.
    #[must_use]
    pub fn with_credentials<F>(mut self, give: F) -> Self
    where
        F: Fn(&mut Parts) + Send + Sync + 'static,
    {
        self.credentials = Some(Arc::new(give));
        self
    }

    /// Does not keep the header `name` of requests either: because it is a credential, or says
    /// something that is not of the call (a trace), so that the same call is known again by its bytes.
    #[must_use]
    pub fn leaving_out(mut self, name: HeaderName) -> Self {
        self.left_out.and(name);
        self
    }

    /// Makes a call.
    ///
    /// Its key is chosen as [`Client`] does it. If the outbox has a call with this key it must be the
    /// same, to the byte, but for what is not kept of it, and is gone on with: an answer that is kept
    /// is told again. A key that came with the request may have been sent before, by whoever; a call
    /// that is no longer in the outbox is first sent now.
    ///
    /// A [`Deadline`] among the request's extensions ends this run, if it is sooner than what else does;
    /// the call stays in the outbox, and later runs know nothing of it. It does not end the wait for
    /// another run of the same call.
    ///
    /// # Errors
    ///
    /// What is known of a call without an answer. But for [`OutboxFailure::NotWritten`] and
    /// [`OutboxFailure::Unwritable`] the call is in the outbox, or may be: where the outbox failed, go on
    /// under the key that the error names. Unwritable are requests without
    /// effects (`GET` and the like), with a body above 1 MiB, with credentials in their URI, and those of
    /// calls that were sent outside of the outbox, as their ticket says.
    pub async fn call<B>(&self, request: Request<B>) -> Result<Kept, OutboxFailure>
    where
        B: Into<Body>,
    {
        let request = request.map(Into::into);
        let deadline = request.extensions().get::<Deadline>().copied();
        let (call, credentials) = self.new_call(request, deadline).await?;
        let key = call.key.clone();
        let written = self.calls.write(call).await;
        written.map_err(|error| match error.rules_out_writing() {
            true => OutboxFailure::NotWritten(error),
            false => OutboxFailure::Outbox {
                key: key.clone(),
                error,
            },
        })?;
        let ran = self.run(&key, credentials, deadline).await;
        told(key, ran)
    }

    /// Goes on with a call under its key and with its bytes: gets its answer, from the outbox or from
    /// the server, and makes the call if nobody has.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn resume(&self, key: &IdempotencyKey) -> Result<Kept, OutboxFailure> {
        let ran = self.run(key, HeaderMap::new(), None).await;
        told(key.clone(), ran)
    }

    /// Goes on with every call that may yet get an answer, up to 16 at once and in no order, and says
    /// how each has ended. Their answers are kept, to be [fetched](Self::fetch).
    ///
    /// Where the order matters, resume one after the other: [`pending`](Self::pending) lists the
    /// oldest first.
    ///
    /// # Errors
    ///
    /// When the outbox fails. That a call gets no answer is no error here.
    pub async fn resume_all(&self) -> Result<Vec<Resumed>, OutboxError> {
        let run = async |key| self.run(&key, HeaderMap::new(), None).await;
        let ran = self.calls.run_all(run).await?;
        let resumed = ran.into_iter().map(|ran| Resumed {
            unfinished: ran
                .ended
                .and_then(|ended| Unfinished::of(ended, &ran.call.key)),
            key: ran.call.key,
            state: ran.state,
        });
        Ok(resumed.collect())
    }

    /// All calls in the outbox, the oldest first.
    ///
    /// # Errors
    ///
    /// When the outbox fails.
    pub async fn pending(&self) -> Result<Vec<Pending>, OutboxError> {
        let calls = self.calls.list().await?;
        let pending = |(age, call)| Pending { age, call };
        Ok(calls.into_iter().map(pending).collect())
    }

    /// What a call was made with, without credentials: to tell what a call of an earlier life was
    /// about.
    ///
    /// # Errors
    ///
    /// [`OutboxFailure::Outbox`] where the call is not there, [`OutboxFailure::Unreadable`] where its
    /// bytes are no request.
    pub async fn request(&self, key: &IdempotencyKey) -> Result<Request<Body>, OutboxFailure> {
        let call = self.load(key).await?;
        let stored = Stored::decode(&call.request);
        let unreadable = || OutboxFailure::Unreadable { key: key.clone() };
        Ok(stored.ok_or_else(unreadable)?.into_request())
    }

    /// The answer that is kept of a call. Sends nothing; the answer stays.
    ///
    /// # Errors
    ///
    /// [`OutboxFailure::Outbox`] where the call has no answer yet or is not there,
    /// [`OutboxFailure::Unreadable`] where what is kept is none.
    pub async fn fetch(&self, key: &IdempotencyKey) -> Result<Kept, OutboxFailure> {
        let call = self.load(key).await?;
        match call.answer {
            Some(answer) => told(key.clone(), Ok(answer)),
            None => Err(OutboxFailure::Outbox {
                key: key.clone(),
                error: OutboxError::NotNow {
                    asked: "fetch the answer of",
                    state: call.entry.state.name(),
                },
            }),
        }
    }

    /// Removes a call whose answer the caller has made use of, durably.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotNow`] for a call that has no answer. When it fails the answer may be
    /// removed or not.
    pub async fn acknowledge(&self, key: &IdempotencyKey) -> Result<(), OutboxError> {
        self.calls.remove(key, OutboxChange::Acknowledge).await
    }

    /// Removes a call that was never sent by this outbox, or no attempt of which was executed.
    /// Waits for whoever is making it.
    ///
    /// # Errors
    ///
    /// [`OutboxError::MaybeExecuted`] for any other that has no answer.
    pub async fn cancel(&self, key: &IdempotencyKey) -> Result<(), OutboxError> {
        self.calls.remove(key, OutboxChange::Cancel).await
    }

    /// Removes a call that may have been executed, and has no answer. Its effect may happen all the
    /// same, also later; nobody will be told.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotNow`] for a call that has an answer or was never sent.
    pub async fn forget_although_maybe_executed(
        &self,
        key: &IdempotencyKey,
    ) -> Result<(), OutboxError> {
        let change = OutboxChange::ForgetMaybeExecuted;
        self.calls.remove(key, change).await
    }

    /// Whether `headers` have something that is not kept with a call, as a credential or because
    /// [it was named](Self::leaving_out): later runs do not say it, unless
    /// [`with_credentials`](Self::with_credentials) gives it again.
    #[must_use]
    pub fn leaves_out_of(&self, headers: &HeaderMap) -> bool {
        !self.left_out.take_from(&mut headers.clone()).is_empty()
    }

    async fn load(&self, key: &IdempotencyKey) -> Result<OutboxCall, OutboxFailure> {
        let loaded = self.calls.store().load(key).await;
        loaded.map_err(|error| OutboxFailure::Outbox {
            key: key.clone(),
            error,
        })
    }

    /// What is kept of the call that `request` makes, and the credentials that are not.
    async fn new_call(
        &self,
        request: Request<Body>,
        deadline: Option<Deadline>,
    ) -> Result<(NewCall, HeaderMap), OutboxFailure> {
        let unwritable = |text: &str| OutboxFailure::Unwritable(text.to_owned());
        if is_safe(request.method()) {
            let text = format!("{} has no effect that could happen twice", request.method());
            return Err(OutboxFailure::Unwritable(text));
        }
        let ticket = self.client.ticket(&request);
        let ticket = ticket.map_err(|error| OutboxFailure::Unwritable(error.to_string()))?;
        if ticket.first_sent.is_some() || ticket.store.is_some() {
            return Err(unwritable(
                "the call was sent before, outside of the outbox: go on with it there",
            ));
        }
        let authority = request.uri().authority();
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(unwritable(
                "its URI has credentials in it, which are not to be written: put them into a header",
            ));
        }

        let (mut head, body) = request.into_parts();
        let reading = timeout(
            self.run_timeout(self.timeout, deadline),
            body.read(OUTBOX_BODY_BYTES_LIMIT),
        );
        let mut contents = match reading.await {
            Ok(Ok(Read::Whole(contents))) => contents,
            Ok(Ok(Read::TooLarge(_))) => {
                let limit = OUTBOX_BODY_BYTES_LIMIT;
                let text = format!("its body is larger than the {limit} bytes that are kept");
                return Err(OutboxFailure::Unwritable(text));
            }
            Ok(Err(error)) => return Err(OutboxFailure::Unwritable(error.to_string())),
            Err(_) => return Err(unwritable("its body did not come in the time of a call")),
        };
        let credentials = self.left_out.take_from(&mut head.headers);
        if let Some(trailers) = &mut contents.trailers {
            self.left_out.take_from(trailers);
        }
        let name = named(&head);
        let stored = Stored {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            contents,
        };
        let bytes = stored
            .encode()
            .ok_or_else(|| unwritable("a part of it is too long"))?;
        let call = NewCall::new(ticket.key, &name, bytes).timeout(self.timeout);
        let call = if ticket.maybe_executed {
            call.maybe_sent_elsewhere()
        } else {
            call
        };
        Ok((call, credentials))
    }

    async fn run(
        &self,
        key: &IdempotencyKey,
        credentials: HeaderMap,
        deadline: Option<Deadline>,
    ) -> Result<Bytes, Ended<Unfinished>> {
        self.calls
            .run(key, |call| self.make(call, credentials, deadline))
            .await
    }

    /// Makes a call once, up to the bytes of its answer.
    async fn make(
        &self,
        call: OutboxCall,
        credentials: HeaderMap,
        deadline: Option<Deadline>,
    ) -> Result<Bytes, Unanswered<Unfinished>> {
        let key = &call.entry.key;
        let ticket = ticket(&call.entry);
        let sent = ticket.maybe_executed || ticket.first_sent.is_some();
        let before = if sent {
            Outcome::Unknown
        } else {
            Outcome::NotExecuted
        };
        // What has no effect would go out without a note.
        let stored = Stored::decode(&call.request).filter(|stored| !is_safe(&stored.method));
        let Some(stored) = stored else {
            let text = "what is kept of it is no request that this version reads";
            return Err(Unfinished::ended(key, text.to_owned()).with(before));
        };
        let mut request = self.with_its_credentials(stored.into_request(), credentials);
        let layer = NoteSentLayer::new(Arc::clone(self.calls.store())).with_horizon(self.horizon);
        let noting = Noting::new(layer, &call.entry);
        let (began, within) = (
            Instant::now(),
            self.run_timeout(call.entry.timeout, deadline),
        );
        let extensions = request.extensions_mut();
        extensions.insert(ticket.clone());
        extensions.insert(noting.clone());
        let deadline = began.checked_add(within).map(Deadline);
        deadline.map(|deadline| extensions.insert(deadline));

        let response = self.client.send(request).await;
        let response = response.map_err(|error| Unfinished::of_error(key, error))?;
        // The stack gives what is no answer to its caller as well, where nothing was executed.
        let made = noting.call().cloned();
        let made = made.unwrap_or_else(|| Arc::new(Call::new(ticket)));
        let verdict = self.client.classification().classify(&made, Ok(&response));
        if verdict != Verdict::Accept {
            let outcome = if made.maybe_executed() {
                Outcome::Unknown
            } else {
                Outcome::NotExecuted
            };
            let attempts = made.attempts();
            return Err(Unfinished::refused(key, outcome, attempts, response));
        }
        let unanswered = |last: String| Unfinished::ended(key, last).with(Outcome::Unknown);
        let (head, body) = response.into_parts();
        let left = within.saturating_sub(began.elapsed());
        let contents = match timeout(left, body.read(OUTBOX_BODY_BYTES_LIMIT)).await {
            Ok(Ok(Read::Whole(contents))) => contents,
            Ok(Ok(Read::TooLarge(body))) => {
                let (limit, answer) = (OUTBOX_BODY_BYTES_LIMIT, Response::from_parts(head, body));
                return Err(Unfinished::too_large(key, limit, answer));
            }
            Ok(Err(error)) => return Err(unanswered(format!("its answer was cut: {error}"))),
            Err(_) => return Err(unanswered("its answer did not end in time".to_owned())),
        };
        let recorded = Recorded {
            status: head.status,
            headers: fidelity::kept(&head.headers, &fidelity::CREDENTIALS),
            contents,
        };
        let bytes = recorded.encode();
        bytes.ok_or_else(|| unanswered("a part of its answer is too long".to_owned()))
    }

    /// The request as a run sends it.
    fn with_its_credentials(
        &self,
        request: Request<Body>,
        credentials: HeaderMap,
    ) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        if let Some(give) = &self.credentials {
            let (method, uri) = (head.method.clone(), head.uri.clone());
            give(&mut head);
            (head.method, head.uri) = (method, uri);
        }
        // Replaces what is there under each name.
        head.headers.extend(credentials);
        Request::from_parts(head, body)
    }

    fn run_timeout(&self, of_the_call: Option<Duration>, deadline: Option<Deadline>) -> Duration {
        let most = self.client.call_timeout();
        let left = deadline.map(|Deadline(at)| at.saturating_duration_since(Instant::now()));
        let sooner = of_the_call.into_iter().chain(left);
        sooner.fold(most, Duration::min)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("store", self.calls.store())
            .field("horizon", &self.horizon)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The ticket under which a kept call goes on. One that went out without a date stays without: the
/// time that is kept of it is of this machine's clock.
fn ticket(entry: &OutboxEntry) -> Ticket {
    match entry.state.sent() {
        Some(FirstSent { store: None, .. }) => Ticket::new(entry.key.clone()),
        _ => policy::ticket(entry),
    }
}

/// What names a call for people, and tells it from others with its key.
fn named(head: &Parts) -> String {
    let (method, uri) = (head.method.as_str(), &head.uri);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut name = format!("{method} {authority}{}", uri.path());
    let end = (0..=METHOD_BYTES_MAX.min(name.len())).rfind(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

fn told(key: IdempotencyKey, ran: Result<Bytes, Ended<Unfinished>>) -> Result<Kept, OutboxFailure> {
    let bytes = ran.map_err(|ended| OutboxFailure::of(ended, &key))?;
    let Some(recorded) = Recorded::decode(&bytes) else {
        return Err(OutboxFailure::Unreadable { key });
    };
    let response = recorded.into_response();
    Ok(Kept { key, response })
}

/// What an outbox takes as the name of a method.
const METHOD_BYTES_MAX: usize = 255;
