//! The server's end.

mod builder;
mod options;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use onlyonce_storage::StoreId;
use tokio::net::TcpListener;
use tower_service::Service;

use self::builder::{Authenticate, Now};
pub use self::builder::{BuildError, ServerBuilder};
pub use self::options::ServerOptions;
use super::{Incoming, Reply};

/// A server that is configured and can serve.
pub struct Server {
    #[expect(dead_code, reason = "skeleton")]
    authenticate: Authenticate,
    store: Option<StoreId>,
    #[expect(dead_code, reason = "skeleton")]
    now: Now,
    options: ServerOptions,
}

/// A server that serves. Dropping it ends it at once, as a crash would.
#[must_use = "a server that is dropped ends at once"]
#[derive(Debug)]
pub struct Serving {
    local_addr: SocketAddr,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls that were taken and whose reply was not written in time.
    pub cut_off: usize,
}

impl Server {
    /// Begins to say what a server needs.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Serves the connections of `listener` with clones of `service`, in the background.
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
        drop(service);
        Ok(Serving { local_addr })
    }
}

impl Serving {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops gracefully.
    pub async fn shutdown(self, patience: Duration) -> ShutdownReport {
        let _ = patience;
        ShutdownReport { cut_off: 0 }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("store", &self.store)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
