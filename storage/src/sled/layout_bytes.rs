//! The layout of pages and of open calls on disk: exact bytes, what is made of damaged ones, and
//! that whatever is written is found again where it was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::sled::Db;
use proptest::prelude::*;

use super::frame::{self, Found, Kind, Whole};
use super::open_rows::OpenRows;
use super::page::{PageFile, Pages, Position, Wait};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{
    Answer, AnswerFormat, AttemptId, DoubtReason, FencingToken, Fingerprint, FingerprintAlgorithm,
    IdempotencyKey, KeyDigest, Scope, ScopedKey, StoreError, Timestamp, codec,
};

/// A frame as it was written or found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    at: Position,
    body: Vec<u8>,
}

/// A file of pages in a folder of its own.
struct Scratch {
    folder: tempfile::TempDir,
    file: Arc<PageFile>,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = PageFile::open(folder.path(), NAME.to_owned()).unwrap();
        let file = Arc::new(file);
        Self { folder, file }
    }

    fn pages(&self, number: u32) -> Pages {
        Pages::new(Arc::clone(&self.file), number)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    fn scan(&self, pages: u32) -> Result<Vec<Frame>, String> {
        let mut frames = Vec::new();
        let scanned = frame::scan(&self.file, pages, |found| {
            let Found { kind, at, body } = found;
            frames.push(Frame {
                kind,
                at,
                body: body.to_vec(),
            });
            Ok(())
        });
        scanned.map(|()| frames).map_err(|error| error.to_string())
    }
}

fn append(pages: &mut Pages, kind: Kind, body: &[u8]) -> Position {
    let head = kind.head(body.len()).unwrap();
    pages.append(&[&head, body]).unwrap()
}

/// What a checkpoint does; how many pages the file has then.
fn checkpoint(pages: &mut Pages) -> Option<u32> {
    let run = pages.cut().unwrap()?;
    run.write(&mut Vec::new()).unwrap();
    pages.written();
    Some(run.end())
}

/// A page whose checksum is right.
fn page(number: u32, content: &[u8]) -> Vec<u8> {
    page_of_length(number, content.len() as u16, content)
}

fn page_of_length(number: u32, length: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(content);
    bytes.resize(PAGE_BYTES, 0);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(NAME.as_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(&bytes[4..]);
    bytes[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_page_with_each_kind_of_frame_has_these_bytes() {
    let scratch = Scratch::new();
    let mut pages = scratch.pages(0);
    let key = KeyDigest::from_bytes([0x4b; 32]);
    let whole = Whole {
        key,
        token: FencingToken::new(2, 0x0102_0304),
        format: 7,
        length: 4,
    };
    let answer = [&whole.sum(b"paid")[..], b"paid"].concat();
    append(&mut pages, Kind::Answer, &answer);
    let settled = [&key.as_bytes()[..], b"record"].concat();
    append(&mut pages, Kind::Settled, &settled);
    assert_eq!(checkpoint(&mut pages), Some(1));

    let digest = "4b".repeat(32);
    let expected = [
        // Checksum; length.
        "03252189",
        "3c00",
        // Kind, length, body.
        "010c000000",
        "74fe5d652393f52f",
        "70616964",
        "0426000000",
        &digest,
        "7265636f7264",
    ];
    let bytes = scratch.bytes();
    assert_eq!(hex(&bytes[..66]), expected.concat());
    assert_eq!(bytes.len(), PAGE_BYTES);
    assert!(bytes[66..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_run_over_two_pages_has_these_bytes() {
    let scratch = Scratch::new();
    let mut pages = scratch.pages(0);
    append(&mut pages, Kind::Settled, &[0xab; 4_500]);
    assert_eq!(checkpoint(&mut pages), Some(2));
    let bytes = scratch.bytes();
    let (first, second) = bytes.split_at(PAGE_BYTES);
    assert_eq!(hex(&first[..11]), "daec448ffa0f0494110000");
    assert!(first[11..].iter().all(|byte| *byte == 0xab));
    assert_eq!(second.len(), PAGE_BYTES);
    assert_eq!(hex(&second[..6]), "d38cdbde9f01");
    let rest = 5 + 4_500 - 4_090;
    assert!(second[6..6 + rest].iter().all(|byte| *byte == 0xab));
    assert!(second[6 + rest..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_files_of_a_day_have_these_names() {
    let day = crate::commit::bucket::Bucket::at(
        Timestamp::from_millis(1_700_000_000_000),
        std::time::Duration::from_secs(24 * 60 * 60),
    );
    let name = super::disk::bucket_name;
    assert_eq!(
        name("answers-", day),
        "answers-0000018bcb20b400-0000018bd0471000"
    );
    assert_eq!(
        name("settled-", day),
        "settled-0000018bcb20b400-0000018bd0471000"
    );
    // One that is needed again while the first is being removed.
    assert_eq!(
        name("answers-", day.again()),
        "answers-0000018bcb20b400-0000018bd0471001"
    );
}

#[test]
fn an_open_call_with_an_answer_in_parts_has_these_rows() {
    let db = database();
    let mut rows = OpenRows::open(db.open_tree("open").unwrap(), || Ok(())).unwrap();
    let body: Vec<u8> = (0..9_000_usize).map(|at| (at % 251) as u8).collect();
    let (key, record, answer) = doubted(&body);
    rows.put(key, record.clone(), Some(answer.clone()));
    rows.put(KeyDigest::from_bytes([1; 32]), record.clone(), None);
    rows.cut().write(|_| Ok(())).unwrap();

    let tree = db.open_tree("open").unwrap();
    let found: Vec<_> = tree.iter().map(Result::unwrap).collect();
    let places: Vec<_> = found.iter().map(|(place, _)| hex(place)).collect();
    let digest = "4b".repeat(32);
    assert_eq!(
        places,
        [
            "01".repeat(32),
            digest.clone(),
            format!("{digest}00000000"),
            format!("{digest}00000001"),
            format!("{digest}00000002"),
        ]
    );
    assert_eq!(found[0].1, codec::encode(&record));
    assert_eq!(found[1].1, codec::encode(&record));
    let whole = [&hex(&found[2].1), &hex(&found[3].1), &hex(&found[4].1)];
    assert_eq!(whole.map(|part| part.len() / 2), [4_000, 4_000, 1_008]);
    let sum = "5ef7809f9cf358f9";
    assert_eq!(
        whole.map(String::as_str).concat(),
        format!("{sum}{}", hex(&body))
    );

    // A shorter answer leaves nothing of the longer one.
    let (_, record, short) = doubted(b"paid");
    rows.put(key, record.clone(), Some(short.clone()));
    rows.cut().write(|_| Ok(())).unwrap();
    rows.written(&[key]);
    assert_eq!(tree.len(), 3);
    let call = record.call().unwrap();
    assert_eq!(rows.answer(key, call), Ok(Some(short.clone())));
    let rows = OpenRows::open(tree.clone(), || Ok(())).unwrap();
    assert_eq!(rows.answer(key, call), Ok(Some(short)));
}

fn database() -> Db {
    let config = ::sled::Config::new().temporary(true).flush_every_ms(None);
    config.open().unwrap()
}

/// The record as it lies beside its answer.
fn doubted(body: &[u8]) -> (KeyDigest, Record, Answer) {
    let answer = Answer::new(AnswerFormat::new(7), body.to_vec());
    let record = Record::Call(CallRecord {
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
        state: State::InDoubt {
            since: Timestamp::from_millis(1_700_000_000_001),
            reason: DoubtReason::Ambiguous,
            answer: Some(AnswerKept::Beside {
                format: 7,
                length: body.len() as u32,
                at: 0,
            }),
        },
    });
    (KeyDigest::from_bytes([0x4b; 32]), record, answer)
}

#[test]
fn a_page_with_any_bit_changed_is_an_error_never_fewer_frames() {
    let scratch = Scratch::new();
    let mut pages = scratch.pages(0);
    append(&mut pages, Kind::Settled, b"first");
    append(&mut pages, Kind::Answer, b"second");
    checkpoint(&mut pages);
    let whole = scratch.bytes();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        scratch.put(&damaged);
        let found = scratch.scan(1);
        assert!(found.is_err(), "bit {bit}: {found:?}");
    }
    for length in 0..whole.len() {
        scratch.put(&whole[..length]);
        let found = scratch.scan(1);
        assert!(found.is_err(), "{length} bytes: {found:?}");
    }
}

/// A page in another page's place, or in another file, has a checksum that matches nowhere else.
#[test]
fn a_page_that_lies_elsewhere_or_is_missing_is_an_error() {
    let scratch = Scratch::new();
    let mut pages = scratch.pages(0);
    for number in 1..=3 {
        append(&mut pages, Kind::Settled, &[number; 10]);
        assert_eq!(checkpoint(&mut pages), Some(u32::from(number)));
    }
    let whole = scratch.bytes();
    let page = |number: usize| &whole[number * PAGE_BYTES..][..PAGE_BYTES];
    scratch.put(&[page(0), page(0), page(2)].concat());
    assert!(
        scratch
            .scan(3)
            .unwrap_err()
            .contains("page 1: its checksum")
    );
    scratch.put(&[page(0), page(2)].concat());
    assert!(
        scratch
            .scan(2)
            .unwrap_err()
            .contains("page 1: its checksum")
    );
    scratch.put(&[page(0), page(1)].concat());
    assert!(scratch.scan(3).unwrap_err().contains("missing"));
    scratch.put(&whole);
    assert_eq!(scratch.scan(3).unwrap().len(), 3);
    // What lies behind the pages that count is not looked at.
    scratch.put(&[&whole[..], b"torn"].concat());
    assert_eq!(scratch.scan(2).unwrap().len(), 2);
    let other = PageFile::open(scratch.folder.path(), format!("{NAME}1")).unwrap();
    fs::write(scratch.folder.path().join(other.name()), &whole).unwrap();
    assert!(frame::scan(&other, 3, |_| Ok(())).is_err());
}

#[test]
fn what_no_writer_writes_is_an_error_also_where_its_checksum_is_right() {
    let frame = |kind: Kind, body: &[u8]| [&kind.head(body.len()).unwrap()[..], body].concat();
    let settled = frame(Kind::Settled, b"body");
    let cut = &settled[..settled.len() - 1];
    let long = [&[4][..], &u32::MAX.to_le_bytes(), b"body"].concat();
    let unknown = [&[9][..], &settled[1..]].concat();
    let full = page_of_length(0, 4_090, &settled);
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("kind 9", page(0, &unknown), "kind 9"),
        ("kind 2, which is no more", page(0, &frame_of(2)), "kind 2"),
        ("kind 3, which is no more", page(0, &frame_of(3)), "kind 3"),
        ("kind 0", page(0, &[0; 40]), "kind 0"),
        ("a cut body", page(0, cut), "cut off"),
        ("a cut head", page(0, &settled[..3]), "cut off"),
        ("a length beyond everything", page(0, &long), "cut off"),
        ("zeros that count", full, "kind 0"),
        (
            "a page too long",
            page_of_length(0, 4_091, &settled),
            "length",
        ),
    ];
    for (name, bytes, reason) in cases {
        let scratch = Scratch::new();
        scratch.put(&bytes);
        let refused = scratch.scan(1);
        let says = refused.as_ref().is_err_and(|text| text.contains(reason));
        assert!(says, "{name}: {refused:?}");
    }
}

fn frame_of(kind: u8) -> Vec<u8> {
    [&[kind][..], &4_u32.to_le_bytes(), b"body"].concat()
}

/// A reader that is led astray says so.
#[test]
fn reading_at_a_wrong_place_is_an_error_never_an_absent_record() {
    let scratch = Scratch::new();
    let mut pages = scratch.pages(0);
    append(&mut pages, Kind::Settled, b"body");
    checkpoint(&mut pages);
    let long = page(1, &[4, 255, 255, 255, 255, 1]);
    scratch.put(&[scratch.bytes(), long].concat());
    let pages = scratch.pages(2);
    let read = |page, offset, kind: Kind| {
        let mut reader = pages
            .read(Position { page, offset }, Wait::ForTheDisk)?
            .unwrap();
        let length = kind.expect(&mut reader)?;
        reader.take(length).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(read(0, 0, Kind::Settled), Ok(b"body".to_vec()));
    for (page, offset, kind) in [
        (0, 0, Kind::Answer),
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

/// What an opening finds in the file.
fn reopened(folder: &Path) -> Arc<PageFile> {
    Arc::new(PageFile::open(folder, NAME.to_owned()).unwrap())
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Answer), Just(Kind::Settled)]
}

/// Mostly small, some about as long as a page, some over several, a few over what is written at
/// once.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        40 => 0..200_usize,
        20 => 4_050..4_130_usize,
        10 => 0..13_000_usize,
        1 => 250_000..600_000_usize
    ]
}

/// Frames, one checkpoint after the other.
fn checkpoints() -> impl Strategy<Value = Vec<Vec<(Kind, usize)>>> {
    let frames = prop::collection::vec((kind(), length()), 0..8);
    prop::collection::vec(frames, 1..6)
}

/// Writes the frames; answers them, and how many pages count after each checkpoint, with how many
/// frames. `written_late`: what was cut is known to be in the file only behind the next frames.
fn write(pages: &mut Pages, checkpoints: &[Vec<(Kind, usize)>]) -> (Vec<Frame>, Vec<(u32, usize)>) {
    let mut written: Vec<Frame> = Vec::new();
    let mut ends = Vec::new();
    let mut end = 0;
    for frames in checkpoints {
        for (kind, length) in frames {
            let mark = written.len() as u8;
            let body: Vec<u8> = (0..*length).map(|at| (at as u8) ^ mark).collect();
            let at = append(pages, *kind, &body);
            written.push(Frame {
                kind: *kind,
                at,
                body,
            });
            // What is not in the file yet is read as well.
            let frame = &written[earlier(written.len())];
            assert_eq!(read(pages, frame), frame.body);
        }
        let run = pages.cut().unwrap();
        let count = written.len();
        // While it is on its way to its file, the pages behind it are filled.
        let at = append(pages, Kind::Settled, b"meanwhile");
        written.push(Frame {
            kind: Kind::Settled,
            at,
            body: b"meanwhile".to_vec(),
        });
        written
            .iter()
            .for_each(|frame| assert_eq!(read(pages, frame), frame.body));
        if let Some(run) = run {
            run.write(&mut Vec::new()).unwrap();
            end = run.end();
        }
        pages.written();
        ends.push((end, count));
        written
            .iter()
            .for_each(|frame| assert_eq!(read(pages, frame), frame.body));
    }
    end = checkpoint(pages).unwrap_or(end);
    ends.push((end, written.len()));
    (written, ends)
}

/// Some earlier one, the same in every run.
const fn earlier(count: usize) -> usize {
    (count * 7_919) % count.next_power_of_two() % count
}

fn read(pages: &Pages, frame: &Frame) -> Vec<u8> {
    let mut reader = pages.read(frame.at, Wait::ForTheDisk).unwrap().unwrap();
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
    fn what_is_written_is_found_where_it_was_written_after_every_checkpoint(
        checkpoints in checkpoints(),
    ) {
        let scratch = Scratch::new();
        let mut pages = scratch.pages(0);
        let (written, ends) = write(&mut pages, &checkpoints);
        for (end, count) in ends {
            prop_assert_eq!(&scratch.scan(end).unwrap(), &written[..count], "{} pages", end);
        }
    }

    /// A crash leaves some of the pages of the last checkpoint, which do not count. The next
    /// opening removes them, goes on behind what counts, and both are found.
    #[test]
    fn what_is_written_behind_an_unfinished_checkpoint_is_found(
        checkpoints in checkpoints(),
        cut in 0.0..1.0,
    ) {
        let scratch = Scratch::new();
        let (mut written, ends) = write(&mut scratch.pages(0), &checkpoints);
        let (counted, count) = ends[ends.len() - 2];
        let whole = scratch.bytes();
        let torn = counted as usize * PAGE_BYTES
            + ((whole.len() - counted as usize * PAGE_BYTES) as f64 * cut) as usize;
        scratch.put(&whole[..torn]);
        written.truncate(count);
        prop_assert_eq!(&scratch.scan(counted).unwrap(), &written);
        let file = reopened(scratch.folder.path());
        file.end_at(counted).unwrap();
        let mut pages = Pages::new(file, counted);
        let (more, ends) = write(&mut pages, &checkpoints);
        written.extend(more);
        let (end, _) = ends[ends.len() - 1];
        prop_assert_eq!(scratch.scan(end.max(counted)).unwrap(), written);
        prop_assert_eq!(scratch.bytes().len(), end.max(counted) as usize * PAGE_BYTES);
    }
}

const NAME: &str = "settled-0000018bcb20b400-0000018bd0471000";
const PAGE_BYTES: usize = 4_096;
