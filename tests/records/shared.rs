//! A store on PostgreSQL: asked directly, beside whatever servers use it.

use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce::storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce::storage::{ClaimOutcome, DoubtReason, Store};
use serde_json::json;

use super::program::{Ended, ended, run};
use super::store::{answer, claimed, key, request};
use super::temporary_postgres::{client, shared};

/// A store in a schema of its own, open as a server would have it.
struct Shared {
    url: String,
    schema: String,
    store: PostgresStore,
}

impl Shared {
    async fn make() -> Option<Self> {
        let (url, schema) = (shared().await?.url(), schema());
        let migrated = store(&["migrate", "--store", &url, "--schema", &schema]).await;
        assert_eq!(migrated.code, 0, "{migrated:?}");
        let options = PostgresOptions::new(&url).schema(&schema);
        let store = PostgresStore::open(options).await.unwrap();
        Some(Self { url, schema, store })
    }

    async fn records(&self, arguments: &[&str]) -> Ended {
        let place = ["--store", &self.url, "--schema", &self.schema];
        run(&[arguments, &place].concat()).await
    }
}

/// I3: the same commands as beside an embedded store, and the servers go on.
#[tokio::test]
async fn an_operator_sees_and_ends_doubts_of_a_store_that_servers_have_open() {
    let Some(shared) = Shared::make().await else {
        return;
    };
    let doubted = claimed(&shared.store, &key("alice", "doubted")).await;
    let kept = Some(answer("a 500 with secrets"));
    let doubted = shared.store.doubt(doubted, DoubtReason::Ambiguous, kept);
    doubted.await.unwrap();
    let running = claimed(&shared.store, &key("alice", "running")).await;

    let listed = shared.records(&["list", "--json"]).await;
    assert_eq!((listed.code, listed.words.as_str()), (0, ""), "{listed:?}");
    assert!(!listed.printed.contains("secrets"), "{listed:?}");
    let page = listed.json();
    let states: Vec<_> = page["records"].as_array().unwrap().iter().collect();
    assert_eq!(states.len(), 2, "{page}");
    assert_eq!(states[0]["state"], "in-progress");
    assert_eq!(states[1]["state"], "in-doubt");

    let token = states[1]["token"].as_str().unwrap();
    let of_key = ["--principal", "alice", "--key", "doubted"];
    let resolve = ["resolve", "--not-applied", "--yes", "--json", "--token"];
    let resolve = [&resolve[..], &[token], &of_key].concat();
    let resolved = shared.records(&resolve).await;
    assert_eq!(
        (resolved.code, &resolved.json()["state"]),
        (0, &json!("absent"))
    );
    // Who comes second is told, and changes nothing.
    let late = shared.records(&resolve).await;
    assert_eq!(late.code, 1, "{late:?}");

    let seal = ["seal", "--principal", "alice", "--key", "never", "--yes"];
    assert_eq!(shared.records(&seal).await.code, 0);
    let sealed = shared.store.claim(request(&key("alice", "never"))).await;
    let sealed = sealed.unwrap();
    assert!(!matches!(sealed, ClaimOutcome::Claimed(_)), "{sealed:?}");
    let stats = shared.records(&["stats", "--json"]).await;
    assert_eq!(stats.json()["in_progress"], 1, "{stats:?}");
    // The server whose call ran meanwhile has noticed nothing.
    let completed = shared.store.complete(running, answer("paid")).await;
    completed.unwrap();
}

/// With shorter ones than the servers' it would forget what they promise to remember.
#[tokio::test]
async fn a_sweep_of_a_shared_store_wants_to_be_told_what_its_servers_keep() {
    let Some(shared) = Shared::make().await else {
        return;
    };
    let refused = shared.records(&["sweep"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.words.contains("--horizon-hours"), "{refused:?}");
    let told = ["--retention-hours", "24", "--horizon-hours", "168"];
    let swept = shared.records(&[&["sweep"][..], &told].concat()).await;
    assert_eq!(swept.code, 0, "{swept:?}");
}

/// None repeats a password either.
#[tokio::test]
async fn each_reason_why_a_shared_store_cannot_be_reached_names_the_fix() {
    let Some(shared) = Shared::make().await else {
        return;
    };
    let url = &shared.url;
    let admin = client(url).await;
    let newer = schema();
    let migrate = ["migrate", "--store", url, "--schema", &newer];
    assert_eq!(store(&migrate).await.code, 0);
    let prepare = format!(
        "INSERT INTO {newer}.migrations (number, name) VALUES (99, 'of tomorrow');
        CREATE ROLE guest LOGIN"
    );
    admin.batch_execute(&prepare).await.unwrap();
    let as_guest = url.replace("owner@", "guest@");
    let elsewhere = url.replace("/postgres", "/nowhere");
    let stranger = url.replace("owner@", "stranger@");
    let encrypted = format!("{url}?sslmode=require");
    for (url, schema, code, fix) in [
        (
            "mysql://app:hunter2@db/app",
            "onlyonce",
            2,
            "postgres://USER@HOST/DATABASE",
        ),
        (
            "postgres://app:hunter2@db:port/app",
            "onlyonce",
            2,
            "postgres://USER@HOST/DATABASE",
        ),
        (
            "postgres://app:hunter2@127.0.0.1:9/app",
            "onlyonce",
            2,
            "check host, port",
        ),
        (&encrypted, "onlyonce", 2, "sslmode=disable"),
        (&stranger, "onlyonce", 2, "check user and password"),
        (&elsewhere, "onlyonce", 2, "create it"),
        (
            url,
            "nothing_here",
            2,
            "onlyonce store migrate --store postgres://... --schema nothing_here",
        ),
        (url, "No Name", 2, "lower-case letters"),
        (url, &newer, 2, "run a newer program"),
        (&as_guest, &shared.schema, 2, "USAGE on the schema"),
    ] {
        let refused = run(&["stats", "--store", url, "--schema", schema]).await;
        assert_eq!(
            (refused.code, refused.printed.as_str()),
            (code, ""),
            "{url} {schema}: {refused:?}"
        );
        assert!(refused.words.contains(fix), "{url} {schema}: {refused:?}");
        assert!(!refused.words.contains("hunter2"), "{refused:?}");
    }
    // Who may not make a schema is told what it takes.
    let refused = store(&["migrate", "--store", &as_guest, "--schema", "guests"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.words.contains("needs CREATE"), "{refused:?}");
    // A newer schema is left as it is.
    assert_eq!(store(&migrate).await.code, 2);
}

#[tokio::test]
async fn a_script_that_migrate_prints_makes_the_store_that_migrate_makes() {
    let Some(shared) = Shared::make().await else {
        return;
    };
    let printed = schema();
    let script = store(&["migrate", "--print", "--schema", &printed]).await;
    assert_eq!((script.code, script.words.as_str()), (0, ""));
    let admin = client(&shared.url).await;
    admin.batch_execute(&script.printed).await.unwrap();
    let nothing = store(&["migrate", "--store", &shared.url, "--schema", &printed]).await;
    assert!(nothing.printed.contains("nothing to do"), "{nothing:?}");
    let stats = [
        "stats",
        "--json",
        "--store",
        &shared.url,
        "--schema",
        &printed,
    ];
    assert_eq!(run(&stats).await.code, 0);
    let mut shapes = Vec::new();
    for schema in [&printed, &shared.schema] {
        let shape = format!(
            "SELECT table_name || '.' || column_name || ' ' || data_type
                FROM information_schema.columns WHERE table_schema = '{schema}'
            UNION ALL SELECT indexname FROM pg_indexes WHERE schemaname = '{schema}'
            UNION ALL SELECT replace(pg_get_functiondef(oid), '{schema}', '') FROM pg_proc
                WHERE pronamespace = '{schema}'::regnamespace
            UNION ALL SELECT number || name FROM {schema}.migrations
            UNION ALL SELECT 'row' FROM {schema}.store
            ORDER BY 1"
        );
        let rows = admin.query(&shape, &[]).await.unwrap();
        let shape: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        shapes.push(shape);
    }
    assert!(shapes[0].len() > 20, "{shapes:?}");
    assert_eq!(shapes[0], shapes[1]);
    let newest = store(&["migrate", "--print", "--from", "99"]).await;
    assert_eq!(newest.code, 2, "{newest:?}");
}

/// A schema that no other test uses.
fn schema() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("store_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Runs `onlyonce store ARGUMENTS`.
async fn store(arguments: &[&str]) -> Ended {
    ended(&[&["store"], arguments].concat()).await
}
