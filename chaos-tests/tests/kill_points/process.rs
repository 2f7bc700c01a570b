//! Starts a child, and hears what it says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use onlyonce_storage::points::KILL_AT;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::child::{FOLDER, FRONT, Front};

/// How often each point was passed.
pub type Passed = BTreeMap<String, u64>;

/// A child that runs: a server, or a client with an outbox. Dropping it kills it.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    pub opened: Passed,
    /// Up to when it was told to stop; only the servers of one call say so.
    pub served: Passed,
    pub ended: Passed,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By SIGKILL, at its point.
    Killed,
    /// When it was told to stop.
    Stopped,
}

// === impl Process ===

impl Process {
    /// Starts a server over what is in `folder`, which shall kill itself at `kill_at`.
    pub fn start(folder: &Path, front: Front, kill_at: &str) -> Self {
        let test = "child::serves_until_it_is_killed_when_it_is_the_child";
        let folder = folder.to_str().unwrap();
        let told = [(FOLDER, folder), (FRONT, front.name()), (KILL_AT, kill_at)];
        Self::spawn(test, &told)
    }

    /// Starts the test of this name, with these variables.
    pub fn spawn(test: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        Self {
            input: child.stdin.take(),
            child,
            lines: BufReader::new(output).lines(),
            opened: Passed::new(),
            served: Passed::new(),
            ended: Passed::new(),
        }
    }

    /// Where it listens, or how it ended before it did.
    pub async fn address(&mut self) -> Result<SocketAddr, End> {
        match self.hear().await {
            Some(address) => Ok(address),
            None => Err(self.end().await),
        }
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> End {
        while self.hear().await.is_some() {}
        judge(self.child.wait().await.unwrap())
    }

    /// Lets it finish what it is doing and close its store.
    pub async fn stop(&mut self) -> End {
        self.input = None;
        self.end().await
    }

    /// Hears until it listens; `None` when it says nothing any more.
    async fn hear(&mut self) -> Option<SocketAddr> {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            // The first may stand behind what the test harness prints.
            let Some((_, said)) = line.split_once('!') else {
                continue;
            };
            match said.split_once(' ').unwrap() {
                ("listening", address) => return Some(address.parse().unwrap()),
                ("opened", passed) => note(&mut self.opened, passed),
                ("served", passed) => note(&mut self.served, passed),
                ("ended", passed) => note(&mut self.ended, passed),
                _ => panic!("the child said {line:?}"),
            }
        }
        None
    }
}

fn note(passed: &mut Passed, line: &str) {
    let (count, name) = line.split_once(' ').unwrap();
    passed.insert(name.to_owned(), count.parse().unwrap());
}

fn judge(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(0), _) => End::Stopped,
        (_, Some(SIGKILL)) => End::Killed,
        _ => panic!("the child failed: {status}"),
    }
}

const SIGKILL: i32 = 9;
