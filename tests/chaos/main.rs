//! The commands `onlyonce chaos`, as somebody at a terminal meets them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod browser;
mod commands;
mod consequences;
mod faults;
mod histories;
mod runs;

use std::path::Path;
use std::process::{Command, Output};

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onlyonce"))
        .arg("chaos")
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{}",
        stdout(output),
        stderr(output)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
