//! The address of operators and of monitoring.

mod records;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::records::Seen;
use super::config::Secret;
use super::front::{Front, Half};
use super::problem::problem;
use super::stream::Attended;
use crate::http::{Body, Read};
use crate::storage::{IdempotencyKey, Inspect};

/// What operators and monitoring ask.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) front: Arc<Front>,
    pub(super) inspect: Option<Arc<dyn Inspect>>,
    pub(super) handle: Option<PrometheusHandle>,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) token: Option<Secret>,
}

// === impl Admin ===

impl Admin {
    pub(super) async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let admin = self.clone();
            connections.spawn(async move {
                let _place = place;
                let service = service_fn(move |request: Request<Incoming>| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(request).await) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
                let io = TokioIo::new(Attended::new(stream, PATIENCE));
                // OK because whoever asked is gone then.
                let _ = http.serve_connection(io, service).await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => page(),
            (&Method::GET, "/healthz") => text(StatusCode::OK, "alive\n"),
            (&Method::GET, "/readyz") => self.ready().await,
            (&Method::GET, "/metrics") => match &self.handle {
                Some(handle) => metrics_text(handle.render()),
                None => text(StatusCode::NOT_FOUND, "no figures are kept\n"),
            },
            (&Method::POST, path) if path.starts_with(API) => {
                let what = path[API.len()..].to_owned();
                let (head, body) = request.into_parts();
                let reading = Body::stream(body).read(ASKED_BYTES_MAX);
                match timeout(PATIENCE, reading).await {
                    Ok(Ok(Read::Whole(contents))) => {
                        let (inspect, token) = (self.inspect.as_ref(), self.token.as_ref());
                        let attempts = match self.front.half() {
                            Half::Egress(_) => None,
                            Half::Ingress(ingress) => ingress.attempts(),
                        };
                        let seen = Seen { inspect, attempts };
                        records::answer(&seen, token, &what, &head, contents.bytes).await
                    }
                    _ => {
                        let code = StatusCode::BAD_REQUEST;
                        problem(code, "request-unreadable", "too long, too slow, or cut off")
                    }
                }
            }
            _ => problem(
                StatusCode::NOT_FOUND,
                "no-such-page",
                "there are /, /healthz, /readyz and /metrics",
            ),
        }
    }

    /// Whether requests would be served: by a store that answers, or an other side that dedupes.
    async fn ready(&self) -> Response<Body> {
        if self.draining.load(Ordering::Acquire) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        let ready = match self.front.half() {
            Half::Egress(egress) => egress.ready().await,
            Half::Ingress(_) => self.store_answers().await,
        };
        match ready {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing),
        }
    }

    async fn store_answers(&self) -> Result<(), &'static str> {
        let missing = "the store does not answer\n";
        let inspect = self.inspect.as_ref().ok_or(missing)?;
        let stats = timeout(READY_WITHIN, inspect.stats()).await;
        match stats {
            Ok(Ok(stats)) if stats.poisoned.is_none() => Ok(()),
            _ => Err(missing),
        }
    }
}

/// The page, which may load nothing from elsewhere and stand in no other page.
fn page() -> Response<Body> {
    let nonce = IdempotencyKey::unique();
    let nonce = nonce.as_str();
    let mut response = Response::new(Body::from(PAGE.replace("NONCE", nonce)));
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &policy),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        // OK because all of them are visible ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

fn text(code: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(words));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn metrics_text(figures: String) -> Response<Body> {
    let mut response = Response::new(Body::from(figures));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

const PAGE: &str = include_str!("page.html");

const API: &str = "/api/";

/// An answer as an operator types it.
const ASKED_BYTES_MAX: usize = 1 << 20;

/// Monitoring and a few operators.
const CONNECTIONS_MAX: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
const READY_WITHIN: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
