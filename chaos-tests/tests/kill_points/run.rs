//! One run: calls are made while the server is killed, again and again, at the points of a
//! schedule; then it is judged.

use std::fmt;
use std::sync::Arc;

use onlyonce_chaos::Proxy;
use onlyonce_chaos::ledger::{self, Ending, Verdict};

use super::clients::{self, Told, WORKERS};
use super::folder::{Beginning, Prepared};
use super::orders::{Order, Wish};
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

// === impl Schedule ===

impl Schedule {
    /// Runs it. Panics where the promise is broken.
    pub async fn run(&self, prepared: &Prepared) -> Outcome {
        let folder = prepared.folder(self.beginning);
        // The address of the server changes with every incarnation, its clients' does not.
        let nobody = "127.0.0.1:9".parse().unwrap();
        let proxy = Proxy::builder(nobody).listen("127.0.0.1:0").await.unwrap();
        let told = Arc::new(Told::default());
        let working = tokio::spawn(clients::work(proxy.addr(), Arc::clone(&told)));

        let mut outcome = Outcome::default();
        for kill_at in &self.kills {
            let mut server = Process::start(folder.path(), kill_at);
            let end = match server.address().await {
                Err(end) => end,
                Ok(address) => {
                    proxy.set_upstream(address);
                    tokio::select! {
                        end = server.end() => end,
                        () = until_done(&working) => server.stop().await,
                    }
                }
            };
            outcome.killed.push(end == End::Killed);
        }

        let mut server = Process::start(folder.path(), "");
        proxy.set_upstream(server.address().await.expect("nothing kills this one"));
        let clients = working.await.unwrap();
        clients::ask_again(&clients[0].0, &told).await;
        assert_eq!(server.stop().await, End::Stopped, "{self}");
        outcome.opened = server.opened;
        outcome.ended = server.ended;

        let till = Till::read(folder.path());
        self.judge(&told, till, &mut outcome);
        outcome
    }

    fn judge(&self, told: &Told, till: Vec<(u64, super::orders::Receipt)>, outcome: &mut Outcome) {
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

/// Waits for the workers without giving up their handle.
async fn until_done<T>(working: &tokio::task::JoinHandle<T>) {
    while !working.is_finished() {
        tokio::time::sleep(LOOK).await;
    }
}

const LOOK: std::time::Duration = std::time::Duration::from_millis(5);
