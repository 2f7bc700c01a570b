//! The layout on disk: its exact bytes, what is made of damaged ones, and that whatever is written
//! is found again where it was written.

use ::sled::{Db, Tree};
use proptest::prelude::*;

use super::disk::token_bytes;
use super::frame::{self, Extent, Found, Kind, Whole};
use super::page::{Pages, Position};
use crate::{FencingToken, KeyDigest, StoreError};

/// A frame as it was written or found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    at: Position,
    group: u64,
    body: Vec<u8>,
}

fn database() -> (Db, Tree) {
    let config = ::sled::Config::new().temporary(true).flush_every_ms(None);
    let db = config.open().unwrap();
    let tree = db.open_tree("pages").unwrap();
    (db, tree)
}

fn append(pages: &mut Pages, kind: Kind, body: &[u8]) -> Position {
    let head = kind.head(body.len()).unwrap();
    pages.append(&[&head, body]).unwrap()
}

fn scan(tree: &Tree) -> Result<(Vec<Frame>, Extent), String> {
    let mut frames = Vec::new();
    let extent = frame::scan(tree, |found| {
        let Found {
            kind,
            at,
            group,
            body,
        } = found;
        frames.push(Frame {
            kind,
            at,
            group,
            body: body.to_vec(),
        });
        Ok(())
    })
    .map_err(|cause| cause.to_string())?;
    Ok((frames, extent))
}

fn page(tree: &Tree, number: u32) -> Vec<u8> {
    tree.get(number.to_be_bytes()).unwrap().unwrap().to_vec()
}

/// Puts a page there whose checksum is right.
fn put(tree: &Tree, number: u32, flags: u8, content: &[u8]) {
    let mut value = vec![flags];
    value.extend_from_slice(&7_u64.to_le_bytes());
    value.extend_from_slice(content);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(&value);
    let mut whole = hasher.finalize().to_le_bytes().to_vec();
    whole.extend_from_slice(&value);
    tree.insert(number.to_be_bytes(), whole).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_page_with_each_kind_of_frame_has_these_bytes() {
    let (_db, tree) = database();
    let mut pages = Pages::new(tree.clone(), 0);
    let key = KeyDigest::from_bytes([0x4b; 32]);
    let token = FencingToken::new(2, 0x0102_0304);
    let whole = Whole {
        key,
        token,
        format: 7,
        length: 4,
    };
    let answer = [&whole.sum(b"paid")[..], b"paid"].concat();
    let claim = [&key.as_bytes()[..], &token_bytes(token)].concat();
    append(&mut pages, Kind::Answer, &answer);
    append(&mut pages, Kind::Open, &[&claim[..], b"record"].concat());
    append(&mut pages, Kind::Closed, &claim);
    let settled = [&key.as_bytes()[..], b"record"].concat();
    append(&mut pages, Kind::Settled, &settled);
    pages.finish(0x0a0b, true).unwrap();

    let (digest, token) = ("4b".repeat(32), "02000000000000000403020100000000");
    let record = "7265636f7264";
    let expected = [
        // Checksum; begins a run and ends its group; group.
        "d0cc31c4",
        "03",
        "0b0a000000000000",
        // Kind, length, body.
        "010c000000",
        "74fe5d652393f52f",
        "70616964",
        "0236000000",
        &digest,
        token,
        record,
        "0330000000",
        &digest,
        token,
        "0426000000",
        &digest,
        record,
    ];
    assert_eq!(hex(&page(&tree, 0)), expected.concat());
    assert_eq!(tree.len(), 1);
}

#[test]
fn a_run_over_two_pages_has_these_bytes() {
    let (_db, tree) = database();
    let mut pages = Pages::new(tree.clone(), 0);
    append(&mut pages, Kind::Settled, &[0xab; 4_500]);
    pages.finish(9, true).unwrap();
    let first = page(&tree, 0);
    assert_eq!(first.len(), 4_013);
    assert_eq!(hex(&first[..18]), "ee980cf50109000000000000000494110000");
    assert!(first[18..].iter().all(|byte| *byte == 0xab));
    let second = page(&tree, 1);
    assert_eq!(second.len(), 13 + 5 + 4_500 - 4_000);
    assert_eq!(hex(&second[..13]), "a9c87f7a020900000000000000");
    assert!(second[13..].iter().all(|byte| *byte == 0xab));
    assert_eq!(tree.len(), 2);
}

#[test]
fn a_page_with_any_bit_changed_is_an_error_never_fewer_frames() {
    let (_db, tree) = database();
    let mut pages = Pages::new(tree.clone(), 0);
    append(&mut pages, Kind::Settled, b"first");
    append(&mut pages, Kind::Closed, b"second");
    pages.finish(1, true).unwrap();
    let whole = page(&tree, 0);
    let place = 0_u32.to_be_bytes();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        tree.insert(place, damaged).unwrap();
        let found = scan(&tree);
        assert!(found.is_err(), "bit {bit}: {found:?}");
    }
    for length in 0..whole.len() {
        tree.insert(place, &whole[..length]).unwrap();
        let found = scan(&tree);
        assert!(found.is_err(), "{length} bytes: {found:?}");
    }
}

/// A page in another page's place has a checksum that matches nowhere else.
#[test]
fn a_page_that_lies_elsewhere_or_is_missing_is_an_error() {
    let (_db, tree) = database();
    let mut pages = Pages::new(tree.clone(), 0);
    for group in 1..=3 {
        append(&mut pages, Kind::Settled, &[group; 10]);
        pages.finish(u64::from(group), true).unwrap();
    }
    let (first, second) = (page(&tree, 0), page(&tree, 1));
    tree.insert(1_u32.to_be_bytes(), first).unwrap();
    assert!(scan(&tree).unwrap_err().contains("checksum"));
    tree.remove(1_u32.to_be_bytes()).unwrap();
    assert!(scan(&tree).unwrap_err().contains("page 1 is missing"));
    tree.insert(1_u32.to_be_bytes(), second).unwrap();
    assert_eq!(scan(&tree).unwrap().0.len(), 3);
    tree.insert("page", "of somebody else").unwrap();
    assert!(scan(&tree).is_err());
}

#[test]
fn what_no_writer_writes_is_an_error_also_where_its_checksum_is_right() {
    let frame = |kind: Kind, body: &[u8]| [&kind.head(body.len()).unwrap()[..], body].concat();
    let settled = frame(Kind::Settled, b"body");
    let (begins, ends) = (1, 2);
    let cut = &settled[..settled.len() - 1];
    let long = [&[4][..], &u32::MAX.to_le_bytes(), b"body"].concat();
    let unknown = [&[9][..], &settled[1..]].concat();
    let cases: [(&str, u8, &[u8], &str); 9] = [
        ("unknown flags", 4, &settled, "flags"),
        ("all flags", 255, &settled, "flags"),
        ("kind 9", begins | ends, &unknown, "kind 9"),
        ("kind 0", begins | ends, &[0; 40], "kind 0"),
        ("a cut body in a whole group", begins | ends, cut, "cut off"),
        (
            "a cut head in a whole group",
            begins | ends,
            &settled[..3],
            "cut off",
        ),
        (
            "a length beyond everything",
            begins | ends,
            &long,
            "cut off",
        ),
        ("a middle without its beginning", 0, &settled, "begin"),
        ("an end without its beginning", ends, &settled, "begin"),
    ];
    for (name, flags, content, reason) in cases {
        let (_db, tree) = database();
        put(&tree, 0, flags, content);
        let refused = scan(&tree);
        let says = refused.as_ref().is_err_and(|text| text.contains(reason));
        assert!(says, "{name}: {refused:?}");
    }
    // Behind the end of a group.
    let (_db, tree) = database();
    put(&tree, 0, begins | ends, &settled);
    put(&tree, 1, 0, &settled);
    assert!(scan(&tree).unwrap_err().contains("begin"));
}

/// A reader that is led astray says so.
#[test]
fn reading_at_a_wrong_place_is_an_error_never_an_absent_record() {
    let (_db, tree) = database();
    let mut pages = Pages::new(tree.clone(), 0);
    append(&mut pages, Kind::Settled, b"body");
    pages.finish(1, true).unwrap();
    put(&tree, 1, 3, &[4, 255, 255, 255, 255, 1]);
    let pages = Pages::new(tree, 2);
    let read = |page, offset, kind: Kind| {
        let mut reader = pages.read(Position { page, offset })?.unwrap();
        let length = kind.expect(&mut reader)?;
        reader.take(length).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(read(0, 0, Kind::Settled), Ok(b"body".to_vec()));
    for (page, offset, kind) in [
        (0, 0, Kind::Open),
        (0, 2, Kind::Settled),
        (0, 8, Kind::Settled),
        (0, 9, Kind::Settled),
        (0, u16::MAX, Kind::Settled),
        // Four milliards of bytes that are not there: neither believed nor allocated.
        (1, 0, Kind::Settled),
    ] {
        let told = read(page, offset, kind);
        let corrupt = matches!(told, Err(StoreError::Corrupt(_)));
        assert!(corrupt, "{page}, {offset}, {kind:?}: {told:?}");
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Answer),
        Just(Kind::Open),
        Just(Kind::Closed),
        Just(Kind::Settled),
    ]
}

/// Mostly small, some about as long as a page, some over several.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..200_usize, 2 => 3_960..4_040_usize, 1 => 0..13_000_usize]
}

/// Groups of frames; after some frames what is full is put into the tree at once.
fn groups() -> impl Strategy<Value = Vec<Vec<(Kind, usize, bool)>>> {
    let group = prop::collection::vec((kind(), length(), any::<bool>()), 1..8);
    prop::collection::vec(group, 1..6)
}

/// Writes the groups; answers the frames and behind which page each ends.
fn write(pages: &mut Pages, first: u64, groups: &[Vec<(Kind, usize, bool)>]) -> Vec<(Frame, u32)> {
    let mut written = Vec::new();
    for (group, frames) in (first..).zip(groups) {
        for (kind, length, early) in frames {
            let mark = written.len() as u8;
            let body: Vec<u8> = (0..*length).map(|at| (at as u8) ^ mark).collect();
            let at = append(pages, *kind, &body);
            // From its first byte on, 4,000 bytes a page.
            let last = (usize::from(at.offset) + 5 + length - 1) / 4_000;
            let behind = at.page + last as u32 + 1;
            let frame = Frame {
                kind: *kind,
                at,
                group,
                body,
            };
            written.push((frame, behind));
            if *early {
                pages.insert_full(group).unwrap();
            }
            // What is not in the tree yet is read as well.
            let (frame, _) = &written[earlier(written.len())];
            assert_eq!(read(pages, frame), frame.body);
        }
        pages.finish(group, true).unwrap();
    }
    written
}

/// Some earlier one, the same in every run.
const fn earlier(count: usize) -> usize {
    (count * 7_919) % count.next_power_of_two() % count
}

fn read(pages: &Pages, frame: &Frame) -> Vec<u8> {
    let mut reader = pages.read(frame.at).unwrap().unwrap();
    let length = frame.kind.expect(&mut reader).unwrap();
    reader.take(length).unwrap().into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_written_is_found_where_it_was_written_also_when_it_is_cut_off(
        groups in groups(),
    ) {
        let (_db, tree) = database();
        let mut pages = Pages::new(tree.clone(), 0);
        let written = write(&mut pages, 1, &groups);
        let (found, extent) = scan(&tree).unwrap();
        let all: Vec<_> = written.iter().map(|(frame, _)| frame.clone()).collect();
        prop_assert_eq!(&found, &all);
        prop_assert_eq!(extent.group, groups.len() as u64);
        prop_assert_eq!(extent.next as usize, tree.len());
        for frame in &all {
            prop_assert_eq!(&read(&pages, frame), &frame.body);
        }
        // A crash leaves the first pages of it.
        for length in (0..extent.next).rev() {
            tree.remove(length.to_be_bytes()).unwrap();
            let (found, extent) = scan(&tree).unwrap();
            let whole = written.iter().filter(|(_, behind)| *behind <= length);
            let whole: Vec<_> = whole.map(|(frame, _)| frame.clone()).collect();
            prop_assert_eq!(&found, &whole, "cut to {} pages", length);
            prop_assert_eq!(extent.next, length);
        }
    }

    /// The next opening goes on behind what was torn, and both are found.
    #[test]
    fn what_is_written_behind_a_torn_run_is_found(groups in groups(), cut in 0.0..1.0) {
        let (_db, tree) = database();
        let mut pages = Pages::new(tree.clone(), 0);
        let written = write(&mut pages, 1, &groups);
        let length = (f64::from(scan(&tree).unwrap().1.next) * cut) as u32;
        while tree.len() > length as usize {
            tree.pop_max().unwrap();
        }
        let (mut expected, extent) = scan(&tree).unwrap();
        let whole = written.iter().filter(|(_, behind)| *behind <= length);
        prop_assert_eq!(expected.len(), whole.count());
        let mut pages = Pages::new(tree.clone(), extent.next);
        let more = write(&mut pages, extent.group + 1, &groups);
        expected.extend(more.into_iter().map(|(frame, _)| frame));
        prop_assert_eq!(scan(&tree).unwrap().0, expected);
    }
}
