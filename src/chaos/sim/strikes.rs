//! Which strikes did something, as far as the history shows.
//!
//! All faults of a moment are drawn before the first of them happens. One that takes the message
//! away leaves nothing for those behind it, and a host that is down is not killed once more. What
//! happened nevertheless is none of theirs: they are not counted.

use std::collections::{BTreeMap, BTreeSet};

use onlyonce_chaos::fault::Phase;
use onlyonce_chaos::history::{Event, Fired, Happened};

/// How often each fault did something, by its name.
pub(super) fn that_did_something(events: &[Event]) -> BTreeMap<String, Fired> {
    let mut kills = Kills::of(events);
    let mut gone = None;
    let mut fired: BTreeMap<String, (u64, BTreeSet<u64>)> = BTreeMap::new();
    for event in events {
        let Happened::Fault { name, what, phase } = &event.what else {
            gone = None;
            continue;
        };
        let moment = Moment {
            at_us: event.at_us,
            call: event.call,
            attempt: event.attempt,
            phase: *phase,
        };
        if gone == Some(moment) {
            continue;
        }
        if takes_away(what) {
            gone = Some(moment);
        }
        if let Some(became) = ends_a_host(what)
            && !kills.take(event.at_us, became)
        {
            continue;
        }
        let (struck, calls) = fired.entry(name.clone()).or_default();
        *struck += 1;
        if event.call > 0 {
            calls.insert(event.call);
        }
    }
    let fired = fired.into_iter().map(|(name, (struck, calls))| {
        let affected = calls.len() as u64;
        (name, Fired { struck, affected })
    });
    fired.collect()
}

/// What all strikes of one message, or of one moment behind an effect, have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    at_us: u64,
    call: u64,
    attempt: u32,
    phase: Phase,
}

/// Hosts that ended, by the time and by what became of them: each was ended by one strike.
struct Kills(BTreeMap<(u64, String), u64>);

// === impl Kills ===

impl Kills {
    fn of(events: &[Event]) -> Self {
        let mut kills = BTreeMap::new();
        for event in events {
            if let Happened::Lifecycle { event: became, .. } = &event.what {
                *kills.entry((event.at_us, became.clone())).or_default() += 1;
            }
        }
        Self(kills)
    }

    fn take(&mut self, at_us: u64, became: &str) -> bool {
        let left = self.0.get_mut(&(at_us, became.to_owned()));
        let Some(left) = left.filter(|left| **left > 0) else {
            return false;
        };
        *left -= 1;
        true
    }
}

/// What a host becomes that is struck by this.
fn ends_a_host(what: &str) -> Option<&'static str> {
    match what {
        "crash" => Some("killed"),
        "power-cut" => Some("power cut"),
        _ => None,
    }
}

fn takes_away(what: &str) -> bool {
    matches!(
        what,
        "drop" | "corrupt" | "truncate" | "reset" | "close" | "blackhole" | "partition"
    ) || ends_a_host(what).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(at_us: u64, what: &str) -> Event {
        let (name, what) = (format!("a {what}"), what.to_owned());
        let phase = Phase::ReplySent;
        event(at_us, 1, Happened::Fault { name, what, phase })
    }

    fn became(at_us: u64, event_name: &str) -> Event {
        let (who, name) = ("server".to_owned(), event_name.to_owned());
        event(at_us, 0, Happened::Lifecycle { who, event: name })
    }

    fn event(at_us: u64, call: u64, what: Happened) -> Event {
        Event {
            at_us,
            call,
            attempt: 1,
            what,
        }
    }

    fn names(events: &[Event]) -> Vec<String> {
        that_did_something(events).into_keys().collect()
    }

    #[test]
    fn behind_a_fault_that_takes_the_message_away_no_other_strikes() {
        let both = [struck(5, "drop"), struck(5, "reset")];
        assert_eq!(names(&both), ["a drop"]);
        let late = [struck(5, "delay"), struck(5, "reset")];
        assert_eq!(names(&late), ["a delay", "a reset"]);
        let next = [struck(5, "drop"), struck(6, "reset")];
        assert_eq!(names(&next), ["a drop", "a reset"]);
    }

    #[test]
    fn a_host_that_is_down_is_not_killed_again() {
        let killed = [struck(5, "crash"), became(5, "killed")];
        assert_eq!(names(&killed), ["a crash"]);
        let down = [struck(5, "crash")];
        assert_eq!(names(&down), [""; 0]);
        let two = [
            struck(5, "power-cut"),
            became(5, "power cut"),
            struck(7, "crash"),
        ];
        assert_eq!(names(&two), ["a power-cut"]);
    }
}
