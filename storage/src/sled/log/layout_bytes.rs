//! The layout of the log on disk: its exact bytes, and what is made of torn and damaged ones.

use std::fs;
use std::path::Path;

use super::files::{HEAD_BYTES, Head, path};
use super::{Entry, GroupBytes, Note, read};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{
    AttemptId, FencingToken, Fingerprint, FingerprintAlgorithm, IdempotencyKey, KeyDigest, Scope,
    ScopedKey, StoreId, Timestamp, codec,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn head(turn: u64, checkpoint: u64) -> Head {
    Head {
        id: StoreId::from_bytes([0xcd; 16]),
        turn,
        checkpoint,
        salt: SALT + turn,
    }
}

fn block(head: Head) -> Vec<u8> {
    let mut block = head.encode().to_vec();
    block.resize(4_096, 0);
    block
}

/// A group with something to lose.
fn group(turn: u64, number: u64) -> Vec<u8> {
    let mut group = GroupBytes::default();
    group.removed(KeyDigest::from_bytes([number as u8; 32]));
    group.note(Note::Used, number);
    group.finish(SALT + turn, number).unwrap()
}

/// A turn with these groups.
fn turn(turn: u64, checkpoint: u64, groups: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = block(head(turn, checkpoint));
    groups.for_each(|number| bytes.extend(group(turn, number)));
    bytes
}

/// Puts both files there: those of turns 7 and 8.
fn put(folder: &Path, older: &[u8], newer: &[u8]) {
    fs::write(path(folder, 1), older).unwrap();
    fs::write(path(folder, 0), newer).unwrap();
}

/// The numbers of the groups that an opening takes in when `reached` is in sled.
fn taken(folder: &Path, reached: u64) -> Result<Vec<u64>, String> {
    let groups = read(folder, true).map_err(|error| error.to_string())?;
    let groups = groups.ok_or("there is none")?;
    let (entries, last) = groups.after(reached)?;
    let numbers = entries.iter().map(|entries| {
        let (removed, rest) = Entry::first(entries).unwrap();
        let (note, rest) = Entry::first(rest).unwrap();
        assert!(matches!(removed, Entry::Removed(_)) && rest.is_empty());
        match note {
            Entry::Note(Note::Used, number) => number,
            other => panic!("{other:?}"),
        }
    });
    let numbers: Vec<_> = numbers.collect();
    assert_eq!(numbers.last().copied().unwrap_or(reached), last);
    Ok(numbers)
}

#[test]
fn a_head_has_these_bytes() {
    let head = Head {
        id: StoreId::from_bytes([0xcd; 16]),
        turn: 0x0102,
        checkpoint: 0x0304_0506,
        salt: 0x1122_3344_5566_7788,
    };
    let expected = [
        "01",
        &"cd".repeat(16),
        "0201000000000000",
        "0605040300000000",
        "8877665544332211",
        &"00".repeat(15),
        "3faacfb4df179374",
    ];
    assert_eq!(hex(&head.encode()), expected.concat());
    assert_eq!(Head::decode(&head.encode()), Ok(head));
    assert_eq!(file_names(), ["LOG-0", "LOG-1"]);
}

fn file_names() -> [String; 2] {
    [0, 1].map(super::files::name)
}

#[test]
fn a_group_with_each_kind_of_entry_has_these_bytes() {
    let key = KeyDigest::from_bytes([0x4b; 32]);
    let sealed = Record::Sealed {
        at: Timestamp::from_millis(1_700_000_000_000),
    };
    let completed = completed(4);
    let mut group = GroupBytes::default();
    group.note(Note::Used, 0x0102);
    group.note(Note::Forgotten, 0x0103);
    group.note(Note::AnswersGone, 0x0104);
    let at = group.record(key, &sealed, None).unwrap();
    assert_eq!(group.at(at), codec::encode(&sealed));
    group.record(key, &completed, Some(b"paid")).unwrap();
    group.removed(key);
    let bytes = group.finish(0x1122_3344_5566_7788, 0x0a0b).unwrap();

    let digest = "4b".repeat(32);
    let (sealed, completed) = (codec::encode(&sealed), codec::encode(&completed));
    let length = |record: &[u8]| hex(&(record.len() as u32).to_le_bytes());
    let entries = [
        "04010201000000000000",
        "04020301000000000000",
        "04030401000000000000",
        "01",
        &digest,
        &length(&sealed),
        &hex(&sealed),
        "02",
        &digest,
        &length(&completed),
        &hex(&completed),
        "70616964",
        "03",
        &digest,
    ]
    .concat();
    let entries_length = entries.len() as u32 / 2;
    let head = [
        // Checksum; length; salt; number.
        "af872f5b",
        &hex(&entries_length.to_le_bytes()),
        "8877665544332211",
        "0b0a000000000000",
    ];
    let zeros = "00".repeat(bytes.len() - 24 - entries_length as usize);
    assert!(zeros.len() < 16 && bytes.len() % 8 == 0);
    assert_eq!(
        hex(&bytes),
        [&head.concat(), &entries, &zeros]
            .map(String::as_str)
            .concat()
    );
}

fn completed(length: u32) -> Record {
    Record::Call(CallRecord {
        journal: None,
        key: ScopedKey::new(
            Scope::global(),
            IdempotencyKey::parse("order-4711").unwrap(),
        ),
        fingerprint: Fingerprint::builder(FingerprintAlgorithm::new(1)).finish(),
        token: FencingToken::new(2, 0x0102_0304),
        attempt: AttemptId::from_bytes([3; 16]),
        claimed_at: Timestamp::from_millis(1_700_000_000_000),
        first_sent: None,
        session: None,
        retention: None,
        state: State::Completed {
            resolved_by: None,
            at: Timestamp::from_millis(1_700_000_000_001),
            answer_until: Timestamp::from_millis(1_700_000_000_002),
            answer: AnswerKept::Beside {
                format: 7,
                length,
                at: 0x0102_0003,
            },
        },
    })
}

#[test]
fn entries_that_no_writer_writes_are_an_error() {
    let key = [0x4b; 32];
    let long = [&[1][..], &key, &u32::MAX.to_le_bytes(), b"record"].concat();
    let cases: [(&[u8], &str); 7] = [
        (&[], "cut off"),
        (&[4, 9, 0, 0, 0, 0, 0, 0, 0, 0], "note 9"),
        (&[4, 1, 0, 0], "cut off"),
        (&[3, 1, 2, 3], "cut off"),
        (&[1; 34], "cut off"),
        (&long, "cut off"),
        (&[99; 4_000], "kind 99"),
    ];
    let mut unknown = vec![99; 33];
    unknown.extend_from_slice(&[0; 4]);
    for (bytes, reason) in cases {
        let bytes = if bytes == [99; 4_000] {
            &unknown[..]
        } else {
            bytes
        };
        let refused = Entry::first(bytes);
        let says = refused.as_ref().is_err_and(|text| text.contains(reason));
        assert!(says, "{}: {refused:?}", hex(bytes));
    }
}

// B21
#[test]
fn a_torn_end_of_the_log_loses_its_last_group_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let older = turn(7, 10, 11..14);
    let newer = turn(8, 10, 14..17);
    let last = newer.len() - group(8, 16).len();
    put(folder.path(), &older, &newer);
    assert_eq!(taken(folder.path(), 12), Ok(vec![13, 14, 15, 16]));
    // Zeros, which fill it up to where the next could begin, carry nothing.
    let carries = last + 24 + 33 + 10;
    for length in last..newer.len() {
        put(folder.path(), &older, &newer[..length]);
        let expected = if length < carries { 15 } else { 16 };
        let numbers = (13..=expected).collect();
        assert_eq!(taken(folder.path(), 12), Ok(numbers), "{length} bytes");
    }
    for bit in last * 8..carries * 8 {
        let mut torn = newer.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        put(folder.path(), &older, &torn);
        assert_eq!(taken(folder.path(), 12), Ok(vec![13, 14, 15]), "bit {bit}");
    }
    // The last group of all may be the last one of the older file.
    let empty = turn(8, 10, 0..0);
    let last = older.len() - group(7, 13).len();
    for bit in last * 8..(last + 24 + 33 + 10) * 8 {
        let mut torn = older.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        put(folder.path(), &torn, &empty);
        assert_eq!(taken(folder.path(), 12), Ok(vec![]), "bit {bit}");
    }
}

// G5
#[test]
fn damage_to_a_group_with_a_whole_one_behind_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (older, newer) = (turn(7, 10, 11..14), turn(8, 10, 14..17));
    let group_bytes = group(8, 16).len();
    let refused = |older: &[u8], newer: &[u8], what: &str| {
        put(folder.path(), older, newer);
        let taken = taken(folder.path(), 10);
        let says = taken.as_ref().is_err_and(|text| text.contains("LOG-"));
        assert!(says, "{what}: {taken:?}");
    };
    let (first, last) = (4_096, newer.len() - group_bytes);
    for bit in first * 8..last * 8 {
        if is_padding(bit / 8, group_bytes) {
            continue;
        }
        let mut damaged = newer.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&older, &damaged, &format!("bit {bit} of the newer"));
    }
    // All of the older file: what is behind it is in the newer one.
    for bit in first * 8..older.len() * 8 {
        if is_padding(bit / 8, group_bytes) {
            continue;
        }
        let mut damaged = older.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&damaged, &newer, &format!("bit {bit} of the older"));
    }
    for length in first..older.len() - 5 {
        refused(
            &older[..length],
            &newer,
            &format!("{length} bytes of the older"),
        );
    }
    // A group that lies in another's place.
    let mut exchanged = newer.clone();
    let (one, two) = exchanged[first..].split_at_mut(group_bytes);
    one.swap_with_slice(&mut two[..group_bytes]);
    refused(&older, &exchanged, "two groups are exchanged");
    // What sled has reached already does not matter.
    let mut damaged = older.clone();
    damaged[older.len() - group_bytes] ^= 1;
    put(folder.path(), &damaged, &newer);
    assert_eq!(taken(folder.path(), 13), Ok(vec![14, 15, 16]));
}

/// The zeros behind a group, which say nothing.
fn is_padding(at: usize, group_bytes: usize) -> bool {
    (at - 4_096) % group_bytes >= 24 + 33 + 10
}

// G5
#[test]
fn a_damaged_head_or_a_missing_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (older, newer) = (turn(7, 10, 11..14), turn(8, 10, 14..17));
    for bit in 0..HEAD_BYTES * 8 {
        let mut damaged = newer.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        put(folder.path(), &older, &damaged);
        assert!(taken(folder.path(), 10).unwrap_err().contains("LOG-0"));
        let mut damaged = older.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        put(folder.path(), &damaged, &newer);
        assert!(taken(folder.path(), 10).unwrap_err().contains("LOG-1"));
    }
    for length in 0..HEAD_BYTES {
        put(folder.path(), &older, &newer[..length]);
        assert!(taken(folder.path(), 10).unwrap_err().contains("LOG-0"));
    }
    for which in 0..2 {
        put(folder.path(), &older, &newer);
        fs::remove_file(path(folder.path(), which)).unwrap();
        let missing = taken(folder.path(), 10).unwrap_err();
        assert!(
            missing.contains(&format!("LOG-{which}: it is missing")),
            "{missing}"
        );
    }
    // Both there, and not each other's.
    put(folder.path(), &turn(5, 10, 11..14), &newer);
    assert!(taken(folder.path(), 10).unwrap_err().contains("turn"));
    put(folder.path(), &newer, &newer);
    assert!(taken(folder.path(), 10).unwrap_err().contains("turn"));
    let other = Head {
        id: StoreId::from_bytes([0xce; 16]),
        ..head(8, 10)
    };
    put(folder.path(), &older, &block(other));
    assert!(
        taken(folder.path(), 10)
            .unwrap_err()
            .contains("another store")
    );
}

/// A head of a later version is named as such; one of ours that no version writes is refused.
#[test]
fn a_head_of_a_later_version_is_refused_in_words_that_name_both() {
    let sealed = |mut bytes: [u8; HEAD_BYTES]| {
        let sum = blake3::hash(&bytes[..HEAD_BYTES - 8]);
        bytes[HEAD_BYTES - 8..].copy_from_slice(&sum.as_bytes()[..8]);
        bytes
    };
    let mut later = head(8, 10).encode();
    later[0] = 2;
    let refused = Head::decode(&sealed(later)).unwrap_err();
    assert!(
        refused.contains("format 2") && refused.contains("up to 1"),
        "{refused}"
    );
    let mut earlier = head(8, 10).encode();
    earlier[0] = 0;
    assert!(Head::decode(&sealed(earlier)).is_err());
    let mut more = head(8, 10).encode();
    more[45] = 1;
    assert!(Head::decode(&sealed(more)).is_err());
}

// G5
#[test]
fn a_database_or_a_log_that_ends_too_early_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &turn(7, 10, 13..16), &turn(8, 12, 16..18));
    let early = taken(folder.path(), 11).unwrap_err();
    assert!(early.contains("sled has dropped"), "{early}");
    assert_eq!(taken(folder.path(), 12).unwrap().len(), 5);
    assert_eq!(taken(folder.path(), 17), Ok(vec![]));
    let old = taken(folder.path(), 18).unwrap_err();
    assert!(old.contains("older copy"), "{old}");
    // Groups that follow on nothing.
    put(folder.path(), &turn(7, 10, 14..16), &turn(8, 12, 16..18));
    let gap = taken(folder.path(), 12).unwrap_err();
    assert!(gap.contains("follows on group 12 is missing"), "{gap}");
}

// B21: of an earlier turn there are whole groups in the file, and nobody takes them for new ones.
#[test]
fn groups_of_an_earlier_turn_are_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let older = turn(7, 10, 11..14);
    // The file of turn 6 had more; turn 8 has begun and has written one group, or none.
    let mut newer = turn(6, 2, 5..10);
    newer[..4_096].copy_from_slice(&block(head(8, 10)));
    put(folder.path(), &older, &newer);
    assert_eq!(taken(folder.path(), 10), Ok(vec![11, 12, 13]));
    let bytes = group(8, 14);
    newer[4_096..4_096 + bytes.len()].copy_from_slice(&bytes);
    put(folder.path(), &older, &newer);
    assert_eq!(taken(folder.path(), 10), Ok(vec![11, 12, 13, 14]));
    // Also not those that would come next.
    let mut newer = turn(6, 2, 12..20);
    newer[..4_096].copy_from_slice(&block(head(8, 10)));
    put(folder.path(), &turn(7, 10, 11..12), &newer);
    assert_eq!(taken(folder.path(), 10), Ok(vec![11]));
}

/// Bytes in an answer that are a whole group but for the salt, which nobody knows.
#[test]
fn bytes_in_an_answer_that_look_like_a_group_are_never_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    // Of the turns before and after, and of this one with the salt that it has not.
    let lures: Vec<u8> = [group(6, 14), group(7, 14), group(9, 13), group(10, 14)].concat();
    let key = KeyDigest::from_bytes([0x4b; 32]);
    for shift in 0..8 {
        let body = [&vec![0; shift][..], &lures, &[0; 8]].concat();
        let mut written = GroupBytes::default();
        let record = completed(body.len() as u32);
        written.record(key, &record, Some(&body)).unwrap();
        let written = written.finish(SALT + 8, 14).unwrap();
        let older = turn(7, 10, 11..14);
        // Torn at every place: neither a group nor damage.
        let length = u32::from_le_bytes(written[4..8].try_into().unwrap());
        for length in 0..24 + length as usize {
            let newer = [&turn(8, 10, 0..0)[..], &written[..length]].concat();
            put(folder.path(), &older, &newer);
            let found = taken(folder.path(), 10);
            assert_eq!(found, Ok(vec![11, 12, 13]), "{length} bytes");
        }
        let mut torn = [&turn(8, 10, 0..0)[..], &written].concat();
        torn[4_096 + 40] ^= 1;
        put(folder.path(), &older, &torn);
        assert_eq!(taken(folder.path(), 10), Ok(vec![11, 12, 13]));
    }
}

const SALT: u64 = 0x1122_3344_5566_0000;
