//! A bank behind a network that loses, delays and cuts, whose server is killed with -9 on the way:
//! the same transfers with naive retries and with onlyonce, side by side.
//!
//! What the network does to which connection, what is transferred and when the server is killed
//! follows from the seed. What meets what follows from the machine's timing, so a seed is a
//! scenario, not a replay.

mod bank;
mod child;
mod clients;
#[cfg(unix)]
mod cluster;
mod column;
mod goals;
mod judge;
mod log;
mod report;
mod server;
mod spread;
mod table;
mod tables;
mod work;
mod workload;

use std::io;
use std::path::Path;

use onlyonce_chaos::Seed;
use tokio::task::JoinError;

#[cfg(unix)]
pub use self::cluster::{
    ClusterDatabase, ClusterDatabaseError, ClusterOptions, ClusterServerOptions, TemporaryPostgres,
    TemporaryPostgresError, run_cluster, serve_cluster,
};
pub use self::column::ClusterGuarantee;
pub use self::report::{DemoReport, DemoVerdict};
pub use self::server::{DemoServerOptions, serve};

/// What a run of the demo is told.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Decides transfers, faults and kills.
    pub seed: u64,
    /// Calls in each column; up to five times as many where so many met nothing that retries have
    /// to fear.
    pub calls: u64,
    /// How often the server is killed in each column.
    pub kills: u64,
}

/// Is told how far a column is.
pub trait Progress: Sync {
    /// A column begins.
    fn begin(&self, column: &str, calls: u64);

    /// So many calls of the column have ended.
    fn at(&self, ended: u64);
}

/// Why the demo could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The bank's books cannot be read.
    #[error("{0}")]
    Bank(String),
    /// A file, socket or process failed.
    #[error("demo cannot run: {0}")]
    Io(#[from] io::Error),
    /// The server's process ended badly.
    #[error("server of the demo did not end well")]
    ServerFailed,
    /// The server's process did not say where it listens.
    #[error("server of the demo did not start")]
    ServerSilent,
    /// A client's task panicked: a mistake of the demo.
    #[error("client of the demo failed: {0}")]
    WorkerFailed(#[from] JoinError),
}

/// Runs both columns in `folder`, which should be empty.
///
/// # Errors
///
/// When the demo itself could not be run. A broken promise is no error but in the report.
///
/// # Cancellation
///
/// Dropping the future kills the server, which may still write to `folder` for an instant.
pub async fn run(
    options: DemoOptions,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<DemoReport, DemoError> {
    let DemoOptions { seed, calls, kills } = options;
    let column = async |naive: bool, name: &str, calls: u64| {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        progress.begin(name, calls);
        let seed = Seed::new(seed);
        column::Run {
            seed,
            calls,
            kills,
            naive,
            folder: &folder,
            progress,
        }
        .run()
        .await
    };
    let naive = column(true, "naive", calls).await?;
    // As many as the naive column needed to show anything.
    let onlyonce = column(false, "onlyonce", naive.calls).await?;
    Ok(DemoReport {
        seed,
        calls_asked: calls,
        kills,
        naive,
        onlyonce,
    })
}

impl From<tables::TablesError> for DemoError {
    fn from(error: tables::TablesError) -> Self {
        Self::Bank(error.to_string())
    }
}

impl From<bank::BankError> for DemoError {
    fn from(error: bank::BankError) -> Self {
        Self::Bank(error.to_string())
    }
}
