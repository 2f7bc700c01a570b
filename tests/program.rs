//! The program as its user meets it: a process with an exit code and three streams.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::sleep;

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind_and_ends_with_130() {
    let (ended, left) = stopped_by("INT").await;
    assert_eq!(ended.code(), Some(130), "{ended}");
    assert_eq!(left, 0, "files are left in the temporary folder");
}

#[tokio::test]
async fn a_terminated_demo_leaves_nothing_behind_and_ends_with_143() {
    let (ended, left) = stopped_by("TERM").await;
    assert_eq!(ended.code(), Some(143), "{ended}");
    assert_eq!(left, 0, "files are left in the temporary folder");
}

#[tokio::test]
async fn a_tiny_demo_ends_well_and_says_which_goals_it_was_spared() {
    let folder = TempDir::new().unwrap();
    let output = ended(&mut demo(&folder, &["--calls", "50"])).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("not asked of a run this small"), "{table}");
    assert_eq!(entries(folder.path()), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_behind_standard_output_is_an_error_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = ended(demo(&folder, TINY).stdout(full)).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("standard output"), "{words}");
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_the_demo_quietly() {
    let folder = TempDir::new().unwrap();
    let mut child = demo(&folder, TINY).spawn().unwrap();
    drop(child.stdout.take());
    let mut words = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut words).await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{words}");
    assert_eq!(words, "naive: 10 calls\nonlyonce: 10 calls\n");
}

#[tokio::test]
async fn a_demo_whose_words_nobody_reads_still_ends_well() {
    let folder = TempDir::new().unwrap();
    let mut child = demo(&folder, TINY).arg("--json").spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.starts_with(b"{\"seed\":1,"));
}

#[tokio::test]
async fn a_temporary_folder_that_is_not_there_is_bad_configuration() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    let output = ended(demo(&folder, TINY).env("TMPDIR", missing)).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("temporary folder"), "{words}");
}

/// Stops a long demo in the midst of it: how it ended, and how many entries it has left.
async fn stopped_by(signal: &str) -> (ExitStatus, usize) {
    let folder = TempDir::new().unwrap();
    let long = ["--calls", "1000000"];
    let mut child = demo(&folder, &long).spawn().unwrap();
    until_its_server_runs(folder.path(), &mut child).await;
    let id = child.id().expect("it is running").to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.await.unwrap().success());
    let ended = child.wait().await.unwrap();
    (ended, entries(folder.path()))
}

/// Waits for the books of the bank, which the server makes when it starts.
async fn until_its_server_runs(temporary: &Path, child: &mut Child) {
    loop {
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "demo ended before it was stopped");
        let mut folders = std::fs::read_dir(temporary).unwrap();
        if folders.any(|folder| folder.unwrap().path().join("naive/bank/db").exists()) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn ended(demo: &mut Command) -> Output {
    demo.spawn().unwrap().wait_with_output().await.unwrap()
}

/// A demo whose folder is in `folder`.
fn demo(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// So small that it takes no second.
const TINY: &[&str] = &["--calls", "10", "--kills", "0"];
