//! One connection through the proxy: dials the server, runs both directions, ends both sockets.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::flow::Flow;
use super::pipe::{Halt, Pipe};
use super::plan::{Direction, Script};
use super::stats::Stats;

/// One connection that was let in.
pub(super) struct Connection {
    pub(super) client: TcpStream,
    pub(super) upstream: SocketAddr,
    pub(super) script: Script,
    /// Changes when all live connections are to be cut.
    pub(super) cut: watch::Receiver<u64>,
    pub(super) live: Live,
}

/// Counts a connection as live until it is dropped, also when its task is aborted.
pub(super) struct Live(Arc<Mutex<Stats>>);

// === impl Connection ===

impl Connection {
    /// Runs until the connection is over. Dropping the future closes both sockets.
    pub(super) async fn run(mut self) {
        let Some(mut server) = self.dial().await else {
            self.live.0.lock().upstream_failures += 1;
            return reset(self.client);
        };
        let end = tokio::select! {
            // What is to be cut must not win one more write.
            biased;
            Ok(()) = self.cut.changed() => Err(Halt::Reset),
            end = relay(&mut self.client, &mut server, self.script, &self.live.0) => end,
        };
        if end.is_err() {
            reset(self.client);
            reset(server);
        }
    }

    async fn dial(&mut self) -> Option<TcpStream> {
        let server = tokio::select! {
            biased;
            Ok(()) = self.cut.changed() => return None,
            dialled = timeout(DIAL_TIMEOUT, TcpStream::connect(self.upstream)) => dialled.ok()?.ok()?,
        };
        // What is sliced must leave in slices, and frames must not wait for acknowledgements.
        server.set_nodelay(true).ok()?;
        self.client.set_nodelay(true).ok()?;
        Some(server)
    }
}

// === impl Live ===

impl Live {
    pub(super) fn new(stats: Arc<Mutex<Stats>>) -> Self {
        stats.lock().live += 1;
        Self(stats)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.lock().live -= 1;
    }
}

async fn relay(
    client: &mut TcpStream,
    server: &mut TcpStream,
    script: Script,
    stats: &Mutex<Stats>,
) -> Result<(), Halt> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (swallows_requests, swallows_answers) = (AtomicBool::new(false), AtomicBool::new(false));
    let requests = Pipe {
        direction: Direction::ToServer,
        flow: Flow::new(script.to_server),
        swallows: &swallows_requests,
        opposite_swallows: &swallows_answers,
        stats,
    };
    let answers = Pipe {
        direction: Direction::ToClient,
        flow: Flow::new(script.to_client),
        swallows: &swallows_answers,
        opposite_swallows: &swallows_requests,
        stats,
    };
    let both = tokio::try_join!(
        requests.run(from_client, to_server),
        answers.run(from_server, to_client)
    );
    match both {
        Ok(((), ())) => Ok(()),
        // Only a cut or the end of the proxy gets out of a blackhole.
        Err(Halt::Blackhole) => pending().await,
        Err(halt) => Err(halt),
    }
}

/// Closes with a reset instead of an orderly end, so that the peer learns at once.
pub(super) fn reset(socket: TcpStream) {
    // OK because a socket that refuses the option is closed all the same.
    let _ = socket.set_zero_linger();
    drop(socket);
}

/// A local server answers or refuses at once; a remote one that takes longer is down for a test.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
