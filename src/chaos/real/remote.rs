//! Clients in a process of their own.

use std::process::Stdio;
use std::time::Duration;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::history::Event;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::clients::{ALL_ENDED, GOAL};
use super::run::Work;

/// Where all clients of a run are. Dropping it kills them.
pub(in super::super) struct ClientsProcess {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

// === impl ClientsProcess ===

impl ClientsProcess {
    /// Starts them with `command`, which has the program and nothing else.
    pub(in super::super) fn start(
        command: std::process::Command,
        work: &Work,
    ) -> Result<Self, HarnessError> {
        let options = &work.options;
        let mut command = Command::from(command);
        command
            .arg("chaos-clients")
            .args(["--address", &work.server.to_string()])
            .args(["--seed", &options.seed.to_string()])
            .args(["--workload", options.workload.name()])
            .args(["--calls", &options.calls.to_string()])
            .args(["--clients", &options.clients.to_string()])
            .args(["--attempt-ms", &options.attempt_ms.to_string()])
            .args(["--deadline-ms", &options.deadline_ms.to_string()]);
        if options.naive {
            command.arg("--naive");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| HarnessError::io("the clients' process cannot be started", error))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| HarnessError::other("no output"))?;
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines: BufReader::new(output).lines(),
        })
    }

    /// Writes down what they say, until every call has ended once.
    pub(in super::super) async fn until_all_ended(
        &mut self,
        work: &Work,
    ) -> Result<(), HarnessError> {
        match self.hear(work).await? {
            End::AllEnded => Ok(()),
            End::Silence => Err(HarnessError::other("the clients' process ended early")),
        }
    }

    /// Lets them resume what is open, and end.
    pub(in super::super) async fn resume(mut self, work: &Work) -> Result<(), HarnessError> {
        if let Some(input) = &mut self.input {
            let told = input.write_all(b"resume\n").await;
            told.map_err(|error| HarnessError::io("the clients' process cannot be told", error))?;
        }
        self.hear(work).await?;
        let ended = timeout(STOP, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(HarnessError::other("the clients' process did not end well")),
        }
    }

    async fn hear(&mut self, work: &Work) -> Result<End, HarnessError> {
        let unheard = |error| HarnessError::io("the clients' process cannot be heard", error);
        while let Some(line) = self.lines.next_line().await.map_err(unheard)? {
            if line == ALL_ENDED {
                return Ok(End::AllEnded);
            }
            if let Some((count, goal)) = line
                .strip_prefix(GOAL)
                .and_then(|goal| goal.split_once(' '))
            {
                work.goals_add(goal, count.parse().map_err(HarnessError::other)?);
                continue;
            }
            let event: Event = serde_json::from_str(&line).map_err(HarnessError::other)?;
            work.log.say(event.call, event.attempt, event.what);
        }
        Ok(End::Silence)
    }
}

enum End {
    AllEnded,
    Silence,
}

/// They have nothing more to do.
const STOP: Duration = Duration::from_secs(10);
