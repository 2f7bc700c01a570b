//! Encrypted connections, to a server with certificates that were made for the test.
#![cfg(all(feature = "conformance", feature = "postgres-tls"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod certificates;
#[path = "../postgres_rig/mod.rs"]
mod postgres_rig;

use std::path::Path;
use std::time::Duration;

use onlyonce_storage::conformance;
use onlyonce_storage::postgres::{OpenError, PostgresOptions, PostgresStore};
use onlyonce_storage::{KeyState, Question, Scope, ScopedKey, Store as _};

use self::certificates::Certificates;
use self::postgres_rig::{Durable, Server};

/// An address of the server, by a name, and with these options.
fn url(server: &Server, host: &str, more: &str) -> String {
    format!("postgres://owner@{host}:{}/postgres?{more}", server.port)
}

async fn open(url: &str) -> Result<PostgresStore, OpenError> {
    let options = PostgresOptions::new(url).answer_within(Duration::from_secs(20));
    PostgresStore::migrate(&options).await?;
    PostgresStore::open(options).await
}

async fn refused(url: &str) -> String {
    match open(url).await {
        Ok(store) => panic!("{url} should be refused: {store:?}"),
        Err(error) => {
            assert!(matches!(error, OpenError::Tls { .. }), "{url}: {error}");
            error.to_string()
        }
    }
}

fn verified(authority: &Path) -> String {
    format!("sslmode=verify-full&sslrootcert={}", authority.display())
}

// E9
#[test]
fn an_address_that_demands_encryption_gets_it_or_no_connection() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    let certificates = Certificates::make();
    let believed = verified(&certificates.authority());
    conformance::run(async {
        for more in ["sslmode=require", &believed] {
            let words = refused(&url(&server, "localhost", more)).await;
            assert!(words.contains("ssl = on"), "{words}");
        }

        certificates.give(&server, "right");
        let right = url(&server, "localhost", &believed);
        let store = open(&right).await.unwrap();
        let key = "a".parse_key();
        let state = store.ask(Question::Peek, key, None).await.unwrap();
        assert!(matches!(state, KeyState::Absent), "{state:?}");
        // All of its connections: those that ask, and the one that hears.
        let client = server.client().await;
        let encrypted = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl
            JOIN pg_stat_activity USING (pid) WHERE application_name = 'onlyonce'";
        let mut counted = (0, 0);
        for _ in 0..200 {
            let row = client.query_one(encrypted, &[]).await.unwrap();
            counted = (row.get::<_, i64>(0), row.get::<_, i64>(1));
            if counted.0 >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(counted.0 >= 2 && counted.0 == counted.1, "{counted:?}");
        drop(store);

        for host in ["localhost", "127.0.0.1"] {
            open(&url(&server, host, &believed)).await.unwrap();
        }
        // Whoever answers is believed here, and says so by its name.
        open(&url(&server, "localhost", "sslmode=require"))
            .await
            .unwrap();
        // What the server would give is not asked for where nobody demands it.
        open(&url(&server, "localhost", "sslmode=disable"))
            .await
            .unwrap();
        let unknown = refused(&url(&server, "localhost", "sslmode=verify-full")).await;
        assert!(
            unknown.contains("sslrootcert"),
            "an authority that the system does not know: {unknown}"
        );
        let other = verified(&certificates.other_authority());
        for more in [other.clone(), other.replace("verify-full", "require")] {
            let words = refused(&url(&server, "localhost", &more)).await;
            assert!(words.contains("name the file"), "{words}");
        }
        let absent = verified(Path::new("/nowhere/authority.pem"));
        let words = refused(&url(&server, "localhost", &absent)).await;
        assert!(words.contains("/nowhere/authority.pem"), "{words}");

        certificates.give(&server, "elsewhere");
        let words = refused(&url(&server, "localhost", &believed)).await;
        assert!(words.contains("is not for \"localhost\""), "{words}");
        let words = refused(&url(&server, "127.0.0.1", &believed)).await;
        assert!(words.contains("name the host"), "{words}");

        certificates.give(&server, "expired");
        let words = refused(&url(&server, "localhost", &believed)).await;
        assert!(words.contains("has expired; renew it"), "{words}");
        let words = refused(&url(
            &server,
            "localhost",
            &believed.replace("verify-full", "require"),
        ))
        .await;
        assert!(words.contains("has expired"), "{words}");
    });
}

/// G7: a store that is open when its server's certificate becomes wrong fails closed, and goes on when
/// that is right again.
#[test]
fn a_store_whose_server_shows_a_wrong_certificate_later_fails_closed() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    let certificates = Certificates::make();
    let believed = verified(&certificates.authority());
    conformance::run(async {
        certificates.give(&server, "right");
        let store = open(&url(&server, "localhost", &believed)).await.unwrap();
        let look = async || store.ask(Question::Peek, "a".parse_key(), None).await;
        assert!(look().await.is_ok());
        certificates.give(&server, "expired");
        let refused = look().await.unwrap_err().to_string();
        assert!(refused.contains("has expired"), "{refused}");
        certificates.give(&server, "right");
        assert!(look().await.is_ok());
    });
}

/// Short for tests.
trait ParseKey {
    fn parse_key(&self) -> ScopedKey;
}

impl ParseKey for str {
    fn parse_key(&self) -> ScopedKey {
        let key = onlyonce_storage::IdempotencyKey::parse(self).unwrap();
        ScopedKey::new(Scope::global(), key)
    }
}
