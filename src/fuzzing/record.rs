//! Bytes that a store finds on its disk.

use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::codec::{RECORD_FORMAT, decode, encode};
use onlyonce_storage::journal::Step;
use onlyonce_storage::record::{AnswerKept, CallRecord, Record, State};
use onlyonce_storage::{
    Answer, AnswerFormat, AttemptId, CallJournal, DoubtReason, FencingToken, Fingerprint,
    FingerprintAlgorithm, IdempotencyKey, Lease, Operator, Scope, ScopedKey, SessionCall, StepName,
    Timestamp,
};

use super::{Target, assert_canonical};

pub(super) const TARGET: Target = Target {
    name: "record",
    run,
    seeds,
    memory_bytes_max,
};

/// A step of three bytes is a name, a result and a place among the others.
pub(super) const fn memory_bytes_max(bytes: usize) -> usize {
    96 * bytes + 1024
}

/// As they are, where only the checksum is met, and with a right checksum, as whoever can write to
/// the disk would make them.
fn run(bytes: &[u8]) {
    check(bytes);
    for format in WRITTEN {
        check(&sealed(format, bytes));
    }
}

/// `payload` in a format, with its checksum.
pub(super) fn sealed(format: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![format];
    bytes.extend_from_slice(payload);
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(&sum.as_bytes()[..8]);
    bytes
}

fn check(bytes: &[u8]) {
    let Ok(record) = decode(bytes) else {
        return;
    };
    let written = encode(&record);
    assert_eq!(decode(&written), Ok(record));
    if !WRITTEN.contains(&bytes[0]) {
        return; // What an older format said is written in a newer one.
    }
    assert_eq!(bytes[0], written[0]);
    // Without the checksums, which differ as soon as anything does.
    assert_canonical(&bytes[..bytes.len() - 8], &written[..written.len() - 8]);
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let payload = |record: &Record| {
        let bytes = encode(record);
        bytes[1..bytes.len() - 8].to_vec()
    };
    let named = records()
        .into_iter()
        .map(|(name, record)| (name, payload(&record)));
    named.chain([("whole", encode(&records()[1].1))]).collect()
}

pub(super) fn records() -> Vec<(&'static str, Record)> {
    let here = AnswerKept::Here(Answer::new(AnswerFormat::new(5), &b"paid"[..]));
    let beside = AnswerKept::Beside {
        format: 5,
        length: 70_000,
        at: 7,
    };
    let completed = |answer| State::Completed {
        at: Timestamp::from_millis(1_700_000_000_010),
        answer_until: Timestamp::from_millis(1_700_000_000_020),
        answer,
        resolved_by: None,
    };
    let resolved = State::Completed {
        at: Timestamp::from_millis(1_700_000_000_010),
        answer_until: Timestamp::from_millis(1_700_000_000_020),
        answer: AnswerKept::Gone,
        resolved_by: Operator::parse("carol").ok(),
    };
    let in_doubt = |reason, answer| State::InDoubt {
        since: Timestamp::from_millis(1_700_000_000_010),
        reason,
        answer,
    };
    let lease = Lease::until(Timestamp::from_millis(1_700_000_000_030));
    let at = Timestamp::from_millis(1_700_000_000_001);
    vec![
        ("sealed", Record::Sealed { at }),
        ("completed-here", call(completed(here.clone()))),
        ("completed-beside", call(completed(beside))),
        ("completed-gone", call(completed(AnswerKept::Gone))),
        ("resolved", call(resolved)),
        (
            "in-doubt",
            call(in_doubt(DoubtReason::Ambiguous, Some(here))),
        ),
        (
            "in-doubt-without-answer",
            call(in_doubt(DoubtReason::LeaseLapsed, None)),
        ),
        ("in-progress", call(State::InProgress { lease })),
        ("journaled", journaled(State::InProgress { lease })),
        (
            "journaled-in-doubt",
            journaled(in_doubt(DoubtReason::OwnerGone, None)),
        ),
    ]
}

fn journaled(state: State) -> Record {
    let name = |name| StepName::parse(name).expect("the names are short");
    let steps = vec![
        Step::done(name("reserve"), Bytes::from("12a")),
        Step::begun(name("charge")),
    ];
    let mut record = call(state);
    if let Record::Call(call) = &mut record {
        let journal = CallJournal::with_steps(
            Bytes::from("POST"),
            Timestamp::from_millis(1_700_000_000_005),
            steps,
        );
        call.journal = Some(Box::new(journal));
    }
    record
}

fn call(state: State) -> Record {
    let scope = Scope::principal("alice").and_then(|scope| scope.operation("transfer"));
    let key = IdempotencyKey::parse("order-4711");
    Record::Call(CallRecord {
        journal: None,
        key: ScopedKey::new(
            scope.expect("the names are short"),
            key.expect("the key is one"),
        ),
        fingerprint: Fingerprint::from_parts(FingerprintAlgorithm::new(1), [0xab; 32]),
        token: FencingToken::new(3, 300),
        attempt: AttemptId::from_bytes([0xcd; 16]),
        claimed_at: Timestamp::from_millis(1_700_000_000_000),
        first_sent: Some(Timestamp::from_millis(1_699_999_999_000)),
        session: Some(SessionCall {
            session: 9,
            sequence: 8,
            first_unanswered: 7,
        }),
        retention: Some(Duration::from_secs(3_600)),
        state,
    })
}

/// The formats that are written: that of a call with a journal, and that of everything else.
pub(super) const WRITTEN: [u8; 2] = [RECORD_FORMAT - 1, RECORD_FORMAT];
