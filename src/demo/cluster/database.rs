//! Where the cluster's store and its banks are: schemas of one run, removed at its end.

use std::fmt;

use onlyonce_storage::StoreId;
use onlyonce_storage::postgres::{OpenError, PostgresOptions, PostgresStore};

use super::bank::{Bank, BankError};
use super::temporary::{TemporaryPostgres, TemporaryPostgresError};

/// A database with what a run of several servers needs, in schemas whose names nobody else has.
pub struct ClusterDatabase {
    url: String,
    prefix: String,
    temporary: Option<TemporaryPostgres>,
}

/// Why there is no database for a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterDatabaseError {
    /// The bank's schema cannot be made or removed.
    #[error("the demo's own schemas cannot be made or removed: {0}")]
    Bank(String),
    /// The store's schema cannot be made.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// There is no temporary server.
    #[error(transparent)]
    Temporary(#[from] TemporaryPostgresError),
}

/// Which of the two columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Naive,
    Onlyonce,
}

// === impl ClusterDatabase ===

impl ClusterDatabase {
    /// In the database at `url`, whose user must have the right to create schemas. The database
    /// itself is left in peace.
    ///
    /// # Errors
    ///
    /// See [`ClusterDatabaseError`]; each says what to do.
    pub async fn at(url: &str) -> Result<Self, ClusterDatabaseError> {
        Self::make(url.to_owned(), None).await
    }

    /// In a server that is started for it, and restarted on the way. Dropping it ends that.
    ///
    /// # Errors
    ///
    /// See [`ClusterDatabaseError`]; each says what to do.
    pub async fn temporary() -> Result<Self, ClusterDatabaseError> {
        let temporary = TemporaryPostgres::start().await?;
        Self::make(temporary.url(), Some(temporary)).await
    }

    /// Removes all of it from the database.
    ///
    /// # Errors
    ///
    /// When something is left.
    pub async fn remove(self) -> Result<(), ClusterDatabaseError> {
        if self.temporary.is_some() {
            return Ok(());
        }
        for schema in [self.bank(Side::Naive), self.bank(Side::Onlyonce)] {
            Bank::new(&self.url, &schema).remove().await?;
        }
        Bank::new(&self.url, &store_schema(&self.prefix))
            .remove()
            .await?;
        Ok(())
    }

    async fn make(
        url: String,
        temporary: Option<TemporaryPostgres>,
    ) -> Result<Self, ClusterDatabaseError> {
        let id: String = StoreId::random()
            .as_bytes()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let database = Self {
            url,
            prefix: format!("onlyonce_demo_{id}"),
            temporary,
        };
        // First, because its errors say what to do.
        let options = PostgresOptions::new(&database.url).schema(store_schema(&database.prefix));
        PostgresStore::migrate(&options).await?;
        for side in [Side::Naive, Side::Onlyonce] {
            let schema = database.bank(side);
            Bank::new(&database.url, &schema).found().await?;
        }
        Ok(database)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What the schemas of this run begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn bank(&self, side: Side) -> String {
        bank_schema(&self.prefix, side)
    }

    pub(super) fn own_server(&mut self) -> Option<&mut TemporaryPostgres> {
        self.temporary.as_mut()
    }
}

/// Without the address, which may hold a password.
impl fmt::Debug for ClusterDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterDatabase")
            .field("prefix", &self.prefix)
            .field("temporary", &self.temporary)
            .finish_non_exhaustive()
    }
}

pub(super) fn store_schema(prefix: &str) -> String {
    format!("{prefix}_store")
}

pub(super) fn bank_schema(prefix: &str, side: Side) -> String {
    match side {
        Side::Naive => format!("{prefix}_naive"),
        Side::Onlyonce => format!("{prefix}_bank"),
    }
}

impl From<BankError> for ClusterDatabaseError {
    fn from(error: BankError) -> Self {
        Self::Bank(error.to_string())
    }
}
