//! The wire: it carries messages between hosts, and lets faults strike them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep;

use super::run::{GIVEN_UP_AFTER, Order, Run, Strike, lost_for};
use crate::fault::{Phase, Place, What};
use crate::history::Happened;
use crate::seed::Draw;

/// One end of a connection, as a host has it.
pub type Pipe = DuplexStream;

/// The connections that come to a host.
pub type Pipes = mpsc::UnboundedReceiver<Pipe>;

/// In which direction a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// What is at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A message that is not all there.
    More,
    /// A message.
    Message {
        /// How long it is, in bytes.
        bytes: usize,
        /// How many of its first bytes say what it is: whoever reads others there notices it.
        head: usize,
        /// Whose it is; `None` of one that is about no call.
        about: Option<About>,
        /// Whether it says that what is still on the way on this connection is not taken. What comes
        /// by another path then would make that a lie, and TCP has no other path.
        disowns: bool,
    },
}

/// Which call and attempt a message is about, each from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The call's ordinal within the run.
    pub call: u64,
    /// The attempt's within the call.
    pub attempt: u32,
}

/// Cuts the bytes of one connection into messages.
pub trait Protocol: Send {
    /// What these bytes, the first of which begins a message, begin with. Each message is asked for
    /// until it is all there, and then not again.
    fn cut(&mut self, way: Way, bytes: &[u8]) -> Cut;
}

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

/// One connection.
struct Connection {
    wire: Arc<Wire>,
    ordinal: u64,
    client: Arc<str>,
    /// Of the server's process.
    epoch: u64,
    protocol: Mutex<Box<dyn Protocol>>,
    /// What the client said first: a message that comes again on another path begins with it.
    hello: Mutex<Bytes>,
    lanes: [Lane; 2],
    silent: AtomicBool,
    disowned: AtomicBool,
    dead: AtomicBool,
    died: Notify,
    /// An end of it may be gone.
    look: Notify,
}

struct Lane {
    to: tokio::sync::Mutex<Option<WriteHalf<DuplexStream>>>,
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
            if host == SERVER || *connection.client == *host {
                connection.look.notify_one();
            }
        }
    }

    /// Requests that went by, each with what opened its connection.
    pub(super) fn kept(&self) -> Vec<(Bytes, Bytes)> {
        self.kept.lock().clone()
    }

    pub(super) fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    fn keep(&self, hello: Bytes, request: Bytes, draw: Draw) {
        let mut kept = self.kept.lock();
        if kept.len() < KEPT_MAX && draw.within(0..=7) == 0 {
            kept.push((hello, request));
        }
    }

    fn is_parted(&self, way: Way) -> bool {
        let until = self.parted_until[way as usize].load(Ordering::Relaxed);
        until > self.run.now_us() && !self.run.faults_ended()
    }

    fn part(&self, way: Way, strike: &Strike) {
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
    let epoch = wire.born.load(Ordering::Relaxed);
    let (from_client, to_client) = split(pipe);
    let (from_server, to_server) = split(ours);
    let connection = Arc::new(Connection {
        wire,
        ordinal,
        client,
        epoch,
        protocol: Mutex::new(protocol),
        hello: Mutex::new(Bytes::new()),
        lanes: [Lane::new(to_server), Lane::new(to_client)],
        silent: AtomicBool::new(false),
        disowned: AtomicBool::new(false),
        dead: AtomicBool::new(false),
        died: Notify::new(),
        look: Notify::new(),
    });
    let number = connection.ordinal;
    let known = Arc::downgrade(&connection);
    connection.wire.carried.lock().insert(number, known);
    let looking = async {
        loop {
            connection.look.notified().await;
        }
    };
    tokio::select! {
        biased;
        () = connection.died.notified() => {}
        () = looking => {}
        _ = futures_join(
            carry(Arc::clone(&connection), Way::Up, from_client),
            carry(Arc::clone(&connection), Way::Down, from_server),
        ) => {}
    }
    connection.wire.carried.lock().remove(&number);
    connection.dead.store(true, Ordering::Relaxed);
    for lane in &connection.lanes {
        lane.to.lock().await.take();
    }
}

async fn futures_join(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::join!(biased; one, other);
}

async fn carry(connection: Arc<Connection>, way: Way, mut from: ReadHalf<DuplexStream>) {
    let mut buffer = BytesMut::new();
    let mut number = 0;
    loop {
        let cut = match buffer.is_empty() {
            true => Cut::More,
            false => connection.protocol.lock().cut(way, &buffer),
        };
        match cut {
            Cut::Message {
                bytes,
                head,
                about,
                disowns,
            } if bytes <= buffer.len() => {
                let message = buffer.split_to(bytes).freeze();
                number += 1;
                if disowns {
                    connection.disowned.store(true, Ordering::Relaxed);
                }
                connection.pass(way, number, message, head, about).await;
            }
            Cut::Message { .. } | Cut::More => match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => break,
            },
        }
    }
    // What is cut off in the middle goes on as it is.
    if !buffer.is_empty() {
        connection.deliver(way, &buffer).await;
    }
    if connection.is_silenced() || connection.silent.load(Ordering::Relaxed) {
        // The other end is not told.
        std::future::pending::<()>().await;
    }
    connection.close(way).await;
}

// === impl Connection ===

impl Connection {
    fn is_silenced(&self) -> bool {
        self.wire.silenced.load(Ordering::Relaxed) >= self.epoch
    }

    /// Carries one message, or does to it what strikes it.
    async fn pass(
        self: &Arc<Self>,
        way: Way,
        number: u64,
        message: Bytes,
        head: usize,
        about: Option<About>,
    ) {
        let run = &self.wire.run;
        if way == Way::Up && number == 1 {
            *self.hello.lock() = message.clone();
        }
        // What opens a connection is a call's no more than another's.
        let subject = about.map_or((0, ordinal_of(self.ordinal)), |about| {
            (about.call, about.attempt)
        });
        let (sent, received) = match way {
            Way::Up => (Phase::RequestSent, Phase::RequestReceived),
            Way::Down => (Phase::ReplySent, Phase::ReplyReceived),
        };
        if about.is_some() {
            let what = if way == Way::Up {
                Happened::Sent
            } else {
                Happened::Replied
            };
            run.note(subject.0, subject.1, what);
        }
        let draw = run.seed().draw(&[PASSES, self.ordinal, way as u64, number]);
        sleep(latency(draw)).await;
        if self.silent.load(Ordering::Relaxed) || self.wire.is_parted(way) {
            return;
        }
        let mut again = Vec::new();
        for phase in [sent, received] {
            let possible = |place, what| can_strike(place, what, phase, about.is_some());
            for strike in run.strikes(phase, subject, possible) {
                if let What::Duplicate { later_ms } = strike.what {
                    again.push((Duration::from_millis(later_ms), strike.draw));
                }
                if self.strike(way, &message, head, &strike).await {
                    return;
                }
            }
        }
        // Only what arrives can arrive again.
        for (later, draw) in again {
            let (connection, message) = (Arc::clone(self), message.clone());
            tokio::spawn(async move {
                sleep(later).await;
                match way {
                    Way::Up => connection.by_another_path(message, draw).await,
                    Way::Down => connection.deliver(way, &message).await,
                }
            });
        }
        if about.is_some() && way == Way::Up {
            run.note(subject.0, subject.1, Happened::Received);
            let hello = self.hello.lock().clone();
            self.wire
                .keep(hello, message.clone(), run.seed().draw(&[KEEPS, subject.0]));
        }
        self.deliver(way, &message).await;
    }

    /// Does what strikes a message; says whether it is gone.
    async fn strike(
        self: &Arc<Self>,
        way: Way,
        message: &Bytes,
        head: usize,
        strike: &Strike,
    ) -> bool {
        let draw = strike.draw;
        match strike.what {
            What::Drop => {}
            What::Duplicate { .. } => return false,
            What::Delay { .. } => {
                // What comes behind it on this connection waits, as TCP keeps an order; what comes on
                // another one overtakes it.
                sleep(strike.what.delay(draw).unwrap_or_default()).await;
                return false;
            }
            What::PacketLoss => match lost_for(draw, strike.share) {
                // What comes behind it on this connection waits for it.
                Some(late) => {
                    sleep(late).await;
                    return false;
                }
                None => {
                    sleep(GIVEN_UP_AFTER).await;
                    self.end();
                }
            },
            What::Corrupt => {
                // Half of the damage is in what the receiver itself can tell, and half is found by
                // the sum that TLS and TCP have over everything, which ends the connection.
                if draw.bits() & 1 == 0 && head > 0 {
                    let mut damaged = message.to_vec();
                    let at = (draw.bits() >> 1) as usize % head.min(damaged.len());
                    damaged[at] ^= ((draw.bits() >> 32) as u8).max(1);
                    self.deliver(way, &damaged).await;
                } else {
                    self.end();
                }
            }
            What::Truncate => {
                let length = draw.within(0..=message.len() as u64 - 1) as usize;
                self.deliver(way, &message[..length]).await;
                self.end();
            }
            What::Reset => self.end(),
            What::Close => self.close(way).await,
            What::Blackhole => self.silent.store(true, Ordering::Relaxed),
            What::Partition => self.wire.part(way, strike),
            What::Crash { back_after_ms } => {
                let host = match strike.place {
                    Place::Client => self.client.to_string(),
                    _ => SERVER.to_owned(),
                };
                let back_after = Duration::from_millis(back_after_ms);
                self.wire.run.order(Order::Crash { host, back_after });
            }
            What::PowerCut => self.wire.run.order(Order::CutPower { draw: draw.bits() }),
            What::ClockJump { by_ms } => {
                self.wire.run.jump_clock(by_ms);
                return false;
            }
            _ => return false,
        }
        true
    }

    async fn deliver(&self, way: Way, bytes: &[u8]) {
        if self.dead.load(Ordering::Relaxed) || way == Way::Down && self.is_silenced() {
            return;
        }
        let lane = &self.lanes[way as usize];
        if let Some(to) = &mut *lane.to.lock().await {
            // OK because a receiver that is gone gets nothing.
            let _ = to.write_all(bytes).await;
        }
    }

    /// A message that comes again, on a connection of its own.
    async fn by_another_path(&self, message: Bytes, draw: Draw) {
        if self.disowned.load(Ordering::Relaxed) {
            return;
        }
        let hello = self.hello.lock().clone();
        let stays = Duration::from_millis(draw.within(0..=500));
        Arc::clone(&self.wire)
            .replay(vec![hello, message], stays)
            .await;
    }

    /// Ends one direction.
    async fn close(&self, way: Way) {
        if let Some(mut to) = self.lanes[way as usize].to.lock().await.take() {
            let _ = to.shutdown().await;
        }
    }

    /// Ends both.
    fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }
}

/// Which faults the wire can let strike at this moment of a message.
fn can_strike(place: Place, what: What, phase: Phase, of_a_call: bool) -> bool {
    match place {
        Place::Wire => {
            what.fits(Place::Wire) && matches!(phase, Phase::RequestSent | Phase::ReplySent)
        }
        Place::Server => of_a_call && matches!(what, What::Crash { .. }),
        Place::Client => {
            of_a_call
                && matches!(what, What::Crash { .. })
                && matches!(phase, Phase::RequestSent | Phase::ReplyReceived)
        }
        Place::Disk => of_a_call && what == What::PowerCut,
        Place::Clock => of_a_call && phase == Phase::RequestReceived,
    }
}

// === impl Lane ===

impl Lane {
    fn new(to: WriteHalf<DuplexStream>) -> Self {
        Self {
            to: tokio::sync::Mutex::new(Some(to)),
        }
    }
}

fn ordinal_of(connection: u64) -> u32 {
    u32::try_from(connection).unwrap_or(u32::MAX)
}

fn latency(draw: Draw) -> Duration {
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
const PASSES: u64 = 12;
const KEEPS: u64 = 13;
