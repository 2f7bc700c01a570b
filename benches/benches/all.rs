//! Measures everything, in turn, and draws it: `cargo bench -p onlyonce-bench` a subset of at most ten
//! minutes, `cargo bench -p onlyonce-bench -- full` the longer runs too, and those on PostgreSQL where it
//! is built with `--features postgres`. Figures and diagrams go to `benches/results/`; a word on the
//! command line (`-- rpc proxy`) chooses programs.
//!
//! Each program is one that can be run alone; this only says with which arguments, and where its
//! figures go. What cannot be had here (nginx, valgrind, perf, PostgreSQL) is said and left out.

#![allow(
    unexpected_cfgs,
    reason = "`idempotent_2` is set by hand: the manifest says why"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use tokio::time::Instant;

/// A program, its arguments, and the file of its figures.
struct Part {
    program: &'static str,
    arguments: &'static [&'static str],
    figures: Option<&'static str>,
    /// Only of the full run, which has no use for a shorter one of the same figures.
    full: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // A test run builds benches and starts them; it must not measure for minutes.
        eprintln!("not run: say `cargo bench -p onlyonce-bench`");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let full = words.contains(&"full");
    let chosen: Vec<&str> = words.into_iter().filter(|word| *word != "full").collect();
    let parts = parts(full);
    if let Some(unknown) = chosen
        .iter()
        .find(|word| parts.iter().all(|part| part.program != **word))
    {
        let known: BTreeSet<_> = parts.iter().map(|part| part.program).collect();
        let known: Vec<_> = known.into_iter().collect();
        eprintln!(
            "no program is called {unknown}; there are {}",
            known.join(", ")
        );
        return ExitCode::from(2);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    std::fs::create_dir_all(&folder).expect("a folder for the figures");
    let began = Instant::now();
    let mut failed = Vec::new();
    for part in parts {
        let is_chosen = chosen.is_empty() || chosen.contains(&part.program);
        if !is_chosen {
            continue;
        }
        if !run(&part, &folder) {
            failed.push(part.program);
        }
    }
    let chart = Part {
        program: "chart",
        arguments: &[],
        figures: None,
        full: false,
    };
    let drawn = run(&chart, &folder);
    eprintln!("== all: {:.0} s", began.elapsed().as_secs_f64());
    if failed.is_empty() && drawn {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// The figures go to a file beside the last ones, and take their place when all is there.
fn run(part: &Part, folder: &Path) -> bool {
    let Part {
        program,
        arguments,
        figures,
        full: _,
    } = part;
    let began = Instant::now();
    eprintln!("\n== {program} {}", arguments.join(" "));
    let mut command = Command::new(path(program));
    match program {
        &("chart" | "flames") => command.arg(folder),
        _ => command.args(*arguments),
    };
    let unfinished = figures.map(|name| folder.join(format!(".{name}.unfinished")));
    if let Some(unfinished) = &unfinished {
        let file = File::create(unfinished).expect("a file for the figures");
        command.stdout(Stdio::from(file));
    }
    let succeeded = command.status().is_ok_and(|status| status.success());
    if let (Some(unfinished), Some(name)) = (unfinished, figures) {
        let kept = match succeeded {
            true => std::fs::rename(unfinished, folder.join(name)),
            false => std::fs::remove_file(unfinished),
        };
        kept.expect("the figures are where they belong");
    }
    eprintln!("== {program}: {:.0} s", began.elapsed().as_secs_f64());
    succeeded
}

fn parts(full: bool) -> Vec<Part> {
    let part = |program, arguments, figures| Part {
        program,
        arguments,
        figures: Some(figures),
        full: false,
    };
    let only_full = |program, arguments, figures| Part {
        full: true,
        ..part(program, arguments, figures)
    };
    let mut parts = vec![
        Part {
            program: "instructions",
            arguments: &["check"],
            figures: None,
            full: false,
        },
        part("in_process", &["7", "20000"], "in_process.csv"),
        part("clients", &["outage"], "clients_outage.csv"),
        part("clients", &["contention"], "clients_contention.csv"),
        part("clients", &["loss"], "clients_loss.csv"),
        part("rpc", &["5", "0.25"], "rpc.csv"),
        part("http", &["5", "0.2"], HTTP),
        part("http_allocations", &[], HTTP_ALLOCATIONS),
        part("http_together", &[], HTTP_TOGETHER),
        part("modes", &["5", "0.5"], "modes.csv"),
        part("stores", &["3", "0.5"], "stores.csv"),
        part("concurrent", &["3"], "concurrent.csv"),
        part("proxy", &["idle", "10000"], "proxy_idle.csv"),
        part("proxy", &["5", "0.5"], "proxy.csv"),
        Part {
            program: "flames",
            arguments: &[],
            figures: None,
            full: false,
        },
        only_full("stores", &["5", "1.5"], "stores.csv"),
        only_full(
            "replay",
            &["10000", "100000", "1000000", "10000000"],
            "replay.csv",
        ),
        only_full("long_life", &["10000000"], "long_life_10m_60_days.csv"),
        only_full("judge", &["5000000"], "judge.txt"),
    ];
    if full && cfg!(feature = "postgres") {
        parts.extend([
            only_full("postgres", &["calls", "5", "0.35"], "postgres.csv"),
            only_full("postgres", &["syncs", "1"], "postgres_syncs.csv"),
            only_full(
                "postgres",
                &["sweep", "1000000", "16"],
                "postgres_sweep.csv",
            ),
            only_full("postgres", &["room", "1000000"], "postgres_room_1m.csv"),
        ]);
    }
    // The longer run of a program takes the place of the shorter one.
    let longer: Vec<_> = parts
        .iter()
        .filter(|part| part.full)
        .map(|part| part.figures)
        .collect();
    parts
        .retain(|part| part.full == full || !(part.full || full && longer.contains(&part.figures)));
    parts
}

/// Where Cargo has put a program of this package.
fn path(program: &str) -> PathBuf {
    let path = match program {
        "chart" => env!("CARGO_BIN_EXE_chart"),
        "clients" => env!("CARGO_BIN_EXE_clients"),
        "concurrent" => env!("CARGO_BIN_EXE_concurrent"),
        "flames" => env!("CARGO_BIN_EXE_flames"),
        "http" => env!("CARGO_BIN_EXE_http"),
        "http_allocations" => env!("CARGO_BIN_EXE_http_allocations"),
        "http_together" => env!("CARGO_BIN_EXE_http_together"),
        "in_process" => env!("CARGO_BIN_EXE_in_process"),
        "instructions" => env!("CARGO_BIN_EXE_instructions"),
        "judge" => env!("CARGO_BIN_EXE_judge"),
        "long_life" => env!("CARGO_BIN_EXE_long_life"),
        "modes" => env!("CARGO_BIN_EXE_modes"),
        #[cfg(feature = "postgres")]
        "postgres" => env!("CARGO_BIN_EXE_postgres"),
        "proxy" => env!("CARGO_BIN_EXE_proxy"),
        "replay" => env!("CARGO_BIN_EXE_replay"),
        "rpc" => env!("CARGO_BIN_EXE_rpc"),
        "stores" => env!("CARGO_BIN_EXE_stores"),
        other => panic!("no program is called {other}"),
    };
    PathBuf::from(path)
}

// `idempotent` is among the figures only where it was built: the manifest says how.
const HTTP: &str = if cfg!(idempotent_2) {
    "http.csv"
} else {
    "http_without_idempotent.csv"
};
const HTTP_ALLOCATIONS: &str = if cfg!(idempotent_2) {
    "http_allocations.csv"
} else {
    "http_allocations_without_idempotent.csv"
};
const HTTP_TOGETHER: &str = if cfg!(idempotent_2) {
    "http_together.csv"
} else {
    "http_together_without_idempotent.csv"
};
