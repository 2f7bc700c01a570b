//! What a journal takes, and what it says of what it does not take.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use bytes::Bytes;
use onlyonce_storage::journal::{
    JournalLimits, NoteRefused, Noted, Step, StepNameError, StepResolution,
};
use onlyonce_storage::{CallJournal, StepName, StepNote};

fn name(name: &str) -> StepName {
    StepName::parse(name).unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

const WIDE: JournalLimits = JournalLimits {
    bytes_max: 1_000,
    steps_max: 10,
};

#[test]
fn a_name_is_visible_ascii_of_1_to_255_bytes() {
    for good in ["a", "charge-1", &"x".repeat(255)] {
        assert_eq!(StepName::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "two words", "\u{e9}", "line\n", &"x".repeat(256)] {
        assert_eq!(StepName::parse(bad), Err(StepNameError), "{bad:?}");
    }
}

/// I3: a request and the results of steps are the user's.
#[test]
fn nothing_of_a_request_or_a_result_is_printed() {
    let noted = Noted::Done(bytes("secret"));
    let journal = CallJournal::with_steps(
        bytes("secret"),
        vec![
            Step::done(name("a"), bytes("secret")),
            Step::begun(name("b")),
        ],
    );
    let resolution = StepResolution::Done(bytes("secret"));
    let printed = format!("{journal:?} {noted:?} {resolution:?}");
    assert!(!printed.contains("secret"), "{printed}");
    assert!(printed.contains("Step(a, 6 bytes)"), "{printed}");
    assert!(printed.contains("Step(b, begun)"), "{printed}");
}

#[test]
fn a_note_that_is_made_twice_is_made_once() {
    let empty = CallJournal::new(bytes("request"));
    for note in [
        StepNote::begun(name("a")),
        StepNote::done(name("a"), bytes("1")),
        StepNote::not_executed(name("a")),
    ] {
        let once = empty.noted(&note, WIDE).unwrap();
        assert_eq!(once.noted(&note, WIDE), Ok(once.clone()), "{note:?}");
    }
}

#[test]
fn a_finished_step_is_never_begun_again_nor_changed() {
    let done = CallJournal::new(Bytes::new())
        .noted(&StepNote::done(name("a"), bytes("1")), WIDE)
        .unwrap();
    for note in [
        StepNote::begun(name("a")),
        StepNote::done(name("a"), bytes("2")),
        StepNote::not_executed(name("a")),
    ] {
        assert_eq!(done.noted(&note, WIDE), Err(NoteRefused::Finished));
    }
}

#[test]
fn a_begun_step_is_unfinished_until_its_result_or_its_absence_is_noted() {
    let begun = CallJournal::new(Bytes::new())
        .noted(&StepNote::begun(name("a")), WIDE)
        .unwrap();
    assert_eq!(begun.unfinished().map(Step::name), Some(&name("a")));
    let done = begun.noted(&StepNote::done(name("a"), bytes("1")), WIDE);
    assert_eq!(done.unwrap().unfinished(), None);
    let undone = begun.noted(&StepNote::not_executed(name("a")), WIDE);
    assert_eq!(undone.unwrap().steps(), []);
}

#[test]
fn a_journal_takes_no_more_than_its_limits_and_says_which() {
    let limits = JournalLimits {
        bytes_max: 10,
        steps_max: 2,
    };
    let journal = CallJournal::new(bytes("1234"));
    let five = StepNote::done(name("a"), bytes("12345"));
    let full = journal.noted(&five, limits).unwrap();
    let over = full.noted(&StepNote::begun(name("b")), limits);
    assert_eq!(
        over,
        Err(NoteRefused::TooLarge {
            size: 11,
            limit: 10
        })
    );
    let two = journal
        .noted(&StepNote::begun(name("a")), limits)
        .and_then(|journal| journal.noted(&StepNote::begun(name("b")), limits))
        .unwrap();
    let third = two.noted(&StepNote::begun(name("c")), limits);
    assert_eq!(third, Err(NoteRefused::TooManySteps { limit: 2 }));
}
