//! Starts the server's process, hears what it says, kills it and starts it again.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::fault::Fault;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::points::KILL_AT;
use super::server::ChaosServerOptions;
use super::strikes::{CALM, Struck};

/// A server in a process of its own. Dropping it kills it.
pub(super) struct ServerProcess {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    pub(super) address: SocketAddr,
}

/// What became of a start.
pub(super) enum Started {
    /// It listens.
    Up(ServerProcess),
    /// It was killed before it did.
    Killed,
}

/// A line of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Calm,
    Struck(Struck),
}

/// The program that is started as server and as clients: this one, unless a test says otherwise.
pub(in super::super) fn program(other: Option<&PathBuf>) -> Result<PathBuf, HarnessError> {
    let this = || {
        std::env::current_exe()
            .map_err(|error| HarnessError::io("this program cannot be found", error))
    };
    other.map_or_else(this, |other| Ok(other.clone()))
}

// === impl ServerProcess ===

impl ServerProcess {
    /// Starts it with `command`, which has the program and nothing else, and waits until it listens.
    /// With `kill_at` it kills itself at that point, perhaps before it listens.
    pub(super) async fn start(
        command: std::process::Command,
        options: &ChaosServerOptions,
        kill_at: Option<String>,
    ) -> Result<Started, HarnessError> {
        let mut command = Command::from(command);
        if let Some(kill_at) = kill_at {
            command.env(KILL_AT, kill_at);
        }
        let mut child = command
            .arg("chaos-server")
            .arg("--folder")
            .arg(&options.folder)
            .args(["--listen", &options.listen.to_string()])
            .args(["--mode", options.mode.name()])
            .args(["--seed", &options.seed.to_string()])
            .args(["--began-us", &options.began_us.to_string()])
            .args(["--faults", &faults_text(&options.faults)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| HarnessError::io("the server's process cannot be started", error))?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .ok_or_else(|| HarnessError::other("no output"))?;
        let mut lines = BufReader::new(output).lines();
        let said = timeout(START, lines.next_line()).await;
        let address = match said {
            Ok(Ok(Some(line))) => line
                .strip_prefix("listening ")
                .and_then(|at| at.parse().ok()),
            _ => None,
        };
        if let Some(address) = address {
            return Ok(Started::Up(Self {
                child,
                input,
                lines,
                address,
            }));
        }
        match timeout(STOP, child.wait()).await {
            Ok(Ok(status)) if was_killed(status) => Ok(Started::Killed),
            _ => Err(HarnessError::other("the server's process did not start")),
        }
    }

    /// Whether it has been killed, by itself or by somebody else. Waits for its end, which comes
    /// right after its last word.
    pub(super) async fn was_killed(&mut self) -> bool {
        matches!(timeout(STOP, self.child.wait()).await, Ok(Ok(status)) if was_killed(status))
    }

    /// Lets it finish what it is doing; whether it was killed on the way.
    pub(super) async fn end(&mut self) -> Result<bool, HarnessError> {
        drop(self.input.take());
        match timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if was_killed(status) => Ok(true),
            Ok(Ok(status)) if status.success() => Ok(false),
            ended => Err(HarnessError::other(format!(
                "the server's process: {ended:?}"
            ))),
        }
    }

    /// What it says next; `None` when it has said its last.
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn says(&mut self) -> Option<Said> {
        loop {
            let line = self.lines.next_line().await.ok()??;
            if line == CALM {
                return Some(Said::Calm);
            }
            if let Some(struck) = Struck::parse(&line) {
                return Some(Said::Struck(struck));
            }
        }
    }

    /// Asks it to strike itself no more; it says [`Said::Calm`] then.
    pub(super) async fn calm(&mut self) {
        if let Some(input) = &mut self.input {
            // OK because a process that has just been killed is started again, and asked again.
            let _ = input.write_all(b"calm\n").await;
        }
    }

    /// Waits for the end of a process that kills itself.
    pub(super) async fn ended(&mut self) -> Result<(), HarnessError> {
        let ended = timeout(STOP, self.child.wait()).await;
        ended
            .map(drop)
            .map_err(|_| HarnessError::other("the server's process did not end"))
    }

    /// SIGKILL, at once: nothing is flushed, nobody is told.
    pub(super) async fn kill(&mut self) -> Result<(), HarnessError> {
        let killed = self.child.kill().await;
        killed.map_err(|error| HarnessError::io("the server's process cannot be killed", error))
    }

    /// SIGSTOP or SIGCONT.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        // OK because a process that has ended is not waited for here, so that its number is free
        // for nobody else.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            return Ok(());
        };
        kill_process(id, signal)
            .map_err(|error| HarnessError::io("the server's process takes no signal", error.into()))
    }

    /// Lets it finish what it is doing and close its books.
    pub(super) async fn stop(mut self) -> Result<(), HarnessError> {
        drop(self.input.take());
        match timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(HarnessError::other(format!(
                "the server's process: {status}"
            ))),
            Ok(Err(error)) => Err(HarnessError::io("the server's process", error)),
            Err(_) => {
                self.kill().await?;
                Err(HarnessError::other("the server's process did not end"))
            }
        }
    }
}

fn was_killed(status: std::process::ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

fn faults_text(faults: &[Fault]) -> Result<String, HarnessError> {
    serde_json::to_string(faults).map_err(HarnessError::other)
}

/// The folder of a run.
pub(super) fn folder() -> Result<tempfile::TempDir, HarnessError> {
    tempfile::tempdir().map_err(|error| HarnessError::io("no temporary folder (TMPDIR?)", error))
}

/// Opening a small store takes a tenth of a second; a loaded machine some more.
const START: Duration = Duration::from_secs(20);

const STOP: Duration = Duration::from_secs(20);
