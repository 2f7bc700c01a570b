//! Flame graphs of the hot paths, beside the figures: where the time of a call goes.
//!
//! `cargo run --release -p onlyonce-bench --bin flames -- [FOLDER] [NAME ...]`
//!
//! | name | what runs, alone |
//! | --- | --- |
//! | `in_process` | first calls behind the dedupe layer, in memory, on one thread |
//! | `rpc` | the native RPC, 64 calls of 64 bytes in flight, both ends in one process |
//! | `sled` | transactional first calls of 64 callers on sled |
//! | `http` | first calls and calls again of 64 callers to an axum route, in memory |
//!
//! It starts the programs that measure these under `perf`, which unwinds stacks by the tables that
//! every build has, so that nothing is built otherwise. Functions that the compiler has put into others
//! are not seen. Without `perf` nothing is drawn, and that is said.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use onlyonce_bench::flame::Stacks;

/// What is profiled.
struct Profiled {
    name: &'static str,
    title: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .map_or_else(|| PathBuf::from("benches/results"), PathBuf::from);
    let chosen: Vec<String> = arguments.collect();
    if !has_perf() {
        eprintln!("not run: perf not found, or may not count here");
        return ExitCode::SUCCESS;
    }
    for profiled in PROFILED {
        if chosen.is_empty() || chosen.iter().any(|name| name == profiled.name) {
            draw(profiled, &folder);
        }
    }
    ExitCode::SUCCESS
}

fn draw(profiled: &Profiled, folder: &Path) {
    let Profiled {
        name,
        title,
        program,
        arguments,
        variables,
    } = profiled;
    let this = std::env::current_exe().expect("this program");
    let program = this.with_file_name(program);
    assert!(
        program.exists(),
        "{} is not built: cargo build --release -p onlyonce-bench --bins",
        program.display()
    );
    let room = tempfile::tempdir().expect("a folder");
    let seen = room.path().join("seen");
    let output = Command::new("perf")
        .args([
            "record",
            "--quiet",
            "--freq",
            PER_SECOND,
            "--call-graph",
            STACK,
        ])
        .arg("--output")
        .arg(&seen)
        .arg(program)
        .args(*arguments)
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .output()
        .expect("perf");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} fails: {said}");
    let output = Command::new("perf")
        .args(["script", "--no-inline", "--fields", "ip,sym", "--input"])
        .arg(&seen)
        .stderr(Stdio::null())
        .output()
        .expect("perf");
    let stacks = Stacks::read(&String::from_utf8_lossy(&output.stdout));
    let svg = stacks.draw(title);
    let path = folder.join(format!("flame_{name}.svg"));
    std::fs::write(&path, &svg).expect("the file can be written");
    eprintln!(
        "{}: {} samples, {} KiB",
        path.display(),
        stacks.samples(),
        svg.len() >> 10
    );
}

fn has_perf() -> bool {
    let asked = Command::new("perf")
        .args(["record", "--quiet", "--output", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// Samples a second of each processor, in no step with anything else.
const PER_SECOND: &str = "997";
/// By the tables of the build, from this many bytes of each stack: futures are deep.
const STACK: &str = "dwarf,32768";
const PROFILED: &[Profiled] = &[
    Profiled {
        name: "in_process",
        title: "first calls behind the dedupe layer, in memory, one thread",
        program: "instructions",
        arguments: &["make", "dedupe", "600000", "0"],
        variables: &[],
    },
    Profiled {
        name: "rpc",
        title: "the native RPC, 64 calls of 64 bytes in flight, client and server",
        program: "rpc",
        arguments: &["1", "1", "native"],
        variables: &[("CALLS", "500000")],
    },
    Profiled {
        name: "sled",
        title: "transactional first calls of 64 callers on sled",
        program: "modes",
        arguments: &["one", "transactional", "64", "2.5", "/tmp"],
        variables: &[],
    },
    Profiled {
        name: "http",
        title: "first calls and calls again of 64 callers to an axum route, in memory",
        program: "http",
        arguments: &["1", "1.3", "/tmp", "memory"],
        variables: &[("CALLERS", "64")],
    },
];
