//! The command `demo`.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

#[cfg(unix)]
use onlyonce::StoreUrl;
use onlyonce::demo::{self, DemoError, DemoOptions, DemoReport, DemoVerdict};
#[cfg(unix)]
use onlyonce::demo::{ClusterDatabase, ClusterOptions};
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

/// Runs several servers on a database, in schemas that go away, however it ends.
#[cfg(unix)]
pub(crate) async fn run_cluster(options: ClusterOptions, store: &str, json: bool) -> ExitCode {
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let made = tokio::select! {
        made = database(store) => made,
        code = stop.asked() => return ExitCode::from(code),
    };
    let mut database = match made {
        Ok(database) => database,
        Err(words) => return output::fail(exit::MISUSED, &words),
    };
    let bar = Bar::default();
    let ended = tokio::select! {
        report = demo::run_cluster(options, &mut database, &bar) => Ok(report),
        code = stop.asked() => Err(code),
    };
    bar.clear();
    if let Err(error) = database.remove().await {
        output::tell(&format!(
            "onlyonce: schemas onlyonce_demo_* are left: {error}\n"
        ));
    }
    match ended {
        Ok(report) => show(report, json),
        Err(code) => ExitCode::from(code),
    }
}

#[cfg(unix)]
async fn database(store: &str) -> Result<ClusterDatabase, String> {
    let made = match store.parse() {
        _ if store == "postgres" => ClusterDatabase::temporary().await,
        Ok(StoreUrl::Postgres(url)) => ClusterDatabase::at(&url).await,
        _ => {
            let words = "several servers need a store that they share: say --store postgres for a \
                         temporary one, or --store postgres://USER@HOST/DATABASE";
            return Err(words.to_owned());
        }
    };
    made.map_err(|error| error.to_string())
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
