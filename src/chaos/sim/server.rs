//! One life of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::history::{Happened, Seen};
use onlyonce_chaos::scenario::Mode;
use onlyonce_chaos::sim::{Order, Pipes, Run};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower::Layer;

use super::bank::{ACCOUNTS, Bank, Entry, JOURNAL, Transfer, number};
use crate::middleware::server::{DedupeOptions, Wait};
use crate::middleware::stack;
use crate::rpc::simulated::serve_pipes;
use crate::rpc::{Routes, Server, ServerAdapter};
use crate::storage::simulated::{Durable, NotOpened, SimOptions, SimStore};
use crate::storage::transaction::{RANGE_ROWS_MAX, RowRange, TransactionalStore};
use crate::storage::{Clock, KeyDigest, RetentionOptions, Store, StoreId, StoreLimits, Timestamp};

/// What the lives of the server have in common.
#[derive(Clone)]
pub(super) struct Lives {
    pub(super) run: Run,
    pub(super) bank: Bank,
    pub(super) mode: Mode,
    /// Counts disks: a server that comes back with an empty one has another store.
    pub(super) store: Arc<AtomicU64>,
    /// Which world of this process.
    pub(super) world: u64,
    pub(super) asked: Arc<Mutex<Asked>>,
    /// How many stacks serve over the one store: with two, connections go to them in turn, as to two
    /// processes that share a store. Neither knows what the other has under way.
    pub(super) stacks: usize,
}

/// What the town wants of the server, and what it said.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) sweep: bool,
    pub(super) swept: Option<Vec<KeyDigest>>,
    pub(super) audit: bool,
    /// Whether the books were read to their end.
    pub(super) audited: Option<Audit>,
    /// What an opening has said that found the store damaged.
    pub(super) damaged: Vec<String>,
}

/// The books in the store.
pub(super) struct Audit {
    /// In the order of their commits, each with the time of it, where that was seen.
    pub(super) effects: Vec<(u64, Option<u64>, Happened)>,
    pub(super) balances: std::collections::BTreeMap<String, i64>,
}

/// The wall clock of the server's machine.
#[derive(Debug)]
struct RunClock(Run);

impl Clock for RunClock {
    fn now(&self) -> Timestamp {
        let ms = EPOCH_MS + self.0.now_us() / 1_000;
        Timestamp::from_millis(ms.saturating_add_signed(self.0.clock_off_ms()))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.0.now_us())
    }
}

// === impl Lives ===

impl Lives {
    /// One of them.
    pub(super) async fn live(self, pipes: Pipes) -> Result<(), String> {
        let options = SimOptions {
            id: self.store_id(),
            clock: Arc::new(RunClock(self.run.clone())),
            retention: RetentionOptions::default(),
            limits: StoreLimits::default(),
            durable: Some(Durable::new({
                let bank = self.bank.clone();
                move |table, row, value| bank.committed(table, row, value)
            })),
        };
        let store = match SimStore::open(self.bank.disk.clone(), options).await {
            Ok(store) => Arc::new(store),
            Err(error) => {
                if let NotOpened::Damaged(why) = error {
                    self.asked.lock().damaged.push(why);
                }
                self.start_again();
                std::future::pending().await
            }
        };
        *self.bank.store.lock() = Arc::downgrade(&store);
        tokio::spawn(self.clone().watch(Arc::clone(&store)));
        self.serve(store, pipes).await
    }

    fn store_id(&self) -> StoreId {
        let numbers = u128::from(self.world) << 64 | u128::from(self.store.load(Ordering::Relaxed));
        StoreId::from_bytes(numbers.to_be_bytes())
    }

    async fn serve(&self, store: Arc<SimStore>, pipes: Pipes) -> Result<(), String> {
        let routes = match self.mode {
            Mode::Transactional => self.bank.transactional(),
            Mode::Claimed | Mode::Naive => self.bank.claimed(),
        };
        if self.mode == Mode::Naive {
            // It says that it dedupes, as many a server does that does not.
            let told = Arc::clone(&store);
            let server = Server::builder().global_scope();
            let server = server.store(store.id(), move || told.now());
            let server = server.build().map_err(|error| error.to_string())?;
            serve_pipes(server, pipes, routes).await;
            return Ok(());
        }
        let serving = in_turn(pipes, self.stacks.max(1)).into_iter().map(|pipes| {
            let routes = routes.clone();
            self.serve_deduped(Arc::clone(&store), pipes, routes)
        });
        let served = futures_util::future::join_all(serving).await;
        served.into_iter().collect()
    }

    async fn serve_deduped(
        &self,
        store: Arc<SimStore>,
        pipes: Pipes,
        routes: Routes,
    ) -> Result<(), String> {
        let server = Server::builder().global_scope();
        let mut options = DedupeOptions::default();
        options.lease = Duration::from_secs(2);
        options.wait = Wait::UpTo(Duration::from_millis(300));
        let adapter = ServerAdapter::new(routes.clone());
        let stack = stack::server_with(store as Arc<dyn Store>, adapter, options);
        let server = server.dedupe(stack.executions());
        let server = server.build().map_err(|error| error.to_string())?;
        serve_pipes(server, pipes, stack.layer(routes)).await;
        Ok(())
    }

    /// Starts the server again when its store has failed, as an operator does, and does what the
    /// town asks for.
    async fn watch(self, store: Arc<SimStore>) {
        for turn in 1_u64.. {
            sleep(Duration::from_millis(10)).await;
            if store.is_poisoned() {
                self.start_again();
                return;
            }
            let (sweep, audit) = {
                let asked = self.asked.lock();
                (asked.sweep, asked.audit)
            };
            if turn % 16 == 0 && !sweep {
                // Nothing is past its time, so that it removes nothing.
                let _ = store.sweep().await;
            }
            if sweep {
                let swept = store.sweep().await;
                let mut asked = self.asked.lock();
                asked.sweep = false;
                asked.swept = swept.ok();
            }
            if audit {
                let audited = audit_books(&store, &self.bank).await;
                let mut asked = self.asked.lock();
                asked.audit = false;
                asked.audited = audited;
            }
        }
    }

    fn start_again(&self) {
        self.bank.disk.set_full(false);
        self.run.order(Order::Crash {
            host: "server".to_owned(),
            back_after: Duration::from_millis(20),
        });
    }
}

/// Hands connections to so many servers, to each one after the other.
fn in_turn(mut pipes: Pipes, servers: usize) -> Vec<Pipes> {
    if servers == 1 {
        return vec![pipes];
    }
    let (to, from): (Vec<_>, Vec<_>) = (0..servers).map(|_| mpsc::unbounded_channel()).unzip();
    tokio::spawn(async move {
        let mut turn = 0;
        while let Some(pipe) = pipes.recv().await {
            // OK because they end together.
            let _ = to[turn % to.len()].send(pipe);
            turn += 1;
        }
    });
    from
}

async fn audit_books(store: &SimStore, bank: &Bank) -> Option<Audit> {
    let mut audit = Audit {
        effects: Vec::new(),
        balances: std::collections::BTreeMap::new(),
    };
    let rows = store
        .read(RowRange::new(
            &ACCOUNTS,
            &(b"".as_slice()..),
            RANGE_ROWS_MAX,
        ))
        .await
        .ok()?;
    for (name, balance) in rows {
        let name = String::from_utf8(name.to_vec()).ok()?;
        audit.balances.insert(name, number(Some(balance)));
    }
    let mut after: Vec<u8> = Vec::new();
    loop {
        let range = RowRange::new(&JOURNAL, &(&after[..]..), RANGE_ROWS_MAX);
        let rows = store.read(range).await.ok()?;
        let Some((last, _)) = rows.last() else { break };
        after = [&last[..], &[0]].concat();
        for (row, entry) in rows {
            let index = number(Some(row.slice(..8.min(row.len())))) as u64;
            let entry: Entry = serde_json::from_slice(&entry).ok()?;
            let committed_us = bank.committed_us(&row);
            audit.effects.push((
                entry.transfer.call,
                committed_us,
                Happened::Effect {
                    index,
                    key: entry.key,
                    payload: entry.transfer.bytes(),
                    answer: entry.answer.into_bytes(),
                    legs: Transfer::of(bank.run.seed(), bank.workload, entry.transfer.call).legs(),
                    seen: match committed_us {
                        Some(_) => Seen::AtCommit,
                        None => Seen::AtTheEnd,
                    },
                },
            ));
        }
    }
    Some(audit)
}

/// When runs begin.
const EPOCH_MS: u64 = 1_800_000_000_000;
