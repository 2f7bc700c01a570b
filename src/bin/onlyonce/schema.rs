//! The command `store`: the schema of a shared store, and what is said where it cannot be used.

use std::fmt::{self, Display};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use onlyonce::StoreUrl;
use onlyonce::storage::StoreId;
use onlyonce::storage::postgres::{Migration, OpenError, PostgresOptions, PostgresStore};

use super::{exit, output};

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Makes the schema of a store on PostgreSQL, or brings it to this program's version
    Migrate(MigrateArguments),
}

#[derive(Args)]
pub(crate) struct MigrateArguments {
    /// postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "URL", required_unless_present = "print")]
    store: Option<String>,
    /// The schema that the store is in
    #[arg(long, value_name = "NAME", default_value = DEFAULT)]
    schema: String,
    /// Prints what would be done as one script of SQL and asks no database
    #[arg(long)]
    print: bool,
    /// With --print: the version that the schema has
    #[arg(long, value_name = "VERSION", requires = "print", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..))]
    from: i32,
}

/// Why a store cannot be used: the code, and words for people.
pub(crate) struct Unusable {
    pub(crate) code: u8,
    words: String,
}

pub(crate) async fn run(command: StoreCommand) -> ExitCode {
    let StoreCommand::Migrate(arguments) = command;
    let done = if arguments.print {
        script(&arguments.schema, arguments.from)
    } else {
        migrate(&arguments).await
    };
    let text = match done {
        Ok(text) => text,
        Err(unusable) => return output::fail(unusable.code, &unusable),
    };
    match output::print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let words = format!("standard output cannot be written: {error}");
            output::fail(exit::UNKNOWN, &words)
        }
    }
}

async fn migrate(arguments: &MigrateArguments) -> Result<String, Unusable> {
    let misused = |words: String| Unusable {
        code: exit::MISUSED,
        words,
    };
    // OK because clap wants it where nothing is printed.
    let named = arguments.store.as_deref().unwrap_or_default().parse();
    let url = match named {
        Ok(StoreUrl::Postgres(url)) => url,
        Ok(_) => {
            let words = "only a store on PostgreSQL has a schema; the others make what they need \
                         when they are opened. Give --store postgres://USER@HOST/DATABASE";
            return Err(misused(words.to_owned()));
        }
        Err(error) => return Err(misused(error.to_string())),
    };
    let schema = &arguments.schema;
    let options = PostgresOptions::new(url).schema(schema);
    let migrated = PostgresStore::migrate(&options).await;
    let versions = migrated.map_err(|error| unopened(&error, schema))?;
    Ok(match versions.last() {
        None => format!("schema {schema}: nothing to do\n"),
        Some(last) => format!("schema {schema}: now at version {last}\n"),
    })
}

/// One transaction: what `PostgresStore::migrate` does.
fn script(schema: &str, from: i32) -> Result<String, Unusable> {
    let migrations = PostgresStore::migrations(schema);
    let migrations = migrations.map_err(|error| unopened(&error, schema))?;
    let newest = migrations.last().map_or(0, |last| last.number);
    if from > newest {
        let words = format!("this program knows versions up to {newest}; run a newer one");
        let code = exit::MISUSED;
        return Err(Unusable { code, words });
    }
    let steps: Vec<_> = migrations
        .iter()
        .filter(|step| step.number > from)
        .collect();
    if steps.is_empty() {
        return Ok(format!(
            "-- schema {schema} at version {from}: nothing to do\n"
        ));
    }
    let mut script = "BEGIN;\n".to_owned();
    if from == 0 {
        script += &format!(
            "CREATE SCHEMA IF NOT EXISTS \"{schema}\";\n\
            CREATE TABLE \"{schema}\".migrations (\n    number integer PRIMARY KEY,\n    \
            name text NOT NULL,\n    \
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp()\n);\n"
        );
    }
    for Migration {
        number, name, sql, ..
    } in steps
    {
        script += &format!(
            "\n-- version {number}: {name}\n{sql}\n\
            INSERT INTO \"{schema}\".migrations (number, name) VALUES ({number}, '{name}');\n"
        );
    }
    if from == 0 {
        let id: String = StoreId::random()
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        script += &format!(
            "\n-- The identity of this store: print anew for another one.\n\
            INSERT INTO \"{schema}\".store\nSELECT true, '\\x{id}', 0, \"{schema}\".place(), t, 0, t\n\
            FROM (SELECT \"{schema}\".now_ms() AS t) clock;\n"
        );
    }
    Ok(script + "COMMIT;\n")
}

/// What is said where a shared store cannot be opened or migrated.
pub(crate) fn unopened(error: &OpenError, schema: &str) -> Unusable {
    let migrate = match schema {
        DEFAULT => "`onlyonce store migrate --store postgres://...`".to_owned(),
        other => format!("`onlyonce store migrate --store postgres://... --schema {other}`"),
    };
    let (code, words) = match error {
        OpenError::NoSchema { schema } => (
            exit::MISUSED,
            format!("there is no store in the schema {schema}; make one with {migrate}"),
        ),
        OpenError::OlderSchema {
            schema,
            found,
            supported,
        } => (
            exit::MISUSED,
            format!(
                "the schema {schema} has version {found}, this program needs {supported}; stop \
                 older programs, then bring it there with {migrate}"
            ),
        ),
        OpenError::Failed { .. } | OpenError::TooManyConnections { .. } => {
            (exit::UNKNOWN, error.to_string())
        }
        _ => (exit::MISUSED, error.to_string()),
    };
    Unusable { code, words }
}

impl Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// As `PostgresOptions` has it.
pub(crate) const DEFAULT: &str = "onlyonce";
