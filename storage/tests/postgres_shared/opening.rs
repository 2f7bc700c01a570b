//! What can be wrong when a store is opened or migrated: each is an error that says what to do.

use std::time::Duration;

use onlyonce_storage::postgres::{OpenError, PostgresOptions, PostgresStore};
use onlyonce_storage::{ClaimOutcome, Inspect as _, KeyState, Store as _, StoreError};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig;

async fn refused(options: PostgresOptions) -> OpenError {
    match PostgresStore::open(options).await {
        Ok(store) => panic!("it should not be opened: {store:?}"),
        Err(error) => error,
    }
}

/// The last words name the fix.
fn says(error: &OpenError, fix: &str) {
    let text = error.to_string();
    assert!(text.contains(fix), "{text:?} does not say {fix:?}");
}

#[test]
fn an_address_that_is_none_or_demands_tls_is_refused_and_shows_no_password() {
    run(async {
        for url in [
            "",
            "nonsense",
            "postgres://u:s3cret@h:notaport/db",
            "host=localhost pasword=s3cret",
            "postgres://u:s3cret@h/db?no_such_option=1",
        ] {
            let error = refused(PostgresOptions::new(url)).await;
            assert!(matches!(error, OpenError::Address { .. }), "{url}: {error}");
            says(&error, "give postgres://");
            let shown = format!("{error} {error:?} {:?}", PostgresOptions::new(url));
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        let tls = PostgresOptions::new("postgres://u@localhost/db?sslmode=require");
        let error = refused(tls).await;
        assert_eq!(error, OpenError::TlsDemanded);
        says(&error, "sslmode=disable");
    });
}

#[test]
fn a_server_that_is_not_there_is_named_as_such() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let nobody = PostgresOptions::new(format!("postgres://u@127.0.0.1:{port}/db"));
        let error = refused(nobody).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        says(&error, "check host, port");
        // One that takes the connection and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        let mute_one = PostgresOptions::new(format!("postgres://u@127.0.0.1:{port}/db"))
            .answer_within(Duration::from_millis(300));
        let began = tokio::time::Instant::now();
        let error = refused(mute_one).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_name_that_is_no_schema_is_refused_before_anything_is_asked() {
    run(async {
        for name in [
            "",
            "1st",
            "with space",
            "a\"; DROP TABLE x; --",
            "Upper",
            &"x".repeat(49),
        ] {
            let options = PostgresOptions::new("postgres://u@127.0.0.1:1/db").schema(name);
            let error = refused(options.clone()).await;
            assert!(
                matches!(error, OpenError::SchemaName { .. }),
                "{name}: {error}"
            );
            let migrated = PostgresStore::migrate(&options).await;
            assert!(matches!(migrated, Err(OpenError::SchemaName { .. })));
            assert!(PostgresStore::migrations(name).is_err());
        }
        // A word of SQL is a name like any other.
        let printed = PostgresStore::migrations("select").unwrap();
        assert!(printed[0].sql.contains("CREATE TABLE \"select\".records"));
        assert!(!printed[0].sql.contains('{'), "everything is filled in");
    });
}

#[test]
fn a_missing_database_user_schema_or_version_is_named_with_its_fix() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let nowhere = format!("postgres://owner@127.0.0.1:{}/nowhere", server.port);
        let error = refused(PostgresOptions::new(nowhere)).await;
        assert!(matches!(error, OpenError::NoDatabase { .. }), "{error}");
        says(&error, "create it");

        let error = refused(PostgresOptions::new(server.url_of("nobody"))).await;
        assert!(matches!(error, OpenError::AccessDenied { .. }), "{error}");
        says(&error, "check user and password");

        let (schema, options) = postgres_rig::named(server);
        let error = refused(options.clone()).await;
        assert!(matches!(error, OpenError::NoSchema { .. }), "{error}");
        says(&error, "PostgresStore::migrate");

        assert_eq!(PostgresStore::migrate(&options).await, Ok(vec![1, 2, 3]));
        assert_eq!(PostgresStore::migrate(&options).await, Ok(vec![]));
        drop(PostgresStore::open(options.clone()).await.unwrap());
        let client = server.client().await;
        let note =
            |number| format!("UPDATE {schema}.migrations SET number = {number} WHERE number = 3");
        client.batch_execute(&note(99)).await.unwrap();
        for error in [
            refused(options.clone()).await,
            PostgresStore::migrate(&options).await.unwrap_err(),
        ] {
            let OpenError::NewerSchema {
                found, supported, ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((*found, *supported), (99, 3));
            says(&error, "run a newer program");
        }
    });
}

#[test]
fn of_many_programs_that_migrate_at_once_one_does() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let options = postgres_rig::options(server);
        let migrating: Vec<_> = (0..8)
            .map(|_| {
                let options = options.clone();
                tokio::spawn(async move { PostgresStore::migrate(&options).await })
            })
            .collect();
        let mut applied = 0;
        for migrating in migrating {
            applied += migrating.await.unwrap().unwrap().len();
        }
        assert_eq!(applied, 3);
    });
}

#[test]
fn a_user_needs_no_more_than_the_manual_says() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let user = format!("user_of_{schema}");
        PostgresStore::migrate(&options).await.unwrap();
        let client = server.client().await;
        let role = format!("CREATE ROLE {user} LOGIN");
        client.batch_execute(&role).await.unwrap();
        let as_user = PostgresOptions::new(server.url_of(&user)).schema(&schema);

        let error = refused(as_user.clone()).await;
        assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
        says(&error, "USAGE on the schema");
        let new = as_user.clone().schema("not_allowed");
        let error = PostgresStore::migrate(&new).await.unwrap_err();
        assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
        says(&error, "CREATE on the database");

        let grants = format!(
            "GRANT USAGE ON SCHEMA {schema} TO {user};
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};
            GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {user}"
        );
        client.batch_execute(&grants).await.unwrap();
        let store = PostgresStore::open(as_user).await.unwrap();
        let claim = given(store.claim(request(&key("a"))).await.unwrap());
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        assert_eq!(replayed(&store, &key("a")).await, answer("paid"));
        assert_eq!(store.sweep().await.unwrap().paused, None);
        store.stats().await.unwrap();

        let none_left = format!("ALTER ROLE {user} CONNECTION LIMIT 0");
        client.batch_execute(&none_left).await.unwrap();
        let again = PostgresOptions::new(server.url_of(&user)).schema(&schema);
        let error = refused(again.clone()).await;
        assert!(
            matches!(error, OpenError::TooManyConnections { .. }),
            "{error}"
        );
        says(&error, "connections_max");

        let reads = format!(
            "ALTER ROLE {user} CONNECTION LIMIT -1;
            ALTER ROLE {user} SET default_transaction_read_only = on"
        );
        client.batch_execute(&reads).await.unwrap();
        let error = refused(again).await;
        assert!(
            matches!(error, OpenError::Failed { .. } | OpenError::Standby { .. }),
            "{error}"
        );
    });
}

/// I5, as far as one store sees it: where a connection leads to another store, nothing is executed.
#[test]
fn a_store_that_was_replaced_by_another_is_refused() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let options = options.answer_within(Duration::from_secs(2));
        let store = postgres_rig::store(options.clone()).await;
        let first_sent = store.now();
        let client = server.client().await;
        let drop_it = format!("DROP SCHEMA {schema} CASCADE");
        client.batch_execute(&drop_it).await.unwrap();
        PostgresStore::migrate(&options).await.unwrap();
        // On the connection that is there it is found to be younger than the call.
        let mut old = request(&key("old"));
        old.first_sent = Some(first_sent);
        let outcome = store.claim(old).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        end_connections(&client, &schema).await;
        let refused = store.claim(request(&key("any"))).await.unwrap_err();
        let StoreError::Unavailable { reason, .. } = &refused else {
            panic!("{refused}");
        };
        assert!(reason.contains("another store"), "{reason}");
        let new = PostgresStore::open(options).await.unwrap();
        assert_ne!(new.id(), store.id());
        assert_eq!(new.peek(key("any")).await, Ok(KeyState::Absent));
    });
}

/// Ends all connections of one store.
async fn end_connections(client: &tokio_postgres::Client, schema: &str) {
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = '{schema}'"
    );
    client.batch_execute(&end).await.unwrap();
}
