//! Several servers on one store: they are killed and paused in turn, and the database is restarted
//! where it is ours.
//!
//! The bank is an outside system that lives in the same database: it knows nothing of the store, and
//! each transfer is a transaction of its own. So a call can be in doubt, and the bank is asked. Or a
//! transfer is part of its call's transaction, and nothing is in doubt.

mod bank;
mod column;
mod database;
mod interruptions;
mod server;
mod temporary;

use onlyonce_chaos::Seed;

use self::database::Side;
pub use self::database::{ClusterDatabase, ClusterDatabaseError};
pub use self::server::{ClusterServerOptions, serve_cluster};
pub use self::temporary::{TemporaryPostgres, TemporaryPostgresError};
use super::{ClusterGuarantee, DemoError, DemoReport, Progress};

/// What a run of several servers is told.
#[derive(Clone, Copy, Debug)]
pub struct ClusterOptions {
    /// What holds for the transfers.
    pub guarantee: ClusterGuarantee,
    /// Decides transfers, faults and interruptions.
    pub seed: u64,
    /// Calls in each column; up to five times as many where so many met nothing that retries have
    /// to fear.
    pub calls: u64,
    /// How often in each column a server is killed, one is paused, and the database is restarted
    /// where it is ours.
    pub kills: u64,
    /// How many servers there are; at least 1.
    pub servers: u64,
}

/// Runs both columns on `database`, one after the other.
///
/// # Errors
///
/// When the demo itself could not be run. A broken promise is no error but in the report.
///
/// # Cancellation
///
/// Dropping the future kills the servers. The database is then still to be
/// [removed](ClusterDatabase::remove).
pub async fn run_cluster(
    options: ClusterOptions,
    database: &mut ClusterDatabase,
    progress: &dyn Progress,
) -> Result<DemoReport, DemoError> {
    let mut column = async |side, calls| {
        let name = match side {
            Side::Naive => "naive",
            Side::Onlyonce => "onlyonce",
        };
        progress.begin(name, calls);
        let run = column::Run {
            guarantee: options.guarantee,
            seed: Seed::new(options.seed),
            calls,
            kills: options.kills,
            servers: options.servers.max(1),
            side,
            progress,
        };
        run.run(database).await
    };
    let naive = column(Side::Naive, options.calls).await?;
    // As many as the naive column needed to show anything.
    let onlyonce = column(Side::Onlyonce, naive.calls).await?;
    Ok(DemoReport {
        seed: options.seed,
        calls_asked: options.calls,
        kills: options.kills,
        naive,
        onlyonce,
    })
}

impl From<bank::BankError> for DemoError {
    fn from(error: bank::BankError) -> Self {
        Self::Bank(error.to_string())
    }
}

impl From<TemporaryPostgresError> for DemoError {
    fn from(error: TemporaryPostgresError) -> Self {
        Self::Bank(error.to_string())
    }
}
