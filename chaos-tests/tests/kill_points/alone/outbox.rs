//! One call of a client with an outbox, killed at every passing of every point of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onlyonce::rpc::{Channel, ChannelOptions, Outbox};
use onlyonce::storage::outbox::{OutboxState, OutboxStore};
use onlyonce::storage::{OutboxOptions, Scope, SledOutbox};
use onlyonce_storage::points::KILL_AT;
use tempfile::TempDir;

use super::manual::{KEPT, are_meant, at_once};
use super::outcome::Found;
use super::table;
use crate::child::{FOLDER, say_passed};
use crate::folder::copy;
use crate::orders::{Order, PAY};
use crate::outbox::child::{SERVER, conclude};
use crate::outbox::notes::Notes;
use crate::outbox::server::{self, Shop};
use crate::process::{End, Passed, Process};
use crate::sources;

/// What an outbox says of its call when it is opened again, and whether the server executed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Answered,
    InDoubt,
    NeverSent,
    NothingThere,
    /// The answer was made use of, and the call is gone.
    Over,
    SentExecuted,
    SentNotExecuted,
}

/// Does nothing when it is run as a test.
#[test]
fn calls_alone_until_it_is_killed_when_it_is_the_child() {
    let (Ok(folder), Ok(server)) = (std::env::var(FOLDER), std::env::var(SERVER)) else {
        return;
    };
    let operation = std::env::var(OPERATION).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(PathBuf::from(folder), &server, Order { operation }));
}

async fn live(folder: PathBuf, server: &str, order: Order) {
    let kept = open(&folder).await;
    say_passed("opened");
    let outbox = Outbox::new(
        Channel::new(server, ChannelOptions::default()),
        Arc::<SledOutbox>::clone(&kept),
    );
    let ended = outbox.call(&PAY, &order).await;
    conclude(&outbox, &Notes::open(&folder), order, ended).await;
    drop(outbox);
    kept.close().await.unwrap();
    say_passed("ended");
}

async fn open(folder: &Path) -> Arc<SledOutbox> {
    let options = OutboxOptions::new();
    let kept = SledOutbox::open_async(folder.join("outbox"), Scope::global(), options).await;
    Arc::new(kept.unwrap())
}

// H7, B17
#[tokio::test(flavor = "multi_thread")]
async fn what_an_outbox_keeps_is_what_the_manual_says_at_every_point() {
    let rows = table::rows();
    let points = sources::mentions().into_iter().map(|(name, _)| name);
    let points = points
        .filter(|name| sources::is_the_outbox_s(name) && !name.starts_with(sources::OUTBOX_CHILD));
    let points: Vec<_> = points.collect();
    let mut cases = BTreeMap::new();
    for operation in [PAID, DOUBTED] {
        let shop = server::serve().await;
        let folder = tempfile::tempdir().unwrap();
        let mut client = start(folder.path(), &shop, operation, "");
        assert_eq!(client.end().await, End::Stopped);
        let count = |passed: &Passed, name| passed.get(name).copied().unwrap_or(0);
        for name in &points {
            let opened = count(&client.opened, name.as_str());
            let ended = count(&client.ended, name.as_str());
            // The second shows what the first does not come to.
            let last = if operation == PAID { ended } else { opened + 1 };
            if ended > opened {
                let case = (operation, (opened + 1..=last).collect::<Vec<_>>());
                cases.entry(name.clone()).or_insert(case);
            }
        }
    }
    let left = Arc::new(left().await);
    let runs = points.into_iter().map(|name| {
        let (case, left) = (cases.get(&name).cloned(), Arc::clone(&left));
        tokio::spawn(async move {
            let Some((operation, passings)) = case else {
                // While it is opened: over nothing, and over what an earlier life has left.
                is_kept(&name, &left).await;
                return (name, None);
            };
            let mut found = Vec::new();
            for passing in passings {
                found.push(measure(operation, &format!("{name}#{passing}")).await);
            }
            found.dedup();
            (name, Some(found))
        })
    });
    let seen: Vec<_> = futures_util::StreamExt::collect(at_once(runs)).await;
    let mut differ = Vec::new();
    for (name, found) in seen {
        let words = rows.get(&name).map(|row| row.outcomes(CELL));
        let words = words.unwrap_or_default();
        let (said, found) = match found {
            None => (words == [KEPT], vec![KEPT.to_owned()]),
            Some(found) => (
                are_meant(&found, &words),
                found.iter().map(ToString::to_string).collect(),
            ),
        };
        if !said {
            differ.push(format!("{name:?}: found {found:?}, said {words:?}"));
        }
    }
    assert!(differ.is_empty(), "\n{}", differ.join("\n"));
}

/// What is found after a kill. Panics where resuming loses or doubles something.
async fn measure(operation: u64, kill_at: &str) -> Kept {
    let shop = server::serve().await;
    let folder = tempfile::tempdir().unwrap();
    let mut client = start(folder.path(), &shop, operation, kill_at);
    assert_eq!(client.end().await, End::Killed, "{kill_at}");
    look(folder.path(), &shop, operation, kill_at).await
}

/// Opens it again, looks, and goes on with what is there.
async fn look(folder: &Path, shop: &Shop, operation: u64, kill_at: &str) -> Kept {
    let kept = open(folder).await;
    let calls = kept.list().await.unwrap();
    let executed = || {
        let effects = shop.effects.lock();
        effects.iter().filter(|(of, _)| *of == operation).count()
    };
    let noted = Notes::done(folder).contains(&operation);
    let found = match (calls.first().map(|call| &call.state), executed(), noted) {
        (None, 0, false) => Kept::NothingThere,
        (None, 1, true) => Kept::Over,
        (Some(OutboxState::Unsent), 0, false) => Kept::NeverSent,
        (Some(OutboxState::Sent(_)), 0, false) => Kept::SentNotExecuted,
        (Some(OutboxState::Sent(_)), 1, false) => Kept::SentExecuted,
        (Some(OutboxState::Answered { .. }), 1, _) => Kept::Answered,
        (Some(OutboxState::InDoubt(_)), 1, _) => Kept::InDoubt,
        (state, executed, noted) => {
            panic!("{kill_at}: {state:?}, executed {executed} times, noted: {noted}")
        }
    };
    let address = shop.serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    let outbox = Outbox::new(channel, Arc::<SledOutbox>::clone(&kept));
    outbox.resume_all().await.unwrap();
    for pending in outbox.pending().await.unwrap() {
        match pending.call.state {
            OutboxState::Answered { .. } => assert_ne!(operation, DOUBTED, "{kill_at}"),
            OutboxState::InDoubt(_) => assert_eq!(operation, DOUBTED, "{kill_at}"),
            state => panic!("{kill_at}: {state:?}"),
        }
    }
    assert_eq!(
        executed(),
        usize::from(found != Kept::NothingThere),
        "{kill_at}"
    );
    assert!(shop.renewed.lock().is_empty(), "{kill_at}");
    drop(outbox);
    kept.close().await.unwrap();
    found
}

/// A call that is marked as sent and was not.
async fn left() -> TempDir {
    let shop = server::serve().await;
    let folder = tempfile::tempdir().unwrap();
    let mut client = start(
        folder.path(),
        &shop,
        PAID,
        "outbox: noted as sent, not sent#1",
    );
    assert_eq!(client.end().await, End::Killed);
    folder
}

/// Kills an opening, and panics where the next one does not find what was there.
async fn is_kept(name: &str, left: &TempDir) {
    let kill_at = format!("{name}#1");
    for (full, expected) in [(false, Kept::NothingThere), (true, Kept::SentNotExecuted)] {
        let shop = server::serve().await;
        let folder = tempfile::tempdir().unwrap();
        if full {
            copy(left.path(), folder.path());
        }
        // What the child would call if it were not killed would be found.
        let end = start(folder.path(), &shop, PAID, &kill_at).end().await;
        assert_eq!(end, End::Killed, "{kill_at}");
        // The call that was left is bound to a store that is gone; nothing is resumed here.
        let kept = open(folder.path()).await;
        let calls = kept.list().await.unwrap();
        let found = match calls.first().map(|call| &call.state) {
            None => Kept::NothingThere,
            Some(OutboxState::Sent(_)) => Kept::SentNotExecuted,
            Some(state) => panic!("{kill_at}: {state:?}"),
        };
        assert_eq!(
            (found, calls.len()),
            (expected, usize::from(full)),
            "{kill_at}"
        );
        kept.close().await.unwrap();
    }
}

fn start(folder: &Path, shop: &Shop, operation: u64, kill_at: &str) -> Process {
    let address = shop.serving.local_addr().to_string();
    Process::spawn(
        "alone::outbox::calls_alone_until_it_is_killed_when_it_is_the_child",
        &[
            (FOLDER, folder.to_str().unwrap()),
            (SERVER, address.as_str()),
            (OPERATION, operation.to_string().as_str()),
            (KILL_AT, kill_at),
        ],
    )
}

// === impl Kept ===

impl Found for Kept {}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "answered",
            Self::InDoubt => "in doubt",
            Self::NeverSent => "never sent",
            Self::NothingThere => "nothing there",
            Self::Over => "over",
            Self::SentExecuted => "sent, executed",
            Self::SentNotExecuted => "sent, not executed",
        })
    }
}

const OPERATION: &str = "ONLYONCE_KILL_POINTS_OPERATION";

/// See [`Order::wish`].
const PAID: u64 = 1;
const DOUBTED: u64 = 7;

/// Behind the point and what is durable there.
const CELL: usize = 1;
