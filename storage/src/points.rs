//! Ends the process at a named point of the code, as a crash would: with SIGKILL, so that nothing
//! is flushed and no destructor runs.
//!
//! A test starts a process with the variable [`KILL_AT`] in its environment:
//!
//! ```text
//! ONLYONCE_KILL_AT="syncer: group taken, not flushed#3"      at the third passing, at once
//! ONLYONCE_KILL_AT="syncer: group taken, not flushed#3+50"   50 ms later: the thread that
//!                                                              came there stands still, the
//!                                                              others go on and say what they
//!                                                              should not say yet
//! ONLYONCE_KILL_AT=""                                          never: passings are counted
//! ```
//!
//! Without the variable a point costs one look at a flag. The feature `points` is for tests alone:
//! whoever can set a variable of a process could end it in any case, but a product should not
//! carry the code for it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Signal, getpid, kill_process};

/// The variable that says where the process shall end.
pub const KILL_AT: &str = "ONLYONCE_KILL_AT";

/// What the variable asks for.
#[derive(Debug)]
struct Armed {
    target: Option<Target>,
    passed: Mutex<BTreeMap<&'static str, u64>>,
}

/// Where, at which passing, and how long after it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    name: String,
    passing: u64,
    linger: Duration,
}

/// Notes that a point was passed, and ends the process if it is the one. Called by the macro.
#[doc(hidden)]
pub fn pass(name: &'static str) {
    if let Some(armed) = armed() {
        armed.pass(name);
    }
}

/// How often each point was passed so far. Empty where the variable is not set.
#[must_use]
pub fn passed() -> BTreeMap<&'static str, u64> {
    armed().map_or_else(BTreeMap::new, |armed| armed.passed.lock().clone())
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var(KILL_AT).ok()?;
        Some(Armed {
            target: Target::parse(&text),
            passed: Mutex::default(),
        })
    });
    armed.as_ref()
}

// === impl Armed ===

impl Armed {
    fn pass(&self, name: &'static str) {
        let passing = {
            let mut passed = self.passed.lock();
            let count = passed.entry(name).or_default();
            *count += 1;
            *count
        };
        if let Some(target) = &self.target
            && target.name == name
            && target.passing == passing
        {
            target.kill();
        }
    }
}

// === impl Target ===

impl Target {
    /// `None` where the text names no passing of a point.
    fn parse(text: &str) -> Option<Self> {
        let (name, passing) = text.rsplit_once('#')?;
        let (passing, linger_ms) = passing.split_once('+').unwrap_or((passing, "0"));
        Some(Self {
            name: name.to_owned(),
            passing: passing.parse().ok()?,
            linger: Duration::from_millis(linger_ms.parse().ok()?),
        })
    }

    fn kill(&self) -> ! {
        if !self.linger.is_zero() {
            std::thread::park_timeout(self.linger);
        }
        // OK to ignore because a process may always end itself; were it not so, it stands still
        // here, and whoever waits for its end notices.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_point_a_passing_and_a_while() {
        let target = |linger| {
            Some(Target {
                name: "disk: group # written".to_owned(),
                passing: 12,
                linger: Duration::from_millis(linger),
            })
        };
        assert_eq!(Target::parse("disk: group # written#12"), target(0));
        assert_eq!(Target::parse("disk: group # written#12+50"), target(50));
        for nothing in ["", "disk", "disk#", "disk#x", "disk#1+", "disk#1+x"] {
            assert_eq!(Target::parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_process_that_was_told_nothing_passes_and_counts_nothing() {
        pass("a point of a test");
        assert_eq!(passed(), BTreeMap::new());
    }
}
