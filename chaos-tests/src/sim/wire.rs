//! The wire: it connects hosts, and knows what passes between them and what does not.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::connection::{Connection, Lane};
use super::protocol::{Pipe, Pipes, Protocol, Way};
use super::run::{Run, Strike};
use crate::seed::Draw;

/// Connects one client host to the server.
#[derive(Clone)]
pub struct Dialler {
    client: Arc<str>,
    wire: Arc<Wire>,
    protocol: Arc<dyn Fn() -> Box<dyn Protocol> + Send + Sync>,
}

/// Everything between the hosts.
pub(super) struct Wire {
    run: Run,
    arrivals: mpsc::UnboundedSender<Arrival>,
    server: Mutex<Option<mpsc::UnboundedSender<Pipe>>>,
    /// Counts the server's processes: the connections of one that lost its power say nothing more.
    silenced: AtomicU64,
    born: AtomicU64,
    connections: AtomicU64,
    /// How many replays the server has answered.
    replayed: AtomicU64,
    /// Requests that went by, each with what opened its connection: a sample.
    kept: Mutex<Vec<(Bytes, Bytes)>>,
    /// Until when nothing passes, up and down, in microseconds of the run.
    parted_until: [AtomicU64; 2],
    /// Those that are carried, by their ordinals.
    carried: Mutex<BTreeMap<u64, Weak<Connection>>>,
}

pub(super) struct Arrival {
    client: Arc<str>,
    pipe: Pipe,
    protocol: Box<dyn Protocol>,
    connected: oneshot::Sender<io::Result<()>>,
}

// === impl Dialler ===

impl Dialler {
    pub(super) fn new(
        client: &str,
        wire: Arc<Wire>,
        protocol: impl Fn() -> Box<dyn Protocol> + Send + Sync + 'static,
    ) -> Self {
        Self {
            client: client.into(),
            wire,
            protocol: Arc::new(protocol),
        }
    }

    /// A connection to the server, as soon as the wire has made it.
    ///
    /// # Errors
    ///
    /// When no server listens. While nothing passes it does not end: give it a time limit.
    pub async fn connect(&self) -> io::Result<Pipe> {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let (connected, answer) = oneshot::channel();
        let arrival = Arrival {
            client: Arc::clone(&self.client),
            pipe: theirs,
            protocol: (self.protocol)(),
            connected,
        };
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        self.wire.arrivals.send(arrival).map_err(|_| refused())?;
        answer.await.map_err(|_| refused())??;
        Ok(ours)
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler").finish_non_exhaustive()
    }
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(run: Run) -> (Arc<Self>, mpsc::UnboundedReceiver<Arrival>) {
        let (arrivals, arriving) = mpsc::unbounded_channel();
        let wire = Self {
            run,
            arrivals,
            server: Mutex::new(None),
            silenced: AtomicU64::new(0),
            born: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            kept: Mutex::default(),
            parted_until: Default::default(),
            carried: Mutex::default(),
        };
        (Arc::new(wire), arriving)
    }

    /// A process of the server listens from now on.
    pub(super) fn listen(&self) -> Pipes {
        let (server, pipes) = mpsc::unbounded_channel();
        *self.server.lock() = Some(server);
        self.born.fetch_add(1, Ordering::Relaxed);
        pipes
    }

    /// Nobody listens any more. Where the power was cut, nobody says so either.
    pub(super) fn server_gone(&self, silently: bool) {
        *self.server.lock() = None;
        if silently {
            self.silenced
                .store(self.born.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Wakes the connections of a host that is about to end, in the order in which they were made:
    /// its runtime drops what it has in an order that other runs of this process have a part in, and
    /// who is awake already is woken by nothing else.
    pub(super) fn wake_all_of(&self, host: &str) {
        let carried = self.carried.lock().clone();
        for connection in carried.values().filter_map(Weak::upgrade) {
            if host == SERVER || connection.is_of(host) {
                connection.look_again();
            }
        }
    }

    /// The run that it belongs to.
    pub(super) const fn run(&self) -> &Run {
        &self.run
    }

    /// How many processes the server has had.
    pub(super) fn born(&self) -> u64 {
        self.born.load(Ordering::Relaxed)
    }

    /// Whether this process of the server has lost its power.
    pub(super) fn is_silenced(&self, process: u64) -> bool {
        self.silenced.load(Ordering::Relaxed) >= process
    }

    /// Requests that went by, each with what opened its connection.
    pub(super) fn kept(&self) -> Vec<(Bytes, Bytes)> {
        self.kept.lock().clone()
    }

    pub(super) fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// Keeps one request in eight, as long as there are few.
    pub(super) fn keep(&self, hello: Bytes, request: Bytes, draw: Draw) {
        let mut kept = self.kept.lock();
        if kept.len() < KEPT_MAX && draw.within(0..=7) == 0 {
            kept.push((hello, request));
        }
    }

    /// Whether nothing passes in this direction now.
    pub(super) fn is_parted(&self, way: Way) -> bool {
        let until = self.parted_until[way as usize].load(Ordering::Relaxed);
        until > self.run.now_us() && !self.run.faults_ended()
    }

    /// Lets nothing pass in this direction for as long as the strike says.
    pub(super) fn part(&self, way: Way, strike: &Strike) {
        let now = self.run.now_us();
        let until = match strike.until_ms {
            Some(until_ms) => until_ms.saturating_mul(1_000),
            None => now + strike.draw.within(PARTED_US.0..=PARTED_US.1),
        };
        self.parted_until[way as usize].fetch_max(until, Ordering::Relaxed);
    }

    /// Sends bytes to the server that nobody waits for an answer to.
    pub(super) async fn replay(self: Arc<Self>, bytes: Vec<Bytes>, stays: Duration) {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let server = self.server.lock().clone();
        let Some(server) = server else { return };
        if server.send(theirs).is_err() {
            return;
        }
        let (mut read, mut write) = split(ours);
        for message in bytes {
            // OK because a server that is gone hears nothing.
            let _ = write.write_all(&message).await;
        }
        let (mut ignored, mut answered) = ([0; 1_024], false);
        let _ = tokio::time::timeout(stays, async {
            while matches!(read.read(&mut ignored).await, Ok(count) if count > 0) {
                answered = true;
            }
        })
        .await;
        self.replayed
            .fetch_add(u64::from(answered), Ordering::Relaxed);
    }
}

/// Carries what arrives, for as long as the run lasts.
pub(super) async fn network(wire: Arc<Wire>, mut arriving: mpsc::UnboundedReceiver<Arrival>) {
    while let Some(arrival) = arriving.recv().await {
        tokio::spawn(connect(Arc::clone(&wire), arrival));
    }
}

async fn connect(wire: Arc<Wire>, arrival: Arrival) {
    let Arrival {
        client,
        pipe,
        protocol,
        connected,
    } = arrival;
    let ordinal = wire.connections.fetch_add(1, Ordering::Relaxed) + 1;
    sleep(latency(wire.run.seed().draw(&[CONNECTS, ordinal]))).await;
    // As a SYN that is lost: it is sent again.
    while wire.is_parted(Way::Up) || wire.is_parted(Way::Down) {
        sleep(SYN_AGAIN).await;
        if connected.is_closed() {
            return;
        }
    }
    let server = wire.server.lock().clone();
    let (ours, theirs) = duplex(PIPE_BYTES);
    let taken = server.is_some_and(|server| server.send(theirs).is_ok());
    if !taken {
        let _ = connected.send(Err(io::ErrorKind::ConnectionRefused.into()));
        return;
    }
    if connected.send(Ok(())).is_err() {
        return;
    }
    let (from_client, to_client) = split(pipe);
    let (from_server, to_server) = split(ours);
    let lanes = [Lane::new(to_server), Lane::new(to_client)];
    let connection = Connection::new(Arc::clone(&wire), (ordinal, client), protocol, lanes);
    let known = Arc::downgrade(&connection);
    wire.carried.lock().insert(ordinal, known);
    connection
        .carry_until_it_ends(from_client, from_server)
        .await;
    wire.carried.lock().remove(&ordinal);
    connection.cut_off().await;
}

pub(super) fn latency(draw: Draw) -> Duration {
    Duration::from_micros(draw.within(300..=3_000))
}

/// What the server's host is called.
pub(super) const SERVER: &str = "server";

/// How many requests are kept, to come again when everything is over.
const KEPT_MAX: usize = 12;

const PIPE_BYTES: usize = 64 * 1024;
const SYN_AGAIN: Duration = Duration::from_millis(200);
const PARTED_US: (u64, u64) = (50_000, 1_200_000);

// Which decision is drawn.
const CONNECTS: u64 = 11;
