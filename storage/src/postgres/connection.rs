//! One connection: how it is made, and what is made sure of before it is used.

use std::str::FromStr;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::error::{Failure, OpenError};
use super::migrations::{self, Schema};
use super::options::PostgresOptions;
use super::statement::Told;
use crate::StoreId;

/// A connection. Dropping it closes it, whatever it is waiting for: an answer that comes later is
/// nobody's.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    io: JoinHandle<()>,
}

/// The address, as it was given.
pub(super) fn address(options: &PostgresOptions) -> Result<Config, OpenError> {
    let mut config = Config::from_str(&options.url).map_err(|error| OpenError::Address {
        reason: error.to_string(),
    })?;
    if !matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
        return Err(OpenError::TlsDemanded);
    }
    if config.get_hosts().is_empty() {
        let reason = "it names no host".to_owned();
        return Err(OpenError::Address { reason });
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(options.answer_within);
    }
    if config.get_application_name().is_none() {
        config.application_name("onlyonce");
    }
    Ok(config)
}

/// A connection that nothing is known of yet.
pub(super) async fn connect(options: &PostgresOptions) -> Result<Connection, OpenError> {
    let config = address(options)?;
    let connecting = tokio::time::timeout(options.answer_within, config.connect(NoTls));
    let (client, io) = match connecting.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(OpenError::of(&error)),
        Err(_) => {
            let reason = format!("no answer within {:?}", options.answer_within);
            return Err(OpenError::Unreachable { reason });
        }
    };
    let io = tokio::spawn(async move {
        // OK to ignore because whoever waits for an answer is told that the connection has ended.
        let _ = io.await;
    });
    Ok(Connection { client, io })
}

/// A connection to a store: of the right version, and known to it.
pub(super) async fn arrive(
    options: &PostgresOptions,
    schema: &Schema,
) -> Result<(Connection, StoreId), OpenError> {
    let connection = connect(options).await?;
    let within = options.answer_within.as_millis();
    // A commit that is acknowledged before it is written would be no acknowledgement. What waits for
    // a row reads it anew once it has it. And no statement outlives the patience of who asked.
    let settings = format!(
        "SELECT set_config('statement_timeout', '{within}', false),
            set_config('default_transaction_isolation', 'read committed', false),
            CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', false) END"
    );
    connection.run(&settings).await?;
    migrations::check(&connection, schema).await?;
    let ask = Told::new(schema.sql("SELECT {schema}.arrive($1)"));
    let rows = connection.rows(&ask.time(options.told_now())).await?;
    let id = rows.first().and_then(|row| row.try_get(0).ok());
    let id = id.and_then(|id: Vec<u8>| id.try_into().ok());
    let Some(id) = id else {
        let reason = "the row of the store cannot be read".to_owned();
        return Err(OpenError::Failed { reason });
    };
    Ok((connection, StoreId::from_bytes(id)))
}

// === impl Connection ===

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Statements without values, while a store is opened or migrated.
    pub(super) async fn run(&self, sql: &str) -> Result<(), OpenError> {
        let ran = self.client.batch_execute(sql).await;
        ran.map_err(|error| OpenError::of(&error))
    }

    /// A statement while a store is opened or migrated.
    pub(super) async fn rows(&self, told: &Told) -> Result<Vec<Row>, OpenError> {
        let asked = self.client.query_typed(told.sql(), &told.values()).await;
        asked.map_err(|error| OpenError::of(&error))
    }

    /// A statement of a call.
    pub(super) async fn ask(&self, told: &Told) -> Result<Vec<Row>, Failure> {
        let asked = self.client.query_typed(told.sql(), &told.values()).await;
        asked.map_err(|error| Failure::of(&error))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.io.abort();
    }
}
