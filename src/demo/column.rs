//! One column of the demo: all calls, through the bad network, over a server that is killed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::ledger;
use onlyonce_chaos::proxy::{Plan, Proxy};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bank::Books;
use super::child::ServerProcess;
use super::clients::{KeyedClient, NaiveClient, Seen};
use super::judge::judge;
use super::log::Log;
use super::work::{AnyClient, WORKERS, Work, beside, resume, work_through};
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
    /// What only a cluster has.
    pub(super) cluster: Option<Cluster>,
    pub(super) faults: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) calls_per_s: f64,
}

/// What holds for the transfers of several servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterGuarantee {
    /// The bank is an outside system: a transfer is a commit of its own, and what is in doubt is asked
    /// about.
    #[default]
    Claimed,
    /// Transfer, claim and answer are one commit: nothing is in doubt, and nobody is asked.
    Transactional,
}

/// What befell several servers on one store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) guarantee: ClusterGuarantee,
    pub(super) servers: u64,
    pub(super) server_pauses: u64,
    pub(super) database_restarts: u64,
    /// Calls that were in doubt, and about which the bank was asked.
    pub(super) doubts_asked: u64,
    /// Calls that were named in doubt, also where they were answered later.
    pub(super) ever_in_doubt: u64,
    /// Orders that came too late, and were refused by the bank.
    pub(super) late_refused: u64,
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

// === impl ClusterGuarantee ===

impl ClusterGuarantee {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Transactional => "transactional",
        }
    }
}

// === impl Run ===

impl Run<'_> {
    /// Runs the column to its end and judges it by what is on disk. The naive one goes on while
    /// nothing has happened twice, so that a run shows what it is about also where chance is kind.
    pub(super) async fn run(&self) -> Result<Column, DemoError> {
        let mut server = ServerProcess::start(self.server()?).await?;
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
            true => AnyClient::Naive(NaiveClient::new([&address])),
            false => AnyClient::Keyed(KeyedClient::new([&address], seen.clone())),
        };

        let mut transfers = Arc::new(workload::transfers(self.seed, self.calls));
        let next = Arc::new(AtomicU64::new(0));
        let (_open, gate) = watch::channel(u64::MAX);
        let mut kills = workload::kills(self.seed, self.calls, self.kills);
        let mut server_restarts = 0;
        let mut took = Duration::ZERO;
        for round in 1.. {
            let began = Instant::now();
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                let clients = (client(), client());
                let work = Work {
                    transfers: Arc::clone(&transfers),
                    log: Arc::clone(&log),
                    next: Arc::clone(&next),
                    gate: gate.clone(),
                };
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
            server = ServerProcess::start(self.server()?).await?;
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
            cluster: None,
            faults,
            p50_ms: log.percentile_ms(0.50),
            p99_ms: log.percentile_ms(0.99),
            calls_per_s: transfers.len() as f64 / took.as_secs_f64(),
        })
    }

    fn server(&self) -> Result<Command, DemoError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("demo-server").arg("--folder").arg(self.folder);
        if self.naive {
            command.arg("--naive");
        }
        Ok(command)
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
            server = ServerProcess::start(self.server()?).await?;
            proxy.set_upstream(server.address());
            restarts += 1;
        }
        log.until_ended(last, self.progress).await;
        Ok((server, restarts))
    }
}
