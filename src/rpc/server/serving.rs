//! Accepting connections, and the end of it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_middleware::server::Executions;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::connection::connection;
use super::finishing::go_on_with_abandoned;
use super::{Server, ServerOptions, handshake};
use crate::rpc::{Incoming, Reply};

/// A server that serves. Dropping it ends it at once, as a crash would: connections are cut, and
/// the futures of calls under way are dropped.
#[must_use = "a server that is dropped ends at once"]
#[derive(Debug)]
pub struct Serving {
    local_addr: SocketAddr,
    phase: watch::Sender<Phase>,
    in_flight: InFlight,
    executions: Option<Executions>,
    accepting: JoinHandle<()>,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls that were taken and whose reply was not written in time.
    pub cut_off: usize,
    /// Calls that were still being executed then, with or without a caller who waits. They run on
    /// as long as the runtime does; what that cuts off is in doubt. Always zero for a server that
    /// was not told of its executions with [`dedupe`](super::ServerBuilder::dedupe).
    pub executing: usize,
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Shared<S> {
    pub(super) server: Arc<Server>,
    pub(super) service: S,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) in_flight: InFlight,
    /// One permit for each byte of arguments that may be in flight.
    pub(super) bytes: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Draining,
    Running,
}

/// Counts the calls that were taken and whose reply was not yet written.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct OneInFlight(InFlight);

// === impl Server ===

impl Server {
    /// Serves the connections of `listener` with clones of `service`, in the background.
    ///
    /// Each call gets its own clone, which is made ready and called, concurrently with the
    /// others. Its future is dropped when the connection is lost; what must outlive the caller
    /// (the dedupe layer's handlers do) goes on in a task of its own. A service that panics answers
    /// [`Status::InDoubt`](crate::rpc::Status::InDoubt): nobody knows how far it came. The
    /// connection and its other calls go on.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the listener has no local address.
    pub fn serve<S>(self, listener: TcpListener, service: S) -> io::Result<Serving>
    where
        S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let local_addr = listener.local_addr()?;
        let (phase, watched) = watch::channel(Phase::Running);
        let in_flight = InFlight::default();
        let executions = self.executions.clone();
        let ServerOptions {
            arguments_bytes_max,
            in_flight_bytes_max,
            ..
        } = self.options;
        // Less than the largest arguments would refuse them for ever.
        let bytes = in_flight_bytes_max.max(arguments_bytes_max);
        let shared = Shared {
            server: Arc::new(self),
            service,
            phase: watched,
            in_flight: in_flight.clone(),
            bytes: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
        };
        Ok(Serving {
            local_addr,
            executions,
            phase,
            in_flight,
            accepting: tokio::spawn(accept(listener, shared)),
        })
    }
}

/// Serves the connections that come over `pipes` with clones of `service`, until there are no more
/// or it is dropped: for simulations.
#[cfg(feature = "cli")]
pub(crate) async fn serve_pipes<S>(
    server: Server,
    mut pipes: tokio::sync::mpsc::UnboundedReceiver<tokio::io::DuplexStream>,
    service: S,
) where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (_phase, watched) = watch::channel(Phase::Running);
    let options = server.options;
    let shared = Shared {
        server: Arc::new(server),
        service,
        phase: watched,
        in_flight: InFlight::default(),
        bytes: Arc::new(Semaphore::new(
            options.in_flight_bytes_max.min(Semaphore::MAX_PERMITS),
        )),
    };
    let handshakes = semaphore(options.handshakes_max);
    let mut connections = JoinSet::new();
    loop {
        let pipe = tokio::select! {
            biased;
            Some(_) = connections.join_next() => continue,
            pipe = pipes.recv() => pipe,
        };
        let Some(pipe) = pipe else { break };
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            continue;
        };
        connections.spawn(connection(
            tokio::io::split(pipe),
            handshake,
            shared.clone(),
        ));
    }
    while connections.join_next().await.is_some() {}
}

// === impl Serving ===

impl Serving {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How many calls were taken and have no written reply yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }

    /// Stops gracefully: accepts no more connections, tells every client which calls were taken,
    /// executes no others, and waits for those that were until their replies are written, and for
    /// the executions whose callers went away (see [`dedupe`](super::ServerBuilder::dedupe)), but
    /// no longer than `patience`. Then connections are cut.
    ///
    /// Dropping the future ends the server at once.
    pub async fn shutdown(mut self, patience: Duration) -> ShutdownReport {
        self.phase.send_replace(Phase::Draining);
        let executions = self.executions.take();
        let ended = timeout(patience, async {
            // OK because a task that panicked has cut its connections, too.
            let _ = (&mut self.accepting).await;
            if let Some(executions) = &executions {
                executions.idle().await;
            }
        })
        .await;
        if ended.is_ok() {
            return ShutdownReport::default();
        }
        ShutdownReport {
            cut_off: self.in_flight.count(),
            executing: executions.map_or(0, |executions| executions.count()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept<S>(listener: TcpListener, shared: Shared<S>)
where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let options = shared.server.options;
    let places = semaphore(options.connections_max);
    let handshakes = semaphore(options.handshakes_max);
    let mut phase = shared.phase.clone();
    // Dropped together with this future: then every connection is cut.
    let mut connections = JoinSet::new();
    if options.finish_abandoned {
        connections.spawn(go_on_with_abandoned(shared.clone()));
    }
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = until_draining(&mut phase) => break,
        };
        prepare(&stream);
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            tracing::debug!("connection dropped: too many handshakes");
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!("connection refused: too many connections");
            connections.spawn(async move {
                handshake::refuse_full(stream, options.handshake_timeout).await;
                drop(handshake);
            });
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            connection(stream.into_split(), handshake, shared).await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Ends when the server shuts down, or is dropped.
pub(super) async fn until_draining(phase: &mut watch::Receiver<Phase>) {
    // OK because without a sender the server is being dropped, which is the end as well.
    let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
}

fn prepare(stream: &TcpStream) {
    // A reply is one small write, and its caller waits for it. Idle connections may stay, those
    // of machines that are gone must not: they would fill the places for ever. A socket that
    // refuses either option is slower or noticed later, not wrong.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// A connection that was lost before it was accepted is nothing. Anything else (no more open
/// files) is worth a pause, or the loop takes all of a processor.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};

    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    ) {
        tracing::warn!(%error, "cannot accept connections");
        sleep(ACCEPT_PAUSE).await;
    }
}

pub(super) fn semaphore(permits: u32) -> Arc<Semaphore> {
    // OK because a platform whose `usize` is smaller gets its own maximum.
    let permits = usize::try_from(permits.max(1)).unwrap_or(Semaphore::MAX_PERMITS);
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

// === impl InFlight ===

impl InFlight {
    pub(super) fn one(&self) -> OneInFlight {
        self.0.fetch_add(1, Ordering::AcqRel);
        OneInFlight(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for OneInFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Enough for somebody to close a file, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that is gone is noticed within about two minutes, at one packet a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
