//! What a call is asked and how it ends: known from its name alone, on both sides of a cut.

use std::time::Duration;

use onlyonce_storage::{
    Answer, AnswerFormat, CallJournal, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Scope, ScopedKey, StepName, StepNote,
    StoreLimits, Timestamp,
};

use crate::run_options::draw;

/// How a call ends after it was claimed.
#[derive(Debug)]
pub enum Ending {
    Completed(Answer),
    Doubted(DoubtReason, Option<Answer>),
    /// It does not: its handler still runs when the power is cut.
    Held,
    Released,
}

pub fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

pub fn request(name: &str, first_sent: Option<Timestamp>) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    // Longer than any clock of these tests runs: no lease lapses.
    let lease = Duration::from_secs(1_000 * 24 * 60 * 60);
    let mut request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    request.first_sent = first_sent;
    request
}

/// What a fourth of the calls begins with, as one that keeps a journal: up to some pages of sled's. Where
/// all answers are large they are the load.
pub fn journal(name: &str) -> Option<CallJournal> {
    if name.contains(LARGE) || draw(&format!("journal of {name}"), 4) > 0 {
        return None;
    }
    let length = draw(&format!("request of {name}"), 12_000);
    Some(CallJournal::new(
        bytes(&format!("request of {name}"), length).body().clone(),
    ))
}

/// What its handler notes, in turn, before it ends.
pub fn notes(name: &str) -> Vec<StepNote> {
    let step = |number: u64| StepName::parse(&format!("step-{number}")).unwrap();
    let result = |number: u64| {
        let name = format!("step {number} of {name}");
        let length = draw(&format!("length of {name}"), 4_000);
        bytes(&name, length).body().clone()
    };
    let mut notes = vec![
        StepNote::done(step(0), result(0)),
        StepNote::begun(step(1)),
        StepNote::done(step(1), result(1)),
        StepNote::done(step(2), result(2)),
    ];
    let count = draw(&format!("notes of {name}"), 5);
    notes.truncate(usize::try_from(count).unwrap());
    notes
}

/// The journal after so many of them.
pub fn journal_after(name: &str, count: usize) -> CallJournal {
    let begun = journal(name).unwrap();
    let limits = StoreLimits::default().journal();
    let noted = notes(name).into_iter().take(count);
    noted.fold(begun, |journal, note| journal.noted(&note, limits).unwrap())
}

pub fn ending(name: &str) -> Ending {
    match draw(&format!("ending of {name}"), 20) {
        0 => Ending::Held,
        1 => Ending::Released,
        2 => Ending::Doubted(DoubtReason::Ambiguous, None),
        3 => Ending::Doubted(DoubtReason::Ambiguous, Some(answer(name))),
        _ => Ending::Completed(answer(name)),
    }
}

/// From 20 bytes to 1 MiB, most of them small; in a run whose name says so all are large, and a
/// group of them is many times what sled writes in one go.
pub fn answer(name: &str) -> Answer {
    if name.contains(LARGE) {
        let length = 128 * 1024 + draw(&format!("length of {name}"), 896 * 1024);
        return bytes(name, length);
    }
    let (least, most) = match draw(&format!("size of {name}"), 256) {
        0 => (1024 * 1024, 1024 * 1024),
        1..=4 => (64 * 1024, 256 * 1024),
        5..=36 => (4 * 1024, 32 * 1024),
        _ => (20, 1_000),
    };
    let length = least + draw(&format!("length of {name}"), most - least + 1);
    bytes(name, length)
}

/// An answer that no other call has.
pub fn bytes(name: &str, length: u64) -> Answer {
    let mut body = vec![0; usize::try_from(length).unwrap()];
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.finalize_xof().fill(&mut body);
    Answer::new(AnswerFormat::new(1), body)
}

pub const LARGE: &str = "large";
