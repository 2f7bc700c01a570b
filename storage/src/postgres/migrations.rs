//! The versions of the schema, as SQL that can be read, printed and applied.

use super::connection::{Connection, connect};
use super::error::{OpenError, SCHEMA_BYTES_MAX};
use super::options::PostgresOptions;
use super::statement::Told;
use crate::session::SESSION_WINDOW;
use crate::transition::CLOCK_DIFFERENCE_MAX;
use crate::{StoreId, Timestamp};

/// A step from one version of the schema to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The version that it leads to: they count up from 1.
    pub number: i32,
    /// What it is for.
    pub name: &'static str,
    /// The statements, for the schema that was asked for.
    pub sql: String,
}

/// A name that can be put into SQL as it is.
#[derive(Clone, Debug)]
pub(super) struct Schema(String);

// === impl Schema ===

impl Schema {
    pub(super) fn parse(name: &str) -> Result<Self, OpenError> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let bytes = name.as_bytes();
        let right = bytes.len() <= SCHEMA_BYTES_MAX
            && bytes.first().is_some_and(|&first| is_letter(first))
            && bytes
                .iter()
                .all(|&byte| is_letter(byte) || byte.is_ascii_digit());
        if !right {
            let name = name.chars().take(SCHEMA_BYTES_MAX).collect();
            return Err(OpenError::SchemaName { name });
        }
        Ok(Self(name.to_owned()))
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The statement, with the schema's name for `{schema}`.
    pub(super) fn sql(&self, text: &str) -> String {
        // Quoted: a name may be a word of SQL.
        text.replace("{schema}", &format!("\"{}\"", self.0))
    }
}

/// All steps, for this schema.
pub(super) fn all(schema: &Schema) -> Vec<Migration> {
    MIGRATIONS
        .iter()
        .zip(1..)
        .map(|((name, text), number)| {
            let sql = schema
                .sql(text)
                .replace("{session_window}", &SESSION_WINDOW.to_string())
                .replace(
                    "{clock_difference_max}",
                    &CLOCK_DIFFERENCE_MAX.as_millis().to_string(),
                );
            Migration { number, name, sql }
        })
        .collect()
}

/// Brings the schema to the newest version; the versions that it went through.
pub(super) async fn apply(options: &PostgresOptions) -> Result<Vec<i32>, OpenError> {
    let schema = Schema::parse(&options.schema)?;
    let connection = connect(options).await?;
    let work = applied(&connection, &schema, options);
    match tokio::time::timeout(MIGRATION_MAX, work).await {
        Ok(applied) => applied,
        Err(_) => Err(OpenError::Failed {
            reason: format!("the migration was not done within {MIGRATION_MAX:?} and is undone"),
        }),
    }
}

async fn applied(
    connection: &Connection,
    schema: &Schema,
    options: &PostgresOptions,
) -> Result<Vec<i32>, OpenError> {
    // One transaction for all steps, and one process at a time.
    let begin = schema.sql(
        "BEGIN;
        SELECT pg_advisory_xact_lock(hashtextextended('onlyonce migrations {schema}', 0));
        SET LOCAL synchronous_commit = on;
        CREATE SCHEMA IF NOT EXISTS {schema};
        CREATE TABLE IF NOT EXISTS {schema}.migrations (
            number integer PRIMARY KEY,
            name text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )",
    );
    connection.run(&begin).await?;
    let found = version(connection, schema).await?;
    let supported = supported();
    if found > supported {
        return Err(newer(schema, found));
    }
    let mut applied = Vec::new();
    for migration in all(schema) {
        if migration.number <= found {
            continue;
        }
        connection.run(&migration.sql).await?;
        let note = schema.sql("INSERT INTO {schema}.migrations (number, name) VALUES ($1, $2)");
        let note = Told::new(note)
            .int(migration.number)
            .text(Some(migration.name));
        connection.rows(&note).await?;
        applied.push(migration.number);
    }
    if found == 0 {
        // Calls first sent before there was a store may have been executed by an earlier one.
        let make = schema.sql(
            "INSERT INTO {schema}.store
            SELECT true, $1, 0, {schema}.place(), t, 0, t
            FROM (SELECT COALESCE($2, {schema}.now_ms()) AS t) clock",
        );
        let make = Told::new(make)
            .bytes(Some(StoreId::random().as_bytes()))
            .time(options.told_now());
        connection.rows(&make).await?;
    }
    connection.run("COMMIT").await?;
    Ok(applied)
}

/// The version of the schema; 0 where there is none yet.
pub(super) async fn version(connection: &Connection, schema: &Schema) -> Result<i32, OpenError> {
    let ask = Told::new(schema.sql("SELECT max(number) FROM {schema}.migrations"));
    let rows = connection.rows(&ask).await?;
    let version = rows.first().and_then(|row| row.try_get(0).ok().flatten());
    Ok(version.unwrap_or(0))
}

/// Whether this program works with the schema.
pub(super) async fn check(connection: &Connection, schema: &Schema) -> Result<(), OpenError> {
    let exists = Told::new("SELECT to_regclass($1) IS NOT NULL")
        .text(Some(&schema.sql("{schema}.migrations")));
    let rows = connection.rows(&exists).await?;
    let exists = rows
        .first()
        .is_some_and(|row| row.try_get(0).unwrap_or(false));
    let found = if exists {
        version(connection, schema).await?
    } else {
        0
    };
    let (supported, name) = (supported(), schema.name().to_owned());
    match found {
        0 => Err(OpenError::NoSchema { schema: name }),
        found if found > supported => Err(newer(schema, found)),
        found if found < supported => Err(OpenError::OlderSchema {
            schema: name,
            found,
            supported,
        }),
        _ => Ok(()),
    }
}

fn newer(schema: &Schema, found: i32) -> OpenError {
    OpenError::NewerSchema {
        schema: schema.name().to_owned(),
        found,
        supported: supported(),
    }
}

fn supported() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

impl PostgresOptions {
    /// The time that the suite tells; nothing in a store that serves anybody.
    pub(super) fn told_now(&self) -> Option<Timestamp> {
        #[cfg(feature = "conformance")]
        return self.clock.as_ref().map(|clock| clock.now());
        #[cfg(not(feature = "conformance"))]
        return None;
    }
}

/// In their order. One that was released is never changed: a change is a new one.
const MIGRATIONS: [(&str, &str); 5] = [
    (
        "records, sessions and the functions that change them",
        include_str!("migrations/0001_records.sql"),
    ),
    (
        "calls whose effect is a transaction of the database",
        include_str!("migrations/0002_transactions.sql"),
    ),
    (
        "fewer steps for a call, and a database that moved behind a connection is noticed",
        include_str!("migrations/0003_fewer_steps.sql"),
    ),
    (
        "outboxes of clients",
        include_str!("migrations/0004_outbox.sql"),
    ),
    (
        "journals of calls",
        include_str!("migrations/0005_journal.sql"),
    ),
];

/// Longer than any step takes on a store that is empty; one on a large store says so itself.
const MIGRATION_MAX: std::time::Duration = std::time::Duration::from_secs(10 * 60);
