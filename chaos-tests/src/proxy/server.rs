//! The listening proxy and its handle.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, sleep};

use super::connection::{Connection, Live, reset};
use super::plan::Plan;
use super::stats::Stats;
use crate::seed::Seed;

/// A TCP proxy that does to its connections what its [`Plan`] says.
///
/// It works for as long as it is held: dropping it stops listening and ends its connections, as
/// soon as the runtime gets to it. [`Proxy::stop`] waits for that.
///
/// Its sockets are real: under a paused tokio clock its delays, and the 5 seconds within which the
/// server has to accept, are over as soon as nothing else can run.
#[derive(Debug)]
#[must_use = "a proxy that is dropped stops at once"]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    cut: watch::Sender<u64>,
    /// Its drop is the signal to stop.
    alive: oneshot::Sender<()>,
    listening: JoinHandle<()>,
}

/// Options of a [`Proxy`] before it listens.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it listens"]
pub struct ProxyBuilder {
    upstream: SocketAddr,
    seed: Seed,
    plan: Plan,
    connections_max: usize,
}

#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    stats: Arc<Mutex<Stats>>,
}

/// What can be changed while the proxy runs; each connection takes it as it is let in.
#[derive(Debug)]
struct Settings {
    upstream: SocketAddr,
    plan: Plan,
}

/// What the task that lets connections in owns.
struct Listening {
    listener: TcpListener,
    shared: Arc<Shared>,
    seed: Seed,
    cut: watch::Receiver<u64>,
    connections: JoinSet<()>,
    connections_max: usize,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy in front of this server: seed 0, no faults, at most 1,024 connections.
    pub const fn builder(upstream: SocketAddr) -> ProxyBuilder {
        ProxyBuilder {
            upstream,
            seed: Seed::new(0),
            plan: Plan::none(),
            connections_max: CONNECTIONS_MAX,
        }
    }

    /// Where the proxy listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends later connections to another address, for instance of a server that was restarted.
    ///
    /// While nobody listens there, clients are reset at once. Live connections stay as they are.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.settings.lock().upstream = upstream;
    }

    /// The plan for later connections; [`Plan::none`] ends the faults of a run.
    ///
    /// Live connections keep their script, see [`Proxy::cut`]. Ordinals go on counting, see
    /// [`Stats::connections`].
    pub fn set_plan(&self, plan: Plan) {
        self.shared.settings.lock().plan = plan;
    }

    /// Resets every live connection at both ends, those in a blackhole too.
    ///
    /// Connections that the kernel has accepted but the proxy has not are not live yet: they come
    /// next, and get the plan that holds then.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts = cuts.wrapping_add(1));
    }

    /// What the proxy has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats.lock().clone()
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

// === impl ProxyBuilder ===

impl ProxyBuilder {
    /// What all decisions are drawn from.
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// The faults to begin with.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }

    /// How many connections may be live at once; further ones are reset as they come.
    ///
    /// Each costs two sockets and two buffers of 16 KiB.
    pub const fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Listens, with port 0 on a free port. Needs a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// Those of binding the address.
    pub async fn listen(self, addr: impl ToSocketAddrs) -> io::Result<Proxy> {
        let Self {
            upstream,
            seed,
            plan,
            connections_max,
        } = self;
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            settings: Mutex::new(Settings { upstream, plan }),
            stats: Arc::default(),
        });
        let (cut, on_cut) = watch::channel(0);
        let (alive, stopped) = oneshot::channel();
        let listening = Listening {
            listener,
            shared: Arc::clone(&shared),
            seed,
            cut: on_cut,
            connections: JoinSet::new(),
            connections_max,
        };
        let listening = tokio::spawn(listening.run(stopped));
        Ok(Proxy {
            addr,
            shared,
            cut,
            alive,
            listening,
        })
    }
}

// === impl Listening ===

impl Listening {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(_) = self.connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((client, _)) => self.admit(client),
                    // Out of descriptors, most likely: the same error would come again at once.
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(self.listener);
        self.connections.shutdown().await;
    }

    fn admit(&mut self, client: TcpStream) {
        let Some(ordinal) = self.next_ordinal() else {
            return reset(client);
        };
        let settings = self.shared.settings.lock();
        let mut cut = self.cut.clone();
        // Cuts from before this connection are not meant for it.
        cut.mark_unchanged();
        let connection = Connection {
            client,
            upstream: settings.upstream,
            script: settings.plan.script(self.seed, ordinal),
            cut,
            live: Live::new(Arc::clone(&self.shared.stats)),
        };
        drop(settings);
        self.connections.spawn(connection.run());
    }

    /// The ordinal of a connection that may come in; none past the bound.
    fn next_ordinal(&self) -> Option<u64> {
        let mut stats = self.shared.stats.lock();
        if stats.live >= self.connections_max as u64 {
            stats.refused += 1;
            return None;
        }
        stats.connections += 1;
        Some(stats.connections)
    }
}

/// More than a test's clients and a demo's retries need at once; costs 32 MiB and 2,048 sockets.
const CONNECTIONS_MAX: usize = 1_024;

/// Long enough not to spin, short enough for nobody to notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
