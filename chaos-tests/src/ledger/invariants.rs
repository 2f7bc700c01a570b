//! Each invariant: a run that breaks it and only it, and one that nearly does.

use super::{Verdict, judge};
use crate::history::{Ending, Event, Happened, OTHER_STORE, RunHeader, RunRecord, Seen};

/// A run of one's own making; times are in microseconds.
pub(super) struct Run(pub(super) RunRecord);

impl Run {
    pub(super) fn new() -> Self {
        let mut record = RunRecord::new(RunHeader {
            resolve_within_ms: Some(1),
            opening: [("a".to_owned(), 100), ("b".to_owned(), 0)].into(),
            ..RunHeader::new("by hand", "test", 1)
        });
        record.complete = true;
        Self(record)
    }

    pub(super) fn event(mut self, at_us: u64, call: u64, what: Happened) -> Self {
        self.0.events.push(Event {
            at_us,
            call,
            attempt: 1,
            what,
        });
        self
    }

    pub(super) fn invoked(self, at_us: u64, call: u64, key: &str) -> Self {
        self.invoked_with(at_us, call, key, "pay")
    }

    pub(super) fn invoked_with(self, at_us: u64, call: u64, key: &str, payload: &str) -> Self {
        let invoked = Happened::Invoked {
            client: 1,
            key: key.into(),
            payload: payload.into(),
        };
        self.event(at_us, call, invoked)
            .event(at_us, call, Happened::Sent)
    }

    pub(super) fn effect(self, at_us: u64, call: u64, key: &str, index: u64) -> Self {
        self.effect_of(at_us, call, key, index, "pay", Seen::AtCommit)
    }

    pub(super) fn effect_of(
        self,
        at_us: u64,
        call: u64,
        key: &str,
        index: u64,
        payload: &str,
        seen: Seen,
    ) -> Self {
        let effect = Happened::Effect {
            index,
            key: key.into(),
            payload: payload.into(),
            answer: b"ok".to_vec(),
            legs: vec![("a".into(), -1), ("b".into(), 1)],
            seen,
        };
        self.event(at_us, call, effect)
    }

    pub(super) fn ended(self, at_us: u64, call: u64, ending: Ending) -> Self {
        self.event(at_us, call, Happened::Ended { ending })
    }

    pub(super) fn answered(self, at_us: u64, call: u64) -> Self {
        self.ended(at_us, call, Ending::Answered(b"ok".to_vec()))
    }

    /// A call from its beginning to its answer, within 20 microseconds.
    pub(super) fn whole(self, at_us: u64, call: u64, key: &str, index: u64) -> Self {
        self.invoked(at_us, call, key)
            .effect(at_us + 10, call, key, index)
            .answered(at_us + 20, call)
    }

    pub(super) fn accounts(mut self, a: i64, b: i64) -> Self {
        self.0.accounts = Some([("a".to_owned(), a), ("b".to_owned(), b)].into());
        self
    }

    /// Beside what it is about, a whole run has a call that is answered, and says when the faults
    /// ended.
    pub(super) fn made_whole(&self) -> RunRecord {
        let mut whole = Self(self.0.clone());
        let has = |run: &Self, wanted: fn(&Happened) -> bool| {
            run.0.events.iter().any(|event| wanted(&event.what))
        };
        let last_us = self.0.events.last().map_or(0, |event| event.at_us);
        let is_answer = |what: &Happened| {
            matches!(
                what,
                Happened::Ended {
                    ending: Ending::Answered(_) | Ending::Declined(_)
                }
            )
        };
        if !has(&whole, is_answer) {
            whole = whole.whole(last_us + 1, 1 << 50, "beside", 1 << 50);
        }
        if !has(&whole, |what| *what == Happened::FaultsEnded) {
            whole = whole.event(last_us + 100, 0, Happened::FaultsEnded);
        }
        whole.0
    }

    #[track_caller]
    pub(super) fn is_valid(&self) {
        let report = judge(&self.made_whole());
        assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    }

    #[track_caller]
    pub(super) fn breaks_only(&self, invariant: &str, name: &str) {
        let report = judge(&self.0);
        assert_eq!(report.verdict(), Verdict::Violated, "{report}");
        let broken: Vec<_> = report
            .violations()
            .iter()
            .map(|violation| (violation.invariant(), violation.name()))
            .collect();
        assert!(
            broken.iter().all(|one| *one == (invariant, name)),
            "{report}"
        );
    }

    #[track_caller]
    pub(super) fn is_unknown_because(&self, doubt: &str) {
        let report = judge(&self.0);
        assert_eq!(report.verdict(), Verdict::Unknown, "{report}");
        assert!(
            report.doubts().iter().any(|said| said.contains(doubt)),
            "{report}"
        );
    }
}

#[test]
fn i1_the_effect_of_a_key_happens_at_most_once() {
    let once = Run::new().whole(0, 1, "k", 1);
    once.is_valid();
    // Two keys with the same payload are two intents.
    Run::new()
        .whole(0, 1, "k", 1)
        .whole(30, 2, "l", 2)
        .is_valid();
    Run::new()
        .invoked(0, 1, "k")
        .effect(10, 1, "k", 1)
        .effect(11, 1, "k", 2)
        .answered(20, 1)
        .breaks_only("I1", "double-apply");
    // Also by another call with the same key, and where the books name no call.
    Run::new()
        .invoked(0, 1, "k")
        .invoked(1, 2, "k")
        .effect(10, 1, "k", 1)
        .effect(11, 2, "k", 2)
        .answered(20, 1)
        .answered(20, 2)
        .breaks_only("I1", "double-apply");
    Run::new()
        .invoked(0, 1, "k")
        .effect(10, 1, "k", 1)
        .effect(11, 0, "k", 2)
        .ended(20, 1, Ending::InDoubt)
        .breaks_only("I1", "double-apply");
}

#[test]
fn i2_what_was_acknowledged_is_there() {
    Run::new()
        .invoked(0, 1, "k")
        .answered(20, 1)
        .breaks_only("I2", "lost-acked");
    Run::new()
        .invoked(0, 1, "k")
        .ended(20, 1, Ending::InDoubt)
        .is_valid();
    // Without a final read to the end nothing is known to be absent.
    let mut cut = Run::new().invoked(0, 1, "k").answered(20, 1);
    cut.0.complete = false;
    cut.is_unknown_because("final read");
}

#[test]
fn i3_all_answers_of_a_key_are_equal_and_those_of_the_effect() {
    let other = || Ending::Answered(b"OK".to_vec());
    Run::new().whole(0, 1, "k", 1).answered(30, 1).is_valid();
    Run::new()
        .whole(0, 1, "k", 1)
        .ended(30, 1, other())
        .breaks_only("I3", "reply-divergence");
    Run::new()
        .invoked(0, 1, "k")
        .effect(10, 1, "k", 1)
        .ended(20, 1, other())
        .breaks_only("I3", "reply-divergence");
    let twins = |second| {
        Run::new()
            .invoked(0, 1, "k")
            .invoked(0, 2, "k")
            .effect(10, 1, "k", 1)
            .answered(20, 1)
            .ended(20, 2, second)
    };
    twins(Ending::Answered(b"ok".to_vec())).is_valid();
    twins(other()).breaks_only("I3", "reply-divergence");
}

/// An answer that was given is the answer of whoever asks from then on.
#[test]
fn i3_an_answer_that_was_given_is_not_taken_back() {
    let answered = || Run::new().whole(0, 1, "k", 1);
    // The same client asks again.
    answered()
        .ended(40, 1, Ending::InDoubt)
        .breaks_only("I3", "reply-divergence");
    let refused = judge(&answered().ended(40, 1, Ending::Refused).0);
    assert_eq!(refused.violations()[0].name(), "reply-divergence");
    // Another one asks for the same when the answer was given, or before.
    let twin = |asked_us, ending| answered().invoked(asked_us, 2, "k").ended(40, 2, ending);
    twin(21, Ending::InDoubt).breaks_only("I3", "reply-divergence");
    twin(20, Ending::InDoubt).is_valid();
    // No attempt of its own was executed, and none of them may have come to the server.
    twin(21, Ending::Refused).is_valid();
    // Its question is what it asked last: it goes on, or comes back.
    let twins = || {
        Run::new()
            .invoked(0, 1, "k")
            .invoked(1, 2, "k")
            .effect(10, 1, "k", 1)
            .answered(20, 1)
    };
    let goes_on = |unknown_us| {
        twins()
            .ended(unknown_us, 2, Ending::Unknown)
            .ended(60, 2, Ending::InDoubt)
    };
    goes_on(21).breaks_only("I3", "reply-divergence");
    goes_on(20).is_valid();
    let comes_back = |back_us| {
        twins()
            .invoked(back_us, 2, "k")
            .ended(60, 2, Ending::InDoubt)
    };
    comes_back(21).breaks_only("I3", "reply-divergence");
    comes_back(20).is_valid();
    // A refusal for good is an answer as well.
    let declined = |ending| {
        Run::new()
            .invoked(0, 1, "k")
            .ended(20, 1, Ending::Declined(b"no".to_vec()))
            .ended(40, 1, ending)
    };
    declined(Ending::Refused).breaks_only("I3", "reply-divergence");
    declined(Ending::InDoubt).breaks_only("I3", "reply-divergence");
    declined(Ending::Unknown).is_valid();
    // Somebody has found out.
    Run::new()
        .invoked(0, 1, "k")
        .effect(10, 1, "k", 1)
        .ended(20, 1, Ending::InDoubt)
        .answered(40, 1)
        .is_valid();
}

#[test]
fn i3_an_answer_that_nobody_has_to_know_any_more_may_be_in_doubt() {
    let answered = || Run::new().whole(0, 1, "k", 1);
    let asked_again = |run: Run| {
        let mut run = run.invoked(50, 2, "k").ended(60, 2, Ending::InDoubt);
        run.0.events.sort_by_key(|event| event.at_us);
        run
    };
    asked_again(answered()).breaks_only("I3", "reply-divergence");
    let swept = |at_us| answered().event(at_us, 0, Happened::Swept { key: "k".into() });
    asked_again(swept(60)).is_valid();
    asked_again(swept(61)).breaks_only("I3", "reply-divergence");
    asked_again(answered().event(20, 1, Happened::Acknowledged)).is_valid();
    // Another request under the key never had that answer.
    answered()
        .invoked_with(30, 2, "k", "pay more")
        .ended(40, 2, Ending::InDoubt)
        .is_valid();
    // The store that knew is gone. That one was gone before it says nothing.
    let replaced = |at_us| {
        let server = Happened::Lifecycle {
            who: "server".into(),
            event: OTHER_STORE.into(),
        };
        asked_again(answered().event(at_us, 0, server))
    };
    replaced(30).is_valid();
    replaced(15).breaks_only("I3", "reply-divergence");
    replaced(61).breaks_only("I3", "reply-divergence");
    // It had been said to be delivered this once, until it was recorded after all.
    let unrecorded = || {
        Run::new()
            .invoked(0, 1, "k")
            .effect(10, 1, "k", 1)
            .event(20, 1, Happened::Unrecorded)
            .answered(20, 1)
    };
    asked_again(unrecorded()).is_valid();
    unrecorded().ended(30, 1, Ending::InDoubt).is_valid();
    asked_again(unrecorded().answered(30, 1)).breaks_only("I3", "reply-divergence");
}

#[test]
fn i4_what_was_said_not_to_be_applied_never_is() {
    let told = |ending| {
        Run::new()
            .invoked(0, 1, "k")
            .effect(10, 1, "k", 1)
            .ended(20, 1, ending)
    };
    told(Ending::Refused).breaks_only("I4", "false-negative");
    told(Ending::Declined(b"no".to_vec())).breaks_only("I4", "false-negative");
    told(Ending::InDoubt).is_valid();
    told(Ending::Unknown).is_valid();
    Run::new()
        .invoked(0, 1, "k")
        .ended(20, 1, Ending::Refused)
        .is_valid();
    // A twin explains the effect, unless it was asked for only when that was there.
    let twin = |asked_us| {
        Run::new()
            .invoked(0, 1, "k")
            .effect(10, 1, "k", 1)
            .ended(20, 1, Ending::Refused)
            .event(
                asked_us,
                2,
                Happened::Invoked {
                    client: 2,
                    key: "k".into(),
                    payload: "pay".into(),
                },
            )
            .event(asked_us, 2, Happened::Sent)
            .ended(40, 2, Ending::Unknown)
    };
    let sorted = |mut run: Run| {
        run.0.events.sort_by_key(|event| event.at_us);
        run
    };
    sorted(twin(10)).is_valid();
    sorted(twin(11)).breaks_only("I4", "false-negative");
}

#[test]
fn i5_nothing_happens_that_nobody_asked_for() {
    let quiet = || Run::new().whole(0, 1, "k", 1);
    quiet()
        .effect(50, 0, "other", 2)
        .breaks_only("I5", "phantom");
    quiet()
        .effect(50, 7, "other", 2)
        .effect(51, 7, "another", 3)
        .breaks_only("I5", "phantom");
    // Wanted, but never sent.
    let wanted = Happened::Invoked {
        client: 1,
        key: "l".into(),
        payload: b"pay".to_vec(),
    };
    quiet()
        .event(30, 2, wanted)
        .effect(40, 2, "l", 2)
        .ended(50, 2, Ending::Unknown)
        .breaks_only("I5", "phantom");
    quiet()
        .invoked(30, 2, "l")
        .effect(40, 2, "l", 2)
        .ended(50, 2, Ending::Unknown)
        .is_valid();
}

#[test]
fn i6_a_key_keeps_its_first_payload() {
    let poisoned = |ending| {
        Run::new()
            .whole(0, 1, "k", 1)
            .invoked_with(30, 2, "k", "pay more")
            .ended(40, 2, ending)
    };
    poisoned(Ending::Refused).is_valid();
    poisoned(Ending::Answered(b"ok".to_vec())).breaks_only("I6", "payload-swap");
    Run::new()
        .invoked(0, 1, "k")
        .effect_of(10, 1, "k", 1, "pay more", Seen::AtCommit)
        .answered(20, 1)
        .breaks_only("I6", "payload-swap");
}

#[test]
fn i7_the_accounts_are_what_the_effects_make_of_them() {
    let two = || Run::new().whole(0, 1, "k", 1).whole(30, 2, "l", 2);
    two().accounts(98, 2).is_valid();
    // As much as before, in all.
    two().accounts(97, 3).breaks_only("I7", "fold-mismatch");
    two().accounts(98, 1).breaks_only("I7", "fold-mismatch");
    let mut cut = two().accounts(97, 3);
    cut.0.complete = false;
    cut.is_unknown_because("final read");
}

#[test]
fn i8_the_order_of_commits_is_that_of_the_answers() {
    // It is in front of one that had been answered before this one was asked for.
    let swapped = |second_invoked_us| {
        Run::new()
            .invoked(0, 1, "k")
            .effect_of(99, 1, "k", 2, "pay", Seen::AtTheEnd)
            .answered(20, 1)
            .invoked(second_invoked_us, 2, "l")
            .effect_of(99, 2, "l", 1, "pay", Seen::AtTheEnd)
            .answered(50, 2)
    };
    swapped(21).breaks_only("I8", "order");
    swapped(20).is_valid();
    // It was answered before it was durable.
    let early = |effect_us| {
        Run::new()
            .invoked(0, 1, "k")
            .effect(effect_us, 1, "k", 1)
            .answered(20, 1)
    };
    early(21).breaks_only("I8", "order");
    early(20).is_valid();
    // It was there before anybody asked.
    let first = |effect_us| {
        Run::new()
            .invoked(10, 1, "k")
            .effect(effect_us, 1, "k", 1)
            .answered(20, 1)
    };
    first(9).breaks_only("I8", "order");
    first(10).is_valid();
    // The first one of twins is the one that counts.
    Run::new()
        .invoked(0, 1, "k")
        .invoked(15, 2, "k")
        .effect(10, 2, "k", 1)
        .answered(20, 1)
        .answered(20, 2)
        .is_valid();
}

#[test]
fn i9_what_was_forgotten_is_never_executed() {
    let swept = |effect_us| {
        Run::new()
            .invoked(0, 1, "k")
            .ended(5, 1, Ending::Unknown)
            .event(10, 0, Happened::Swept { key: "k".into() })
            .effect(effect_us, 1, "k", 1)
    };
    swept(11).breaks_only("I9", "zombie");
    swept(9).is_valid();
    let acknowledged = |effect_us| {
        Run::new()
            .invoked(0, 1, "k")
            .ended(5, 1, Ending::InDoubt)
            .event(10, 1, Happened::Acknowledged)
            .effect(effect_us, 1, "k", 1)
    };
    acknowledged(11).breaks_only("I9", "zombie");
    acknowledged(10).is_valid();
    // Another key is not meant.
    Run::new()
        .event(0, 0, Happened::Swept { key: "j".into() })
        .whole(5, 1, "k", 1)
        .is_valid();
}

#[test]
fn i10_after_the_faults_every_call_comes_to_an_end() {
    let over = |at_us, ending| {
        Run::new()
            .invoked(0, 1, "k")
            .event(100, 0, Happened::FaultsEnded)
            .ended(at_us, 1, ending)
    };
    over(1_100, Ending::InDoubt).is_valid();
    over(1_101, Ending::InDoubt).breaks_only("I10", "stuck");
    over(200, Ending::Unknown).breaks_only("I10", "stuck");
    // One that began later has as long.
    let later = |at_us| {
        Run::new()
            .event(100, 0, Happened::FaultsEnded)
            .invoked(500, 1, "k")
            .ended(at_us, 1, Ending::Refused)
    };
    later(1_500).is_valid();
    later(1_501).breaks_only("I10", "stuck");
    // It has no end at all.
    Run::new()
        .invoked(0, 1, "k")
        .event(100, 0, Happened::FaultsEnded)
        .breaks_only("I10", "stuck");
    // Who gave up before the faults ended can have learned nothing since, unless it came back.
    let gave_up = || {
        Run::new()
            .invoked(0, 1, "k")
            .ended(50, 1, Ending::Unknown)
            .event(100, 0, Happened::FaultsEnded)
    };
    gave_up().is_valid();
    // Whoever sends another attempt wants to know, and whoever ends it later wanted to.
    let again = |run: Run, at_us| {
        let mut run = run.event(at_us, 1, Happened::Sent);
        run.0.events.last_mut().unwrap().attempt = 2;
        run
    };
    again(gave_up(), 60).breaks_only("I10", "stuck");
    again(gave_up(), 200).breaks_only("I10", "stuck");
    again(gave_up(), 200)
        .ended(300, 1, Ending::InDoubt)
        .is_valid();
    gave_up()
        .ended(200, 1, Ending::Unknown)
        .breaks_only("I10", "stuck");
    gave_up()
        .ended(1_101, 1, Ending::InDoubt)
        .breaks_only("I10", "stuck");
    // That a message of before comes late is no sign of the client.
    gave_up().event(200, 1, Happened::Sent).is_valid();
    gave_up().event(200, 1, Happened::Received).is_valid();
    // Where the store is gone that knew of the call, there is nobody to ask: for whom was told so.
    let gone = |told: u64| {
        let other_store = Happened::Lifecycle {
            who: "server".into(),
            event: OTHER_STORE.into(),
        };
        Run::new()
            .invoked(0, 1, "k")
            .event(100, 0, Happened::FaultsEnded)
            .event(150, told, other_store)
            .ended(200, 1, Ending::Unknown)
    };
    gone(1).is_valid();
    gone(0).breaks_only("I10", "stuck");
    again(gone(1), 300).is_valid();
    gone(1).invoked(300, 1, "k").breaks_only("I10", "stuck");
    gone(1)
        .ended(1_101, 1, Ending::InDoubt)
        .breaks_only("I10", "stuck");
    gave_up().invoked(200, 1, "k").breaks_only("I10", "stuck");
    gave_up()
        .invoked(200, 1, "k")
        .ended(300, 1, Ending::InDoubt)
        .is_valid();
}

#[test]
fn a_call_that_is_stuck_is_named_and_not_only_its_key() {
    let twins = Run::new()
        .invoked(0, 7, "k")
        .invoked(0, 1 << 40, "k")
        .invoked(0, 9, "k")
        .event(100, 0, Happened::FaultsEnded)
        .ended(200, 7, Ending::InDoubt);
    let report = judge(&twins.0);
    let [stuck] = report.violations() else {
        panic!("{report}");
    };
    let told = stuck.to_string();
    assert_eq!(
        told,
        format!("stuck: call {} of k, and 1 more of its calls", 1_u64 << 40)
    );
}

#[test]
fn a_history_that_stops_early_shows_what_is_stuck_until_then() {
    let cut = |watched_us: u64| {
        let mut run = Run::new()
            .invoked(0, 1, "k")
            .event(100, 0, Happened::FaultsEnded)
            .whole(watched_us - 20, 2, "l", 1);
        run.0.complete = false;
        run
    };
    cut(1_101).breaks_only("I10", "stuck");
    cut(1_100).is_unknown_because("1 calls have no end");
}
