//! The bytes of a record: fixed, checked, and bounded.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::codec::{RECORD_FORMAT, decode, encode};
use onlyonce_storage::journal::Step;
use onlyonce_storage::record::{AnswerKept, CallRecord, Record, State};
use onlyonce_storage::{
    Answer, AnswerFormat, AttemptId, CallJournal, DoubtReason, FencingToken, Fingerprint,
    FingerprintAlgorithm, IdempotencyKey, Lease, Operator, Scope, ScopedKey, SessionCall, StepName,
    StoreError, Timestamp,
};
use proptest::prelude::*;

fn call(state: State) -> Record {
    let scope = Scope::principal("alice").unwrap();
    Record::Call(CallRecord {
        journal: None,
        key: ScopedKey::new(
            scope.operation("transfer").unwrap(),
            IdempotencyKey::parse("order-4711").unwrap(),
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

fn time(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn journaled(record: Record, steps: Vec<Step>) -> Record {
    let Record::Call(mut call) = record else {
        panic!("only a call keeps a journal");
    };
    call.journal = Some(Box::new(CallJournal::with_steps(
        Bytes::from("POST"),
        steps,
    )));
    Record::Call(call)
}

fn step_name(name: &str) -> StepName {
    StepName::parse(name).unwrap()
}

/// Every variant of a record, with a name.
fn variants() -> Vec<(&'static str, Record)> {
    let here = AnswerKept::Here(Answer::new(AnswerFormat::new(5), &b"paid"[..]));
    let beside = AnswerKept::Beside {
        format: 5,
        length: 70_000,
        at: 300,
    };
    let completed = |answer| State::Completed {
        at: time(10),
        answer_until: time(20),
        answer,
        resolved_by: None,
    };
    let resolved = State::Completed {
        at: time(10),
        answer_until: time(20),
        answer: AnswerKept::Gone,
        resolved_by: Some(Operator::parse("carol").unwrap()),
    };
    let in_doubt = |reason, answer| State::InDoubt {
        since: time(10),
        reason,
        answer,
    };
    let in_progress = call(State::InProgress {
        lease: Lease::until(time(30)),
    });
    let steps = vec![
        Step::done(step_name("reserve"), Bytes::from("12a")),
        Step::begun(step_name("charge")),
    ];
    let abandoned = call(in_doubt(DoubtReason::OwnerGone, None));
    vec![
        ("sealed", Record::Sealed { at: time(1) }),
        ("completed here", call(completed(here.clone()))),
        ("completed beside", call(completed(beside.clone()))),
        ("completed gone", call(completed(AnswerKept::Gone))),
        ("resolved", call(resolved)),
        (
            "ambiguous",
            call(in_doubt(DoubtReason::Ambiguous, Some(here))),
        ),
        ("lapsed", call(in_doubt(DoubtReason::LeaseLapsed, None))),
        ("owner gone", call(in_doubt(DoubtReason::OwnerGone, None))),
        (
            "unrecorded",
            call(in_doubt(DoubtReason::Unrecorded, Some(beside))),
        ),
        ("in progress", in_progress.clone()),
        ("journaled", journaled(in_progress, steps.clone())),
        ("abandoned", journaled(abandoned, Vec::new())),
        (
            "ambiguous and journaled",
            journaled(call(in_doubt(DoubtReason::Ambiguous, None)), steps),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_record_has_these_bytes() {
    // A change here makes stores that are out there unreadable: give it a new version instead.
    for ((name, record), golden) in variants().iter().zip(GOLDEN) {
        let format = match (record, record.journal()) {
            (Record::Sealed { .. }, _) => "",
            (_, None) => "02",
            (_, Some(_)) => "03",
        };
        let begin = record.call().map_or("", |_| GOLDEN_CALL);
        let golden = format!("{format}{begin}{golden}");
        assert_eq!(hex(&encode(record)), golden, "{name}");
        assert_eq!(decode(&encode(record)).as_ref(), Ok(record), "{name}");
    }
    assert_eq!(variants().len(), GOLDEN.len());
}

#[test]
fn a_record_cut_short_anywhere_is_corrupt() {
    for (name, record) in variants() {
        let bytes = encode(&record);
        for length in 0..bytes.len() {
            let read = decode(&bytes[..length]);
            assert!(
                matches!(read, Err(StoreError::Corrupt(_))),
                "{name}, {length}: {read:?}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_never_believed() {
    for (name, record) in variants() {
        let mut bytes = encode(&record);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let read = decode(&bytes);
                assert!(read.is_err(), "{name}, byte {at}, bit {bit}: {read:?}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn bytes_left_over_are_corrupt() {
    for (_, record) in variants() {
        let mut bytes = encode(&record);
        bytes.push(0);
        assert!(matches!(decode(&bytes), Err(StoreError::Corrupt(_))));
    }
}

#[test]
fn a_newer_record_is_refused_with_both_versions() {
    for (_, record) in variants() {
        let mut bytes = encode(&record);
        bytes[0] = RECORD_FORMAT + 1;
        let error = decode(&bytes).unwrap_err();
        let found = RECORD_FORMAT + 1;
        let supported = RECORD_FORMAT;
        assert_eq!(error, StoreError::UnknownFormat { found, supported });
        let words = format!("record has format {found}, this version reads up to {supported}");
        assert!(error.to_string().starts_with(&words), "{error}");
    }
}

/// Bytes whose checksum is right, as whoever can write to the disk would make them.
fn forged(format: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![format];
    bytes.extend_from_slice(payload);
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(&sum.as_bytes()[..8]);
    bytes
}

#[test]
fn a_length_that_lies_does_not_take_the_memory_it_claims() {
    // A principal of 2^64 - 1 bytes; without a limit the process would abort.
    let mut payload = vec![0, 1, 253];
    payload.extend_from_slice(&u64::MAX.to_le_bytes());
    for format in 1..=RECORD_FORMAT {
        assert!(matches!(
            decode(&forged(format, &payload)),
            Err(StoreError::Corrupt(_))
        ));
    }
    // As many steps.
    let (_, record) = variants().remove(11);
    let bytes = encode(&record);
    let mut payload = bytes[1..bytes.len() - 9].to_vec();
    payload.push(253);
    payload.extend_from_slice(&u64::MAX.to_le_bytes());
    let read = decode(&forged(RECORD_FORMAT, &payload));
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
}

/// A settled call keeps none, and a step that is there twice could be finished here and begun there.
#[test]
fn a_journal_that_no_store_writes_is_corrupt() {
    let twice = vec![
        Step::begun(step_name("charge")),
        Step::done(step_name("charge"), Bytes::from("receipt 7")),
    ];
    for (name, record) in variants() {
        let Record::Call(call) = &record else {
            continue;
        };
        let settled = matches!(call.state, State::Completed { .. });
        let once = journaled(record.clone(), twice[..1].to_vec());
        assert_eq!(decode(&encode(&once)).is_ok(), !settled, "{name}");
        let twice = decode(&encode(&journaled(record, twice.clone())));
        assert!(
            matches!(twice, Err(StoreError::Corrupt(_))),
            "{name}: {twice:?}"
        );
    }
    // The name of a step is checked like any other.
    let (_, record) = variants().remove(10);
    let bytes = encode(&record);
    let at = bytes
        .windows(7)
        .position(|window| window == b"reserve")
        .unwrap();
    let mut payload = bytes[1..bytes.len() - 8].to_vec();
    payload[at - 1] = b' ';
    let read = decode(&forged(RECORD_FORMAT, &payload));
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
}

/// Whoever wrote that forged it: only a completed call can have been resolved.
#[test]
fn a_record_that_is_resolved_and_not_completed_is_corrupt() {
    for (name, record) in variants() {
        let completed = record
            .call()
            .is_some_and(|call| matches!(call.state, State::Completed { .. }));
        let bytes = encode(&record);
        if record.journal().is_some() {
            continue; // That comes behind the name.
        }
        let Some(0) = bytes.get(bytes.len() - 9) else {
            continue; // It has a name already.
        };
        let mut payload = bytes[1..bytes.len() - 9].to_vec();
        payload.extend_from_slice(b"\x01\x03eve");
        let read = decode(&forged(bytes[0], &payload));
        assert_eq!(read.is_ok(), completed, "{name}: {read:?}");
        for operator in [&b"\x01\x00"[..], b"\x01\x03e e", b"\x01\x02\x1b["] {
            let mut payload = bytes[1..bytes.len() - 9].to_vec();
            payload.extend_from_slice(operator);
            let read = decode(&forged(bytes[0], &payload));
            assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
        }
    }
}

fn any_answer() -> impl Strategy<Value = AnswerKept> {
    prop_oneof![
        Just(AnswerKept::Gone),
        any::<(u16, u32, u64)>().prop_map(|(format, length, at)| AnswerKept::Beside {
            format,
            length,
            at,
        }),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(format, body)| {
            AnswerKept::Here(Answer::new(AnswerFormat::new(format), body))
        }),
    ]
}

fn any_state() -> impl Strategy<Value = State> {
    let by = prop::option::of("[!-~]{1,64}");
    let reason = prop_oneof![
        Just(DoubtReason::Ambiguous),
        Just(DoubtReason::LeaseLapsed),
        Just(DoubtReason::OwnerGone),
        Just(DoubtReason::Unrecorded),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any_answer(), by).prop_map(|(at, until, answer, by)| {
            State::Completed {
                at: Timestamp::from_millis(at),
                answer_until: Timestamp::from_millis(until),
                answer,
                resolved_by: by.map(|name| Operator::parse(&name).unwrap()),
            }
        }),
        (any::<u64>(), reason, prop::option::of(any_answer())).prop_map(
            |(since, reason, answer)| State::InDoubt {
                since: Timestamp::from_millis(since),
                reason,
                answer,
            }
        ),
        any::<u64>().prop_map(|until| State::InProgress {
            lease: Lease::until(Timestamp::from_millis(until)),
        }),
    ]
}

/// Steps of different names, as a store keeps them.
fn any_journal() -> impl Strategy<Value = CallJournal> {
    let result = prop::option::of(prop::collection::vec(any::<u8>(), 0..100));
    let steps = prop::collection::btree_map("[!-~]{1,255}", result, 0..8);
    let request = prop::collection::vec(any::<u8>(), 0..300);
    (request, steps).prop_map(|(request, steps)| {
        let steps = steps.into_iter().map(|(name, result)| {
            let name = step_name(&name);
            match result {
                None => Step::begun(name),
                Some(result) => Step::done(name, Bytes::from(result)),
            }
        });
        CallJournal::with_steps(Bytes::from(request), steps.collect())
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let names = (
        prop::option::of("[a-z]{1,40}"),
        prop::option::of("[a-z]{1,40}"),
        "[!-~]{1,255}",
    );
    let numbers = any::<(
        u64,
        u64,
        u64,
        Option<u64>,
        Option<(u64, u64, u64)>,
        Option<u64>,
    )>();
    let bytes = any::<(u16, [u8; 32], [u8; 16])>();
    let journal = prop::option::of(any_journal());
    let parts = (names, numbers, bytes, any_state(), journal);
    parts.prop_map(|(names, numbers, bytes, state, journal)| {
        let settled = matches!(state, State::Completed { .. });
        let (principal, operation, key) = names;
        let mut scope = Scope::global();
        if let Some(principal) = principal {
            scope = Scope::principal(&principal).unwrap();
        }
        if let Some(operation) = operation {
            scope = scope.operation(&operation).unwrap();
        }
        let (incarnation, sequence, claimed_at, first_sent, session, retention) = numbers;
        Record::Call(CallRecord {
            journal: journal.filter(|_| !settled).map(Box::new),
            key: ScopedKey::new(scope, IdempotencyKey::parse(&key).unwrap()),
            fingerprint: Fingerprint::from_parts(FingerprintAlgorithm::new(bytes.0), bytes.1),
            token: FencingToken::new(incarnation, sequence),
            attempt: AttemptId::from_bytes(bytes.2),
            claimed_at: Timestamp::from_millis(claimed_at),
            first_sent: first_sent.map(Timestamp::from_millis),
            session: session.map(|(session, sequence, first_unanswered)| SessionCall {
                session,
                sequence,
                first_unanswered,
            }),
            retention: retention.map(Duration::from_millis),
            state,
        })
    })
}

proptest! {
    // A failing case is printed; it becomes a named test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_record_comes_back_as_it_was(record in any_record()) {
        prop_assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_and_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = decode(&bytes);
        // With the right checksum the decoder itself has to stand.
        for format in 1..=RECORD_FORMAT {
            if let Ok(record) = decode(&forged(format, &bytes)) {
                prop_assert_eq!(decode(&encode(&record)), Ok(record));
            }
        }
    }

    #[test]
    fn a_changed_payload_with_a_right_checksum_never_panics(
        record in any_record(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let bytes = encode(&record);
        let mut payload = bytes[1..bytes.len() - 8].to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = decode(&forged(bytes[0], &payload));
    }
}

/// The seal, then the bytes of every call behind those that are the same in all.
const GOLDEN: [&str; 13] = [
    "0201fd0168e5cf8b01000000b5529fc274650219",
    "00fd0a68e5cf8b010000fd1468e5cf8b0100000205047061696400c55d36d06a7f8d2c",
    "00fd0a68e5cf8b010000fd1468e5cf8b0100000005fc70110100fb2c0100f975e1f8b81b4069",
    "00fd0a68e5cf8b010000fd1468e5cf8b0100000100122c41d3acfd1b8a",
    "00fd0a68e5cf8b010000fd1468e5cf8b0100000101056361726f6c47a01787305e7006",
    "01fd0a68e5cf8b01000001010205047061696400b06c55f54350b711",
    "01fd0a68e5cf8b0100000200002e0b76190b1472fb",
    "01fd0a68e5cf8b010000030000575794c2eb892c2c",
    "01fd0a68e5cf8b01000004010005fc70110100fb2c0100ce3c6e741e7baa09",
    "02fd1e68e5cf8b0100000098a7d70589da66da",
    "02fd1e68e5cf8b0100000004504f535402077265736572766501033132610663686172676500110e9ae925d9be80",
    "01fd0a68e5cf8b01000003000004504f5354002b89638506d9a7de",
    "01fd0a68e5cf8b01000001000004504f535402077265736572766501033132610663686172676500618b5a957c337921",
];

/// Key, fingerprint, token, attempt, times and session of every call above.
const GOLDEN_CALL: &str = concat!(
    "000105616c69636501087472616e736665720a6f726465722d34373131",
    "01abababababababababababababababababababababababababababababababab",
    "03fb2c01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    "fd0068e5cf8b01000001fd1864e5cf8b0100000109080701fc80ee3600",
);
