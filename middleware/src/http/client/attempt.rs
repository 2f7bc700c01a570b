//! One attempt, from the peer that it is for to the end of its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use onlyonce_storage::{StoreId, Timestamp};
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;
use tower_service::Service;

use super::TransportError;
use super::outbox::Noting;
use super::peers::{Known, Peers, Route, Word};
use super::stamp::{self, Stamp};
use crate::client::{Call, Executed};
use crate::http::{Body, Read, Status, names};

/// For how long a peer is waited for at most that is asked whether it dedupes: a fifth of an attempt.
const ASK_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// As much of the answer to `OPTIONS` is read, so that its connection can be used again.
const ASK_ANSWER_BYTES_MAX: usize = 16 * 1024;

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// What an attempt may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptOptions {
    /// As much of an answer is read within the attempt.
    pub(super) answer_bytes_max: usize,
    /// Send what may have been executed to a peer that does not say that it dedupes.
    pub(super) assume_dedupe: bool,
    /// Ask peers with `OPTIONS`.
    pub(super) ask_peers: bool,
    pub(super) dialect: Dialect,
    /// Send nothing to a peer that does not say that it dedupes.
    pub(super) require_dedupe: bool,
    /// How long an attempt takes at most.
    pub(super) timeout: Duration,
}

/// What a protocol on top of HTTP says in words of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    /// Whether an answer, as far as it was read, may come from whatever stands in between, which knows
    /// nothing of stores.
    pub(crate) from_between: fn(&Response<Body>) -> bool,
    /// Whether the head of an answer says that the server has another store than the request names.
    pub(crate) misdirected: fn(&Response<Body>) -> bool,
}

/// Makes attempts. Stands around the transport, inside of everything else.
///
/// Before it sends, it learns whether the peer dedupes, by which store, and what time it is there, so
/// that the call is dated by the clock that it will be judged by. From when the transport has the
/// request the call is bound to that store.
#[derive(Clone, Debug)]
pub(super) struct Attempt<T> {
    transport: T,
    peers: Arc<Peers>,
    options: AttemptOptions,
}

/// Whether an attempt of a call went out that did not say when it was first sent. No later one says
/// it then: all of a call's attempts say the same.
#[derive(Clone, Debug, Default)]
pub(super) struct SentUndated(Arc<AtomicBool>);

/// The call may have been executed before, and its peer does not say that it would know.
///
/// Where you know better, say so: that the key was never sent
/// ([`Ticket::never_sent`](crate::client::Ticket::never_sent)), or that the peer dedupes
/// ([`Stack::assume_dedupe`](super::Stack::assume_dedupe)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call may have been executed before, and the peer is not known to dedupe")]
pub struct PeerDoesNotDedupe;

/// The call may have been executed before, and whether its peer still dedupes could not be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer has not said lately that it dedupes, and did not answer when it was asked")]
struct NotAsked;

/// What became of the question whether a peer dedupes.
enum Asked {
    /// It, or somebody on its behalf, answered this.
    Answered(Word),
    /// Somebody in between answered, or the connection broke.
    AnsweredByAnother,
    /// Nobody answered within what the call could spare of its own time, which says nothing of the peer.
    CutShort,
    /// Nobody answered in time.
    LeftOpen,
}

/// What a call is bound to once an attempt of it may have been processed.
struct Binding<'a> {
    call: &'a Call,
    first_sent: Option<Timestamp>,
    store: Option<StoreId>,
    undated: Option<&'a SentUndated>,
    sent: bool,
}

// === impl Dialect ===

impl Dialect {
    pub(super) const HTTP: Self = Self {
        from_between: |response| {
            matches!(
                response.status(),
                StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_EARLY
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            )
        },
        // Other servers, and handlers, may mean anything by the code alone.
        misdirected: |response| {
            response.status() == StatusCode::MISDIRECTED_REQUEST
                && Status::of(response.headers()) == Some(Status::NotExecuted)
        },
    };
}

// === impl Attempt ===

impl<T> Attempt<T> {
    pub(super) const fn new(transport: T, peers: Arc<Peers>, options: AttemptOptions) -> Self {
        Self {
            transport,
            peers,
            options,
        }
    }
}

impl<T> Service<Request<Body>> for Attempt<T>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
{
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.transport.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The instance that is ready.
        let fresh = self.clone();
        let ready = std::mem::replace(self, fresh);
        Box::pin(async move {
            match request.extensions_mut().remove::<Stamp>() {
                Some(stamp) => ready.send(stamp, request).await,
                None => ready.exchange(request).await,
            }
        })
    }
}

impl<T> Attempt<T>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
{
    async fn send(
        mut self,
        stamp: Stamp,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, TransportError> {
        let call = &*stamp.call;
        let undated = request.extensions_mut().remove::<SentUndated>();
        let noting = request.extensions_mut().remove::<Noting>();
        let (peers, route) = (Arc::clone(&self.peers), Route::of(&request));
        let ticket = call.ticket();
        let sent = call.sent_before() || ticket.store.is_some();
        let known = self.peer_of(&stamp, &request, route.as_ref(), sent);
        let known = known.await?;
        let required = sent || self.options.require_dedupe;
        if known.is_none() && required && !self.options.assume_dedupe {
            return Err(TransportError::never_sent(PeerDoesNotDedupe));
        }

        let dated_late = undated.as_ref().map_or_else(
            || stamp.attempt.get() > 1,
            |undated| undated.0.load(Ordering::Acquire),
        ) || noting.as_ref().is_some_and(Noting::undated_before);
        let now = known.and_then(|known| known.now());
        let mut binding = Binding {
            call,
            first_sent: ticket.first_sent.or(now.filter(|_| !dated_late)),
            store: ticket.store.or_else(|| known.map(|known| known.store)),
            undated: undated.as_ref(),
            sent: true,
        };
        let mut note_may_go = false;
        if let Some(noting) = &noting {
            let (peer, dates) = (
                (now, known.map(|known| known.store)),
                binding.first_sent.is_some(),
            );
            let assume = self.options.assume_dedupe;
            note_may_go = noting.note(&stamp.call, peer, dates, assume).await?;
        }
        // What is noted holds, whatever becomes of the attempt.
        let noted = noting.is_some();
        let headers = request.headers_mut();
        stamp.write_left(headers);
        stamp::write_peer(headers, binding.first_sent, binding.store);
        if stamp.deadline.is_some_and(|at| at <= Instant::now()) {
            binding.sent = noted;
            return Err(TransportError::not_sent("the call's deadline has passed"));
        }

        // From here on the binding holds also where this future is dropped.
        let AttemptOptions {
            answer_bytes_max: limit,
            dialect,
            ..
        } = self.options;
        let response = self.respond(request).await;
        match &response {
            Err(error) => {
                binding.sent = noted || error.executed() != Executed::NotThisAttempt;
            }
            Ok(response) => {
                route
                    .iter()
                    .for_each(|route| peers.note_answer(route, response));
                let said = Known::of(response).map(|known| known.store);
                if (dialect.misdirected)(response) && ticket.store.is_none() {
                    // That store is not there any more. The call met none yet.
                    binding.sent = match &noting {
                        None => false,
                        Some(noting) if note_may_go && said.is_some() => {
                            !noting.take_back(call).await
                        }
                        Some(_) => true,
                    };
                } else if ticket.store.is_none() {
                    binding.store = said.or(binding.store);
                }
            }
        }
        drop(binding);
        let head = response?;
        let speaks = Known::of(&head).is_some();
        let response = read(head, limit).await?;
        if !speaks && !(dialect.from_between)(&response) {
            route.iter().for_each(|route| peers.note_silence(route));
        }
        Ok(response)
    }

    async fn exchange(self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        let limit = self.options.answer_bytes_max;
        read(self.respond(request).await?, limit).await
    }

    async fn respond(mut self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        self.transport.call(request).await
    }

    /// What is known of the peer that `request` is for; asks it if need be. `again` if the call may
    /// have been executed.
    async fn peer_of(
        &mut self,
        stamp: &Stamp,
        request: &Request<Body>,
        route: Option<&Route>,
        again: bool,
    ) -> Result<Option<Known>, TransportError> {
        let again = again && self.options.ask_peers && !self.options.assume_dedupe;
        let required = self.options.require_dedupe;
        let peers = Arc::clone(&self.peers);
        // Who has to dedupe is asked until it does: that it does not say so yet is worth nothing.
        let word = |route| {
            let word = peers.word(route, again);
            word.filter(|word| !required || word.known().is_some())
        };
        if let Some(word) = route.and_then(word) {
            return Ok(word.known());
        }
        if !self.options.ask_peers {
            return Ok(None);
        }
        let word = match route {
            Some(route) => {
                let (asking, began) = (peers.asking(route), Instant::now());
                let mut asking = asking.lock().await;
                // Somebody may have asked while this waited.
                if let Some(word) = word(route) {
                    return Ok(word.known());
                }
                if again && asking.is_some_and(|ended| ended >= began) {
                    return Err(TransportError::not_sent(NotAsked));
                }
                match self.ask(stamp, request).await? {
                    Asked::Answered(word) => {
                        peers.note(route, word);
                        word
                    }
                    // What it said before is not taken back by that, nor is it relied on.
                    Asked::LeftOpen | Asked::AnsweredByAnother | Asked::CutShort
                        if again && peers.word(route, false).is_some() =>
                    {
                        *asking = Some(Instant::now());
                        return Err(TransportError::not_sent(NotAsked));
                    }
                    Asked::LeftOpen | Asked::AnsweredByAnother if required => {
                        return Err(TransportError::not_sent(NotAsked));
                    }
                    Asked::LeftOpen => {
                        peers.note(route, Word::Nothing);
                        Word::Nothing
                    }
                    Asked::AnsweredByAnother | Asked::CutShort => {
                        peers.note_not_asked(route);
                        Word::Nothing
                    }
                }
            }
            None => match self.ask(stamp, request).await? {
                Asked::Answered(word) => word,
                Asked::LeftOpen | Asked::AnsweredByAnother | Asked::CutShort if required => {
                    return Err(TransportError::not_sent(NotAsked));
                }
                Asked::LeftOpen | Asked::AnsweredByAnother | Asked::CutShort => Word::Nothing,
            },
        };
        // The question took the place that the attempt had at the transport. Were both held at once, a
        // transport with one place would never come to ask; and were this waited for with the right to
        // ask in hand, it would be waited for by whoever has that place.
        let ready = self.transport.ready().await;
        ready.map_err(TransportError::not_sent)?;
        Ok(word.known())
    }

    /// Asks the peer whether it dedupes requests like this one. One that cannot be reached has not been
    /// asked.
    async fn ask(
        &mut self,
        stamp: &Stamp,
        request: &Request<Body>,
    ) -> Result<Asked, TransportError> {
        let mut question = Request::new(Body::default());
        *question.method_mut() = Method::OPTIONS;
        *question.uri_mut() = request.uri().clone();
        *question.version_mut() = request.version();
        *question.headers_mut() = for_question(request.headers());
        let from_between = self.options.dialect.from_between;
        let asked = async {
            let response = self.transport.call(question).await?;
            let known = Known::told(&response);
            let read = read(response, ASK_ANSWER_BYTES_MAX).await;
            let silent = known.is_none() && read.is_ok_and(|response| from_between(&response));
            let word = known.map_or(Word::Nothing, Word::Dedupes);
            Ok::<_, TransportError>(if silent {
                Asked::AnsweredByAnother
            } else {
                Asked::Answered(word)
            })
        };
        let left = stamp.deadline.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        });
        // The rest is for the call itself.
        let patience = (self.options.timeout / 2).min(ASK_TIMEOUT_MAX);
        let spared = left / 2;
        match timeout(patience.min(spared), asked).await {
            Ok(Err(error)) if error.executed() == Executed::NotThisAttempt => Err(error),
            Ok(Err(_)) => Ok(Asked::AnsweredByAnother),
            Err(_elapsed) if spared < patience => Ok(Asked::CutShort),
            Err(_elapsed) => Ok(Asked::LeftOpen),
            Ok(Ok(asked)) => Ok(asked),
        }
    }
}

/// Reads the answer to its end, unless it is larger than `limit`, or is one that goes on and on.
async fn read(response: Response<Body>, limit: usize) -> Result<Response<Body>, TransportError> {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.as_bytes().get(..EVENT_STREAM.len()));
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM)) {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = match body.read(limit).await {
        Ok(Read::Whole(contents)) => Body::from(contents),
        Ok(Read::TooLarge(body)) => body,
        Err(error) => return Err(TransportError::unknown(error)),
    };
    Ok(Response::from_parts(head, body))
}

/// The headers that a question takes over: whom it is from, but not what the body is.
fn for_question(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        names::ATTEMPT,
        names::DEADLINE_MS,
        names::FIRST_SENT,
        names::KEY,
        names::STORE,
    ] {
        headers.remove(name);
    }
    headers
}

// === impl Word ===

impl Word {
    const fn known(self) -> Option<Known> {
        match self {
            Self::Dedupes(known) => Some(known),
            Self::Nothing => None,
        }
    }
}

// === impl Binding ===

impl Binding<'_> {
    fn hold(&self) {
        match (self.first_sent, self.undated) {
            (Some(at), _) => drop(self.call.first_sent_or(at)),
            (None, Some(undated)) => undated.0.store(true, Ordering::Release),
            (None, None) => {}
        }
        if let Some(store) = self.store {
            self.call.bind(store);
        }
    }
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        if self.sent {
            self.hold();
        }
    }
}
