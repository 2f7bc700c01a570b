//! The two files of a store's log, and the groups and entries in them.
//!
//! An input says what sled knows, and what is in the files:
//!
//! ```text
//! input:  known (1) | the group that sled has reached (1) | pieces
//! piece:  control (1) | length (2, little endian) | as many bytes, or what is left
//! ```
//!
//! The control says to which file a piece goes and what it is. Heads and groups have right
//! checksums unless they are given as they are: whoever can write to the disk makes them.

use std::collections::BTreeMap;

use onlyonce_storage::record::{AnswerKept, Record, State};
use onlyonce_storage::sled::fuzzing::{FoundLog, crc32, entries, log, log_entries, log_head};

use super::record::records;
use super::{Target, assert_canonical};

pub(super) const TARGET: Target = Target {
    name: "log",
    run,
    seeds,
    memory_bytes_max,
};

/// It goes to LOG-1.
const SECOND: u8 = 1;
/// The bytes begin a head, which is made right, and replaces what is there.
const HEAD: u8 = 2;
/// The bytes are the number of a group (1) and its entries; of this file's turn.
const GROUP: u8 = 4;
/// The same of another turn.
const STALE: u8 = 8;
/// What follows in this file is gone.
const CUT: u8 = 16;

const BLOCK_BYTES: usize = 4_096;
const HEAD_BYTES: usize = 64;

/// An opening makes of it what it is: groups that follow on each other, or an error.
fn run(bytes: &[u8]) {
    let Some((&[known, reached], pieces)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let (known, reached) = (known != 0, number_of(reached));
    let files = files(pieces);
    let expected = understand(&files, known, reached);
    let given = [0, 1].map(|which: usize| (!files[which].is_empty()).then(|| files[which].clone()));
    match log(given, known, reached) {
        Ok(found) => {
            assert_eq!(Ok(&found), expected.as_ref(), "it was read otherwise");
            let groups = found.map(|found| found.groups).unwrap_or_default();
            for group in groups {
                if let Ok(again) = entries(&group) {
                    let written = again.concat();
                    let reread = entries(&written).map(|again| again.concat());
                    assert_eq!(reread.as_ref(), Ok(&written), "it was written otherwise");
                    // What a record of an older format said is longer in the newest.
                    if written.len() <= group.len() {
                        assert_canonical(&group, &written);
                    }
                }
            }
        }
        Err(words) => {
            assert!(expected.is_err(), "it was refused: {words}");
            let says = ["LOG-", "ends"].iter().any(|word| words.contains(word));
            assert!(says, "{words}");
        }
    }
}

/// A head that is right.
struct Head {
    id: [u8; 16],
    turn: u64,
    checkpoint: u64,
    salt: [u8; 8],
}

/// Reads the log once more and otherwise: every whole group at every place first, then what follows
/// on what.
fn understand(
    files: &[Vec<u8>; 2],
    known: bool,
    reached: u64,
) -> Result<Option<FoundLog>, &'static str> {
    let heads = [head(&files[0]), head(&files[1])];
    if !known {
        // A first opening that crashed: not both heads are there, and nothing else is.
        let mut first = files.iter().zip(&heads).map(|(bytes, head)| match head {
            Some(head) => head.turn <= 2 && bytes.len() <= HEAD_BYTES,
            None => bytes.len() <= HEAD_BYTES,
        });
        if heads.iter().any(Option::is_none) {
            return first
                .all(|first| first)
                .then_some(None)
                .ok_or("not the first");
        }
    }
    let [Some(one), Some(two)] = &heads else {
        return Err("a head is missing");
    };
    if one.id != two.id || one.turn.abs_diff(two.turn) != 1 {
        return Err("they are not each other's");
    }
    let newer = if one.turn > two.turn { one } else { two };
    let mut numbered = BTreeMap::new();
    let mut last = 0;
    let older_first = match one.turn < two.turn {
        true => [(one, &files[0]), (two, &files[1])],
        false => [(two, &files[1]), (one, &files[0])],
    };
    let mut order = Vec::new();
    for (head, bytes) in older_first {
        let groups = groups(bytes, head.salt);
        let mut at = BLOCK_BYTES;
        let mut before = None;
        while let Some((number, entries)) = groups.get(&at)
            && before.is_none_or(|before: u64| before.checked_add(1) == Some(*number))
        {
            before = Some(*number);
            at = (at + 24 + entries.len()).next_multiple_of(8);
            order.push(*number);
            numbered.insert(*number, entries.clone());
            last = last.max(*number);
        }
        if groups.range(at..).next().is_some() {
            return Err("damage before a whole group");
        }
    }
    if reached < newer.checkpoint {
        return Err("sled ends too early");
    }
    if last.max(newer.checkpoint) < reached {
        return Err("the log ends too early");
    }
    let mut next = reached;
    for number in order.into_iter().filter(|number| *number > reached) {
        if next.checked_add(1) != Some(number) {
            return Err("a group is missing");
        }
        next = number;
    }
    let taken = numbered.into_iter().filter(|(number, _)| *number > reached);
    Ok(Some(FoundLog {
        id: newer.id,
        last: next,
        groups: taken.map(|(_, entries)| entries).collect(),
    }))
}

fn head(bytes: &[u8]) -> Option<Head> {
    let bytes = bytes.get(..HEAD_BYTES)?;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
    let sum = blake3::hash(&bytes[..56]);
    let is_right = bytes[56..] == sum.as_bytes()[..8];
    let is_ours = bytes[0] == 1 && bytes[41..56] == [0; 15];
    (is_right && is_ours).then(|| Head {
        id: bytes[1..17].try_into().expect("sixteen"),
        turn: number(17),
        checkpoint: number(25),
        salt: bytes[33..41].try_into().expect("eight"),
    })
}

/// Every whole group of this turn, and where it begins.
fn groups(bytes: &[u8], salt: [u8; 8]) -> BTreeMap<usize, (u64, Vec<u8>)> {
    let group = |at: usize| {
        let head = bytes.get(at..at + 24)?;
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        let entries = bytes.get(at + 24..(at + 24).checked_add(number(4) as usize)?)?;
        let is_whole = head[8..16] == salt && head[..4] == crc32(&[&head[4..], entries]);
        let group = u64::from_le_bytes(head[16..].try_into().expect("eight"));
        is_whole.then(|| (at, (group, entries.to_vec())))
    };
    let places = (BLOCK_BYTES..bytes.len()).step_by(8);
    places.filter_map(group).collect()
}

fn files(mut pieces: &[u8]) -> [Vec<u8>; 2] {
    let mut files = [Vec::new(), Vec::new()];
    let mut cut = [false; 2];
    while let Some((&[control, low, high], rest)) = pieces.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        pieces = rest;
        let says = |bit| control & bit != 0;
        let which = usize::from(says(SECOND));
        let file = &mut files[which];
        if cut[which] {
            continue;
        }
        cut[which] = says(CUT);
        if says(HEAD) {
            let mut head = piece[..piece.len().min(56)].to_vec();
            head.resize(56, 0);
            head.extend_from_slice(&blake3::hash(&head).as_bytes()[..8]);
            if file.len() < BLOCK_BYTES && !says(CUT) {
                file.resize(BLOCK_BYTES, 0);
            }
            file.resize(file.len().max(HEAD_BYTES), 0);
            file[..HEAD_BYTES].copy_from_slice(&head);
        } else if says(GROUP) || says(STALE) {
            file.resize(file.len().max(BLOCK_BYTES), 0);
            let (number, entries) = piece.split_first().unwrap_or((&0, &[]));
            let mut salt: [u8; 8] = file[33..41].try_into().expect("eight");
            salt[0] ^= u8::from(says(STALE));
            file.extend_from_slice(&group(salt, number_of(*number), entries));
        } else {
            file.extend_from_slice(piece);
        }
    }
    files
}

/// The number of a group: a small one, or one of the highest.
const fn number_of(byte: u8) -> u64 {
    match byte {
        0xf0.. => u64::MAX - 0xff + byte as u64,
        small => small as u64,
    }
}

fn group(salt: [u8; 8], number: u64, entries: &[u8]) -> Vec<u8> {
    let length = (entries.len() as u32).to_le_bytes();
    let number = number.to_le_bytes();
    let sum = crc32(&[&length, &salt, &number, entries]);
    let mut group = [&sum[..], &length, &salt, &number, entries].concat();
    group.resize(group.len().next_multiple_of(8), 0);
    group
}

/// Both files with their blocks, made here, given away and read twice; and of what comes a few
/// times as much.
const fn memory_bytes_max(bytes: usize) -> usize {
    // A group of no bytes comes in three, and takes its head and what a map needs.
    96 * bytes + 16 * BLOCK_BYTES
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let named = |name: &str| {
        let mut records = records().into_iter();
        let found = records.find(|(other, _)| *other == name);
        found.expect("there is such a record").1
    };
    let mut completed = named("completed-beside");
    if let Record::Call(call) = &mut completed
        && let State::Completed {
            answer: AnswerKept::Beside { length, .. },
            ..
        } = &mut call.state
    {
        *length = 4;
    }
    let each_kind = log_entries(&named("sealed"), &completed, b"paid");
    let removed = [&[3][..], &[0x4b; 32]].concat();
    let piece = |control, bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("pieces are small");
        [&[control][..], &length.to_le_bytes(), bytes].concat()
    };
    let head = |turn: u64, checkpoint: u64| log_head([0xcd; 16], turn, checkpoint, turn << 32);
    let begun =
        |turn: u64, checkpoint: u64| piece(HEAD | (turn % 2) as u8, &head(turn, checkpoint)[..56]);
    let written = |turn: u64, number: u8, entries: &[u8]| {
        piece(GROUP | (turn % 2) as u8, &[&[number], entries].concat())
    };
    let heads = [begun(7, 10), begun(8, 12)].concat();
    let older = [written(7, 11, &removed), written(7, 12, &each_kind)].concat();
    let newer = [written(8, 13, &removed), written(8, 14, &removed)].concat();
    let all = |known: u8, reached: u8, pieces: &[&[u8]]| {
        [&[known, reached], &pieces.concat()[..]].concat()
    };
    let torn = &group((8_u64 << 32).to_le_bytes(), 13, &removed)[..40];
    let other = log_head([0xce; 16], 8, 12, 9);
    vec![
        (
            "each-kind",
            all(1, 12, &[&heads, &written(8, 13, &each_kind)]),
        ),
        ("two-turns", all(1, 12, &[&heads, &older, &newer])),
        ("torn", all(1, 12, &[&heads, &older, &piece(0, torn)])),
        (
            "damaged",
            all(
                1,
                12,
                &[&heads, &older, &piece(0, torn), &piece(0, &[0; 16]), &newer],
            ),
        ),
        (
            "stale",
            all(
                1,
                12,
                &[
                    &heads,
                    &older,
                    &piece(STALE, &[&[13], &removed[..]].concat()),
                    &piece(STALE, &[14]),
                ],
            ),
        ),
        (
            "gap",
            all(1, 12, &[&heads, &older, &written(8, 14, &removed)]),
        ),
        ("sled-too-early", all(1, 11, &[&heads, &older])),
        ("log-too-early", all(1, 200, &[&heads, &older])),
        ("missing", all(1, 12, &[&begun(7, 10), &older])),
        (
            "other-store",
            all(1, 12, &[&begun(7, 10), &piece(HEAD, &other[..56])]),
        ),
        ("turns-apart", all(1, 12, &[&begun(5, 10), &begun(8, 12)])),
        (
            "first-opening",
            all(0, 0, &[&piece(SECOND | HEAD | CUT, &head(1, 0)[..56])]),
        ),
        ("unknown-and-used", all(0, 12, &[&begun(7, 10), &older])),
        ("empty", all(0, 0, &[])),
        (
            "raw-head",
            all(1, 12, &[&piece(0, &head(8, 12)), &piece(1, &head(7, 12))]),
        ),
        (
            "highest",
            all(
                1,
                0xfc,
                &[
                    &heads,
                    &written(7, 0xfd, &removed),
                    &written(7, 0xfe, &removed),
                    &written(8, 0xff, &removed),
                    &written(8, 0, &removed),
                ],
            ),
        ),
        (
            "highest-turn",
            all(1, 12, &[&begun(u64::MAX - 1, 10), &begun(u64::MAX, 12)]),
        ),
        ("newer-version", all(1, 12, &[&heads, &piece(HEAD, &[2])])),
    ]
}
