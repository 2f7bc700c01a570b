//! Faults of the server's process that strike at a phase of an attempt: the process strikes itself,
//! so that not an instruction more runs than the phase allows.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Fault, Phase, Place, Subject, What};
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::Instant;

/// What this process does to itself, and when.
pub(super) struct Strikes {
    seed: Seed,
    faults: Vec<Fault>,
    /// When the run began, on this process's clock.
    began: Instant,
    over: AtomicBool,
}

/// A line of the server's to its executor: this fault strikes here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Struck {
    pub(super) fault: usize,
    pub(super) call: u64,
    pub(super) attempt: u32,
    pub(super) phase: Phase,
}

// === impl Strikes ===

impl Strikes {
    pub(super) fn new(seed: Seed, faults: Vec<Fault>, elapsed: Duration) -> Self {
        let now = Instant::now();
        Self {
            seed,
            faults,
            began: now.checked_sub(elapsed).unwrap_or(now),
            over: AtomicBool::new(false),
        }
    }

    /// Does not come back when the process is to be killed here; comes back later when it pauses.
    pub(super) fn at(&self, call: u64, attempt: u32, phase: Phase) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        let at = self.began.elapsed();
        let subject = Subject {
            call,
            attempt,
            phase,
            at,
        };
        for (index, fault) in self.faults.iter().enumerate() {
            if !is_at_a_phase(fault) || fault.strikes(self.seed, subject).is_none() {
                continue;
            }
            let signal = match fault.what {
                What::Crash { .. } => Signal::KILL,
                What::Pause { .. } => Signal::STOP,
                _ => continue,
            };
            let struck = Struck {
                fault: index,
                call,
                attempt,
                phase,
            };
            say(&struck.line());
            let _ = kill_process(getpid(), signal);
        }
    }

    /// Nothing strikes from now on.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        say(CALM);
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // OK because without anybody who listens this process ends anyway.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// What is said when no fault strikes any more.
pub(super) const CALM: &str = "calm";

/// Whether it strikes when an attempt is at some phase, and not at a time of its own.
pub(super) fn is_at_a_phase(fault: &Fault) -> bool {
    fault.place == Place::Server && fault.when.phase.is_some()
}

// === impl Struck ===

impl Struck {
    fn line(&self) -> String {
        let Self {
            fault,
            call,
            attempt,
            phase,
        } = self;
        format!("strike {fault} {call} {attempt} {phase}")
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let ["strike", fault, call, attempt, phase] = words[..] else {
            return None;
        };
        Some(Self {
            fault: fault.parse().ok()?,
            call: call.parse().ok()?,
            attempt: attempt.parse().ok()?,
            phase: Phase::ALL.into_iter().find(|known| known.name() == phase)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strike_is_read_as_it_is_said() {
        for phase in Phase::ALL {
            let struck = Struck {
                fault: 3,
                call: 1_818,
                attempt: 2,
                phase,
            };
            assert_eq!(Struck::parse(&struck.line()), Some(struck));
        }
        assert_eq!(Struck::parse("strike 1 2 3 lunch"), None);
        assert_eq!(Struck::parse("listening 127.0.0.1:1"), None);
    }
}
