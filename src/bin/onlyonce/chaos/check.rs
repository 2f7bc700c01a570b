//! `chaos check`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use onlyonce_chaos::history::{HistoryError, Line, Lines, RunEnd};
use onlyonce_chaos::ledger::{Judge, Report, Verdict};

use super::super::{exit, output};
use super::{code_of, ended};

#[derive(Args)]
pub(crate) struct CheckArguments {
    /// Histories: lines of JSON, as `chaos run --history` writes them
    #[arg(required = true)]
    histories: Vec<PathBuf>,
}

pub(super) fn run(arguments: &CheckArguments) -> ExitCode {
    let mut text = String::new();
    let mut verdict = Verdict::Valid;
    for path in &arguments.histories {
        match judge(path) {
            Ok(report) => {
                verdict = verdict.and(report.verdict());
                text.push_str(&format!("{}: {report}\n", path.display()));
            }
            Err(error) => {
                return output::fail(exit::MISUSED, &format!("{}: {error}", path.display()));
            }
        }
    }
    ended(code_of(verdict), &text)
}

/// Line by line, so that a history may be larger than memory.
fn judge(path: &Path) -> Result<Report, HistoryError> {
    let mut judge = None;
    let mut end = RunEnd::default();
    for line in Lines::new(BufReader::new(File::open(path)?)) {
        match line? {
            Line::Run(header) => judge = Some(Judge::new(header)),
            Line::Event(event) => {
                if let Some(judge) = &mut judge {
                    judge.event(&event);
                }
            }
            Line::End(last) => end = last,
        }
    }
    // OK because the first line is the header, or reading it has failed.
    let judge = judge.unwrap_or_else(|| Judge::new(Default::default()));
    Ok(judge.finish(&end))
}
