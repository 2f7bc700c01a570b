//! What no invariant is about: defects that are told, and runs that cannot be judged.

use super::invariants::Run;
use super::{Verdict, judge};
use crate::history::{Defect, Ending, Happened};

#[test]
fn what_the_executor_has_seen_is_a_violation_of_its_own_name() {
    let mut run = Run::new().whole(0, 1, "k", 1);
    run.0.defects.push(Defect {
        name: "damaged-store".into(),
        text: "a sum differs".into(),
    });
    run.breaks_only("defect", "damaged-store");
    let report = judge(&run.made_whole());
    assert!(
        report.to_string().ends_with("damaged-store: a sum differs"),
        "{report}"
    );
}

#[test]
fn a_run_in_which_nobody_was_answered_shows_nothing_about_answers() {
    let nobody = || {
        Run::new()
            .invoked(0, 1, "k")
            .ended(20, 1, Ending::Refused)
            .invoked(0, 2, "l")
            .ended(20, 2, Ending::InDoubt)
            .event(30, 0, Happened::FaultsEnded)
    };
    nobody().is_unknown_because("no call was answered");
    assert!(judge(&nobody().0).is_only_unanswered());
    nobody()
        .ended(40, 1, Ending::Declined(b"no".to_vec()))
        .is_valid();
    let mut cut = nobody();
    cut.0.complete = false;
    assert!(!judge(&cut.0).is_only_unanswered());
}

#[test]
fn a_run_with_a_limit_that_never_says_when_the_faults_ended_is_not_valid() {
    let silent = || Run::new().whole(0, 1, "k", 1);
    silent().is_unknown_because("it is not said when the faults ended");
    silent().event(30, 0, Happened::FaultsEnded).is_valid();
    let mut boundless = silent();
    boundless.0.header.resolve_within_ms = None;
    assert_eq!(judge(&boundless.0).verdict(), Verdict::Valid);
}

#[test]
fn what_cannot_be_judged_is_unknown_and_says_why() {
    Run::new().is_unknown_because("no call");
    Run::new()
        .invoked(0, 1, "k")
        .is_unknown_because("1 calls have no end");
    Run::new()
        .whole(0, 1, "k", 1)
        .whole(30, 2, "l", 1)
        .is_unknown_because("two effects are said to be commit 1");
    Run::new()
        .whole(0, 1, "k", 1)
        .answered(30, 9)
        .is_unknown_because("call 9 was ended before it was invoked");
    Run::new()
        .whole(0, 1, "k", 1)
        .invoked_with(30, 1, "k", "pay more")
        .is_unknown_because("another key or payload");
    // What is broken is broken all the same.
    let mut broken = Run::new()
        .invoked(0, 1, "k")
        .effect(5, 1, "k", 1)
        .effect(6, 1, "k", 2);
    broken.0.complete = false;
    broken.breaks_only("I1", "double-apply");
}

#[test]
fn ordinals_may_be_anything() {
    Run::new()
        .whole(0, u64::MAX, "k", 1)
        .whole(30, 1 << 40, "l", 2)
        .whole(60, 3, "m", 3)
        .is_valid();
}
