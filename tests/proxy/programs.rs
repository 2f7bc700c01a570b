//! The programs of a test, each a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A program that has said where it listens.
pub(crate) struct Program {
    child: Child,
    pub(crate) at: SocketAddr,
    /// Where operators are listened to.
    pub(crate) admin: Option<SocketAddr>,
    lines: tokio::task::JoinHandle<String>,
}

/// A folder with a ledger and a store.
pub(crate) struct Place {
    folder: TempDir,
}

/// One line of the bank's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) amount: u64,
    pub(crate) key: String,
    pub(crate) token: String,
}

// === impl Place ===

impl Place {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> String {
        format!("sled:{}", self.path("store").display())
    }

    pub(crate) fn effects(&self) -> Vec<Effect> {
        let ledger = std::fs::read_to_string(self.path("ledger")).unwrap_or_default();
        let effect = |line: &str| {
            let mut words = line.split(' ');
            Effect {
                amount: words.next().unwrap().parse().unwrap(),
                key: words.next().unwrap().to_owned(),
                token: words.next().unwrap().to_owned(),
            }
        };
        ledger.lines().map(effect).collect()
    }

    pub(crate) fn taken(&self) -> u64 {
        self.effects().iter().map(|effect| effect.amount).sum()
    }

    /// The bank, on a port of its own.
    pub(crate) async fn bank(&self) -> Program {
        self.bank_at(0, "0").await
    }

    pub(crate) async fn bank_at(&self, port: u16, seconds: &str) -> Program {
        self.service("bank.py", port, seconds).await
    }

    /// The service in this file, with the ledger of this place.
    pub(crate) async fn service(&self, file: &str, port: u16, seconds: &str) -> Program {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = root.join("tests/proxy/services").join(file);
        let mut bank = Command::new(python());
        bank.arg(script)
            .arg(port.to_string())
            .arg(self.path("ledger"))
            .arg(seconds)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Program::start(&mut bank, false).await
    }

    /// An ingress in front of `upstream` with a store that stays and one principal.
    pub(crate) async fn ingress(&self, upstream: SocketAddr, more: &[&str]) -> Program {
        self.ingress_at("127.0.0.1:0", upstream, more).await
    }

    pub(crate) async fn ingress_at(
        &self,
        listen: &str,
        upstream: SocketAddr,
        more: &[&str],
    ) -> Program {
        let upstream = format!("http://{upstream}");
        let mut arguments = vec!["--listen", listen, "--upstream", &upstream];
        let store = self.store();
        arguments.extend(["--store", &store, "--global-scope"]);
        arguments.extend(more);
        proxy(&arguments).await
    }
}

/// An egress in front of `ingress`.
pub(crate) async fn egress(ingress: SocketAddr, more: &[&str]) -> Program {
    egress_at("127.0.0.1:0", ingress, more).await
}

pub(crate) async fn egress_at(listen: &str, ingress: SocketAddr, more: &[&str]) -> Program {
    let upstream = format!("http://{ingress}");
    let mut arguments = vec![
        "--mode",
        "egress",
        "--listen",
        listen,
        "--upstream",
        &upstream,
    ];
    arguments.extend(more);
    proxy(&arguments).await
}

/// A proxy with these arguments, once it listens.
pub(crate) async fn proxy(arguments: &[&str]) -> Program {
    Program::start(&mut command(arguments), true).await
}

/// What a proxy says that does not start.
pub(crate) async fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(arguments).output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
    command
        .arg("proxy")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

// === impl Program ===

impl Program {
    pub(crate) async fn start(command: &mut Command, on_stderr: bool) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stream: Box<dyn tokio::io::AsyncRead + Unpin + Send> = if on_stderr {
            Box::new(child.stderr.take().unwrap())
        } else {
            Box::new(child.stdout.take().unwrap())
        };
        let mut stream = BufReader::new(stream);
        let mut lines = String::new();
        let at = said_after("listening at ", &mut stream, &mut lines).await;
        let at = at.parse().unwrap();
        let with_admin = {
            let command = command.as_std();
            command.get_args().any(|argument| argument == "--admin")
        };
        let mut admin = None;
        if with_admin {
            let said = said_after("operators at http://", &mut stream, &mut lines).await;
            admin = Some(said.trim_end_matches('/').parse().unwrap());
        }
        let lines = tokio::spawn(async move {
            let _ = stream.read_to_string(&mut lines).await;
            lines
        });
        Self {
            child,
            at,
            admin,
            lines,
        }
    }

    /// With -9.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it is running").to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.await.unwrap().success());
    }

    /// How it ends, and what it said.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let ended = timeout(PATIENCE, self.child.wait());
        let status = ended.await.expect("it ends in time").unwrap();
        (status, self.lines.await.unwrap())
    }
}

/// The rest of the line that begins so. The log may say other things before, which are put into `lines`.
async fn said_after(
    start: &str,
    stream: &mut (impl tokio::io::AsyncBufRead + Unpin),
    lines: &mut String,
) -> String {
    loop {
        let mut line = String::new();
        let read = timeout(PATIENCE, stream.read_line(&mut line)).await;
        let read = read.expect("it starts in time").unwrap();
        assert!(read > 0, "it did not start: {lines}");
        if let Some(said) = line.trim().strip_prefix(start) {
            return said.to_owned();
        }
        lines.push_str(&line);
    }
}

/// The Python of the tests, else the system's: these need its standard library alone.
pub(crate) fn python() -> String {
    std::env::var("ONLYONCE_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Says that a test was not run, and fails where `required`, a variable of the environment, is 1: a
/// gate must not pass without what it was to look at.
pub(crate) fn not_run(required: &str, why: &str) {
    println!("not run: {why}");
    let required_here = std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!required_here, "{required} says that it must be run: {why}");
}

/// What this Python program prints, given `arguments`.
pub(crate) async fn run_python(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(python());
    command
        .arg("-c")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    timeout(PATIENCE, command.output())
        .await
        .expect("in time")
        .unwrap()
}

/// What it prints, where it ends well.
pub(crate) async fn printed(program: &str, arguments: &[&str]) -> String {
    let output = run_python(program, arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What curl prints with these arguments.
pub(crate) async fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "40"])
        .args(arguments)
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("in time")
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A port that was free a moment ago, for programs that come back to it.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

const PATIENCE: Duration = Duration::from_secs(60);
