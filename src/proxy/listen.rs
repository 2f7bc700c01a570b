//! Takes connections of clients, within bounds, and ends them well.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::config::ProxyLimits;
use super::delivery::{Deliveries, Overdue};
use super::figures::{self, Connected};
use super::front::Front;
use super::stream::{Attended, PREFACE};
use super::tls::ServerTls;

/// What the task that takes connections has.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) front: Arc<Front>,
    pub(super) limits: ProxyLimits,
    pub(super) tls: Option<ServerTls>,
    /// Becomes true when no more requests are to be taken.
    pub(super) stop: watch::Receiver<bool>,
}

/// What one connection needs.
#[derive(Clone)]
struct Serving {
    front: Arc<Front>,
    protocols: Arc<Protocols>,
    limits: ProxyLimits,
    tls: Option<TlsAcceptor>,
    stop: watch::Receiver<bool>,
}

/// What a client may speak.
struct Protocols {
    /// Found out by the first bytes, which are read apart, so that all that comes behind them gets twice
    /// the room.
    either: auto::Builder<TokioExecutor>,
    /// For a client who is known to.
    http_1: auto::Builder<TokioExecutor>,
}

// === impl Listening ===

impl Listening {
    /// Takes connections until it is told to stop, and then waits until those that are open have
    /// had their answers. Dropped, it closes them all.
    pub(super) async fn run(self) {
        let Self {
            listener,
            front,
            limits,
            tls,
            mut stop,
        } = self;
        let serving = Serving {
            front,
            protocols: Arc::new(Protocols {
                either: builder(&limits),
                http_1: builder(&limits).http1_only(),
            }),
            limits,
            tls: tls.map(|tls| TlsAcceptor::from(tls.0)),
            stop: stop.clone(),
        };
        let places = Arc::new(Semaphore::new(
            limits.connections_max.min(Semaphore::MAX_PERMITS),
        ));
        let refusing = Arc::new(Semaphore::new(REFUSED_AT_ONCE));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                // Too many files are open, or the client is gone already. What is open ends.
                Err(error) => {
                    tracing::warn!(target: "onlyonce", %error, "no connection can be taken");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    connections.spawn(serving.clone().serve(stream, client, place));
                }
                Err(_) => {
                    metrics::counter!(figures::CONNECTIONS_REFUSED).increment(1);
                    // Beyond these a connection is closed without a word.
                    if let Ok(place) = Arc::clone(&refusing).try_acquire_owned() {
                        let secure = serving.tls.is_some();
                        connections.spawn(refuse(stream, place, secure));
                    }
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

// === impl Serving ===

impl Serving {
    async fn serve(self, stream: TcpStream, client: SocketAddr, _place: OwnedSemaphorePermit) {
        let _connected = Connected::new();
        // OK because a connection works without.
        let _ = stream.set_nodelay(true);
        let patience = self.limits.client_timeout;
        let mut stop = self.stop.clone();
        let served = match &self.tls {
            None => {
                let heard = tokio::select! {
                    biased;
                    heard = timeout(patience, speaks_http_1(&stream)) => heard,
                    // It has not asked for anything yet.
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                match heard {
                    Ok(Ok(is_http_1)) => {
                        let http = match is_http_1 {
                            true => &self.protocols.http_1,
                            false => &self.protocols.either,
                        };
                        self.speak(stream, client, http).await
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                }
            }
            Some(tls) => {
                let accepted = tokio::select! {
                    accepted = timeout(patience, tls.accept(stream)) => accepted,
                    // It has not asked for anything yet.
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                match accepted {
                    // In a box: a connection without has no room to spare for it.
                    Ok(Ok(stream)) => {
                        Box::pin(self.speak(stream, client, &self.protocols.either)).await
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(target: "onlyonce", %error, "a connection has ended");
        }
    }

    async fn speak<I>(
        &self,
        io: I,
        client: SocketAddr,
        http: &auto::Builder<TokioExecutor>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let front = Arc::clone(&self.front);
        let deliveries = Deliveries::new();
        let asked = deliveries.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (front, asked) = (Arc::clone(&front), asked.clone());
            // In a box of its own: the connection keeps room for this future while it is idle.
            async move { Ok::<_, Infallible>(Box::pin(front.answer(client, request, &asked)).await) }
        });
        let io = TokioIo::new(Attended::new(io, self.limits.client_timeout));
        let connection = http.serve_connection(io, service);
        tokio::pin!(connection);
        let mut stop = self.stop.clone();
        let stopped = async { stop.wait_for(|stop| *stop).await.is_ok() };
        tokio::pin!(stopped);
        // Since when the client has been told that the connection ends.
        let mut ending: Option<Instant> = None;
        let patience = self.limits.client_timeout;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                _ = &mut stopped, if ending.is_none() => {
                    ending = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep(look_after(patience)) => match deliveries.overdue(patience) {
                    None => {}
                    Some(Overdue::NotTaken) => return Err(untaken()),
                    Some(Overdue::Still) => match ending {
                        None => {
                            ending = Some(Instant::now());
                            connection.as_mut().graceful_shutdown();
                        }
                        // It is told, and stays.
                        Some(since) if since.elapsed() >= patience => return Err(untaken()),
                        Some(_) => {}
                    }
                }
            }
        }
    }
}

/// Whether what the client says first is no HTTP/2. Where that takes more than what has come with its
/// first byte, it is left to be found out. Nothing is taken.
async fn speaks_http_1(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let count = stream.peek(&mut first).await?;
    Ok(!PREFACE.starts_with(&first[..count]))
}

fn untaken() -> Box<dyn std::error::Error + Send + Sync> {
    io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing").into()
}

/// How often a connection is looked after whose client is waited for at most so long.
fn look_after(patience: Duration) -> Duration {
    (patience / 4).max(LOOKED_AFTER_AT_MOST)
}

fn builder(limits: &ProxyLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.client_timeout)
        // Who ends its half after the request still waits for the answer.
        .half_close(true)
        .max_buf_size(limits.head_bytes_max)
        .max_headers(limits.header_lines_max);
    let head_bytes_max = u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.client_timeout / 2)
        .keep_alive_timeout(limits.client_timeout / 2)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(head_bytes_max);
    builder
}

/// Tells a client that there is no place for it, if it listens.
async fn refuse(mut stream: TcpStream, _place: OwnedSemaphorePermit, secure: bool) {
    let refused = async {
        if !secure {
            stream.write_all(NO_PLACE).await?;
        }
        stream.shutdown().await?;
        // What it sends is read, so that it hears the answer and not a reset.
        let mut heard = [0; 4096];
        while stream.read(&mut heard).await? > 0 {}
        io::Result::Ok(())
    };
    // OK because it does not matter how it went.
    let _ = timeout(REFUSED_WITHIN, refused).await;
}

/// Many connections are looked after, and a client is seldom that impatient.
const LOOKED_AFTER_AT_MOST: Duration = Duration::from_millis(50);

const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
    Content-Length: 0\r\nIdempotency-Status: not-executed\r\nRetry-After: 1\r\n\r\n";

/// A client that is refused is told so; more at once are closed without a word.
const REFUSED_AT_ONCE: usize = 128;
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// Files are freed by connections that end, not by trying.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Streams of one connection; what others allow.
const STREAMS_MAX: u32 = 128;
