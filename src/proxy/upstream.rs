//! The connection to the upstream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use tower_service::Service;

use super::config::{ProxyLimits, Upstream};
use super::tls::ClientTls;
use super::{ConfigError, hop};
use crate::http::client::{Hyper, hyper};
use crate::http::{Body, BoxError};

/// Sends to the upstream, over connections that are used again only while they are fresh.
pub(super) type Transport = Hyper<Bounded<HttpsConnector<HttpConnector>>>;

/// Connects within a time: the name looked up, the connection and TLS, all together.
#[derive(Clone, Debug)]
pub(super) struct Bounded<C> {
    connector: C,
    timeout: Duration,
}

/// No connection was made in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no connection was made in time")]
struct ConnectElapsed;

/// What sends to `upstream`. It sends nothing again by itself.
pub(super) fn transport(
    upstream: &Upstream,
    limits: &ProxyLimits,
) -> Result<Transport, ConfigError> {
    let tls = if upstream.scheme == Scheme::HTTPS {
        upstream.tls.config()?
    } else {
        ClientTls::unused()?
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let connector = if upstream.http2 {
        builder.enable_http2().wrap_connector(tcp)
    } else {
        builder.enable_http1().wrap_connector(tcp)
    };
    let mut client = Client::builder(TokioExecutor::new());
    client
        .retry_canceled_requests(false)
        .http2_only(upstream.http2)
        // Nothing else ends a connection of HTTP/2 that is dead in silence: each call that gives up
        // ends its own stream, and the next takes the same connection.
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(limits.timeout / 6)
        .http2_keep_alive_timeout(limits.timeout / 3)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(limits.upstream_idle)
        .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX);
    if limits.upstream_idle.is_zero() {
        client.pool_max_idle_per_host(0);
    }
    Ok(hyper(client.build(Bounded {
        connector,
        timeout: connect_timeout(limits),
    })))
}

/// How long a connection to the upstream may take to be made.
pub(super) fn connect_timeout(limits: &ProxyLimits) -> Duration {
    // At most half of the whole, so that one that is not made is known as such before the time is
    // over.
    CONNECT_TIMEOUT.min(limits.timeout / 2)
}

/// Makes `request` one to the upstream: its address, and no header that belongs to the connection
/// that it came by.
///
/// # Errors
///
/// When its path and the upstream's make none together.
pub(super) fn readdress(
    request: &mut Request<Body>,
    upstream: &Upstream,
) -> Result<(), http::Error> {
    let came_by = request.version();
    let said = request.uri().clone();
    let asked = said.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = format!("{}{asked}", upstream.path);
    let uri = Uri::builder()
        .scheme(upstream.scheme.clone())
        .authority(upstream.authority.clone())
        .path_and_query(path)
        .build()?;
    *request.uri_mut() = uri;
    *request.version_mut() = if upstream.http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let headers = request.headers_mut();
    // Of two that say different hosts the address counts (RFC 9112, section 3.2.2).
    if let Some(authority) = said.authority() {
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    if upstream.http2 {
        headers.remove(header::HOST);
    }
    hop::strip(headers);
    headers.remove(header::EXPECT);
    // The body is framed by what it is.
    headers.remove(header::CONTENT_LENGTH);
    hop::add_via(headers, came_by);
    Ok(())
}

// === impl Bounded ===

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = timeout(self.timeout, self.connector.call(uri));
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_elapsed) => Err(ConnectElapsed.into()),
            }
        })
    }
}

/// As long as our clients wait for one.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);

/// More than servers send; a head over it is an answer that cannot be read.
const ANSWER_HEAD_BYTES_MAX: usize = 256 * 1024;
