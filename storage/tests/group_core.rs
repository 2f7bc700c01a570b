//! A group decides as if its operations had come one by one.
#![cfg(any(feature = "memory", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::time::Duration;

use onlyonce_storage::commit::{Change, ClaimReply, GroupCore, Operation, Reply, Rows};
use onlyonce_storage::record::{CallRecord, Record};
use onlyonce_storage::{
    Answer, AnswerFormat, AttemptId, ClaimRequest, DoubtReason, FencingToken, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, KeyDigest, Operator, Question, Resolution,
    RetentionOptions, Scope, ScopedKey, SettleError, StoreError, StoreLimits, Timestamp,
};
use proptest::prelude::*;

/// A disk that is a map, and counts what is written.
#[derive(Debug, Default, PartialEq)]
struct Table(HashMap<KeyDigest, Record>);

impl Rows for Table {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        Ok(self.0.get(&key).cloned())
    }

    fn answer(&self, _: KeyDigest, _: &CallRecord) -> Result<Option<Answer>, StoreError> {
        Ok(None)
    }
}

impl Table {
    fn apply(&mut self, changes: Vec<Change>) {
        for Change { key, before, after } in changes {
            assert_eq!(
                self.0.get(&key),
                before.as_ref(),
                "a change says what it replaces"
            );
            assert_ne!(before, after, "a change changes something");
            match after {
                None => self.0.remove(&key),
                Some(record) => self.0.insert(key, record),
            };
        }
    }
}

fn core() -> GroupCore {
    core_of_many(2)
}

/// With room for so many calls in progress, and as many in doubt.
fn core_of_many(open_max: usize) -> GroupCore {
    let limits = StoreLimits::default()
        .answer_bytes_max(8)
        .in_progress_max(open_max)
        .in_doubt_max(open_max);
    GroupCore::new(1, Timestamp::default(), RetentionOptions::default(), limits)
}

fn key(number: u8) -> ScopedKey {
    let key = IdempotencyKey::parse(&format!("key-{number}")).unwrap();
    ScopedKey::new(Scope::global(), key)
}

fn claim(number: u8, body: u8) -> Operation {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
        .field("body", &[body])
        .finish();
    let lease = Duration::from_secs(10);
    let mut request = ClaimRequest::new(key(number), Fingerprints::new(print), lease);
    request.attempt = AttemptId::from_bytes([body; 16]);
    Operation::Claim(request)
}

fn asked(question: Question, number: u8) -> Operation {
    Operation::Ask {
        question,
        key: key(number),
        first_sent: None,
    }
}

/// What kind, which key, which token, and a small choice.
type Plan = (u8, u8, u64, u8);

fn operation((kind, number, sequence, choice): Plan) -> Operation {
    let token = FencingToken::new(1, sequence);
    let answer = Answer::new(AnswerFormat::new(1), vec![choice; usize::from(choice) * 5]);
    let digest = key(number).digest();
    match kind {
        0..=3 => claim(number, choice / 2),
        4 | 5 => Operation::Complete {
            key: digest,
            token,
            answer,
        },
        6 => Operation::Doubt {
            key: digest,
            token,
            reason: DoubtReason::Ambiguous,
            answer: (choice > 0).then_some(answer),
        },
        7 => Operation::Release { key: digest, token },
        8 => Operation::Renew {
            key: digest,
            token,
            lease: Duration::from_secs(20),
        },
        9 => Operation::Resolve {
            key: key(number),
            token,
            resolution: if choice == 0 {
                Resolution::NotApplied
            } else {
                Resolution::Applied(answer)
            },
            by: Operator::parse("test").unwrap(),
        },
        10 => asked(Question::Seal, number),
        11 => Operation::Abandon { key: digest, token },
        _ => asked(Question::Peek, number),
    }
}

/// Runs plans in groups of `size`; time passes between the plans' stretches, not within.
fn run(mut core: GroupCore, stretches: &[Vec<Plan>], size: usize) -> (Table, Vec<String>) {
    let (mut table, mut replies) = (Table::default(), Vec::new());
    let mut now = Timestamp::from_millis(1_700_000_000_000);
    for stretch in stretches {
        for plans in stretch.chunks(size) {
            let operations = plans.iter().copied().map(operation).collect();
            let group = core.decide(operations, &table, now);
            assert_eq!(group.replies.len(), plans.len());
            replies.extend(group.replies.iter().map(|reply| format!("{reply:?}")));
            table.apply(group.changes);
        }
        now = now.plus(Duration::from_secs(6));
    }
    (table, replies)
}

proptest! {
    // A failing case is printed; it becomes a named test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_is_decided_as_if_its_operations_came_one_by_one(
        stretches in prop::collection::vec(
            prop::collection::vec((0..13_u8, 0..4_u8, 1..12_u64, 0..3_u8), 1..20),
            1..6,
        ),
        size in 2..20_usize,
    ) {
        prop_assert_eq!(run(core(), &stretches, size), run(core(), &stretches, 1));
    }

    // More keys than are looked through one after the other.
    #[test]
    fn a_group_of_many_keys_is_decided_as_if_its_operations_came_one_by_one(
        stretches in prop::collection::vec(
            prop::collection::vec((0..13_u8, 0..24_u8, 1..24_u64, 0..3_u8), 20..80),
            1..4,
        ),
        size in 20..80_usize,
    ) {
        let many = || core_of_many(32);
        prop_assert_eq!(run(many(), &stretches, size), run(many(), &stretches, 1));
    }
}

#[test]
fn of_two_claims_in_one_group_the_first_is_given() {
    let mut core = core();
    let now = Timestamp::from_millis(1_700_000_000_000);
    let group = core.decide(vec![claim(1, 1), claim(1, 1)], &Table::default(), now);
    let [Reply::Claim(Ok(first)), Reply::Claim(Ok(second))] = &group.replies[..] else {
        panic!("{:?}", group.replies);
    };
    assert!(matches!(first, ClaimReply::Claimed { .. }), "{first:?}");
    assert!(matches!(second, ClaimReply::Refused(_)), "{second:?}");
    assert_eq!(group.changes.len(), 1);
}

#[test]
fn a_group_that_ends_where_it_began_writes_nothing() {
    let mut core = core();
    let now = Timestamp::from_millis(1_700_000_000_000);
    let release = Operation::Release {
        key: key(1).digest(),
        token: FencingToken::new(1, 1),
    };
    let group = core.decide(vec![claim(1, 1), release], &Table::default(), now);
    assert!(matches!(group.replies[1], Reply::Settle(Ok(()))));
    assert_eq!(group.changes, []);
}

#[test]
fn a_late_word_is_fenced_and_changes_nothing() {
    let mut core = core();
    let late = Operation::Complete {
        key: key(1).digest(),
        token: FencingToken::new(0, 1),
        answer: Answer::new(AnswerFormat::new(1), "late"),
    };
    let now = Timestamp::from_millis(1_700_000_000_000);
    let group = core.decide(vec![claim(1, 1), late], &Table::default(), now);
    let fenced = matches!(group.replies[1], Reply::Settle(Err(SettleError::Fenced)));
    assert!(fenced, "{:?}", group.replies);
}
