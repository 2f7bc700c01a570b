//! A server with journaled handlers is killed with SIGKILL, between its steps and within one.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post as route_post;
use axum::{Extension, Router};
use bytes::Bytes;
use onlyonce_middleware::http::axum::{Interrupted, Steps};
use onlyonce_middleware::http::{ByServer, DedupeLayer};
use onlyonce_storage::{Scope, SledOptions, SledStore};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tower::Layer;

use crate::client::{Raw, post};
use crate::kit::serve;

const FOLDER: &str = "ONLYONCE_HTTP_JOURNAL_FOLDER";
const HOLD: &str = "ONLYONCE_HTTP_JOURNAL_HOLD";
const SAID: &str = "said: ";

/// Between two steps.
const BETWEEN: &str = "between";
/// Within the step that must not be repeated.
const WITHIN: &str = "within";
const NOWHERE: &str = "nowhere";
const DONE: &str = "done";

const SECRET: &str = "s3cret-of-alice";

/// A server that is a process.
struct Life {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Life {
    /// A server that stops where it is told.
    async fn begin(folder: &Path, hold: &str) -> Self {
        let name = "journaled_kills::serves_orders_until_it_is_killed_when_it_is_the_child";
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(FOLDER, folder)
            .env(HOLD, hold)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = next(&mut said).await.parse().unwrap();
        Self {
            process,
            said,
            address,
        }
    }

    async fn says(&mut self) -> String {
        next(&mut self.said).await
    }

    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    loop {
        let line = timeout(Duration::from_secs(60), lines.next_line());
        let line = line.await.expect("it says something").unwrap();
        if let Some((_, said)) = line.expect("it goes on").split_once(SAID) {
            return said.to_owned();
        }
    }
}

fn say(what: &str) {
    let line = format!("\n{SAID}{what}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// What a handler of the child works with.
#[derive(Clone)]
struct World {
    folder: PathBuf,
    hold: String,
}

impl World {
    /// An effect that survives the process.
    fn apply(&self, effect: &str) {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let mut file = options.open(self.folder.join("effects")).unwrap();
        file.write_all(format!("{effect}\n").as_bytes()).unwrap();
        file.sync_all().unwrap();
    }

    async fn hold(&self, at: &str) {
        if self.hold == at {
            say(at);
            std::future::pending::<()>().await;
        }
    }
}

async fn place(
    State(world): State<World>,
    by_server: Option<Extension<ByServer>>,
    Steps(steps): Steps,
    order: String,
) -> Result<String, Interrupted> {
    let charge = steps.run_keyed("charge", async |run| {
        world.apply(&format!("charge {order} {}", run.key.as_str()));
        Ok(Bytes::from("receipt"))
    });
    let receipt = charge.await?;
    world.hold(BETWEEN).await;
    let ship = steps.run_once("ship", async |_| {
        world.apply(&format!("ship {order}"));
        world.hold(WITHIN).await;
        Ok(Bytes::from("parcel"))
    });
    let parcel = ship.await?;
    let by = if by_server.is_some() {
        "server"
    } else {
        "client"
    };
    say(DONE);
    Ok(format!("{} {} by {by}", text(&receipt), text(&parcel)))
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Does nothing when it is run as a test.
#[tokio::test]
async fn serves_orders_until_it_is_killed_when_it_is_the_child() {
    let (Ok(folder), Ok(hold)) = (std::env::var(FOLDER), std::env::var(HOLD)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let store = SledStore::open_async(folder.join("store"), SledOptions::new()).await;
    let layer = DedupeLayer::new(Arc::new(store.unwrap()), Scope::global());
    let router = Router::new().route("/orders", route_post(place));
    let orders = router.with_state(World { folder, hold });
    let orders = layer.journaled("orders").unwrap().layer(orders);
    let address = serve(Router::new().fallback_service(orders.clone())).await;
    say(&address.to_string());
    orders.keep_finishing_abandoned().await;
}

fn order(key: &str) -> Raw {
    post("/orders", format!("a book for {key}"))
        .key(key)
        .header("authorization", &format!("Bearer {SECRET}"))
        .header("cookie", &format!("session={SECRET}"))
}

/// Sends an order that nobody waits for the answer of.
fn send_and_go_away(server: SocketAddr, key: &str) {
    let order = order(key);
    let bytes = order.bytes();
    tokio::spawn(async move { crate::client::send_bytes(server, &bytes).await });
}

fn effects(folder: &Path) -> Vec<String> {
    let effects = std::fs::read_to_string(folder.join("effects")).unwrap_or_default();
    effects.lines().map(str::to_owned).collect()
}

/// Whether these bytes lie in a file of the store.
fn lies_in_the_store(folder: &Path, what: &str) -> bool {
    let mut folders = vec![folder.join("store")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(path).unwrap();
            let mut windows = bytes.windows(what.len());
            if windows.any(|window| window == what.as_bytes()) {
                return true;
            }
        }
    }
    false
}

// I1
#[tokio::test]
async fn a_server_that_is_killed_between_two_steps_finishes_the_call_although_nobody_asks_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut life = Life::begin(folder, BETWEEN).await;
    send_and_go_away(life.address, "k1");
    assert_eq!(life.says().await, BETWEEN);
    life.kill().await;
    let [charge] = &effects(folder)[..] else {
        panic!("one effect");
    };
    // What was kept of its request, and what was not.
    assert!(lies_in_the_store(folder, "a book for k1"));
    assert!(!lies_in_the_store(folder, SECRET));

    let mut life = Life::begin(folder, NOWHERE).await;
    assert_eq!(life.says().await, DONE);
    let reply = order("k1").send(life.address).await;
    let said = (reply.code, reply.said());
    // Who comes while it is being finished attaches.
    assert!(
        [(200, "replayed"), (200, "attached")].contains(&said),
        "{said:?}"
    );
    assert_eq!(reply.text(), "receipt parcel by server");
    let again = order("k1").send(life.address).await;
    assert_eq!(
        (again.said(), again.text()),
        ("replayed", "receipt parcel by server")
    );
    assert_eq!(
        effects(folder),
        [charge.clone(), "ship a book for k1".to_owned()]
    );
    life.kill().await;
    assert!(!lies_in_the_store(folder, SECRET));
}

#[tokio::test]
async fn a_server_that_is_killed_within_a_step_that_must_not_be_repeated_says_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut life = Life::begin(folder, WITHIN).await;
    send_and_go_away(life.address, "k1");
    assert_eq!(life.says().await, WITHIN);
    life.kill().await;
    let before = effects(folder);
    assert_eq!(before.len(), 2);

    let life = Life::begin(folder, NOWHERE).await;
    for _ in 0..2 {
        let reply = order("k1").send(life.address).await;
        assert_eq!((reply.code, reply.said()), (409, "in-doubt"));
        assert_eq!(reply.header("retry-after"), None);
    }
    assert_eq!(effects(folder), before);
    // The control: other calls go on.
    let reply = order("k2").send(life.address).await;
    assert_eq!(
        (reply.said(), reply.text()),
        ("executed", "receipt parcel by client")
    );
}
