//! Situations that a history shows by itself, so that no executor has to count them.
//!
//! What goes wrong is to be the work of faults, or of who goes down as part of the workload. So neither
//! a kill nor a power cut counts after the faults have ended (a harness may do that of its own), nor an
//! attempt of who asks again for an answer that it has, nor a retry or a doubt of a key at which the
//! service has failed of itself, where the history says that: see [`SERVICE`].

use std::collections::{BTreeMap, BTreeSet};

use super::Goals;
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Place, What};
use crate::history::{Ending, Happened, RunRecord, Seen as At};
use crate::scenario::{Scenario, Workload};

/// A request was lost on its way, so that nothing happened.
pub const REQUEST_LOST: &str = "a request was lost before it arrived";
/// The effect was there and its answer was lost: what retries have to fear.
pub const REPLY_LOST: &str = "a reply was lost after its effect";
/// A call was tried again.
pub const RETRIED: &str = "a call was tried again";
/// A call was tried again and answered, and has one effect.
pub const RETRY_ANSWERED: &str = "a retry was answered without a second effect";
/// A call ended in doubt, and said so. Not one of a key that somebody used for something else.
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
/// An attempt came to the server after the record of its key was swept.
pub const LATE_DUPLICATE: &str = "a duplicate came after its record was swept";
/// An attempt came to the server after its client had acknowledged the answer.
pub const ACKNOWLEDGED: &str = "a duplicate came after its call was acknowledged";

/// Who fails in a [`Happened::Lifecycle`] of a call which the service has failed of itself: it was slow,
/// refused, broke off or does not know, and no fault made it do so.
pub const SERVICE: &str = "service";

/// All situations.
pub const SITUATIONS: [&str; 13] = [
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
    LATE_DUPLICATE,
    ACKNOWLEDGED,
];

/// Whether a situation can arise in a run with these faults and this workload, whoever runs it. Of one
/// that is not [known here](SITUATIONS) it is believed.
///
/// # Errors
///
/// With what would be needed, if not.
pub fn can_arise(scenario: &Scenario, name: &str) -> Result<(), NotRun> {
    let by = |what: &dyn Fn(&Fault) -> bool| scenario.faults.iter().any(what);
    let workload = scenario.workload;
    let goes_down = matches!(workload, Workload::Outbox | Workload::RollingRestarts);
    let (can, needed) = match name {
        REQUEST_LOST => (
            by(&|fault| {
                let early = matches!(fault.when.phase, None | Some(Phase::RequestSent));
                fault.place == Place::Wire && early && loses(fault.what.name())
            }),
            "a fault that takes requests away",
        ),
        KILLED => (
            goes_down || by(&|fault| !matches!(fault.place, Place::Wire | Place::Clock)),
            "a fault that ends a process, or a workload in which one goes down",
        ),
        POWER_CUT => (by(&|fault| fault.what == What::PowerCut), "a power cut"),
        CAME_BACK => (
            workload == Workload::Outbox || by(&|fault| fault.place == Place::Client),
            "clients that crash",
        ),
        ACKNOWLEDGED => (
            by(&|fault| matches!(fault.what, What::Duplicate { .. } | What::Delay { .. })),
            "messages that come twice or late",
        ),
        _ => (true, ""),
    };
    match can {
        true => Ok(()),
        false => Err(NotRun::because(format!("it needs {needed}"))),
    }
}

/// Counts them, each call at most once for each.
#[must_use]
pub fn seen_in(record: &RunRecord) -> Goals {
    let mut goals = Goals::default();
    let mut calls: BTreeMap<u64, Seen<'_>> = BTreeMap::new();
    let mut effects: BTreeMap<&str, u64> = BTreeMap::new();
    let mut swept: BTreeSet<&str> = BTreeSet::new();
    let mut faults_ended = false;
    for event in &record.events {
        faults_ended |= event.what == Happened::FaultsEnded;
        match &event.what {
            Happened::Lifecycle { .. } if faults_ended => {}
            Happened::Lifecycle { event, .. } if event == "killed" => goals.add(KILLED, 1),
            Happened::Lifecycle { event, .. } if event == "power cut" => goals.add(POWER_CUT, 1),
            _ => {}
        }
        // The books name keys; which call of a key it was is not always known.
        if let Happened::Effect { key, .. } = &event.what {
            *effects.entry(key.as_str()).or_default() += 1;
        }
        if let Happened::Swept { key } = &event.what {
            swept.insert(key.as_str());
        }
        if event.call == 0 {
            continue;
        }
        let call = calls.entry(event.call).or_default();
        match &event.what {
            Happened::Invoked { key, payload, .. } => {
                call.came_back |= call.asked.is_some() && !faults_ended;
                call.asked = Some((key, payload));
            }
            // Who has an answer and asks for it again does not retry.
            Happened::Sent if call.ended(|ending| matches!(ending, Ending::Answered(_))) => {}
            Happened::Sent => call.attempts = call.attempts.max(event.attempt),
            Happened::Lifecycle { who, .. } => call.service_failed |= who == SERVICE,
            Happened::Received => {
                let key = call.asked.map(|(key, _)| key.as_str());
                call.came_late |= key.is_some_and(|key| swept.contains(key));
                call.came_unwanted |= call.acknowledged;
            }
            Happened::Acknowledged => call.acknowledged = true,
            // Who tells of a copy when it comes has no other word for that.
            Happened::Fault { what, phase, .. }
                if what == "duplicate" && *phase == Phase::RequestSent =>
            {
                call.came_unwanted |= call.acknowledged;
            }
            Happened::Fault { what, phase, .. } if loses(what) && *phase == Phase::RequestSent => {
                call.request_lost = true;
            }
            Happened::Ended { ending } => call.endings.push(ending),
            _ => {}
        }
    }
    let lost = lost_after_effect(record);
    let mut answered = BTreeSet::new();
    let mut payloads: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
    let mut failed: BTreeSet<&str> = BTreeSet::new();
    for call in calls.values() {
        if let Some((key, payload)) = call.asked {
            payloads.entry(key).or_default().insert(payload);
            failed.extend(call.service_failed.then_some(key.as_str()));
        }
    }
    for (ordinal, call) in &calls {
        let is_answered = call.ended(|ending| matches!(ending, Ending::Answered(_)));
        let effects = call
            .asked
            .and_then(|(key, _)| effects.get(key.as_str()).copied())
            .unwrap_or(0);
        let mut sometimes = |arose: bool, name| goals.add(name, u64::from(arose));
        sometimes(call.request_lost, REQUEST_LOST);
        sometimes(lost.contains(ordinal), REPLY_LOST);
        sometimes(call.came_late, LATE_DUPLICATE);
        sometimes(call.came_unwanted, ACKNOWLEDGED);
        let by_itself = call
            .asked
            .is_some_and(|(key, _)| failed.contains(key.as_str()));
        let retried = call.attempts > 1 && !by_itself;
        sometimes(retried, RETRIED);
        sometimes(retried && is_answered && effects == 1, RETRY_ANSWERED);
        let misused = call.asked.is_some_and(|(key, _)| {
            let payloads = payloads.get(key.as_str());
            payloads.is_some_and(|payloads| payloads.len() > 1)
        });
        // Who has a key from somebody else cannot know what that one has done with it.
        let in_doubt = call.ended(|ending| *ending == Ending::InDoubt);
        sometimes(in_doubt && !by_itself && !misused, IN_DOUBT);
        sometimes(
            call.ended(|ending| matches!(ending, Ending::Declined(_))),
            DECLINED,
        );
        sometimes(call.came_back, CAME_BACK);
        sometimes(
            misused && call.ended(|ending| *ending == Ending::Refused),
            MISUSED,
        );
        if call.asked.is_some() {
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
    came_late: bool,
    acknowledged: bool,
    came_unwanted: bool,
    came_back: bool,
    service_failed: bool,
    endings: Vec<&'a Ending>,
}

// === impl Seen ===

impl Seen<'_> {
    fn ended(&self, how: impl Fn(&Ending) -> bool) -> bool {
        self.endings.iter().any(|ending| how(ending))
    }
}

/// Whether whoever waits for the message waits in vain.
fn loses(what: &str) -> bool {
    !matches!(
        what,
        "delay" | "duplicate" | "pause" | "sync-slow" | "clock-jump" | "packet-loss"
    )
}

/// The calls of which an answer was lost when the effect was there already.
///
/// An answer that is lost may have been a refusal, and the effect that of a later attempt. So what
/// counts is a loss behind the commit. Where the books say only the order of commits, an effect was
/// there at the latest when one was answered that is behind it in that order: if no attempt was sent
/// between the loss and then, it was there before any answer but the one that was lost could tell.
fn lost_after_effect(record: &RunRecord) -> BTreeSet<u64> {
    let mut keys: BTreeMap<u64, &str> = BTreeMap::new();
    let mut sent: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut losses: Vec<(u64, usize)> = Vec::new();
    let mut committed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut order: Vec<(u64, &str)> = Vec::new();
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, event) in record.events.iter().enumerate() {
        let key = keys.get(&event.call).copied();
        match (&event.what, key) {
            (Happened::Invoked { key, .. }, _) if event.call > 0 => {
                keys.insert(event.call, key);
            }
            (Happened::Sent, Some(key)) => sent.entry(key).or_default().push(at),
            (Happened::Fault { what, phase, .. }, Some(_)) if loses_answer(what, *phase) => {
                losses.push((event.call, at));
            }
            (
                Happened::Ended {
                    ending: Ending::Answered(_),
                },
                Some(key),
            ) => {
                answered.entry(key).or_insert(at);
            }
            (Happened::Effect { key, seen, .. }, _) if *seen == At::AtCommit => {
                committed.entry(key).or_insert(at);
            }
            (Happened::Effect { key, index, .. }, _) => order.push((*index, key.as_str())),
            _ => {}
        }
    }
    order.sort_unstable();
    let mut latest = usize::MAX;
    let mut there_by: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, key) in order.into_iter().rev() {
        latest = latest.min(answered.get(key).copied().unwrap_or(usize::MAX));
        there_by.insert(key, latest);
    }
    losses.retain(|&(call, at)| {
        let Some(key) = keys.get(&call) else {
            return false;
        };
        if let Some(&committed) = committed.get(key) {
            return committed < at;
        }
        let attempts = sent.get(key).map_or(&[][..], Vec::as_slice);
        let next = attempts.get(attempts.partition_point(|&sent| sent < at));
        match (there_by.get(key), next) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(there), Some(next)) => there < next,
        }
    });
    losses.into_iter().map(|(call, _)| call).collect()
}

/// Whether this fault at this moment takes an answer away for good.
fn loses_answer(what: &str, phase: Phase) -> bool {
    let ends_server = matches!(what, "crash" | "power-cut");
    match phase {
        Phase::RequestSent | Phase::RequestReceived => false,
        Phase::EffectDurable => ends_server,
        Phase::ReplySent | Phase::ReplyReceived => {
            ends_server
                || matches!(
                    what,
                    "drop" | "corrupt" | "truncate" | "reset" | "close" | "blackhole" | "partition"
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, RunHeader};

    struct Run(RunRecord);

    impl Run {
        fn new() -> Self {
            Self(RunRecord::new(RunHeader::new("by hand", "test", 1)))
        }

        fn event(self, call: u64, what: Happened) -> Self {
            self.attempt(call, 1, what)
        }

        /// Of the second attempt.
        fn second(self, call: u64, what: Happened) -> Self {
            self.attempt(call, 2, what)
        }

        fn attempt(mut self, call: u64, attempt: u32, what: Happened) -> Self {
            let at_us = self.0.events.len() as u64;
            self.0.events.push(Event {
                at_us,
                call,
                attempt,
                what,
            });
            self
        }

        fn invoked(self, call: u64) -> Self {
            let invoked = Happened::Invoked {
                client: 1,
                key: format!("k{call}"),
                payload: Vec::new(),
            };
            self.event(call, invoked).event(call, Happened::Sent)
        }

        fn effect(self, call: u64, index: u64, seen: At) -> Self {
            let effect = Happened::Effect {
                index,
                key: format!("k{call}"),
                payload: Vec::new(),
                answer: Vec::new(),
                legs: Vec::new(),
                seen,
            };
            self.event(call, effect)
        }

        fn struck(self, call: u64, what: &str, phase: Phase) -> Self {
            let (name, what) = (what.to_owned(), what.to_owned());
            self.event(call, Happened::Fault { name, what, phase })
        }

        fn answered(self, call: u64) -> Self {
            let ending = Ending::Answered(Vec::new());
            self.event(call, Happened::Ended { ending })
        }

        fn times(&self, name: &str) -> u64 {
            seen_in(&self.0).count(name)
        }
    }

    #[test]
    fn an_answer_is_lost_after_its_effect_only_where_the_effect_came_first() {
        let after =
            Run::new()
                .invoked(1)
                .effect(1, 1, At::AtCommit)
                .struck(1, "drop", Phase::ReplySent);
        assert_eq!(after.times(REPLY_LOST), 1);
        // What was lost was a refusal: the effect is a later attempt's.
        let before = Run::new()
            .invoked(1)
            .struck(1, "drop", Phase::ReplySent)
            .event(1, Happened::Sent)
            .effect(1, 1, At::AtCommit);
        assert_eq!(before.times(REPLY_LOST), 0);
        // Nothing is lost, or not for good, or it is no answer.
        for (what, phase) in [
            ("delay", Phase::ReplySent),
            ("packet-loss", Phase::ReplySent),
            ("drop", Phase::RequestSent),
            ("sync-fails", Phase::EffectDurable),
        ] {
            let none = Run::new()
                .invoked(1)
                .effect(1, 1, At::AtCommit)
                .struck(1, what, phase);
            assert_eq!(none.times(REPLY_LOST), 0, "{what} at {phase}");
        }
    }

    #[test]
    fn where_only_the_order_of_commits_is_known_it_has_to_show_that_the_effect_came_first() {
        let lost = || {
            Run::new()
                .invoked(2)
                .invoked(1)
                .struck(1, "drop", Phase::ReplySent)
        };
        // Another one that was committed later was answered before the next attempt.
        let shown = lost()
            .answered(2)
            .event(1, Happened::Sent)
            .answered(1)
            .effect(1, 1, At::AtTheEnd)
            .effect(2, 2, At::AtTheEnd);
        assert_eq!(shown.times(REPLY_LOST), 1);
        // It was answered after it, or committed before.
        let late = lost()
            .event(1, Happened::Sent)
            .answered(2)
            .answered(1)
            .effect(1, 1, At::AtTheEnd)
            .effect(2, 2, At::AtTheEnd);
        assert_eq!(late.times(REPLY_LOST), 0);
        let other = lost()
            .answered(2)
            .event(1, Happened::Sent)
            .answered(1)
            .effect(1, 2, At::AtTheEnd)
            .effect(2, 1, At::AtTheEnd);
        assert_eq!(other.times(REPLY_LOST), 0);
        // Nothing was sent any more: no other attempt can have done it.
        assert_eq!(lost().effect(1, 1, At::AtTheEnd).times(REPLY_LOST), 1);
    }

    #[test]
    fn what_happens_when_the_faults_have_ended_is_none_of_their_doing() {
        let went = |event: &str| Happened::Lifecycle {
            who: "server".into(),
            event: event.into(),
        };
        for (event, name) in [("killed", KILLED), ("power cut", POWER_CUT)] {
            let before = Run::new()
                .event(0, went(event))
                .event(0, Happened::FaultsEnded);
            assert_eq!(before.times(name), 1);
            let after = Run::new()
                .event(0, Happened::FaultsEnded)
                .event(0, went(event));
            assert_eq!(after.times(name), 0);
        }
    }

    #[test]
    fn who_asks_again_when_the_faults_have_ended_has_not_come_back() {
        let again = |run: Run| run.second(1, Happened::Sent).invoked(1);
        let before = again(Run::new().invoked(1)).event(0, Happened::FaultsEnded);
        assert_eq!(before.times(CAME_BACK), 1);
        let after = again(Run::new().invoked(1).event(0, Happened::FaultsEnded));
        assert_eq!(after.times(CAME_BACK), 0);
    }

    #[test]
    fn a_service_that_fails_of_itself_makes_no_retry_and_no_doubt_that_counts() {
        let fails = |run: Run, call| {
            let (who, event) = (SERVICE.to_owned(), "does not know".to_owned());
            run.event(call, Happened::Lifecycle { who, event })
        };
        let in_doubt = |run: Run| {
            let ending = Ending::InDoubt;
            run.event(1, Happened::Ended { ending })
        };
        let names = [RETRIED, RETRY_ANSWERED, IN_DOUBT];
        let counts = |run: Run| names.map(|name| run.times(name));
        let again = |run: Run| in_doubt(run).second(1, Happened::Sent).answered(1);
        let run = || Run::new().invoked(1).effect(1, 1, At::AtCommit);
        assert_eq!(counts(again(run())), [1, 1, 1]);
        assert_eq!(counts(again(fails(run(), 1))), [0, 0, 0]);
        // It is the key that counts; that of another call is another one.
        assert_eq!(counts(again(fails(run().invoked(2), 2))), [1, 1, 1]);
    }

    #[test]
    fn who_has_an_answer_and_asks_for_it_again_does_not_retry() {
        let answered = Run::new()
            .invoked(1)
            .effect(1, 1, At::AtCommit)
            .answered(1)
            .second(1, Happened::Sent)
            .answered(1);
        assert_eq!(answered.times(RETRIED), 0);
        assert_eq!(answered.times(RETRY_ANSWERED), 0);
    }

    #[test]
    fn a_duplicate_is_unwanted_where_it_comes_after_its_call_was_acknowledged() {
        let acknowledged = || Run::new().invoked(1).answered(1);
        let twice = |run: Run| run.struck(1, "duplicate", Phase::RequestSent);
        let before = twice(acknowledged()).event(1, Happened::Acknowledged);
        assert_eq!(before.times(ACKNOWLEDGED), 0);
        let after = acknowledged().event(1, Happened::Acknowledged);
        assert_eq!(after.times(ACKNOWLEDGED), 0);
        assert_eq!(twice(after).times(ACKNOWLEDGED), 1);
        let arrived = acknowledged()
            .event(1, Happened::Acknowledged)
            .event(1, Happened::Received);
        assert_eq!(arrived.times(ACKNOWLEDGED), 1);
    }

    #[test]
    fn what_faults_and_workload_cannot_bring_about_is_not_asked_of_anybody() {
        let with = |workload: &str, place: &str, what: &str, when: &str| {
            let text = format!(
                "name = \"t\"\nworkload = \"{workload}\"\n[[fault]]\nname = \"it\"\n\
                 where = \"{place}\"\nwhat = {what}\nwhen = {{ {when} }}\n"
            );
            Scenario::parse(&text).unwrap()
        };
        let crash = "{ crash = { back_after_ms = 5 } }";
        let lost = with("transfers", "wire", "\"drop\"", "");
        let late = with("transfers", "wire", "\"drop\"", "phase = \"reply-sent\"");
        assert!(can_arise(&lost, REQUEST_LOST).is_ok());
        let reason = can_arise(&late, REQUEST_LOST).unwrap_err();
        assert!(reason.reason().contains("takes requests away"), "{reason}");
        assert!(can_arise(&lost, KILLED).is_err() && can_arise(&lost, POWER_CUT).is_err());
        assert!(can_arise(&with("transfers", "server", crash, ""), KILLED).is_ok());
        assert!(can_arise(&with("outbox", "wire", "\"drop\"", ""), KILLED).is_ok());
        assert!(can_arise(&with("transfers", "disk", "\"power-cut\"", ""), POWER_CUT).is_ok());
        assert!(can_arise(&with("outbox", "wire", "\"drop\"", ""), CAME_BACK).is_ok());
        assert!(can_arise(&lost, CAME_BACK).is_err() && can_arise(&lost, ACKNOWLEDGED).is_err());
        assert!(can_arise(&lost, "somebody's own").is_ok());
    }

    #[test]
    fn a_duplicate_is_late_where_it_arrives_after_its_record_was_swept() {
        let swept = || {
            Run::new()
                .invoked(1)
                .event(0, Happened::Swept { key: "k1".into() })
        };
        assert_eq!(swept().times(LATE_DUPLICATE), 0);
        // It was sent, and did not arrive.
        assert_eq!(swept().event(1, Happened::Sent).times(LATE_DUPLICATE), 0);
        let arrived = swept().event(1, Happened::Received);
        assert_eq!(arrived.times(LATE_DUPLICATE), 1);
        let before = Run::new()
            .invoked(1)
            .event(1, Happened::Received)
            .event(0, Happened::Swept { key: "k1".into() });
        assert_eq!(before.times(LATE_DUPLICATE), 0);
    }
}
