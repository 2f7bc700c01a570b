//! A PostgreSQL server for the tests of the program. Where PostgreSQL is not installed they say `not
//! run: postgres not found` and pass; with `ONLYONCE_REQUIRE_POSTGRES=1` they fail.

use std::io::Write as _;

use onlyonce::demo::{TemporaryPostgres, TemporaryPostgresError};
use tokio::sync::OnceCell;

/// The server that the tests of this binary share; gone with the process.
pub async fn shared() -> Option<&'static TemporaryPostgres> {
    static SERVER: OnceCell<Option<TemporaryPostgres>> = OnceCell::const_new();
    SERVER.get_or_init(start).await.as_ref()
}

/// A connection beside those of the program.
pub async fn client(url: &str) -> tokio_postgres::Client {
    let connecting = tokio_postgres::connect(url, tokio_postgres::NoTls);
    let (client, connection) = connecting.await.unwrap();
    tokio::spawn(connection);
    client
}

async fn start() -> Option<TemporaryPostgres> {
    match TemporaryPostgres::start().await {
        Ok(server) => Some(server),
        Err(error @ TemporaryPostgresError::NotInstalled) => {
            let required = std::env::var_os("ONLYONCE_REQUIRE_POSTGRES");
            assert!(required.is_none_or(|value| value != "1"), "{error}");
            // On the stream itself: what a passing test prints is otherwise held back.
            let _ = writeln!(std::io::stderr(), "not run: postgres not found");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
