//! Situations that a history shows by itself, so that no executor has to count them.

use std::collections::{BTreeMap, BTreeSet};

use super::Goals;
use crate::fault::Phase;
use crate::history::{Ending, Happened, RunRecord};

/// A request was lost on its way, so that nothing happened.
pub const REQUEST_LOST: &str = "a request was lost before it arrived";
/// The effect was there and its answer was lost: what retries have to fear.
pub const REPLY_LOST: &str = "a reply was lost after its effect";
/// A call was tried again.
pub const RETRIED: &str = "a call was tried again";
/// A call was tried again and answered, and has one effect.
pub const RETRY_ANSWERED: &str = "a retry was answered without a second effect";
/// A call ended in doubt, and said so.
pub const IN_DOUBT: &str = "a call ended in doubt";
/// A call was refused for good by the service.
pub const DECLINED: &str = "a call was declined";
/// A key was used for another payload, and refused.
pub const MISUSED: &str = "a key was used for something else and refused";
/// Two calls with one key were both answered.
pub const TWINS: &str = "twins were both answered";
/// Something was killed.
pub const KILLED: &str = "a process was killed";
/// Power was cut.
pub const POWER_CUT: &str = "power was cut";
/// A client came back with a call that it had not finished.
pub const CAME_BACK: &str = "a client came back with an open call";

/// All of the above.
pub const SITUATIONS: [&str; 11] = [
    REQUEST_LOST,
    REPLY_LOST,
    RETRIED,
    RETRY_ANSWERED,
    IN_DOUBT,
    DECLINED,
    MISUSED,
    TWINS,
    KILLED,
    POWER_CUT,
    CAME_BACK,
];

/// Counts them, each call at most once for each.
#[must_use]
pub fn seen_in(record: &RunRecord) -> Goals {
    let mut goals = Goals::default();
    let mut calls: BTreeMap<u64, Seen<'_>> = BTreeMap::new();
    let mut effects: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &record.events {
        match &event.what {
            Happened::Lifecycle { event, .. } if event == "killed" => goals.add(KILLED, 1),
            Happened::Lifecycle { event, .. } if event == "power cut" => goals.add(POWER_CUT, 1),
            _ => {}
        }
        // The books name keys; which call of a key it was is not always known.
        if let Happened::Effect { key, .. } = &event.what {
            *effects.entry(key.as_str()).or_default() += 1;
        }
        if event.call == 0 {
            continue;
        }
        let call = calls.entry(event.call).or_default();
        match &event.what {
            Happened::Invoked { key, payload, .. } => {
                call.came_back |= call.asked.is_some();
                call.asked = Some((key, payload));
            }
            Happened::Sent => call.attempts = call.attempts.max(event.attempt),
            Happened::Fault { what, phase, .. } if loses(what) => match phase {
                Phase::RequestSent => call.request_lost = true,
                Phase::EffectDurable | Phase::ReplySent | Phase::ReplyReceived => {
                    call.reply_lost = true;
                }
                Phase::RequestReceived => {}
            },
            Happened::Ended { ending } => call.endings.push(ending),
            _ => {}
        }
    }
    let mut answered = BTreeSet::new();
    let mut payloads: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
    for call in calls.values() {
        if let Some((key, payload)) = call.asked {
            payloads.entry(key).or_default().insert(payload);
        }
    }
    for call in calls.values() {
        let is_answered = call.ended(|ending| matches!(ending, Ending::Answered(_)));
        let effects = call
            .asked
            .and_then(|(key, _)| effects.get(key.as_str()).copied())
            .unwrap_or(0);
        let mut sometimes = |arose: bool, name| goals.add(name, u64::from(arose));
        sometimes(call.request_lost, REQUEST_LOST);
        sometimes(call.reply_lost && effects > 0, REPLY_LOST);
        sometimes(call.attempts > 1, RETRIED);
        sometimes(
            call.attempts > 1 && is_answered && effects == 1,
            RETRY_ANSWERED,
        );
        sometimes(call.ended(|ending| *ending == Ending::InDoubt), IN_DOUBT);
        sometimes(
            call.ended(|ending| matches!(ending, Ending::Declined(_))),
            DECLINED,
        );
        sometimes(call.came_back, CAME_BACK);
        if let Some((key, _)) = call.asked {
            let several = payloads
                .get(key.as_str())
                .is_some_and(|payloads| payloads.len() > 1);
            sometimes(
                several && call.ended(|ending| *ending == Ending::Refused),
                MISUSED,
            );
            sometimes(is_answered && !answered.insert(call.asked), TWINS);
        }
    }
    goals
}

#[derive(Default)]
struct Seen<'a> {
    asked: Option<(&'a String, &'a Vec<u8>)>,
    attempts: u32,
    request_lost: bool,
    reply_lost: bool,
    came_back: bool,
    endings: Vec<&'a Ending>,
}

// === impl Seen ===

impl Seen<'_> {
    fn ended(&self, how: impl Fn(&Ending) -> bool) -> bool {
        self.endings.iter().any(|ending| how(ending))
    }
}

/// Whether whoever waits for the message waits in vain.
pub(crate) fn loses(what: &str) -> bool {
    !matches!(
        what,
        "delay" | "duplicate" | "pause" | "sync-slow" | "clock-jump"
    )
}
