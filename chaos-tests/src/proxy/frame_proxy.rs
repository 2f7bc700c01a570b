//! The proxy that knows where messages end: faults are addressed to the call and the attempt that a
//! message is about, in the words of [`fault`](crate::fault).

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::connection::reset;
use super::frame_fate::{Fate, Twin, can};
use super::frame_pipe::{FramePipe, Halt, TWIN, TWIN_QUIET};
use super::framing::{Framing, From};
use super::naming::{Named, Naming};
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Subject};
use crate::history::Fired;
use crate::seed::Seed;

/// A TCP proxy that does to messages what its faults say.
///
/// A request that is duplicated comes again on a connection of its own, whose answers nobody reads:
/// a network that repeats what it carries does not care for the order that a connection keeps.
/// A message that is delayed holds up what comes behind it on its connection, as TCP does; those of
/// other connections overtake it.
///
/// It works for as long as it is held: dropping it stops listening and ends its connections, as
/// soon as the runtime gets to it. [`FrameProxy::stop`] waits for that.
#[derive(Debug)]
#[must_use = "a proxy that is dropped stops at once"]
pub struct FrameProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Its drop is the signal to stop.
    alive: oneshot::Sender<()>,
    listening: JoinHandle<()>,
}

/// Options of a [`FrameProxy`] before it listens.
#[must_use = "a builder does nothing until it listens"]
pub struct FrameProxyBuilder {
    upstream: SocketAddr,
    framing: Framing,
    naming: Naming,
    seed: Seed,
    faults: Vec<Fault>,
    on_strike: Option<OnStrike>,
    connections_max: usize,
}

/// A fault struck a message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Strike<'a> {
    /// Which one.
    pub fault: &'a Fault,
    /// Which message.
    pub subject: Subject,
}

/// What a proxy has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameStats {
    /// Connections that were let in.
    pub connections: u64,
    /// Connections that were reset at once because the bound was reached.
    pub refused: u64,
    /// Connections that were reset because the server behind could not be reached.
    pub upstream_failures: u64,
    /// Connections that were reset because they could not be understood.
    pub unreadable: u64,
    /// Requests that came by, struck ones and those of no call included.
    pub requests: u64,
    /// Replies that came by, struck ones and those of no call included.
    pub replies: u64,
    /// How often each fault struck, and how many calls felt it (counted up to a million). One that
    /// never did is there with zeros. A message that is to come twice is struck when it has: a copy
    /// that never comes, because the server is down or the proxy ends before, is none.
    pub fired: BTreeMap<String, Fired>,
}

type OnStrike = Arc<dyn Fn(&Strike<'_>) + Send + Sync>;

/// What all connections share.
pub(super) struct Shared {
    pub(super) framing: Framing,
    pub(super) naming: Naming,
    seed: Seed,
    faults: Vec<Fault>,
    on_strike: Option<OnStrike>,
    upstream: Mutex<SocketAddr>,
    began: Instant,
    calm: watch::Sender<bool>,
    stats: Mutex<Counted>,
    twins: Mutex<JoinSet<()>>,
    connections_max: usize,
}

#[derive(Default)]
struct Counted {
    stats: FrameStats,
    /// By fault and call.
    affected: HashSet<(usize, u64)>,
}

// === impl FrameProxy ===

impl FrameProxy {
    /// A proxy in front of this server: seed 0, no faults, requests counted, at most 1,024
    /// connections.
    pub fn builder(upstream: SocketAddr, framing: Framing) -> FrameProxyBuilder {
        FrameProxyBuilder {
            upstream,
            framing,
            naming: Naming::counted(),
            seed: Seed::new(0),
            faults: Vec::new(),
            on_strike: None,
            connections_max: CONNECTIONS_MAX,
        }
    }

    /// Whether a proxy that knows frames can let this fault strike.
    ///
    /// # Errors
    ///
    /// With the reason, if not.
    pub fn can(fault: &Fault) -> Result<(), NotRun> {
        can(fault)
    }

    /// Where the proxy listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends later connections to another address.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock() = upstream;
    }

    /// Ends all faults for good: nothing strikes any more, what is held passes, and connections in
    /// a blackhole are reset.
    pub fn calm(&self) {
        self.shared.calm.send_replace(true);
    }

    /// Waits until every request that is to come twice has come, and the server has said what it has
    /// to say to it. A copy that comes later than somebody wants to wait for does not count.
    ///
    /// Dropping the future ends the copies that are still on their way: they never come.
    pub async fn twins_came(&self) {
        loop {
            let mut twins = std::mem::take(&mut *self.shared.twins.lock());
            if twins.is_empty() {
                return;
            }
            while twins.join_next().await.is_some() {}
        }
    }

    /// What the proxy has done so far.
    #[must_use]
    pub fn stats(&self) -> FrameStats {
        self.shared.stats.lock().stats.clone()
    }

    /// Stops, and returns when the port is free and every connection is closed.
    ///
    /// Dropping the future leaves the proxy stopping on its own.
    pub async fn stop(self) {
        let Self {
            alive, listening, ..
        } = self;
        drop(alive);
        // OK because a task that was cancelled with its runtime has closed its sockets as well.
        let _ = listening.await;
    }
}

// === impl FrameProxyBuilder ===

impl FrameProxyBuilder {
    /// What all decisions are drawn from.
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// How frames tell their calls.
    pub fn naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// What goes wrong, on top of what was said before.
    ///
    /// # Errors
    ///
    /// The first one that cannot, with the reason.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Result<Self, NotRun> {
        for fault in faults {
            can(&fault).map_err(|reason| {
                NotRun::because(format!("fault \"{}\": {}", fault.name, reason.reason()))
            })?;
            self.faults.push(fault);
        }
        Ok(self)
    }

    /// Is told of each strike as it happens, before it is felt; of a message that comes twice, when it
    /// has. It must not block.
    pub fn on_strike(mut self, on_strike: impl Fn(&Strike<'_>) + Send + Sync + 'static) -> Self {
        self.on_strike = Some(Arc::new(on_strike));
        self
    }

    /// How many connections may be live at once; further ones are reset as they come.
    pub const fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Listens, with port 0 on a free port. Needs a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// Those of binding the address.
    pub async fn listen(self, addr: impl ToSocketAddrs) -> io::Result<FrameProxy> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let mut counted = Counted::default();
        for fault in &self.faults {
            counted
                .stats
                .fired
                .insert(fault.name.clone(), Fired::default());
        }
        let shared = Arc::new(Shared {
            framing: self.framing,
            naming: self.naming,
            seed: self.seed,
            faults: self.faults,
            on_strike: self.on_strike,
            upstream: Mutex::new(self.upstream),
            began: Instant::now(),
            calm: watch::Sender::new(false),
            stats: Mutex::new(counted),
            twins: Mutex::default(),
            connections_max: self.connections_max,
        });
        let (alive, stopped) = oneshot::channel();
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared), stopped));
        Ok(FrameProxy {
            addr,
            shared,
            alive,
            listening,
        })
    }
}

impl fmt::Debug for FrameProxyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameProxyBuilder")
            .field("upstream", &self.upstream)
            .field("framing", &self.framing)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if connections.len() < shared.connections_max => {
                    shared.stats.lock().stats.connections += 1;
                    connections.spawn(connect(client, Arc::clone(&shared)));
                }
                Ok((client, _)) => {
                    shared.stats.lock().stats.refused += 1;
                    reset(client);
                }
                // Out of descriptors, most likely: the same error would come again at once.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
    let mut twins = std::mem::take(&mut *shared.twins.lock());
    twins.shutdown().await;
}

async fn connect(mut client: TcpStream, shared: Arc<Shared>) {
    let Some(mut server) = shared.dial().await else {
        shared.stats.lock().stats.upstream_failures += 1;
        return reset(client);
    };
    // OK because a socket without it is only slower.
    let _ = client.set_nodelay(true);
    match relay(&mut client, &mut server, &shared).await {
        Ok(()) | Err(Halt::Closed) => return,
        Err(Halt::Blackhole) => shared.until(None).await,
        Err(Halt::Reset) => {}
    }
    reset(client);
    reset(server);
}

async fn relay(
    client: &mut TcpStream,
    server: &mut TcpStream,
    shared: &Arc<Shared>,
) -> Result<(), Halt> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let talk = Arc::default();
    let requests = FramePipe::new(From::Client, Arc::clone(&talk), Arc::clone(shared));
    let replies = FramePipe::new(From::Server, talk, Arc::clone(shared));
    let requests = requests.run(from_client, to_server);
    let replies = replies.run(from_server, to_client);
    tokio::try_join!(requests, replies).map(drop)
}

// === impl Shared ===

impl Shared {
    async fn dial(&self) -> Option<TcpStream> {
        let upstream = *self.upstream.lock();
        let server = timeout(DIAL_TIMEOUT, TcpStream::connect(upstream))
            .await
            .ok()?
            .ok()?;
        server.set_nodelay(true).ok()?;
        Some(server)
    }

    /// What becomes of this message now; counted and told.
    pub(super) fn fate(&self, named: Named, phase: Phase) -> Fate {
        let at = self.began.elapsed();
        let fate = match *self.calm.borrow() {
            true => Fate::default(),
            false => Fate::of(&self.faults, self.seed, named, phase, at),
        };
        for &index in &fate.struck {
            self.strike(index, named, phase);
        }
        fate
    }

    /// Counts a strike, and tells of it.
    pub(super) fn strike(&self, index: usize, named: Named, phase: Phase) {
        let Named { call, attempt } = named;
        let fault = &self.faults[index];
        self.stats.lock().strike(index, fault, call);
        if let Some(on_strike) = &self.on_strike {
            let subject = Subject {
                call,
                attempt,
                phase,
                at: self.began.elapsed(),
            };
            on_strike(&Strike { fault, subject });
        }
    }

    /// Counts a message that goes by.
    pub(super) fn count(&self, phase: Phase) {
        let stats = &mut self.stats.lock().stats;
        match phase {
            Phase::RequestSent => stats.requests += 1,
            _ => stats.replies += 1,
        }
    }

    /// Waits until then, since the proxy began, or until all faults have ended.
    pub(super) async fn until(&self, until: Option<Duration>) {
        let mut calm = self.calm.subscribe();
        let wait = async {
            match until {
                Some(until) => tokio::time::sleep_until(self.began + until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            // OK because the sender lives as long as this does.
            _ = calm.wait_for(|calm| *calm) => {}
        }
    }

    /// Sends a request once more, later, on a connection of its own.
    pub(super) fn send_twin(
        self: &Arc<Self>,
        opening: Option<Bytes>,
        frame: Bytes,
        twin: Twin,
        named: Named,
    ) {
        let mut twins = self.twins.lock();
        while twins.try_join_next().is_some() {}
        if twins.len() >= TWINS_MAX {
            return;
        }
        let shared = Arc::clone(self);
        twins.spawn(async move {
            sleep(twin.later).await;
            let coming = async {
                let mut server = shared.dial().await?;
                server.write_all(&opening.unwrap_or_default()).await.ok()?;
                server.write_all(&frame).await.ok()?;
                Some(server)
            };
            let Ok(Some(mut server)) = timeout(TWIN, coming).await else {
                return;
            };
            shared.strike(twin.fault, named, Phase::RequestSent);
            let mut nothing = vec![0; 4096];
            let answers = async {
                while matches!(
                    timeout(TWIN_QUIET, server.read(&mut nothing)).await,
                    Ok(Ok(1..))
                ) {}
            };
            // OK because nobody waits for what it comes to.
            let _ = timeout(TWIN, answers).await;
        });
    }

    pub(super) fn count_unreadable(&self) {
        self.stats.lock().stats.unreadable += 1;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

// === impl Counted ===

impl Counted {
    fn strike(&mut self, index: usize, fault: &Fault, call: u64) {
        let fired = self.stats.fired.entry(fault.name.clone()).or_default();
        fired.struck += 1;
        if self.affected.len() < AFFECTED_MAX && self.affected.insert((index, call)) {
            fired.affected += 1;
        }
    }
}

/// As many as the proxy that knows no frames.
const CONNECTIONS_MAX: usize = 1_024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A local server answers or refuses at once; a remote one that takes longer is down for a test.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Each is a connection to the server. More at once are not sent.
const TWINS_MAX: usize = 256;

/// Some dozen MiB.
const AFFECTED_MAX: usize = 1_000_000;
