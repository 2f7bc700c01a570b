//! Starts, kills and ends the server's process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::DemoError;

/// A server in a process of its own. Dropping it kills it.
pub(super) struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    /// Starts the server and waits until it listens.
    pub(super) async fn start(mut command: Command) -> Result<Self, DemoError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(DemoError::Io)?;
        let output = child.stdout.take().ok_or(DemoError::ServerSilent)?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START, lines.next_line()).await;
        let address = match line {
            Ok(Ok(Some(line))) => line
                .strip_prefix("listening ")
                .and_then(|at| at.parse().ok()),
            _ => None,
        };
        let address = address.ok_or(DemoError::ServerSilent)?;
        Ok(Self { child, address })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL, at once: nothing is flushed, nobody is told.
    pub(super) async fn kill(&mut self) -> Result<(), DemoError> {
        self.child.kill().await.map_err(DemoError::Io)
    }

    /// SIGSTOP: it stands still in the middle of whatever it does, and its connections stay.
    #[cfg(unix)]
    pub(super) fn pause(&self) -> Result<(), DemoError> {
        self.signal(rustix::process::Signal::STOP)
    }

    /// SIGCONT: it goes on as if nothing had happened.
    #[cfg(unix)]
    pub(super) fn go_on(&self) -> Result<(), DemoError> {
        self.signal(rustix::process::Signal::CONT)
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) -> Result<(), DemoError> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(rustix::process::Pid::from_raw);
        // One that has ended by itself is not to be signalled any more.
        let id = id.ok_or(DemoError::ServerFailed)?;
        rustix::process::kill_process(id, signal).map_err(|error| DemoError::Io(error.into()))
    }

    /// Lets it finish what it is doing and close its books.
    pub(super) async fn stop(mut self) -> Result<(), DemoError> {
        drop(self.child.stdin.take());
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(DemoError::ServerFailed),
            Ok(Err(error)) => Err(DemoError::Io(error)),
            Err(_elapsed) => {
                self.child.kill().await.map_err(DemoError::Io)?;
                Err(DemoError::ServerFailed)
            }
        }
    }
}

/// Opening a small store takes a tenth of a second; a loaded machine some more.
const START: Duration = Duration::from_secs(20);

const STOP: Duration = Duration::from_secs(20);
