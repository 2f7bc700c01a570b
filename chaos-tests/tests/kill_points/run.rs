//! One run: calls are made while the server is killed, again and again, at the points of a
//! schedule; then it is judged.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::rpc::Client;
use onlyonce_chaos::Proxy;
use onlyonce_chaos::ledger::{self, Ending, Report, Verdict};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::booked;
use super::child::Front;
use super::clients::{self, Habits, Told, WORKERS};
use super::folder::{Beginning, Prepared};
use super::orders::{Order, Receipt, Wish};
use super::process::{End, Passed, Process};
use super::till::Till;

/// Where each incarnation of the server kills itself, in order. One more follows, which does not.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub beginning: Beginning,
    pub kills: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Which kills came about.
    pub killed: Vec<bool>,
    /// Operations that are in doubt without having wished it.
    pub in_doubt: u64,
    pub answered: u64,
    /// What was passed by the last incarnation, up to when it listened, and up to its end.
    pub opened: Passed,
    pub ended: Passed,
}

/// Clients at work, and the network between them and whatever server there is.
struct Run<'a> {
    folder: &'a Path,
    front: Front,
    /// The address of the server changes with every incarnation, this one does not.
    proxy: Proxy,
    told: Arc<Told>,
    working: JoinHandle<Vec<(Client, Client)>>,
    killed: Vec<bool>,
}

// === impl Schedule ===

impl Schedule {
    /// Runs it. Panics where the promise is broken.
    pub async fn run(&self, prepared: &Prepared) -> Outcome {
        let folder = prepared.folder(self.beginning);
        let mut run = Run::begin(&folder, Front::Dedupe, Habits::Usual).await;
        run.go_through(&self.kills).await;
        let mut server = run.start("");
        let address = server.address().await;
        run.proxy
            .set_upstream(address.expect("nothing kills this one"));
        let clients = run.working.await.unwrap();
        clients::ask_again(&clients[0].0, &run.told).await;
        assert_eq!(server.stop().await, End::Stopped, "{self}");

        let mut outcome = Outcome {
            killed: run.killed,
            opened: server.opened,
            ended: server.ended,
            ..Outcome::default()
        };
        let mut effects = Till::read(folder.path());
        effects.extend(booked::read(folder.path()).await);
        self.judge(&run.told, effects, &mut outcome);
        outcome
    }

    /// What the checker says of a server without the layer.
    pub async fn control(&self, prepared: &Prepared) -> Report {
        let folder = prepared.folder(self.beginning);
        let mut run = Run::begin(&folder, Front::Pretence, Habits::None).await;
        run.go_through(&self.kills).await;
        assert!(run.killed.iter().all(|killed| *killed), "{self}");
        let mut server = run.start("");
        let address = server.address().await;
        run.proxy
            .set_upstream(address.expect("nothing kills this one"));
        run.working.await.unwrap();
        server.stop().await;
        let till = Till::read(folder.path());
        ledger::check(&run.told.history(), &clients::effects(till))
    }

    fn judge(&self, told: &Told, till: Vec<(u64, Receipt)>, outcome: &mut Outcome) {
        let report = ledger::check(&told.history(), &clients::effects(till));
        assert_eq!(report.verdict(), Verdict::Valid, "{self}: {report}");
        for (operation, endings) in told.endings() {
            // Where one call of a key was answered or is in doubt, all are.
            let in_doubt = endings.iter().filter(|end| **end == Ending::InDoubt);
            let doubts = in_doubt.count();
            assert!(
                doubts == 0 || doubts == endings.len(),
                "{self}: operation {operation} ended {endings:?}"
            );
            assert!(
                !endings.contains(&Ending::Unknown),
                "{self}: operation {operation} is stuck: {endings:?}"
            );
            let wished = Order { operation }.wish() == Wish::Doubt;
            if doubts == 0 {
                outcome.answered += 1;
                assert!(!wished, "{self}: operation {operation} was answered");
            } else if !wished {
                let booked = Order { operation }.is_booked();
                assert!(
                    !booked,
                    "{self}: operation {operation} was rolled back or not"
                );
                outcome.in_doubt += 1;
            }
        }
        let kills = outcome.killed.iter().filter(|killed| **killed).count() as u64;
        assert!(
            outcome.in_doubt <= kills * WORKERS,
            "{self}: {} calls are in doubt, and {WORKERS} were in flight",
            outcome.in_doubt
        );
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.beginning, self.kills)
    }
}

// === impl Run ===

impl<'a> Run<'a> {
    async fn begin(folder: &'a TempDir, front: Front, habits: Habits) -> Self {
        let nobody = "127.0.0.1:9".parse().unwrap();
        let proxy = Proxy::builder(nobody).listen("127.0.0.1:0").await.unwrap();
        let told = Arc::new(Told::default());
        let work = clients::work(proxy.addr(), Arc::clone(&told), habits);
        Self {
            folder: folder.path(),
            front,
            proxy,
            told,
            working: tokio::spawn(work),
            killed: Vec::new(),
        }
    }

    /// One server for each kill, until it is killed or everything is done.
    async fn go_through(&mut self, kills: &[String]) {
        for kill_at in kills {
            let mut server = self.start(kill_at);
            let end = match server.address().await {
                Err(end) => end,
                Ok(address) => {
                    self.proxy.set_upstream(address);
                    tokio::select! {
                        end = server.end() => end,
                        () = self.until_done() => server.stop().await,
                    }
                }
            };
            self.killed.push(end == End::Killed);
        }
    }

    fn start(&self, kill_at: &str) -> Process {
        Process::start(self.folder, self.front, kill_at)
    }

    /// Waits for the workers without taking what they give back.
    async fn until_done(&self) {
        while !self.working.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

const LOOK: Duration = Duration::from_millis(5);
