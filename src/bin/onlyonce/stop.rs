//! Being asked to stop: Ctrl-C or a termination.

use std::io;

/// Listens from now on: what a signal does otherwise, ending the process at once, would leave
/// files behind.
pub(crate) struct Stop {
    #[cfg(unix)]
    interrupted: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminated: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Stop {
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code of whoever is stopped so: 128 and the number of the signal.
    pub(crate) async fn asked(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupted.recv() => 130,
            _ = self.terminated.recv() => 143,
        }
    }
}

#[cfg(not(unix))]
impl Stop {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn asked(&mut self) -> u8 {
        if tokio::signal::ctrl_c().await.is_err() {
            // Then there is no way to be asked.
            std::future::pending::<()>().await;
        }
        130
    }
}
