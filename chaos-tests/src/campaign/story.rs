//! What a reader wants to see of a run: the life of one key, and the run over its time.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, Happened, RunRecord};

/// The life of one key: its events, and those of the run that fell in between.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Story {
    /// Whose life.
    pub key: String,
    /// What happened, in its order.
    pub events: Vec<Event>,
    /// How many events were left out behind the last one.
    pub left_out: u64,
}

/// A run over its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// How long it took.
    pub until_us: u64,
    /// When calls began and how long they took.
    pub dots: Vec<Dot>,
    /// How many calls were left out.
    pub left_out: u64,
    /// From when to when something was wrong.
    pub bands: Vec<Band>,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dot {
    /// When it began.
    pub at_us: u64,
    /// How long it took until its first ending.
    pub took_us: u64,
    /// How it ended first: the name of an [`Ending`](crate::history::Ending).
    pub ending: &'static str,
}

/// A time in which something was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Band {
    /// What: the name of a fault, or who was down.
    pub name: String,
    /// From when on.
    pub from_us: u64,
    /// Until when.
    pub until_us: u64,
    /// How often it struck in that time.
    pub struck: u64,
}

// === impl Story ===

impl Story {
    /// The life of a key in a run.
    #[must_use]
    pub fn of(record: &RunRecord, key: &str) -> Self {
        let mut calls = BTreeSet::new();
        for event in &record.events {
            match &event.what {
                Happened::Invoked { key: own, .. } if own == key => {
                    calls.insert(event.call);
                }
                _ => {}
            }
        }
        let own = |event: &Event| match &event.what {
            Happened::Effect { key: own, .. } | Happened::Swept { key: own } => own == key,
            _ => event.call != 0 && calls.contains(&event.call),
        };
        let first = record.events.iter().position(own).unwrap_or(0);
        let last = record.events.iter().rposition(own).unwrap_or(0);
        let between = |at: usize, event: &Event| {
            let of_all = matches!(
                event.what,
                Happened::Lifecycle { .. } | Happened::FaultsEnded
            );
            own(event) || (of_all && event.call == 0 && (first..=last).contains(&at))
        };
        let mut events = record
            .events
            .iter()
            .enumerate()
            .filter(|(at, event)| between(*at, event));
        let kept = events
            .by_ref()
            .take(STORY_EVENTS_MAX)
            .map(|(_, event)| event.clone())
            .collect();
        Self {
            key: key.to_owned(),
            events: kept,
            left_out: events.count() as u64,
        }
    }
}

// === impl Timeline ===

impl Timeline {
    /// A run over its time. Of more calls than can be told apart in a picture every so manyth is
    /// taken.
    #[must_use]
    pub fn of(record: &RunRecord) -> Self {
        let until_us = record
            .events
            .iter()
            .map(|event| event.at_us)
            .max()
            .unwrap_or(0);
        let mut invoked = BTreeMap::new();
        let mut dots = Vec::new();
        let mut bands: BTreeMap<(String, u64), Band> = BTreeMap::new();
        let mut down: BTreeMap<&str, u64> = BTreeMap::new();
        let width_us = (until_us / BAND_PARTS).max(1);
        for event in &record.events {
            match &event.what {
                Happened::Invoked { .. } => {
                    invoked.entry(event.call).or_insert(event.at_us);
                }
                Happened::Ended { ending } => {
                    if let Some(at_us) = invoked.insert(event.call, u64::MAX)
                        && at_us != u64::MAX
                    {
                        let took_us = event.at_us.saturating_sub(at_us);
                        let ending = ending.name();
                        dots.push(Dot {
                            at_us,
                            took_us,
                            ending,
                        });
                    }
                }
                Happened::Fault { name, .. } => {
                    let part = event.at_us / width_us;
                    let band = bands.entry((name.clone(), part)).or_insert_with(|| Band {
                        name: name.clone(),
                        from_us: part * width_us,
                        until_us: (part + 1) * width_us,
                        struck: 0,
                    });
                    band.struck += 1;
                }
                Happened::Lifecycle { who, event: became } => match became.as_str() {
                    "killed" | "paused" | "power cut" | "power cut in vain" => {
                        down.entry(who).or_insert(event.at_us);
                    }
                    "started" | "resumed" => {
                        if let Some(from_us) = down.remove(who.as_str()) {
                            let band = Band::down(who, from_us, event.at_us);
                            bands.insert((band.name.clone(), from_us), band);
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        for (who, from_us) in down {
            let band = Band::down(who, from_us, until_us);
            bands.insert((band.name.clone(), from_us), band);
        }
        let every = dots.len().div_ceil(DOTS_MAX).max(1);
        let all = dots.len();
        let dots: Vec<Dot> = dots.into_iter().step_by(every).collect();
        Self {
            until_us,
            left_out: (all - dots.len()) as u64,
            dots,
            bands: bands.into_values().collect(),
        }
    }
}

// === impl Band ===

impl Band {
    fn down(who: &str, from_us: u64, until_us: u64) -> Self {
        Self {
            name: format!("{who} is down"),
            from_us,
            until_us,
            struck: 1,
        }
    }
}

/// What a reader can follow, and a report of a few megabytes can hold for some keys.
const STORY_EVENTS_MAX: usize = 80;

/// More do not show in a picture, and each takes some fifty bytes of a report.
const DOTS_MAX: usize = 3_000;

/// How finely a run is cut for its bands.
const BAND_PARTS: u64 = 120;
