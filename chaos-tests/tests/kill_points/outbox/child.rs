//! The client's process: this test binary, run again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use onlyonce::rpc::{CallFailure, Channel, ChannelOptions, Client, Kept, Outbox, OutboxFailure};
use onlyonce::storage::outbox::OutboxState;
use onlyonce::storage::{IdempotencyKey, OutboxOptions, Scope, SledOutbox};
use onlyonce_chaos::ledger::Ending;
use onlyonce_storage::kill_point;

use super::notes::Notes;
use crate::child::{FOLDER, say_passed};
use crate::clients::{CALLS, text};
use crate::orders::{Declined, Order, PAY, Receipt, Wish};

/// Where the server listens.
pub const SERVER: &str = "ONLYONCE_KILL_POINTS_SERVER";

/// Whether the client has an outbox: see [`Habit`].
pub const HABIT: &str = "ONLYONCE_KILL_POINTS_HABIT";

/// What the client does with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It keeps nothing but its notes: a key dies with its process.
    Forgetful,
    Outbox,
}

/// Does nothing when it is run as a test.
#[test]
fn calls_until_it_is_killed_when_it_is_the_child() {
    let (Ok(folder), Ok(server)) = (std::env::var(FOLDER), std::env::var(SERVER)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Several, also on a small machine: a point at which one stands still holds up only itself.
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let folder = PathBuf::from(folder);
    match std::env::var(HABIT).unwrap() == Habit::Outbox.name() {
        true => runtime.block_on(work(&folder, &server)),
        false => runtime.block_on(work_forgetfully(&folder, &server)),
    }
}

async fn work(folder: &Path, server: &str) {
    let options = OutboxOptions::new();
    let kept = SledOutbox::open_async(folder.join("outbox"), Scope::global(), options).await;
    let kept = Arc::new(kept.unwrap());
    say_passed("opened");
    let channel = Channel::new(server, ChannelOptions::default());
    let outbox = Outbox::new(channel, Arc::<SledOutbox>::clone(&kept));
    let notes = Notes::open(folder);

    // What an earlier life has left.
    outbox.resume_all().await.unwrap();
    let mut known = Notes::done(folder);
    for pending in outbox.pending().await.unwrap() {
        let key = pending.call.key;
        let order = outbox.arguments(&key, &PAY).await.unwrap();
        known.insert(order.operation);
        conclude(&outbox, &notes, order, outbox.resume(&key, &PAY).await).await;
    }

    let next = AtomicU64::new(0);
    let worker = || async {
        while let Some(order) = take(&next, &known) {
            let ended = outbox.call(&PAY, &order).await;
            conclude(&outbox, &notes, order, ended).await;
        }
    };
    join_all((0..WORKERS).map(|_| worker())).await;

    for pending in outbox.pending().await.unwrap() {
        let order = outbox.arguments(&pending.call.key, &PAY).await.unwrap();
        let in_doubt = matches!(pending.call.state, OutboxState::InDoubt(_));
        assert!(in_doubt && order.wish() == Wish::Doubt, "{pending:?}");
    }
    drop(outbox);
    kept.close().await.unwrap();
    say_passed("ended");
}

/// Makes use of an answer, and then lets the outbox forget it.
pub async fn conclude(
    outbox: &Outbox,
    notes: &Notes,
    order: Order,
    ended: Result<Kept<Receipt>, OutboxFailure<Declined>>,
) {
    let (key, ending): (IdempotencyKey, _) = match ended {
        Ok(Kept { key, reply }) => (key, Ending::Answered(text(&reply).into())),
        Err(OutboxFailure::Fault { key, .. }) => (key, Ending::Declined("declined".into())),
        Err(OutboxFailure::InDoubt(_)) => {
            return notes.note(order.operation, &Ending::InDoubt);
        }
        Err(failure) => panic!("operation {}: {failure:?}", order.operation),
    };
    kill_point!("outbox child: answer told, not noted");
    notes.note(order.operation, &ending);
    kill_point!("outbox child: answer noted, not acknowledged");
    outbox.acknowledge(&key).await.unwrap();
}

async fn work_forgetfully(folder: &Path, server: &str) {
    let client = Client::new(server);
    let notes = Notes::open(folder);
    let known = Notes::done(folder);
    let next = AtomicU64::new(0);
    while let Some(order) = take(&next, &known) {
        let ending = match client.call(&PAY, &order).await {
            Ok(receipt) => Ending::Answered(text(&receipt).into()),
            Err(CallFailure::Fault(_)) => Ending::Declined("declined".into()),
            Err(CallFailure::InDoubt(_)) => Ending::InDoubt,
            Err(failure) => panic!("operation {}: {failure:?}", order.operation),
        };
        kill_point!("outbox child: forgetful, answer told, not noted");
        notes.note(order.operation, &ending);
    }
}

/// The next operation of which nothing is known.
fn take(next: &AtomicU64, known: &BTreeSet<u64>) -> Option<Order> {
    loop {
        let operation = next.fetch_add(1, Ordering::Relaxed);
        if operation >= CALLS {
            return None;
        }
        if !known.contains(&operation) {
            return Some(Order { operation });
        }
    }
}

// === impl Habit ===

impl Habit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forgetful => "forgetful",
            Self::Outbox => "outbox",
        }
    }
}

const WORKERS: usize = 4;
