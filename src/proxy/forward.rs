//! The service behind the dedupe layer: one request, forwarded to the upstream.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::{LengthLimitError, Limited};
use tokio::time::{Instant, sleep, timeout_at};
use tower_service::Service;

use super::config::{CloseDelimited, Ingress, ProxyConfig, ProxyLimits, Upstream, UpstreamStatus};
use super::hop;
use super::problem::{after, not_executed, problem};
use super::stream::{Timed, Unended};
use super::upstream::{Transport, connect_timeout, readdress};
use crate::http::client::TransportError;
use crate::http::{Body, NotExecuted, Status, names};
use crate::middleware::server::Execution;

/// On requests that an egress proxy sends: an `OPTIONS` with it is a question about this proxy, and
/// answered here.
pub(super) const EGRESS: HeaderName = HeaderName::from_static("idempotency-egress");

/// Forwards to the upstream.
///
/// A protected request whose connection is lost once a byte of it may have been sent fails, which
/// leaves its call in doubt. One of which no byte was sent is sent again within the time, and is not
/// executed after it. Requests that are not protected are always answered.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    transport: Transport,
    upstream: Arc<Upstream>,
    limits: ProxyLimits,
    close_delimited: CloseDelimited,
    upstream_status: UpstreamStatus,
    principal: Option<HeaderName>,
}

/// Why a request has no answer of the upstream's.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The upstream did not answer in time.
    Elapsed,
    /// The connection was lost, or what came is no answer.
    Lost,
    /// Nobody takes a connection; no byte was sent.
    Unreachable,
    /// The body is longer than what is taken.
    TooLarge,
}

// === impl Forward ===

impl Forward {
    pub(super) fn new(transport: Transport, config: &ProxyConfig, ingress: &Ingress) -> Self {
        Self {
            transport,
            upstream: Arc::new(config.upstream.clone()),
            limits: config.limits,
            close_delimited: ingress.close_delimited,
            upstream_status: ingress.upstream_status,
            principal: ingress.principal.header().cloned(),
        }
    }

    async fn forward(mut self, mut request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        let execution = request.extensions().get::<Execution>().copied();
        if request.method() == Method::OPTIONS && request.headers().contains_key(&EGRESS) {
            return Ok(no_content());
        }
        if readdress(&mut request, &self.upstream).is_err() {
            let detail = "the address of the request cannot be used behind the upstream's";
            return Ok(not_executed(StatusCode::BAD_REQUEST, "address", detail));
        }
        let headers = request.headers_mut();
        headers.remove(&EGRESS);
        hop::strip_words(headers);
        if let Some(principal) = &self.principal {
            hop::strip_look_alikes(headers, principal);
        }
        if let Some(execution) = execution {
            let token = HeaderValue::try_from(execution.token.to_string());
            headers.insert(hop::FENCING_TOKEN, token.expect("digits and a point"));
            // The record is for everybody who asks with the key, whatever encodings they take.
            headers.insert(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            );
        } else {
            request = request.map(|body| bounded(body, &self.limits));
        }
        let until = Instant::now() + self.limits.timeout;
        match (self.exchange(request, until).await, execution) {
            (Ok(response), protected) => Ok(self.received(response, protected.is_some(), until)),
            // Nothing was sent: the key is free again.
            (Err(Unanswered::Unreachable), _) => {
                let mut response = unreachable();
                response.extensions_mut().insert(NotExecuted);
                Ok(response)
            }
            (Err(unanswered), Some(execution)) => {
                tracing::warn!(target: "onlyonce", token = %execution.token, "a call is in doubt: {unanswered}");
                Err(unanswered)
            }
            (Err(unanswered), None) => Ok(unanswered.response()),
        }
    }

    /// Sends the request, once more where no byte of it was sent.
    async fn exchange(
        &mut self,
        request: Request<Body>,
        until: Instant,
    ) -> Result<Response<Body>, Unanswered> {
        let mut pause = PAUSE;
        let mut next = request;
        loop {
            let again = again(&next);
            // The process may have stood still since it was last known that there is time, and whoever
            // waited has been told then. The layer around polls nothing of this once its lease is over.
            if Instant::now() >= until {
                return Err(Unanswered::Unreachable);
            }
            let sending = self.transport.call(next);
            let error = match timeout_at(until, sending).await {
                // The request asked for no other protocol, so this is no answer to it.
                Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Unanswered::Lost);
                }
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
                Err(_elapsed) => return Err(Unanswered::Elapsed),
            };
            if is_too_large(&error) {
                return Err(Unanswered::TooLarge);
            }
            if !is_unsent(&error) {
                return Err(Unanswered::Lost);
            }
            let connected_by = Instant::now() + pause + connect_timeout(&self.limits);
            match again {
                Some(again) if connected_by < until => next = again,
                _ => return Err(Unanswered::Unreachable),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn received(
        &self,
        mut response: Response<Body>,
        protected: bool,
        until: Instant,
    ) -> Response<Body> {
        let closes = protected
            && self.close_delimited == CloseDelimited::InDoubt
            && ends_with_its_connection(&response);
        hop::strip(response.headers_mut());
        if self.upstream_status == UpstreamStatus::Ignored {
            let open = says_that_it_is_open(&response).filter(|_| protected);
            hop::strip_answer_words(response.headers_mut());
            if let Some(status) = open {
                response
                    .headers_mut()
                    .insert(names::STATUS, status.header_value());
            }
        }
        let endless = !protected || is_event_stream(response.headers());
        let idle = self.limits.timeout;
        response.map(|body| {
            if http_body::Body::is_end_stream(&body) {
                return body;
            }
            let timed = if endless {
                Timed::idle(body, idle)
            } else {
                Timed::until(body, until)
            };
            if closes {
                tracing::warn!(
                    target: "onlyonce",
                    "an answer has no length and ends with its connection, so that nobody can tell \
                     whether it is whole: its call is in doubt (close-delimited)"
                );
                Body::stream(Unended::new(timed))
            } else {
                Body::stream(timed)
            }
        })
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Unanswered>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        let ready = self.transport.poll_ready(cx);
        ready.map_err(|_| Unanswered::Unreachable)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().forward(request))
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn response(&self) -> Response<Body> {
        match self {
            Self::Elapsed => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream-timeout",
                "the service did not answer in time, and may have executed the request",
            ),
            Self::Lost => problem(
                StatusCode::BAD_GATEWAY,
                "upstream-lost",
                "the connection to the service was lost, which may have executed the request",
            ),
            Self::TooLarge => problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "the body of the request is too long",
            ),
            Self::Unreachable => unreachable(),
        }
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elapsed => "the upstream did not answer in time",
            Self::Lost => "the connection to the upstream was lost",
            Self::TooLarge => "the body of the request is too long",
            Self::Unreachable => "the upstream takes no connection",
        })
    }
}

fn unreachable() -> Response<Body> {
    let detail = "the service behind this proxy takes no connection; nothing was executed";
    let code = StatusCode::SERVICE_UNAVAILABLE;
    after(
        not_executed(code, "upstream-unreachable", detail),
        PAUSE_MAX,
    )
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The same once more, where it is in memory.
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    let mut again = Request::new(request.body().try_clone()?);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Only what is in memory is known to be short.
fn bounded(body: Body, limits: &ProxyLimits) -> Body {
    if body.contents().is_some() {
        return body;
    }
    let timed = Timed::idle(body, limits.client_timeout);
    Body::stream(Limited::new(timed, limits.body_bytes_max))
}

/// No connection was made, or the one that was chosen ended before it took the request.
fn is_unsent(error: &TransportError) -> bool {
    sources(error).any(|error| {
        let connect = error.downcast_ref::<hyper_util::client::legacy::Error>();
        let taken = error.downcast_ref::<hyper::Error>();
        connect.is_some_and(hyper_util::client::legacy::Error::is_connect)
            || taken.is_some_and(hyper::Error::is_canceled)
    })
}

fn is_too_large(error: &TransportError) -> bool {
    sources(error).any(<dyn Error>::is::<LengthLimitError>)
}

fn sources(error: &TransportError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let error: &(dyn Error + 'static) = error;
    std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| {
        (**error).source()
    })
}

/// Whether the end of the connection is all that says where the body ends (RFC 9112, section 6.3): so
/// does the end of a service that was killed half-way.
pub(super) fn ends_with_its_connection(response: &Response<Body>) -> bool {
    let body = response.body();
    if response.version() > Version::HTTP_11
        || http_body::Body::is_end_stream(body)
        || http_body::Body::size_hint(body).exact().is_some()
    {
        return false;
    }
    let codings = response.headers().get_all(header::TRANSFER_ENCODING);
    let last = codings.iter().next_back().map(HeaderValue::as_bytes);
    let last = last.and_then(|line| line.rsplit(|byte| *byte == b',').next());
    !last.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The two words that neither end a call nor free its key. A service that says one of them, whatever it
/// calls so, says that this answer is not the last word, and so it is not recorded as that.
fn says_that_it_is_open(response: &Response<Body>) -> Option<Status> {
    let said = Status::of(response.headers());
    said.filter(|said| matches!(said, Status::InDoubt | Status::InProgress))
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        let essence = kind.as_bytes().split(|byte| *byte == b';').next();
        essence.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    })
}

/// The first pause before another connection is tried; then twice as long, up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
