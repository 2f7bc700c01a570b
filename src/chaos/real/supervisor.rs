//! Keeps the server's process up, and takes it down when a fault says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::fault::{Fault, Phase, Place, What};
use onlyonce_chaos::history::{Fired, Happened, in_vain};
use onlyonce_chaos::seed::digest;
use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::disk::Disk;
use super::log::Log;
use super::points::{Armed, kill_at};
use super::process::{Said, ServerProcess, Started};
use super::server::ChaosServerOptions;
use super::strikes::is_at_a_phase;

/// What starts the program where the server runs.
pub(super) type Enter = Box<dyn Fn() -> std::process::Command + Send>;

/// The server of a run, however often it is started.
pub(super) struct Supervisor {
    enter: Enter,
    options: ChaosServerOptions,
    log: Arc<Log>,
    server: ServerProcess,
    fired: BTreeMap<String, Fired>,
    /// Restarts that belong to the workload, the next one last.
    restarts: Vec<Restart>,
    /// Points of its code at which it is to be killed.
    armed: Armed,
    /// What it works on, where the power can be cut.
    disk: Option<Arc<Disk>>,
    /// How often each power cut took nothing, by the fault's ordinal.
    in_vain: BTreeMap<usize, u32>,
}

/// The server goes down when so many calls have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restart {
    pub(super) after_calls: u64,
    pub(super) back_after_ms: u64,
}

// === impl Supervisor ===

impl Supervisor {
    pub(super) async fn start(
        enter: Enter,
        mut options: ChaosServerOptions,
        mut restarts: Vec<Restart>,
        log: Arc<Log>,
        disk: Option<Arc<Disk>>,
    ) -> Result<Self, HarnessError> {
        restarts.sort_unstable_by_key(|restart| std::cmp::Reverse(restart.after_calls));
        let mut armed = Armed::of(&options.faults, options.mode);
        let fired = options
            .faults
            .iter()
            .filter(|fault| matches!(fault.place, Place::Server | Place::Disk));
        let mut fired: BTreeMap<_, _> = fired
            .map(|fault| (fault.name.clone(), Fired::default()))
            .collect();
        let server = up(&enter, &options, &log, &mut armed, &mut fired).await?;
        // Every later one comes back where clients look for it.
        options.listen = server.address;
        Ok(Self {
            enter,
            options,
            log,
            server,
            fired,
            restarts,
            armed,
            disk,
            in_vain: BTreeMap::new(),
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Lets faults strike until `calm` is said or dropped, and comes back when none does any more
    /// and the server is up.
    pub(super) async fn run(
        mut self,
        mut calm: oneshot::Receiver<()>,
    ) -> Result<Self, HarnessError> {
        let mut timed = self.timed();
        loop {
            let until_next = timed
                .last()
                .map(|(at, _)| at.saturating_sub(self.log.elapsed()));
            let next = async {
                match until_next {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let (log, restart) = (Arc::clone(&self.log), self.restarts.last().copied());
            let due = async {
                match restart {
                    Some(restart) => log.until_ended(restart.after_calls).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = &mut calm => break,
                said = self.server.says() => self.heard(said).await?,
                () = due => {
                    if let Some(restart) = self.restarts.pop() {
                        self.server.kill().await?;
                        self.log.lifecycle(WHO, "killed");
                        self.start_again(restart.back_after_ms).await?;
                    }
                }
                () = next => {
                    if let Some((_, fault)) = timed.pop()
                        && !self.strike_from_outside(fault).await?
                    {
                        timed.push((self.log.elapsed() + ONCE_MORE, fault));
                        timed.sort_unstable_by(|one, other| other.cmp(one));
                    }
                }
            }
        }
        loop {
            self.server.calm().await;
            match self.server.says().await {
                // No phase strikes this one any more, so that only a point can end it early.
                Some(Said::Calm) if self.armed.first().is_some() => self.disarm().await?,
                Some(Said::Calm) => return Ok(self),
                said => self.heard(said).await?,
            }
        }
    }

    /// Lets the server end, and says how often each fault has struck.
    pub(super) async fn stop(self) -> Result<BTreeMap<String, Fired>, HarnessError> {
        self.server.stop().await?;
        Ok(self.fired)
    }

    async fn heard(&mut self, said: Option<Said>) -> Result<(), HarnessError> {
        let struck = match said {
            Some(Said::Struck(struck)) => struck,
            Some(Said::Calm) => return Ok(()),
            None => return self.died().await,
        };
        let Some(fault) = self.options.faults.get(struck.fault).cloned() else {
            return Ok(());
        };
        self.note(&fault, struck.call, struck.attempt, struck.phase);
        match fault.what {
            What::Crash { back_after_ms } => {
                self.server.ended().await?;
                self.log.lifecycle(WHO, "killed");
                self.start_again(back_after_ms).await
            }
            What::Pause { for_ms } => self.go_on_after(for_ms).await,
            _ => Ok(()),
        }
    }

    /// Whether it is over: what took nothing is tried once more.
    async fn strike_from_outside(&mut self, ordinal: usize) -> Result<bool, HarnessError> {
        let fault = self.options.faults[ordinal].clone();
        if matches!(fault.what, What::PowerCut) {
            return self.cut_power(ordinal, &fault).await;
        }
        self.note(&fault, 0, 0, Phase::RequestReceived);
        match fault.what {
            What::Crash { back_after_ms } => {
                self.server.kill().await?;
                self.log.lifecycle(WHO, "killed");
                self.start_again(back_after_ms).await?;
            }
            What::Pause { for_ms } => {
                self.server.signal(Signal::STOP)?;
                self.go_on_after(for_ms).await?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// What the server has written and not synced is gone, and so is its process.
    ///
    /// Something that nobody has synced is put there just before, while the server stands still. A
    /// cut after which it is still there took nothing: it is written down as in vain, and has not
    /// struck. Whether that was the last try of it.
    async fn cut_power(&mut self, ordinal: usize, fault: &Fault) -> Result<bool, HarnessError> {
        let Some(disk) = self.disk.clone() else {
            return Err(HarnessError::other(
                "there is no disk whose power can be cut",
            ));
        };
        self.server.signal(Signal::STOP)?;
        let server = &self.server;
        tokio::task::block_in_place(|| {
            disk.leave_unsynced()?;
            // OK because a process that has ended by itself is not there to be killed.
            disk.cut(|| drop(server.signal(Signal::KILL)))
        })?;
        self.server.kill().await?;
        tokio::task::block_in_place(|| disk.turn_on())?;
        // A sync that was under way when the server stopped may have taken it along.
        let took = !tokio::task::block_in_place(|| disk.has_kept())?;
        let phase = Phase::EffectDurable;
        let mut is_over = true;
        if took {
            self.note(fault, 0, 0, phase);
            self.log.lifecycle(WHO, "power cut");
        } else {
            let (name, what) = (fault.name.clone(), in_vain(fault.what));
            self.log.say(0, 0, Happened::Fault { name, what, phase });
            self.log.lifecycle(WHO, "power cut in vain");
            let tries = self.in_vain.entry(ordinal).or_default();
            *tries += 1;
            is_over = *tries >= CUTS_MAX;
        }
        self.start_again(0).await?;
        Ok(is_over)
    }

    async fn start_again(&mut self, back_after_ms: u64) -> Result<(), HarnessError> {
        sleep(Duration::from_millis(back_after_ms)).await;
        self.server = up(
            &self.enter,
            &self.options,
            &self.log,
            &mut self.armed,
            &mut self.fired,
        )
        .await?;
        Ok(())
    }

    /// It has said its last, and nobody here has killed it: at a point of its code, or of itself.
    async fn died(&mut self) -> Result<(), HarnessError> {
        let killed = self.server.was_killed().await;
        let Some(fault) = self.armed.first().filter(|_| killed) else {
            return Err(HarnessError::other("the server's process ended by itself"));
        };
        let back_after_ms = at_a_point(
            &self.options.faults[fault],
            &self.log,
            &mut self.armed,
            &mut self.fired,
        );
        self.start_again(back_after_ms).await
    }

    /// Points cannot be taken back from a process that runs: another one takes its place. While it
    /// shuts down it passes some of them as well.
    async fn disarm(&mut self) -> Result<(), HarnessError> {
        let Some(fault) = self.armed.first() else {
            return Ok(());
        };
        let back_after_ms = match self.server.end().await? {
            true => at_a_point(
                &self.options.faults[fault],
                &self.log,
                &mut self.armed,
                &mut self.fired,
            ),
            false => {
                self.log.lifecycle(WHO, "stopped");
                0
            }
        };
        self.armed.end();
        self.start_again(back_after_ms).await
    }

    async fn go_on_after(&mut self, for_ms: u64) -> Result<(), HarnessError> {
        self.log.lifecycle(WHO, "paused");
        sleep(Duration::from_millis(for_ms)).await;
        self.server.signal(Signal::CONT)?;
        self.log.lifecycle(WHO, "resumed");
        Ok(())
    }

    fn note(&mut self, fault: &Fault, call: u64, attempt: u32, phase: Phase) {
        note(&mut self.fired, &self.log, fault, (call, attempt, phase));
    }

    /// Faults with a time of their own, the next one last: drawn from their windows.
    fn timed(&self) -> Vec<(Duration, usize)> {
        let mut timed = Vec::new();
        for (index, fault) in self.options.faults.iter().enumerate() {
            let elsewhere = is_at_a_phase(fault) || fault.when.point.is_some();
            let is_timed = fault.place == Place::Server || matches!(fault.what, What::PowerCut);
            if !is_timed || elsewhere {
                continue;
            }
            let from = fault.when.from_ms.unwrap_or(0);
            let until = fault.when.until_ms.unwrap_or(from);
            let draw = Seed::new(self.options.seed).draw(&[digest(fault.name.as_bytes())]);
            timed.push((Duration::from_millis(draw.within(from..=until)), index));
        }
        timed.sort_unstable_by(|one, other| other.cmp(one));
        timed
    }
}

/// Starts it until it listens: at points of its opening it may be killed before.
async fn up(
    enter: &Enter,
    options: &ChaosServerOptions,
    log: &Log,
    armed: &mut Armed,
    fired: &mut BTreeMap<String, Fired>,
) -> Result<ServerProcess, HarnessError> {
    loop {
        let fault = armed.first().map(|fault| &options.faults[fault]);
        let kill_at = fault.and_then(kill_at);
        match (
            ServerProcess::start(enter(), options, kill_at).await?,
            fault,
        ) {
            (Started::Up(server), _) => {
                log.lifecycle(WHO, "started");
                return Ok(server);
            }
            (Started::Killed, Some(fault)) => {
                let back_after_ms = at_a_point(fault, log, armed, fired);
                sleep(Duration::from_millis(back_after_ms)).await;
            }
            (Started::Killed, None) => {
                return Err(HarnessError::other("the server's process did not start"));
            }
        }
    }
}

/// Writes down that the process has killed itself; how long it stays down.
fn at_a_point(
    fault: &Fault,
    log: &Log,
    armed: &mut Armed,
    fired: &mut BTreeMap<String, Fired>,
) -> u64 {
    armed.struck();
    note(fired, log, fault, (0, 0, Phase::RequestReceived));
    log.lifecycle(WHO, "killed");
    match fault.what {
        What::Crash { back_after_ms } => back_after_ms,
        _ => 0,
    }
}

fn note(
    fired: &mut BTreeMap<String, Fired>,
    log: &Log,
    fault: &Fault,
    (call, attempt, phase): (u64, u32, Phase),
) {
    // Which calls felt it is seen from what became of them.
    fired.entry(fault.name.clone()).or_default().struck += 1;
    let (name, what) = (fault.name.clone(), fault.what.name().to_owned());
    log.say(call, attempt, Happened::Fault { name, what, phase });
}

const WHO: &str = "server-1";

/// A cut that took nothing comes again after so long: a server that has come back writes by then.
const ONCE_MORE: Duration = Duration::from_millis(150);

/// So often at most. A sync that lasts as long as this all the time is no accident.
const CUTS_MAX: u32 = 4;
