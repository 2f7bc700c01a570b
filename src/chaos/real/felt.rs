//! Which calls felt what struck the server as a whole.

use std::collections::{BTreeMap, BTreeSet};

use onlyonce_chaos::fault::{Fault, Place, What};
use onlyonce_chaos::history::{Ending, Event, Happened};

/// Of each fault of the server or its disk that struck, the calls that felt it: those that had an
/// attempt under way, which came to nothing, or was answered only when the server went on.
///
/// A call whose answer was there already felt nothing, nor did one that waited to try again.
pub(super) fn felt(events: &[Event], faults: &[Fault]) -> BTreeMap<String, u64> {
    let whole = faults
        .iter()
        .filter(|fault| matches!(fault.place, Place::Disk | Place::Server));
    let whole: BTreeMap<&str, What> = whole
        .map(|fault| (fault.name.as_str(), fault.what))
        .collect();
    let mut strikes: Vec<Strike<'_>> = Vec::new();
    // The attempts that are under way, with the strikes that they have met.
    let mut sent: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for event in events {
        match &event.what {
            Happened::Fault { name, what, .. } => {
                let Some(fault) = whole.get(name.as_str()) else {
                    continue;
                };
                if *what != fault.name() {
                    continue;
                }
                for met in sent.values_mut() {
                    met.push(strikes.len());
                }
                strikes.push(Strike {
                    name,
                    is_pause: matches!(fault, What::Pause { .. }),
                    is_over: false,
                    felt: BTreeSet::new(),
                });
            }
            Happened::Lifecycle { event, .. } if event == "resumed" => {
                for strike in &mut strikes {
                    strike.is_over = true;
                }
            }
            Happened::Sent => {
                let met = sent.insert(event.call, Vec::new()).unwrap_or_default();
                for strike in met {
                    strikes[strike].felt.insert(event.call);
                }
            }
            Happened::Ended { ending } => {
                let in_vain = matches!(ending, Ending::InDoubt | Ending::Unknown);
                for strike in sent.remove(&event.call).unwrap_or_default() {
                    let strike = &mut strikes[strike];
                    if in_vain || strike.is_pause && strike.is_over {
                        strike.felt.insert(event.call);
                    }
                }
            }
            _ => {}
        }
    }
    let mut calls: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for strike in strikes {
        calls.entry(strike.name).or_default().extend(strike.felt);
    }
    calls
        .into_iter()
        .map(|(name, calls)| (name.to_owned(), calls.len() as u64))
        .collect()
}

struct Strike<'a> {
    name: &'a str,
    is_pause: bool,
    /// Whether what stood still goes on.
    is_over: bool,
    felt: BTreeSet<u64>,
}

#[cfg(test)]
mod tests {
    use onlyonce_chaos::fault::Phase;

    use super::*;

    fn felt_of(what: What, events: &[(u64, Happened)]) -> u64 {
        let faults = [Fault::new("it", Place::Server, what)];
        let events: Vec<Event> = events
            .iter()
            .map(|(call, what)| Event {
                at_us: 0,
                call: *call,
                attempt: 1,
                what: what.clone(),
            })
            .collect();
        felt(&events, &faults).get("it").copied().unwrap_or(0)
    }

    fn struck(what: What) -> (u64, Happened) {
        let (name, what) = ("it".to_owned(), what.name().to_owned());
        let phase = Phase::RequestReceived;
        (0, Happened::Fault { name, what, phase })
    }

    fn ended(call: u64, ending: Ending) -> (u64, Happened) {
        (call, Happened::Ended { ending })
    }

    fn became(event: &str) -> (u64, Happened) {
        let (who, event) = ("server-1".to_owned(), event.to_owned());
        (0, Happened::Lifecycle { who, event })
    }

    #[test]
    fn a_kill_is_felt_by_the_calls_whose_attempt_came_to_nothing_and_by_no_others() {
        let kill = What::Crash { back_after_ms: 5 };
        let answered = || Ending::Answered(Vec::new());
        let events = [
            (1, Happened::Sent),
            (2, Happened::Sent),
            (3, Happened::Sent),
            ended(3, answered()),
            (4, Happened::Sent),
            struck(kill),
            // Its answer was on its way already.
            ended(4, answered()),
            (1, Happened::Sent),
            ended(1, answered()),
            ended(2, Ending::InDoubt),
            (5, Happened::Sent),
            ended(5, answered()),
        ];
        assert_eq!(felt_of(kill, &events), 2);
        // Twice by one call is by one call.
        let twice = [
            (1, Happened::Sent),
            struck(kill),
            (1, Happened::Sent),
            struck(kill),
            (1, Happened::Sent),
        ];
        assert_eq!(felt_of(kill, &twice), 1);
    }

    #[test]
    fn a_pause_is_felt_by_who_is_answered_when_it_is_over_or_asks_again() {
        let pause = What::Pause { for_ms: 5 };
        let answered = || Ending::Answered(Vec::new());
        let events = [
            (1, Happened::Sent),
            (2, Happened::Sent),
            (3, Happened::Sent),
            struck(pause),
            ended(1, answered()),
            (2, Happened::Sent),
            became("resumed"),
            ended(2, answered()),
            ended(3, answered()),
        ];
        assert_eq!(felt_of(pause, &events), 2);
    }
}
