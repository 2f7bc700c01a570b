//! The processes: the program, and a server that owns a store.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The program has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub printed: String,
    pub words: String,
}

/// The bank of the demo in a process of its own, which owns `FOLDER/store`.
pub struct Server {
    child: Child,
}

impl Ended {
    /// The one document that was printed.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.printed.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.printed).unwrap()
    }
}

impl Server {
    pub async fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_onlyonce"))
            .arg("demo-server")
            .arg("--folder")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap();
        let line = line.expect("the server says where it listens");
        assert!(line.starts_with("listening "), "{line}");
        Self { child }
    }

    /// With -9: nothing is tidied up.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub async fn stop(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().await.unwrap()
    }

    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it is running").to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.await.unwrap().success());
    }
}

/// Runs `onlyonce records ARGUMENTS --store sled:FOLDER/store`.
pub async fn records(folder: &TempDir, arguments: &[&str]) -> Ended {
    let url = format!("sled:{}", folder.path().join("store").display());
    run(&[arguments, &["--store", &url]].concat()).await
}

/// Runs `onlyonce records ARGUMENTS`.
pub async fn run(arguments: &[&str]) -> Ended {
    ended(&[&["records"], arguments].concat()).await
}

/// Runs `onlyonce ARGUMENTS`.
pub async fn ended(arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_onlyonce"))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    Ended {
        code: output.status.code().expect("it ends by itself"),
        printed: String::from_utf8(output.stdout).unwrap(),
        words: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The same on a terminal, where somebody types `answer`: the code, and what the terminal showed.
pub async fn on_terminal(folder: &TempDir, arguments: &[&str], answer: &str) -> (i32, String) {
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&far).unwrap();
    unlockpt(&far).unwrap();
    let name = ptsname(&far, Vec::new()).unwrap().into_string().unwrap();
    let near = File::options().read(true).write(true).open(name).unwrap();
    let url = format!("sled:{}", folder.path().join("store").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
    command
        .arg("records")
        .args(arguments)
        .args(["--store", &url])
        .stdin(near.try_clone().unwrap())
        .stdout(Stdio::null())
        .stderr(near);
    let mut child = command.spawn().unwrap();
    // Its copies of the near end go, so that the far one ends with the program.
    drop(command);
    let mut far = File::from(far);
    far.write_all(answer.as_bytes()).unwrap();
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // A terminal whose near end is closed ends with an error.
        let _ = far.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let code = child.wait().await.unwrap().code().unwrap();
    (code, shown.await.unwrap())
}
