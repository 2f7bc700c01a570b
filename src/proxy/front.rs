//! What every request meets first, in either half.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use tokio::time::Instant;

use super::access_log::{AccessLog, Entry};
use super::config::{KeepAlive, ProxyLimits};
use super::delivery::{Delivered, Deliveries, Open};
use super::egress::EgressProxy;
use super::figures;
use super::ingress::IngressProxy;
use super::problem::{after, not_executed};
use crate::http::{Body, BoxError, Status};

/// What every request meets first: it counts, it writes the log, and hands on.
pub(super) struct Front {
    half: Half,
    /// Whether connections of HTTP/1 are closed after each answer, a refusal too.
    closes: bool,
    log: AccessLog,
    body_bytes_max: u64,
    requests_max: usize,
    /// Requests without an answer yet, or with one that is not taken yet.
    open: Arc<AtomicUsize>,
}

/// Which half of the pair answers.
pub(super) enum Half {
    Egress(EgressProxy),
    Ingress(IngressProxy),
}

// === impl Front ===

impl Front {
    pub(super) fn new(half: Half, log: AccessLog, limits: &ProxyLimits) -> Self {
        let closes = match &half {
            Half::Egress(egress) => egress.keep_alive() == KeepAlive::No,
            Half::Ingress(_) => false,
        };
        Self {
            half,
            closes,
            log,
            body_bytes_max: limits.body_bytes_max as u64,
            requests_max: limits.requests_max,
            open: Arc::default(),
        }
    }

    /// How many requests have no answer yet, or one of which their client has not taken all.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(super) const fn half(&self) -> &Half {
        &self.half
    }

    pub(super) async fn answer<B>(
        &self,
        client: SocketAddr,
        request: Request<B>,
        deliveries: &Deliveries,
    ) -> Response<Delivered>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let open = Open::count(&self.open);
        let version = request.version();
        let underway = deliveries.begin(version);
        let began = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let request = request.map(|body| {
            if body.is_end_stream() {
                Body::default()
            } else {
                Body::stream(body)
            }
        });
        let mut response = if self.open() > self.requests_max {
            let detail = "this proxy is answering as many requests as it may";
            let code = StatusCode::SERVICE_UNAVAILABLE;
            after(not_executed(code, "too-many-requests", detail), BUSY_PAUSE)
        } else {
            self.answer_within_bounds(client, request).await
        };
        // The answer is this proxy's, whatever the service speaks (RFC 9110, section 6.2).
        *response.version_mut() = version.max(Version::HTTP_11);
        // A client that sends by itself again what meets a connection that is being closed never
        // meets one.
        if self.closes && version != Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let took = began.elapsed();
        let status = Status::of(response.headers());
        figures::answered(response.status(), status, took);
        self.log.write(&Entry {
            client,
            method: &method,
            path: &path,
            code: response.status(),
            status,
            took,
        });
        response.map(|body| Delivered::new(body, underway, open))
    }

    async fn answer_within_bounds(
        &self,
        client: SocketAddr,
        request: Request<Body>,
    ) -> Response<Body> {
        if request.method() == Method::CONNECT {
            let detail = "this proxy stands in front of one service and makes no tunnels";
            return not_executed(StatusCode::METHOD_NOT_ALLOWED, "no-tunnels", detail);
        }
        if request.body().size_hint().lower() > self.body_bytes_max {
            let detail = "the body of the request is too long";
            return not_executed(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail);
        }
        match &self.half {
            Half::Egress(egress) => egress.answer(request).await,
            Half::Ingress(ingress) => ingress.answer(client, request).await,
        }
    }
}

/// Most requests take less.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
