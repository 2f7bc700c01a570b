//! The hosts, and the steps of their time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::protocol::{Pipes, Protocol};
use super::run::{Order, Run};
use super::wire::{Dialler, SERVER, Wire, network};

/// A server, its clients, and the wire between them.
pub struct World<'a> {
    sim: turmoil::Sim<'a>,
    run: Run,
    wire: Arc<Wire>,
    /// Hosts that are down, and when they come back, in microseconds of the run.
    down: BTreeMap<String, u64>,
    replays: mpsc::UnboundedSender<(Vec<Bytes>, Duration)>,
    steps: u64,
}

// === impl World ===

impl<'a> World<'a> {
    /// A world of this run in which nobody lives yet.
    #[must_use]
    pub fn new(run: Run) -> Self {
        let mut sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .simulation_duration(Duration::MAX)
            .rng_seed(run.seed().value())
            .build();
        let (wire, arriving) = Wire::new(run.clone());
        let (replays, mut replaying) = mpsc::unbounded_channel();
        let carried = Arc::clone(&wire);
        let network = async move {
            let replayed = Arc::clone(&carried);
            tokio::spawn(async move {
                while let Some((bytes, stays)) = replaying.recv().await {
                    tokio::spawn(Arc::clone(&replayed).replay(bytes, stays));
                }
            });
            network(carried, arriving).await;
            Ok(())
        };
        // It never crashes, so it is made once.
        let network = Cell::new(Some(network));
        sim.host("network", move || {
            let network = network.take();
            async move {
                match network {
                    Some(network) => network.await,
                    None => Ok(()),
                }
            }
        });
        Self {
            sim,
            run,
            wire,
            down: BTreeMap::new(),
            replays,
            steps: 0,
        }
    }

    /// The server: `process` is one life of it, with the connections that come to it.
    pub fn server<F>(&mut self, process: impl Fn(Pipes) -> F + 'a)
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        let wire = Arc::clone(&self.wire);
        self.sim.host(SERVER, move || {
            let living = process(wire.listen());
            async move { Ok(living.await?) }
        });
        self.run.lifecycle(SERVER, "started");
    }

    /// A client of this name: `process` is one life of it.
    pub fn client<F>(&mut self, name: &str, process: impl Fn() -> F + 'a)
    where
        F: Future<Output = ()> + 'static,
    {
        self.sim.host(name, move || {
            let living = process();
            async move {
                living.await;
                Ok(())
            }
        });
    }

    /// What connects the client of this name to the server.
    #[must_use]
    pub fn dialler(
        &self,
        client: &str,
        protocol: impl Fn() -> Box<dyn Protocol> + Send + Sync + 'static,
    ) -> Dialler {
        Dialler::new(client, Arc::clone(&self.wire), protocol)
    }

    /// Lets messages come to the server that nobody waits for an answer to, on a connection of their
    /// own, which stays for so long.
    pub fn replay(&self, messages: Vec<Bytes>, stays: Duration) {
        // OK because the network lives as long as the world.
        let _ = self.replays.send((messages, stays));
    }

    /// How many of the connections of [`World::replay`] the server has answered on.
    #[must_use]
    pub fn replayed(&self) -> u64 {
        self.wire.replayed()
    }

    /// A sample of the requests that the server got, each with what opened its connection.
    #[must_use]
    pub fn kept(&self) -> Vec<(Bytes, Bytes)> {
        self.wire.kept()
    }

    /// Whether this host is there and has not come to its end.
    pub fn is_running(&mut self, host: &str) -> bool {
        self.down.contains_key(host) || self.sim.is_host_running(host)
    }

    /// Whether this host was taken down and is not back yet.
    #[must_use]
    pub fn is_down(&self, host: &str) -> bool {
        self.down.contains_key(host)
    }

    /// One step of time. `struck` is told of what happens to a host, before it comes back.
    ///
    /// # Errors
    ///
    /// When a host fails, with what it says.
    pub fn step(&mut self, struck: &mut dyn FnMut(&Order)) -> Result<(), String> {
        self.steps += 1;
        let now_us = self.steps * TICK.as_micros() as u64;
        self.run.set_now_us(now_us);
        self.sim.step().map_err(|error| error.to_string())?;
        for order in self.run.orders() {
            self.obey(&order, struck);
        }
        let back = self.down.iter().find(|(_, at)| **at <= now_us);
        if let Some((host, _)) = back.map(|(host, at)| (host.clone(), *at)) {
            self.down.remove(&host);
            self.run.lifecycle(&host, "started");
            self.sim.bounce(host);
        }
        Ok(())
    }

    fn obey(&mut self, order: &Order, struck: &mut dyn FnMut(&Order)) {
        let (host, back_after, event) = match order {
            Order::Crash { host, back_after } => (host.as_str(), *back_after, "killed"),
            Order::CutPower { .. } => (SERVER, BACK_AFTER_CUT, "power cut"),
        };
        // One that is down or done cannot be struck again.
        if self.down.contains_key(host) || !self.sim.is_host_running(host) {
            return;
        }
        if host == SERVER {
            self.wire
                .server_gone(matches!(order, Order::CutPower { .. }));
        }
        self.run.lifecycle(host, event);
        self.wire.wake_all_of(host);
        self.sim.crash(host);
        struck(order);
        let back_at = self.run.now_us() + back_after.as_micros() as u64;
        self.down.insert(host.to_owned(), back_at);
    }
}

impl fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// One step: latencies are some of these.
const TICK: Duration = Duration::from_millis(1);

/// How long a machine takes to start again.
const BACK_AFTER_CUT: Duration = Duration::from_millis(60);
