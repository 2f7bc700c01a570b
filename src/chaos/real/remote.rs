//! Clients in a process of their own.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::history::Event;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::clients::{ALL_ENDED, ChaosClientsOptions, GOAL};
use super::run::Work;
use super::supervisor::{Enter, Restart};

/// Where all clients of a run are. Dropping it kills them.
///
/// Clients that keep what they know in a folder go down as often as the workload says, and come
/// back.
pub(in super::super) struct ClientsProcess {
    enter: Enter,
    options: ChaosClientsOptions,
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// The next one last.
    outages: Vec<Restart>,
}

// === impl ClientsProcess ===

impl ClientsProcess {
    /// Starts them with the commands of `enter`, which have the program and nothing else.
    pub(in super::super) fn start(
        enter: Enter,
        work: &Work,
        options: &ChaosClientsOptions,
    ) -> Result<Self, HarnessError> {
        let options = options.clone();
        let (child, input, lines) = spawn(enter(), &options)?;
        let mut outages = work.outages.clone();
        outages.sort_unstable_by_key(|outage| std::cmp::Reverse(outage.after_calls));
        Ok(Self {
            enter,
            options,
            child,
            input,
            lines,
            outages,
        })
    }

    /// Writes down what they say, until every call has ended once.
    pub(in super::super) async fn until_all_ended(
        &mut self,
        work: &Work,
    ) -> Result<(), HarnessError> {
        while let Some(outage) = self.outages.last().copied() {
            let log = Arc::clone(&work.log);
            tokio::select! {
                heard = self.hear(work) => return heard?.is_all(),
                () = log.until_ended(outage.after_calls) => {}
            }
            self.outages.pop();
            self.crash(work, outage.back_after_ms).await?;
        }
        self.hear(work).await?.is_all()
    }

    /// SIGKILL, and over the same folder a new process.
    async fn crash(&mut self, work: &Work, back_after_ms: u64) -> Result<(), HarnessError> {
        let killed = self.child.kill().await;
        killed.map_err(|error| HarnessError::io("the clients cannot be killed", error))?;
        // What it had said before is still there to be heard; that it was done, it says again.
        while let End::AllEnded = self.hear(work).await? {}
        work.log.lifecycle(WHO, "killed");
        sleep(Duration::from_millis(back_after_ms)).await;
        (self.child, self.input, self.lines) = spawn((self.enter)(), &self.options)?;
        work.log.lifecycle(WHO, "started");
        Ok(())
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
            work.log.retell(event);
        }
        Ok(End::Silence)
    }
}

enum End {
    AllEnded,
    Silence,
}

// === impl End ===

impl End {
    fn is_all(&self) -> Result<(), HarnessError> {
        match self {
            Self::AllEnded => Ok(()),
            Self::Silence => Err(HarnessError::other("the clients' process ended early")),
        }
    }
}

type Spawned = (Child, Option<ChildStdin>, Lines<BufReader<ChildStdout>>);

fn spawn(
    command: std::process::Command,
    options: &ChaosClientsOptions,
) -> Result<Spawned, HarnessError> {
    let mut command = Command::from(command);
    command
        .arg("chaos-clients")
        .args(["--address", &options.address])
        .args(["--seed", &options.seed.to_string()])
        .args(["--began-us", &options.began_us.to_string()])
        .args(["--workload", options.workload.name()])
        .args(["--calls", &options.calls.to_string()])
        .args(["--clients", &options.clients.to_string()])
        .args(["--attempt-ms", &options.attempt_ms.to_string()])
        .args(["--deadline-ms", &options.deadline_ms.to_string()]);
    if options.naive {
        command.arg("--naive");
    }
    if let Some(folder) = &options.folder {
        command.arg("--folder").arg(folder);
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
    let input = child.stdin.take();
    Ok((child, input, BufReader::new(output).lines()))
}

const WHO: &str = "clients";

/// They have nothing more to do.
const STOP: Duration = Duration::from_secs(10);
