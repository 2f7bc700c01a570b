//! Instructions that a call takes within one process, counted by callgrind: hardly any noise, so that a
//! few percent are seen.
//!
//! `cargo run --release -p onlyonce-bench --bin instructions -- WHAT`
//!
//! | what | does |
//! | --- | --- |
//! | `print` | counts, and prints a line for each kind |
//! | `check` | counts, and fails (code 1) where a call takes over 3 % more than `benches/instructions.csv` says |
//! | `write` | counts, and writes that file: to be committed with what changed the counts |
//!
//! The counts are of one compiler and one processor: both stand in the file's first line, and `check`
//! says so where they are others. Without valgrind nothing is counted, and that is said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use onlyonce_bench::in_process::Kind;
use onlyonce_bench::machine;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let what = arguments.first().map(String::as_str);
    if let (Some("make"), [_, name, first, again]) = (what, &arguments[..]) {
        make(name, number(first), number(again));
        return ExitCode::SUCCESS;
    }
    let Some("check" | "print" | "write") = what else {
        eprintln!("say check, print or write");
        return ExitCode::from(2);
    };
    if !has_valgrind() {
        eprintln!("not run: valgrind not found");
        return ExitCode::SUCCESS;
    }
    let counts = count_all();
    match what {
        Some("check") => check(&counts),
        Some("write") => {
            std::fs::write(file(), as_text(&counts)).expect("the file can be written");
            ExitCode::SUCCESS
        }
        _ => {
            print!("{}", as_text(&counts));
            ExitCode::SUCCESS
        }
    }
}

/// Instructions of a call.
struct Count {
    /// What was called, and whether for the first time.
    name: String,
    instructions: u64,
}

/// Compares with the file, and prints both numbers of each.
fn check(counts: &[Count]) -> ExitCode {
    let text = std::fs::read_to_string(file()).expect("benches/instructions.csv");
    let mut lines = text.lines();
    let (said, here) = (lines.next().unwrap_or_default(), on_what());
    if said != here {
        eprintln!("counted elsewhere:\n{said}\nand now:\n{here}");
    }
    let baseline: Vec<(&str, u64)> = lines
        .filter_map(|line| line.split_once(','))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    let mut worse = false;
    for Count { name, instructions } in counts {
        let Some((_, before)) = baseline.iter().find(|(known, _)| known == name) else {
            println!("{name}: {instructions} instructions a call, and the file has none: write it");
            worse = true;
            continue;
        };
        let percent = (*instructions as f64 / *before as f64 - 1.0) * 100.0;
        let is_worse = percent > WORSE_PERCENT_MAX;
        worse |= is_worse;
        let word = if is_worse { "WORSE" } else { "fine" };
        println!(
            "{word}: {name}: {before} instructions a call, now {instructions} ({percent:+.1} %)"
        );
    }
    match worse {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn count_all() -> Vec<Count> {
    let mut counts = Vec::new();
    for kind in Kind::ALL {
        let of = |first, again| count(kind, first, again);
        let few = of(CALLS, CALLS);
        let mut push = |which: &str, many: u64| {
            counts.push(Count {
                name: format!("{} {which}", kind.name()),
                instructions: many.saturating_sub(few) / CALLS,
            });
        };
        if kind.dedupes() {
            push("again", of(CALLS, 2 * CALLS));
        }
        push("first", of(2 * CALLS, CALLS));
    }
    counts
}

/// What so many calls take, with all around them.
fn count(kind: Kind, first: u64, again: u64) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["make", kind.name(), &first.to_string(), &again.to_string()])
        .output()
        .expect("valgrind");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind fails: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    let collected = collected.expect("valgrind says what it has counted");
    collected.trim().parse().expect("a number")
}

/// The calls, in this process.
fn make(name: &str, first: u64, again: u64) {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.expect("a kind of service");
    fastrand::seed(1);
    let runtime = Builder::new_current_thread().enable_all().build();
    let calls = kind.make(first, again, || {});
    runtime.expect("a runtime").block_on(calls);
}

fn as_text(counts: &[Count]) -> String {
    let mut text = format!("{}\n", on_what());
    for Count { name, instructions } in counts {
        let _ = writeln!(text, "{name},{instructions}");
    }
    text
}

/// Compiler and processor.
fn on_what() -> String {
    let version = Command::new("rustc").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("# {}; {}", version.unwrap_or_default(), machine::name())
}

fn has_valgrind() -> bool {
    let asked = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.csv")
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// More than this is worse; chance makes a few tenths.
const WORSE_PERCENT_MAX: f64 = 3.0;
const CALLS: u64 = 2_000;
