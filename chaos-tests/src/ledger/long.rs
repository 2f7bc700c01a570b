//! Runs so long that several threads take and judge them: they are judged like short ones.

use super::{Judge, Report, Verdict};
use crate::history::{Ending, Event, Happened, RunEnd, RunHeader, Seen};

/// Tells a judge of so many calls, each with its effect and its answer, and of what comes between.
fn judged(calls: u64, strange: impl Fn(u64, &mut dyn FnMut(Happened))) -> Report {
    let mut judge = Judge::new(RunHeader::new("long", "test", 1));
    for call in 1..=calls {
        let mut tell = |what| {
            judge.event(&Event {
                at_us: call * 10,
                call,
                attempt: 1,
                what,
            });
        };
        let key = format!("key-{call}");
        tell(invoked(&key));
        tell(Happened::Sent);
        tell(effect(&key, call));
        tell(Happened::Ended {
            ending: Ending::Answered(b"ok".to_vec()),
        });
        strange(call, &mut tell);
    }
    judge.finish(&RunEnd {
        complete: true,
        ..RunEnd::default()
    })
}

fn invoked(key: &str) -> Happened {
    Happened::Invoked {
        client: 1,
        key: key.to_owned(),
        payload: b"pay".to_vec(),
    }
}

fn effect(key: &str, index: u64) -> Happened {
    Happened::Effect {
        index,
        key: key.to_owned(),
        payload: b"pay".to_vec(),
        answer: b"ok".to_vec(),
        legs: Vec::new(),
        seen: Seen::AtCommit,
    }
}

fn told(report: &Report) -> Vec<String> {
    report
        .violations()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_long_run_in_which_nothing_is_wrong_is_valid() {
    let report = judged(CALLS, |_, _| {});
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    let figures = report.figures();
    let all = [figures.calls, figures.operations, figures.effects];
    assert_eq!(all, [CALLS; 3]);
    assert_eq!((figures.answered, figures.attempts), (CALLS, CALLS));
}

#[test]
fn what_is_wrong_is_found_wherever_it_stands_in_a_long_run() {
    // Before and after another thread has taken over, and at the end.
    for at in [3, 50_001, CALLS] {
        let report = judged(CALLS, |call, tell| {
            if call == at {
                tell(effect(&format!("key-{call}"), CALLS + 1));
                tell(effect("nobody", CALLS + 2));
                tell(effect("nobody", CALLS + 3));
                tell(Happened::Ended {
                    ending: Ending::InDoubt,
                });
            }
        });
        let own = format!("key-{at}");
        let expected = [
            format!("double-apply: {own} (2 effects)"),
            format!("reply-divergence: {own}"),
            "double-apply: nobody (2 effects)".to_owned(),
            "phantom: nobody".to_owned(),
        ];
        assert_eq!(told(&report), expected);
    }
}

#[test]
fn calls_of_one_key_find_each_other_however_far_apart_they_are() {
    let report = judged(CALLS, |call, tell| {
        // A stray effect of the first key, and in the end a call of the second one.
        if call == CALLS - 1 {
            tell(effect("key-1", CALLS + 1));
        }
        if call == CALLS {
            tell(Happened::Swept {
                key: "key-2".to_owned(),
            });
            tell(effect("key-2", CALLS + 2));
        }
    });
    let expected = [
        "double-apply: key-1 (2 effects)",
        "double-apply: key-2 (2 effects)",
    ];
    assert_eq!(told(&report), expected);
}

#[test]
fn a_long_history_that_contradicts_itself_says_so() {
    let mut judge = Judge::new(RunHeader::new("long", "test", 1));
    for call in 1..=CALLS {
        for what in [Happened::Received, Happened::Sent, Happened::Acknowledged] {
            judge.event(&Event {
                at_us: call,
                call,
                attempt: 1,
                what,
            });
        }
    }
    let report = judge.finish(&RunEnd::default());
    assert_eq!(report.verdict(), Verdict::Unknown);
    let doubts = report.doubts();
    assert_eq!(doubts[0], "call 1 was received before it was invoked");
    assert!(doubts[doubts.len() - 1].starts_with("and "), "{report}");
}

/// More than one thread takes, and looks at.
const CALLS: u64 = 120_000;
