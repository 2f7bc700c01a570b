//! One column of the demo: all calls, through the bad network, over a server that is killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use onlyonce_chaos::Seed;
use onlyonce_chaos::ledger::{self, Effect, Effects, Ending, History, Money, Operation};
use onlyonce_chaos::proxy::{Plan, Proxy};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bank::{Books, Transfer};
use super::child::ServerProcess;
use super::clients::{Ended, KeyedClient, NaiveClient, Seen, receipt_text};
use super::server::{ACCOUNTS, OPENING};
use super::{DemoError, Progress, goals, tables, workload};

/// What came of a column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) report: ledger::Report,
    pub(super) calls: u64,
    /// The operations whose callers learned nothing.
    pub(super) unknown: Vec<u64>,
    pub(super) resumed: u64,
    pub(super) attempts: u64,
    pub(super) replayed: u64,
    pub(super) server_restarts: u64,
    pub(super) faults: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) calls_per_s: f64,
}

/// What a column is run with.
pub(super) struct Run<'a> {
    pub(super) seed: Seed,
    pub(super) calls: u64,
    pub(super) kills: u64,
    pub(super) naive: bool,
    pub(super) folder: &'a Path,
    pub(super) progress: &'a dyn Progress,
}

/// How the calls of a column ended so far.
struct Log {
    operations: Mutex<BTreeMap<u64, Vec<Ended>>>,
    latencies: Mutex<Vec<Duration>>,
    ended: AtomicU64,
    progressed: Notify,
}

#[derive(Clone)]
enum AnyClient {
    Keyed(KeyedClient),
    Naive(NaiveClient),
}

// === impl Run ===

impl Run<'_> {
    /// Runs the column to its end and judges it by what is on disk. The naive one goes on while
    /// nothing has happened twice, so that a run shows what it is about also where chance is kind.
    pub(super) async fn run(&self) -> Result<Column, DemoError> {
        let mut server = ServerProcess::start(self.folder, self.naive).await?;
        let proxy = Proxy::builder(server.address())
            .seed(self.seed)
            .plan(workload::lossy_network())
            .listen("127.0.0.1:0")
            .await
            .map_err(DemoError::Io)?;
        let log = Arc::new(Log::default());
        let seen = Seen::default();
        let address = proxy.addr().to_string();
        let client = || match self.naive {
            true => AnyClient::Naive(NaiveClient::new(&address)),
            false => AnyClient::Keyed(KeyedClient::new(&address, seen.clone())),
        };

        let mut transfers = Arc::new(workload::transfers(self.seed, self.calls));
        let next = Arc::new(AtomicU64::new(0));
        let mut kills = workload::kills(self.seed, self.calls, self.kills);
        let mut server_restarts = 0;
        let mut took = Duration::ZERO;
        for round in 1.. {
            let began = Instant::now();
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                let clients = (client(), client());
                let work = (Arc::clone(&transfers), Arc::clone(&log), Arc::clone(&next));
                workers.spawn(work_through(clients, work, self.seed));
            }
            let last = transfers.len() as u64;
            let killing = self.kill_on_the_way(server, &proxy, &log, &kills, last);
            let (still, restarts) = beside(workers, killing).await?;
            took += began.elapsed();
            server = still;
            server_restarts += restarts;
            if !self.naive {
                break;
            }
            // Nobody may work in the bank while its books are read.
            server.stop().await?;
            let duplicated = Books::read(&self.folder.join("bank"))?.has_duplicates();
            server = ServerProcess::start(self.folder, self.naive).await?;
            proxy.set_upstream(server.address());
            if duplicated || !goals::asks_for_another_round(self.calls, round) {
                break;
            }
            let more = last + self.calls;
            self.progress
                .begin("naive, until something happens twice", more);
            transfers = Arc::new(workload::transfers(self.seed, more));
            next.store(last, Ordering::Relaxed);
            kills.clear();
        }

        // The network heals; what attempts and budget left open is resumed under the same key.
        proxy.set_plan(Plan::none());
        proxy.cut();
        let resumed = match client() {
            AnyClient::Naive(_) => 0,
            AnyClient::Keyed(client) => resume(&client, &transfers, &log).await,
        };
        let faults = proxy.stats().fired.values().sum();
        proxy.stop().await;
        server.stop().await?;

        let books = match self.naive {
            true => Books::read(&self.folder.join("bank"))?,
            false => tables::read(&self.folder.join("store")).await?,
        };
        let attempts = if self.naive {
            log.attempts()
        } else {
            seen.attempts()
        };
        Ok(Column {
            report: judge(&log, &transfers, &books),
            calls: transfers.len() as u64,
            unknown: log.unknown(),
            resumed,
            attempts,
            replayed: seen.replayed(),
            server_restarts,
            faults,
            p50_ms: log.percentile_ms(0.50),
            p99_ms: log.percentile_ms(0.99),
            calls_per_s: transfers.len() as f64 / took.as_secs_f64(),
        })
    }

    /// Kills the server at its times and starts it again over what is on disk, until `last` calls
    /// have ended.
    async fn kill_on_the_way(
        &self,
        mut server: ServerProcess,
        proxy: &Proxy,
        log: &Log,
        kills: &[u64],
        last: u64,
    ) -> Result<(ServerProcess, u64), DemoError> {
        let mut restarts = 0;
        for kill_at in kills {
            log.until_ended(*kill_at, self.progress).await;
            server.kill().await?;
            server = ServerProcess::start(self.folder, self.naive).await?;
            proxy.set_upstream(server.address());
            restarts += 1;
        }
        log.until_ended(last, self.progress).await;
        Ok((server, restarts))
    }
}

/// Does `killing` while the workers work, and waits for both. A worker that panics never ends its
/// calls, so that waiting for their number alone would last for ever.
async fn beside<T>(
    mut workers: JoinSet<()>,
    killing: impl Future<Output = Result<T, DemoError>>,
) -> Result<T, DemoError> {
    let working = async {
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        Ok(())
    };
    let (done, ()) = tokio::try_join!(killing, working)?;
    Ok(done)
}

type Work = (Arc<Vec<Transfer>>, Arc<Log>, Arc<AtomicU64>);

/// One worker: takes the next transfer until there is none. Some are sent by two clients at once,
/// as a network that doubles messages does; the naive client has no key that would tell the second
/// from another intent, so there it is not sent twice on purpose.
async fn work_through(
    (client, twin): (AnyClient, AnyClient),
    (transfers, log, next): Work,
    seed: Seed,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(transfer) = usize::try_from(index).ok().and_then(|n| transfers.get(n)) else {
            return;
        };
        let began = Instant::now();
        let endings = match (&client, &twin) {
            (AnyClient::Naive(client), _) => vec![client.transfer(transfer).await],
            (AnyClient::Keyed(client), AnyClient::Keyed(twin))
                if workload::is_doubled(seed, transfer.operation) =>
            {
                join_all([client.transfer(transfer), twin.transfer(transfer)]).await
            }
            (AnyClient::Keyed(client), _) => vec![client.transfer(transfer).await],
        };
        log.ended(transfer.operation, endings, began.elapsed());
    }
}

/// Resumes every call that is open, until each has an answer or is known to be in doubt, or
/// patience ends. Answers how many calls had to be resumed.
async fn resume(client: &KeyedClient, transfers: &[Transfer], log: &Log) -> u64 {
    let give_up_at = Instant::now() + PATIENCE;
    let mut resumed = 0;
    for transfer in transfers {
        while let Some(ticket) = log.open(transfer.operation) {
            if Instant::now() >= give_up_at {
                return resumed;
            }
            let ended = client.resume(ticket, transfer).await;
            resumed += u64::from(log.resumed(transfer.operation, ended));
        }
    }
    resumed
}

/// Judges what clients were told by what is on disk.
fn judge(log: &Log, transfers: &[Transfer], books: &Books) -> ledger::Report {
    let mut history = History::new();
    let operations = log.operations.lock();
    for transfer in transfers {
        let endings = operations
            .get(&transfer.operation)
            .map_or(&[][..], Vec::as_slice);
        let mut operation = Operation::new(transfer.operation, payload(transfer))
            .attempts(endings.iter().map(|ended| ended.attempts).sum());
        // What was left open and resumed has ended as the last word says.
        let settled: Vec<_> = endings
            .iter()
            .filter(|e| e.ending != Ending::Unknown)
            .collect();
        if settled.is_empty() && !endings.is_empty() {
            operation = operation.ended(Ending::Unknown);
        }
        for ended in settled {
            operation = operation.ended(ended.ending.clone());
        }
        history.push(operation);
    }
    let effects: Effects = books
        .journal
        .iter()
        .map(|(transfer, receipt)| {
            Effect::new(transfer.operation, payload(transfer), receipt_text(receipt))
        })
        .collect();
    let opening = (0..ACCOUNTS)
        .map(|account| (account.to_string(), OPENING))
        .collect();
    // Each operation once: what the balances would be had nothing happened twice.
    let mut once = BTreeMap::new();
    for (transfer, _) in &books.journal {
        once.entry(transfer.operation)
            .or_insert_with(|| ledger::Transfer {
                from: transfer.from.to_string(),
                to: transfer.to.to_string(),
                amount: transfer.amount,
            });
    }
    let once: Vec<_> = once.into_values().collect();
    let money = Money::check(&opening, &once, &books.balances);
    ledger::check(&history, &effects).with_money(money)
}

fn payload(transfer: &Transfer) -> String {
    let Transfer {
        operation,
        from,
        to,
        amount,
    } = transfer;
    format!("{operation}: {amount} from {from} to {to}")
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self {
            operations: Mutex::default(),
            latencies: Mutex::default(),
            ended: AtomicU64::new(0),
            progressed: Notify::new(),
        }
    }
}

impl Log {
    fn ended(&self, operation: u64, endings: Vec<Ended>, took: Duration) {
        self.operations
            .lock()
            .entry(operation)
            .or_default()
            .extend(endings);
        self.latencies.lock().push(took);
        self.ended.fetch_add(1, Ordering::AcqRel);
        self.progressed.notify_one();
    }

    /// Waits until this many calls have ended.
    async fn until_ended(&self, calls: u64, progress: &dyn Progress) {
        loop {
            let ended = self.ended.load(Ordering::Acquire);
            progress.at(ended);
            if ended >= calls {
                return;
            }
            self.progressed.notified().await;
        }
    }

    /// What to resume an operation with, while nobody has been told what came of it.
    fn open(&self, operation: u64) -> Option<onlyonce_middleware::client::Ticket> {
        let operations = self.operations.lock();
        let endings = operations.get(&operation)?;
        if endings.iter().any(|ended| ended.ending != Ending::Unknown) {
            return None;
        }
        endings.last()?.ticket.clone()
    }

    /// Notes how a resumed call ended; true the first time for this operation.
    fn resumed(&self, operation: u64, ended: Ended) -> bool {
        let mut operations = self.operations.lock();
        let endings = operations.entry(operation).or_default();
        let first = endings.iter().all(|ended| ended.attempts > 0);
        // A resumed call is one more attempt of the same operation; counted at the wire.
        endings.push(Ended {
            attempts: 0,
            ..ended
        });
        first
    }

    /// The operations of which nobody was told anything.
    fn unknown(&self) -> Vec<u64> {
        let operations = self.operations.lock();
        let unknown = operations
            .iter()
            .filter(|(_, endings)| endings.iter().all(|ended| ended.ending == Ending::Unknown));
        unknown.map(|(operation, _)| *operation).collect()
    }

    fn attempts(&self) -> u64 {
        let operations = self.operations.lock();
        operations
            .values()
            .flatten()
            .map(|ended| u64::from(ended.attempts))
            .sum()
    }

    fn percentile_ms(&self, share: f64) -> f64 {
        let mut latencies = self.latencies.lock();
        latencies.sort_unstable();
        let last = latencies.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        latencies
            .get(index)
            .map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    }
}

/// Enough to have calls in flight at every kill.
pub(super) const WORKERS: u64 = 32;

/// A healed network and a running server answer all open calls within seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_ends_the_column() {
        let mut workers = JoinSet::new();
        workers.spawn(pending());
        workers.spawn(async { panic!("on purpose") });
        let ended = beside(workers, pending::<Result<(), DemoError>>()).await;
        assert!(matches!(ended, Err(DemoError::WorkerFailed(_))));
    }
}
