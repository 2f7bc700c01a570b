//! The command `demo`.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use onlyonce::demo::{self, DemoError, DemoOptions, DemoReport, DemoVerdict};
use tempfile::TempDir;

use super::progress::Bar;
use super::stop::Stop;
use super::{exit, output};

/// Runs it in a folder that goes away, however it ends.
pub(crate) async fn run(options: DemoOptions, json: bool) -> ExitCode {
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let text = format!("no temporary folder for the demo (TMPDIR?): {error}");
            return output::fail(exit::MISUSED, &text);
        }
    };
    let bar = Bar::default();
    let ended = tokio::select! {
        report = demo::run(options, folder.path(), &bar) => Ok(report),
        code = stop.asked() => Err(code),
    };
    bar.clear();
    if let Err(error) = remove(folder).await {
        output::tell(&format!("onlyonce: temporary folder is left: {error}\n"));
    }
    match ended {
        Ok(report) => show(report, json),
        Err(code) => ExitCode::from(code),
    }
}

fn show(report: Result<DemoReport, DemoError>, json: bool) -> ExitCode {
    let report = match report {
        Ok(report) => report,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let printed = if json {
        output::tell(&report.to_table());
        output::print(&format!("{}\n", report.to_json()))
    } else {
        output::print(&report.to_table())
    };
    if let Err(error) = printed {
        let text = format!("standard output cannot be written: {error}");
        return output::fail(exit::UNKNOWN, &text);
    }
    match report.verdict() {
        DemoVerdict::Broken => ExitCode::from(exit::BROKEN),
        DemoVerdict::GoalMissed => ExitCode::from(exit::UNKNOWN),
        DemoVerdict::Held => ExitCode::SUCCESS,
    }
}

/// Removes the folder. A server that was killed an instant ago may still be putting files into it,
/// so that the first try can fail.
async fn remove(folder: TempDir) -> io::Result<()> {
    let path = folder.keep();
    for _ in 1..TRIES {
        if std::fs::remove_dir_all(&path).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    std::fs::remove_dir_all(&path)
}

/// A second in all: a killed process is gone within milliseconds, unless its disk hangs.
const TRIES: u32 = 50;

const PAUSE: Duration = Duration::from_millis(20);
