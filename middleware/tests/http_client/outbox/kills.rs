//! A client with an outbox is killed with SIGKILL, at every step that its server or it itself tells of.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use onlyonce_middleware::http::client::Kept;
use onlyonce_storage::outbox::{OutboxLimits, OutboxState};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::folder::{Opened, client, open};
use super::shop::{AFTER, ASKED, BEFORE, CAME, Doing, HALF, Shop, order_at, text};

const FOLDER: &str = "ONLYONCE_HTTP_OUTBOX_FOLDER";
const SHOP: &str = "ONLYONCE_HTTP_OUTBOX_SHOP";
/// More than all lives that are killed get through.
const ORDERS: u32 = 40;
const TOLD: &str = "told";
const NOTED: &str = "noted";
const ACKNOWLEDGED: &str = "acknowledged";
const STEPS: [&str; 8] = [ASKED, CAME, BEFORE, AFTER, HALF, TOLD, NOTED, ACKNOWLEDGED];

// H7, A1
#[tokio::test]
async fn an_http_client_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (told, mut doing) = mpsc::unbounded_channel();
    let shop = Shop::open(told).await;
    for step in STEPS {
        // Each life asks once.
        for time in 1..=if step == ASKED { 1 } else { 2 } {
            let mut life = Life::begin(folder.path(), shop.address);
            let ended = life.killed_at(step, time, &mut doing).await;
            assert!(!ended, "{step}, for the {time}. time: it was met");
        }
    }
    let mut life = Life::begin(folder.path(), shop.address);
    assert!(life.killed_at("nothing", 1, &mut doing).await);
    let mut orders = shop.orders();
    orders.sort();
    let mut expected: Vec<_> = (1..=ORDERS).map(|order| order.to_string()).collect();
    expected.sort();
    assert_eq!(orders, expected, "each once");
    // Nobody was told another answer the second time.
    let notes = notes(folder.path());
    let expected = (1..=ORDERS).map(|order| format!("{order} did {order}"));
    assert_eq!(
        notes.into_iter().collect::<BTreeSet<_>>(),
        expected.collect()
    );
}

/// One life of the client.
struct Life {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Life {
    fn begin(folder: &Path, shop: SocketAddr) -> Self {
        let name = "outbox::kills::orders_until_it_is_killed_when_it_is_the_child";
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(FOLDER, folder)
            .env(SHOP, shop.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, said }
    }

    /// Lets it live until it takes `step` for the `times`th time, and kills it there. Answers whether
    /// it ended before.
    async fn killed_at(
        &mut self,
        step: &str,
        mut times: u32,
        doing: &mut mpsc::UnboundedReceiver<Doing>,
    ) -> bool {
        loop {
            let next = timeout(Duration::from_secs(60), async {
                tokio::select! {
                    line = self.said.next_line() => Step::Said(line.unwrap()),
                    Some((what, go_on)) = doing.recv() => Step::Doing(what, go_on),
                }
            });
            let (what, _held) = match next.await.expect("it goes on") {
                Step::Said(None) => {
                    let ended = self.process.wait().await.unwrap();
                    assert!(ended.success(), "{ended}");
                    return true;
                }
                Step::Said(Some(line)) => (STEPS.into_iter().find(|it| line == *it), None),
                // Perhaps of an earlier life, whose server goes on.
                Step::Doing(what, go_on) => (Some(what), Some(go_on)),
            };
            if what == Some(step) {
                times -= 1;
            }
            if times == 0 {
                // The server is held where it is until the client is gone.
                self.process.kill().await.unwrap();
                return false;
            }
        }
    }
}

enum Step {
    Said(Option<String>),
    Doing(&'static str, tokio::sync::oneshot::Sender<()>),
}

/// Does nothing when it is run as a test.
#[tokio::test]
async fn orders_until_it_is_killed_when_it_is_the_child() {
    let (Ok(folder), Ok(shop)) = (std::env::var(FOLDER), std::env::var(SHOP)) else {
        return;
    };
    let (folder, shop) = (PathBuf::from(folder), shop.parse().unwrap());
    let limits = OutboxLimits::default();
    let opened = open(&folder.join("outbox"), client(), limits, |outbox| outbox).await;
    for pending in opened.outbox.pending().await.unwrap() {
        let key = pending.call.key;
        let request = opened.outbox.request(&key).await.unwrap();
        let order = text(request.into_body()).await;
        let kept = opened.outbox.resume(&key).await.unwrap();
        conclude(&opened, &folder, &order, kept).await;
    }
    let done = notes(&folder);
    let done = |order: &u32| {
        done.iter()
            .any(|note| note.starts_with(&format!("{order} ")))
    };
    for order in (1..=ORDERS).filter(|order| !done(order)) {
        let order = order.to_string();
        let kept = opened.outbox.call(order_at(shop, &order)).await.unwrap();
        conclude(&opened, &folder, &order, kept).await;
    }
    assert!(opened.outbox.pending().await.unwrap().is_empty());
    opened.end().await;
}

/// Makes use of an answer, durably, and then lets the outbox forget it.
async fn conclude(opened: &Opened, folder: &Path, order: &str, kept: Kept) {
    println!("\n{TOLD}");
    assert_eq!(kept.response.status(), 201);
    let state = opened.only().await.call.state;
    assert!(matches!(state, OutboxState::Answered { .. }), "{state:?}");
    let answer = text(kept.response.into_body()).await;
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    let mut file = options.open(folder.join("notes")).unwrap();
    file.write_all(format!("{order} {answer}\n").as_bytes())
        .unwrap();
    file.sync_all().unwrap();
    println!("{NOTED}");
    opened.outbox.acknowledge(&kept.key).await.unwrap();
    println!("{ACKNOWLEDGED}");
}

fn notes(folder: &Path) -> Vec<String> {
    let notes = std::fs::read_to_string(folder.join("notes")).unwrap_or_default();
    notes.lines().map(str::to_owned).collect()
}
