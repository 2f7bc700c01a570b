//! Draws what has been measured, and fills the tables of the page above: each whose CSV file is there.
//!
//! `cargo run --release -p onlyonce-bench --bin chart -- [FOLDER]`

use std::fs;
use std::path::{Path, PathBuf};

use onlyonce_bench::chart::{Csv, Diagram, Lines, write};
use onlyonce_bench::table::fill;

fn main() {
    let folder = std::env::args().nth(1);
    let folder = PathBuf::from(folder.unwrap_or_else(|| "benches/results".to_owned()));
    stores(&folder);
    http(&folder);
    rpc(&folder);
    proxy(&folder);
    modes(&folder);
    outage(&folder);
    growth(&folder);
    tables(&folder);
}

/// Those of `RESULTS.md`, which lies beside the folder.
fn tables(folder: &Path) {
    let path = folder.join("../RESULTS.md");
    let Ok(page) = fs::read_to_string(&path) else {
        return;
    };
    let filled = fill(&page, |file| Csv::read(&folder.join(file)));
    let filled = filled.unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
    fs::write(&path, filled).expect("the page can be written");
}

fn stores(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("stores.csv")) else {
        return;
    };
    let diagrams = [
        Diagram {
            title: "thousand first calls a second",
            below: "callers at once",
            lines: csv.lines("store", "callers", "calls_per_s", 1e-3),
        },
        Diagram {
            title: "p99 of a first call, ms",
            below: "callers at once",
            lines: csv.lines("store", "callers", "p99_us", 1e-3),
        },
    ];
    write(&folder.join("stores.svg"), &diagrams);
}

fn http(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("http.csv")) else {
        return;
    };
    let of = |calls: &str| {
        let lines = csv.only("calls", calls);
        lines.lines("route", "callers", "calls_per_s", 1e-3)
    };
    let diagrams = [
        Diagram {
            title: "thousand first calls over HTTP a second",
            below: "callers at once",
            lines: of("first"),
        },
        Diagram {
            title: "thousand calls again over HTTP a second",
            below: "callers at once",
            lines: of("again"),
        },
    ];
    write(&folder.join("http.svg"), &diagrams);
}

fn rpc(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("rpc.csv")) else {
        return;
    };
    let of = |bytes: &str| {
        let lines = csv.only("bytes", bytes);
        lines.lines("rpc", "in_flight", "calls_per_s", 1e-3)
    };
    let diagrams = [
        Diagram {
            title: "thousand round trips a second, 64 bytes each way",
            below: "in flight at once, one connection",
            lines: of("64"),
        },
        Diagram {
            title: "thousand round trips a second, 64 KiB each way",
            below: "in flight at once, one connection",
            lines: of("65536"),
        },
    ];
    write(&folder.join("rpc.svg"), &diagrams);
}

fn proxy(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("proxy.csv")) else {
        return;
    };
    let diagrams = [
        Diagram {
            title: "thousand calls through a proxy a second",
            below: "callers at once",
            lines: csv.lines("proxy", "callers", "calls_per_s", 1e-3),
        },
        Diagram {
            title: "p99 of a call through a proxy, ms",
            below: "callers at once",
            lines: csv.lines("proxy", "callers", "p99_us", 1e-3),
        },
    ];
    write(&folder.join("proxy.svg"), &diagrams);
}

fn modes(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("modes.csv")) else {
        return;
    };
    let diagrams = [
        Diagram {
            title: "thousand first calls with an effect a second",
            below: "callers at once",
            lines: csv.lines("kind", "callers", "calls_per_s", 1e-3),
        },
        Diagram {
            title: "p99 of them, ms",
            below: "callers at once",
            lines: csv.lines("kind", "callers", "p99_us", 1e-3),
        },
    ];
    write(&folder.join("modes.svg"), &diagrams);
}

fn outage(folder: &Path) {
    let Some(csv) = Csv::read(&folder.join("clients_outage.csv")) else {
        return;
    };
    let diagram = Diagram {
        title: "attempts a call in a total outage, by budget",
        below: "calls a second",
        lines: csv.lines("budget", "calls_per_s", "attempts_per_call", 1.0),
    };
    write(&folder.join("clients_outage.svg"), &[diagram]);
}

/// Against stored records, and against concurrent calls.
fn growth(folder: &Path) {
    let records = Csv::read(&folder.join("replay.csv"));
    let callers = Csv::read(&folder.join("concurrent.csv"));
    let (Some(records), Some(callers)) = (records, callers) else {
        return;
    };
    let (stored, at_once) = ("records in the store", "calls at the same time");
    let of_records = |name, column, scale| records.line(name, "records", column, scale);
    let of_callers = |name, column, scale| callers.line(name, "callers", column, scale);
    let diagrams = [
        both(
            "a replay, microseconds",
            stored,
            of_records("p50", "replay_p50_us", 1.0),
            of_records("p99", "replay_p99_us", 1.0),
        ),
        both(
            "a replay, microseconds",
            at_once,
            of_callers("p50", "again_p50_us", 1.0),
            of_callers("p99", "again_p99_us", 1.0),
        ),
        both(
            "a first call by one caller, ms",
            stored,
            of_records("p50", "first_call_p50_us", 1e-3),
            of_records("p99", "first_call_p99_us", 1e-3),
        ),
        both(
            "a first call, ms",
            at_once,
            of_callers("p50", "first_p50_us", 1e-3),
            of_callers("p99", "first_p99_us", 1e-3),
        ),
        both(
            "MiB",
            stored,
            of_records("disk", "disk_mib", 1.0),
            of_records("memory", "resident_mib", 1.0),
        ),
        both(
            "MiB of memory",
            at_once,
            of_callers("before", "resident_before_mib", 1.0),
            of_callers("at most", "resident_most_mib", 1.0),
        ),
        both(
            "opening, seconds",
            stored,
            of_records("closed well", "open_s", 1.0),
            of_records("after a crash", "open_after_crash_s", 1.0),
        ),
        both(
            "thousand calls a second",
            at_once,
            of_callers("first", "first_per_s", 1e-3),
            of_callers("again", "again_per_s", 1e-3),
        ),
    ];
    write(&folder.join("growth.svg"), &diagrams);
}

/// A diagram of two lines.
fn both(title: &'static str, below: &'static str, one: Lines, other: Lines) -> Diagram {
    let lines = one.into_iter().chain(other).collect();
    Diagram {
        title,
        below,
        lines,
    }
}
