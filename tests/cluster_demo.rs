//! The demo on several servers that share a database, as its user meets it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "temporary_postgres/mod.rs"]
mod temporary_postgres;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use onlyonce::demo::TemporaryPostgres;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use self::temporary_postgres::{client, shared};

/// B2, and B10 with a freeze of one and a half leases: servers that are killed, or stand still and go on,
/// and a database that crashes.
#[tokio::test]
async fn servers_that_share_a_database_keep_their_promises_while_they_are_killed_and_paused() {
    if shared().await.is_none() {
        return;
    }
    let folder = folder();
    let small = [
        "--store", "postgres", "--calls", "200", "--kills", "1", "--json",
    ];
    let cluster = kept_its_promises(&folder, &small).await;
    for (figure, value) in [
        ("servers", 3),
        ("server_pauses", 1),
        ("database_restarts", 1),
    ] {
        assert_eq!(cluster[figure], value, "{figure} in {cluster}");
    }
    assert_eq!(entries(folder.path()), 0, "its database is left");
}

/// B2, B10 and B22 where effect, claim and answer are one commit: nothing is in doubt, on the way or at
/// the end, and nobody is asked.
#[tokio::test]
async fn transactional_transfers_of_several_servers_are_never_in_doubt() {
    if shared().await.is_none() {
        return;
    }
    let folder = folder();
    let small = [
        "--store",
        "postgres",
        "--guarantee",
        "transactional",
        "--calls",
        "200",
        "--kills",
        "1",
        "--json",
    ];
    let cluster = kept_its_promises(&folder, &small).await;
    for (figure, value) in [
        ("guarantee", json!("transactional")),
        ("server_pauses", json!(1)),
        ("database_restarts", json!(1)),
        ("doubts_asked", json!(0)),
        ("late_refused", json!(0)),
    ] {
        assert_eq!(cluster[figure], value, "{figure} in {cluster}");
    }
}

/// A connection of somebody else's may have been given the port while the server was down.
#[tokio::test]
async fn a_database_that_is_restarted_waits_for_its_port() {
    if shared().await.is_none() {
        return;
    }
    let mut server = TemporaryPostgres::start().await.unwrap();
    let url = server.url();
    let port: u16 = url.rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let (has_it, had) = std::sync::mpsc::channel();
    let taker = std::thread::spawn(move || {
        loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                has_it.send(()).unwrap();
                return listener;
            }
        }
    });
    let restarting = tokio::spawn(async move {
        server.restart().await.unwrap();
        server
    });
    let held = tokio::task::spawn_blocking(move || had.recv().is_ok()).await;
    assert!(held.unwrap());
    sleep(Duration::from_secs(1)).await;
    assert!(!restarting.is_finished());
    drop(taker.join().unwrap());
    let _server = restarting.await.unwrap();
    client(&url).await;
}

#[tokio::test]
async fn a_cluster_demo_removes_what_it_made_in_a_database_that_is_not_its_own() {
    let Some(server) = shared().await else {
        return;
    };
    let (folder, url) = (folder(), server.url());
    let tiny = [
        "--store",
        &url,
        "--servers",
        "2",
        "--calls",
        "20",
        "--kills",
        "0",
    ];
    let output = ended(&mut demo(&folder, &tiny)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("servers on one database"), "{table}");
    assert!(!String::from_utf8(output.stderr).unwrap().contains("left"));
    let client = client(&url).await;
    let left = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'onlyonce%'";
    assert!(client.query(left, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cluster_demo_that_is_interrupted_ends_its_database_and_leaves_nothing() {
    if shared().await.is_none() {
        return;
    }
    let folder = folder();
    let mut child = long_demo(&folder).await;
    signal(&child, "INT").await;
    let ended = child.wait().await.unwrap();
    assert_eq!(ended.code(), Some(130), "{ended}");
    assert_eq!(entries(folder.path()), 0, "its database is left");
}

/// Nobody is left in the process to tidy up: the shell beside it does.
#[tokio::test]
async fn a_cluster_demo_that_is_killed_leaves_neither_a_database_nor_its_folder() {
    if shared().await.is_none() {
        return;
    }
    let folder = folder();
    let mut child = long_demo(&folder).await;
    let database = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let pid = database.unwrap().path().join("data/postmaster.pid");
    let pid = std::fs::read_to_string(pid).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    child.kill().await.unwrap();
    for _ in 0..600 {
        if entries(folder.path()) == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(entries(folder.path()), 0, "its folder is left");
    // One that has ended may still be listed, until the first process here has reaped it.
    let state = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid])
        .output();
    let state = String::from_utf8(state.await.unwrap().stdout).unwrap();
    assert!(
        state.is_empty() || state.starts_with('Z'),
        "it runs: {state}"
    );
}

#[tokio::test]
async fn a_store_that_several_servers_cannot_use_is_refused_in_words_that_name_the_fix() {
    let Some(server) = shared().await else {
        return;
    };
    let (folder, url) = (folder(), server.url());
    let admin = client(&url).await;
    admin
        .batch_execute("CREATE ROLE guest LOGIN")
        .await
        .unwrap();
    let as_guest = url.replace("owner@", "guest@");
    for (store, fix) in [
        ("memory:", "--store postgres"),
        ("sled:/tmp/somewhere", "--store postgres"),
        ("postgres://nobody@127.0.0.1:9/app", "check host, port"),
        (&as_guest, "needs CREATE on the database"),
    ] {
        let refused = ended(&mut demo(&folder, &["--store", store])).await;
        assert_eq!(refused.status.code(), Some(2), "{store}: {refused:?}");
        let words = String::from_utf8(refused.stderr).unwrap();
        assert!(words.contains(fix), "{store}: {words}");
    }
    // How many servers there are says nothing of one server that owns its store.
    let refused = ended(&mut demo(&folder, &["--servers", "3"])).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

/// Runs it with one kill of a server, and sees that every promise was kept; what it says of the cluster.
async fn kept_its_promises(folder: &TempDir, arguments: &[&str]) -> Value {
    let output = ended(&mut demo(folder, arguments)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = &document["onlyonce"];
    for (figure, value) in [
        ("dsevr", json!(0.0)),
        ("lost", json!(0)),
        ("unknown", json!(0)),
        ("in_doubt", json!(0)),
        ("money_conserved", json!(true)),
        ("accounts_wrong", json!(0)),
        ("server_restarts", json!(1)),
    ] {
        assert_eq!(ours[figure], value, "{figure} in {document}");
    }
    ours["cluster"].clone()
}

/// A demo in the midst of its calls, on a database of its own.
async fn long_demo(folder: &TempDir) -> Child {
    let long = ["--store", "postgres", "--calls", "1000000"];
    let mut child = demo(folder, &long).spawn().unwrap();
    let mut words = child.stderr.take().unwrap();
    let mut begun = [0; 6];
    // It says so when the first column begins.
    tokio::io::AsyncReadExt::read_exact(&mut words, &mut begun)
        .await
        .unwrap();
    assert_eq!(&begun, b"naive:");
    // Whoever cannot be told must not be kept from ending.
    tokio::spawn(async move { tokio::io::copy(&mut words, &mut tokio::io::sink()).await });
    sleep(Duration::from_secs(1)).await;
    child
}

async fn signal(child: &Child, signal: &str) {
    let id = child.id().expect("it is running").to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.await.unwrap().success());
}

async fn ended(demo: &mut Command) -> Output {
    demo.spawn().unwrap().wait_with_output().await.unwrap()
}

fn demo(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// For temporary files, open to whoever the database runs as.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    folder
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}
