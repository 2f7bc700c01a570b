//! One column on several servers: all calls, through the bad network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::proxy::{Plan, Proxy};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::child::ServerProcess;
use super::super::clients::{KeyedClient, NaiveClient, Seen};
use super::super::column::{Cluster, Column};
use super::super::judge::judge;
use super::super::log::Log;
use super::super::work::{
    AnyClient, WORKERS, Work, ask_about_doubts, beside, resume, work_through,
};
use super::super::{ClusterGuarantee, DemoError, Progress, goals, workload};
use super::bank::Bank;
use super::database::{ClusterDatabase, Side};
use super::interruptions::{Interruption, interruptions};
use super::server::LEASE;

/// What a column is run with.
pub(super) struct Run<'a> {
    pub(super) guarantee: ClusterGuarantee,
    pub(super) seed: Seed,
    pub(super) calls: u64,
    pub(super) kills: u64,
    pub(super) servers: u64,
    pub(super) side: Side,
    pub(super) progress: &'a dyn Progress,
}

/// The servers, each behind a bad network of its own.
struct Servers {
    processes: Vec<ServerProcess>,
    proxies: Vec<Proxy>,
    counted: Counted,
}

/// What has befallen them.
#[derive(Clone, Copy, Default)]
struct Counted {
    restarts: u64,
    pauses: u64,
    database_restarts: u64,
}

// === impl Run ===

impl Run<'_> {
    /// Runs the column to its end and judges it by the bank's books. The naive one goes on while
    /// nothing has happened twice.
    pub(super) async fn run(&self, database: &mut ClusterDatabase) -> Result<Column, DemoError> {
        let bank = Bank::new(database.url(), &database.bank(self.side));
        let mut servers = self.start(database).await?;
        let log = Arc::new(Log::default());
        let seen = Seen::default();
        let addresses = servers.addresses();
        let client = || match self.side {
            Side::Naive => AnyClient::Naive(NaiveClient::new(&addresses)),
            Side::Onlyonce => AnyClient::Keyed(KeyedClient::new(&addresses, seen.clone())),
        };

        let mut transfers = Arc::new(workload::transfers(self.seed, self.calls));
        let next = Arc::new(AtomicU64::new(0));
        let ours = database.own_server().is_some();
        let mut coming = interruptions(self.seed, self.calls, self.kills, self.servers, ours);
        let mut took = Duration::ZERO;
        for round in 1.. {
            let began = Instant::now();
            let (open, gate) = watch::channel(0);
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
            let interrupting = async {
                for (place, (at, what)) in coming.iter().enumerate() {
                    // Calls go on while it happens, and wait before the next: each meets some.
                    let next = coming.get(place + 1).map_or(last, |(next, _)| *next);
                    open.send_replace(next);
                    log.until_ended(*at, self.progress).await;
                    self.interrupt(*what, &mut servers, database).await?;
                }
                open.send_replace(last);
                log.until_ended(last, self.progress).await;
                Ok(())
            };
            beside(workers, interrupting).await?;
            took += began.elapsed();
            if self.side == Side::Onlyonce
                || bank.books().await?.has_duplicates()
                || !goals::asks_for_another_round(self.calls, round)
            {
                break;
            }
            let more = last + self.calls;
            self.progress
                .begin("naive, until something happens twice", more);
            transfers = Arc::new(workload::transfers(self.seed, more));
            next.store(last, Ordering::Relaxed);
            coming.clear();
        }

        // The network heals; what attempts and budget left open is resumed under the same key, and
        // what was named in doubt while the bank did not answer is asked about again.
        for proxy in &servers.proxies {
            proxy.set_plan(Plan::none());
            proxy.cut();
        }
        let resumed = match client() {
            AnyClient::Naive(_) => 0,
            AnyClient::Keyed(client) => {
                let open = resume(&client, &transfers, &log).await;
                open + ask_about_doubts(&client, &transfers, &log).await
            }
        };
        let (counted, faults) = servers.stop().await?;

        // Nobody works in the bank any more.
        let (books, of_bank) = (bank.books().await?, bank.counted().await?);
        let attempts = match self.side {
            Side::Naive => log.attempts(),
            Side::Onlyonce => seen.attempts(),
        };
        Ok(Column {
            report: judge(&log, &transfers, &books),
            calls: transfers.len() as u64,
            unknown: log.unknown(),
            resumed,
            attempts,
            replayed: seen.replayed(),
            server_restarts: counted.restarts,
            cluster: Some(Cluster {
                guarantee: self.guarantee,
                servers: self.servers,
                server_pauses: counted.pauses,
                database_restarts: counted.database_restarts,
                doubts_asked: of_bank.asked,
                ever_in_doubt: log.ever_in_doubt(),
                late_refused: of_bank.refused,
            }),
            faults,
            p50_ms: log.percentile_ms(0.50),
            p99_ms: log.percentile_ms(0.99),
            calls_per_s: transfers.len() as f64 / took.as_secs_f64(),
        })
    }

    async fn start(&self, database: &ClusterDatabase) -> Result<Servers, DemoError> {
        let mut servers = Servers {
            processes: Vec::new(),
            proxies: Vec::new(),
            counted: Counted::default(),
        };
        for number in 0..self.servers {
            let process = ServerProcess::start(self.server(database)?).await?;
            let seed = Seed::new(self.seed.draw(&[NETWORK, number]).within(0..=u64::MAX - 1));
            let proxy = Proxy::builder(process.address())
                .seed(seed)
                .plan(workload::lossy_network())
                .listen("127.0.0.1:0")
                .await?;
            servers.processes.push(process);
            servers.proxies.push(proxy);
        }
        Ok(servers)
    }

    fn server(&self, database: &ClusterDatabase) -> Result<Command, DemoError> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("demo-cluster-server")
            .args(["--schemas", database.prefix()])
            // Arguments are seen by every user of the machine, and it may hold a password.
            .env("ONLYONCE_DEMO_DATABASE", database.url());
        match (self.side, self.guarantee) {
            (Side::Naive, _) => {
                command.arg("--naive");
            }
            (Side::Onlyonce, ClusterGuarantee::Claimed) => {}
            (Side::Onlyonce, ClusterGuarantee::Transactional) => {
                command.arg("--transactional");
            }
        }
        Ok(command)
    }

    async fn interrupt(
        &self,
        what: Interruption,
        servers: &mut Servers,
        database: &mut ClusterDatabase,
    ) -> Result<(), DemoError> {
        match what {
            Interruption::DatabaseRestart => {
                if let Some(temporary) = database.own_server() {
                    temporary.restart().await?;
                    servers.counted.database_restarts += 1;
                }
            }
            Interruption::Kill { server } => {
                let place = &mut servers.processes[server];
                place.kill().await?;
                *place = ServerProcess::start(self.server(database)?).await?;
                servers.proxies[server].set_upstream(place.address());
                servers.counted.restarts += 1;
            }
            Interruption::Pause { server } => {
                let server = &servers.processes[server];
                server.pause()?;
                sleep(LEASE + LEASE / 2).await;
                server.go_on()?;
                servers.counted.pauses += 1;
            }
        }
        Ok(())
    }
}

// === impl Servers ===

impl Servers {
    fn addresses(&self) -> Vec<String> {
        let proxies = self.proxies.iter();
        proxies.map(|proxy| proxy.addr().to_string()).collect()
    }

    /// Lets all of them finish. Answers what has befallen them, and how many faults their networks
    /// had.
    async fn stop(self) -> Result<(Counted, u64), DemoError> {
        let mut faults = 0;
        for proxy in self.proxies {
            faults += proxy.stats().fired.values().sum::<u64>();
            proxy.stop().await;
        }
        for process in self.processes {
            process.stop().await?;
        }
        Ok((self.counted, faults))
    }
}

/// Each server's network has a seed of its own.
const NETWORK: u64 = 6;
