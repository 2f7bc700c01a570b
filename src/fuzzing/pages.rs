//! Pages that a store finds in one of its files, and the frames on them.
//!
//! An input is how many pages count beyond those that are there (as an `i8`), and the pages:
//!
//! ```text
//! control (1) | length (2, little endian) | as many bytes, or what is left
//! ```
//!
//! The control says what the bytes are, and what is wrong with the page besides them. Most inputs
//! have right checksums: whoever can write to the disk makes them, and the parsers lie behind them.

use onlyonce_storage::sled::fuzzing::{Frame, crc32, frame, scan};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "pages",
    run,
    seeds,
    memory_bytes_max,
};

/// The bytes are everything behind the checksum, the length included.
const WITH_LENGTH: u8 = 1;
/// The bytes are the whole page, checksum and all.
const RAW: u8 = 2;
/// It is the page of another place.
const ELSEWHERE: u8 = 4;
/// It is the page of another file.
const OTHER_FILE: u8 = 8;
/// The page ends where its bytes end, and the next one begins there.
const SHORT: u8 = 16;

const NAME: &str = "settled-0000018bcb20b400-0000018bd0471000";
const PAGE_BYTES: usize = 4_096;
/// More would only be slow.
const PAGES_MAX: usize = 64;

struct Page {
    control: u8,
    bytes: Vec<u8>,
}

/// What is found is what is there, all of it and nothing else, or an error says where it is not.
fn run(bytes: &[u8]) {
    let Some((&more, bytes)) = bytes.split_first() else {
        return;
    };
    let pages = read_pages(bytes);
    let counted = (pages.len() as i64 + i64::from(more as i8)).max(0) as usize;
    let file = file(&pages);
    let is_wrong = |page: &Page| {
        let made = page.control & RAW == 0;
        made && page.control & (ELSEWHERE | OTHER_FILE) != 0
    };
    match scan(NAME, &file, counted as u32) {
        Ok(found) => {
            assert!(
                counted * PAGE_BYTES <= file.len(),
                "what is missing was read"
            );
            // One that is short moves all behind it.
            if pages.iter().all(|page| page.control & SHORT == 0) {
                let mut read = pages.iter().take(counted);
                assert!(!read.any(is_wrong), "what is wrong was read");
            }
            check(&file[..counted * PAGE_BYTES], &found);
        }
        Err(words) => {
            assert!(words.contains(NAME), "{words}");
            if words.contains("at its end") {
                return;
            }
            let after = words.split("page ").nth(1).expect("it says which page");
            let digits = after.split(|c: char| !c.is_ascii_digit()).next();
            let number: usize = digits.unwrap_or_default().parse().expect("in a number");
            assert!(number < counted, "{words}");
        }
    }
}

/// Reads it once more and otherwise: all contents first, then the frames.
fn check(file: &[u8], found: &[Frame]) {
    let mut run = Vec::new();
    // Where the content of each page begins in it.
    let mut starts = Vec::new();
    for (number, page) in (0_u32..).zip(file.chunks(PAGE_BYTES)) {
        let sum = crc32(&[NAME.as_bytes(), &number.to_le_bytes(), &page[4..]]);
        assert_eq!(page[..4], sum, "page {number} was read");
        let length = usize::from(u16::from_le_bytes([page[4], page[5]]));
        starts.push(run.len());
        run.extend_from_slice(&page[6..6 + length]);
    }
    let mut at = 0;
    let mut expected = found.iter();
    while at < run.len() {
        let head = run.get(at..at + 5).expect("no head is cut off");
        let length = u32::from_le_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let body = run
            .get(at + 5..at + 5 + length)
            .expect("no body is cut off");
        let next = expected.next().expect("no frame is missing");
        assert_eq!((next.kind, &next.body[..]), (head[0], body));
        assert!(matches!(next.kind, 1 | 4), "a kind that there is not");
        // It may be said to begin at the end of a page or at the beginning of the next one.
        let start = starts[next.page as usize];
        assert_eq!(start + usize::from(next.offset), at);
        at += 5 + length;
    }
    assert_eq!(expected.next(), None, "a frame was made up");
}

fn read_pages(mut bytes: &[u8]) -> Vec<Page> {
    let mut pages = Vec::new();
    while let Some((&[control, low, high], rest)) = bytes.split_first_chunk::<3>()
        && pages.len() < PAGES_MAX
    {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        pages.push(Page {
            control,
            bytes: content.to_vec(),
        });
        bytes = rest;
    }
    pages
}

fn file(pages: &[Page]) -> Vec<u8> {
    let mut file = Vec::new();
    for (number, Page { control, bytes }) in (0_u32..).zip(pages) {
        let says = |bit| control & bit != 0;
        let begin = file.len();
        if !says(RAW) {
            file.extend_from_slice(&[0; 4]);
            if !says(WITH_LENGTH) {
                let length = bytes.len().min(PAGE_BYTES - 6) as u16;
                file.extend_from_slice(&length.to_le_bytes());
            }
        }
        file.extend_from_slice(bytes);
        if !says(SHORT) {
            file.resize(begin + PAGE_BYTES, 0);
        }
        if !says(RAW) {
            let place = number + u32::from(says(ELSEWHERE));
            let name = if says(OTHER_FILE) { "settled-" } else { NAME };
            let rest = &file[begin + 4..];
            let sum = crc32(&[name.as_bytes(), &place.to_le_bytes(), rest]);
            file[begin..begin + 4].copy_from_slice(&sum);
        }
    }
    file
}

/// A page that comes in three bytes takes a block, here and where it is read.
const fn memory_bytes_max(bytes: usize) -> usize {
    let pages = if bytes / 3 < PAGES_MAX {
        bytes / 3
    } else {
        PAGES_MAX
    };
    // A vector that grows has room for twice as much; and what is read at once has 64 pages.
    32 * bytes + PAGE_BYTES * (6 * (pages + 1) + 64)
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let made = |kind, body: &[u8]| frame(kind, body).expect("there is such a kind");
    let key = [0x4b; 32];
    let answer = made(1, b"12345678paid");
    let settled = made(4, &[&key[..], b"record"].concat());
    let written = |control, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("pages are small");
        [&[control][..], &length.to_le_bytes(), content].concat()
    };
    let all = |more: i8, pages: &[Vec<u8>]| [&[more as u8][..], &pages.concat()].concat();
    let run = [&answer[..], &settled, &answer].concat();
    let (first, rest) = run.split_at(30);
    let (second, third) = rest.split_at(40);
    let cut = &settled[..settled.len() - 1];
    let long = [&[4][..], &u32::MAX.to_le_bytes(), b"body"].concat();
    let with_length = [&48_u16.to_le_bytes()[..], &settled].concat();
    let many: Vec<_> = (0..40).map(|_| written(0, &made(1, b""))).collect();
    let whole = file(&read_pages(&written(0, &answer)));
    vec![
        ("empty", all(0, &[])),
        (
            "each-kind",
            all(0, &[written(0, &[&answer[..], &settled].concat())]),
        ),
        (
            "over-pages",
            all(
                0,
                &[written(0, first), written(0, second), written(0, third)],
            ),
        ),
        // Behind the pages that count anything may lie.
        (
            "unfinished",
            all(
                -2,
                &[
                    written(0, &settled),
                    written(0, first),
                    written(RAW | SHORT, b"torn"),
                ],
            ),
        ),
        ("cut-off", all(0, &[written(0, &settled), written(0, cut)])),
        (
            "absurd-length",
            all(0, &[written(0, &long), written(0, &run)]),
        ),
        ("many", all(0, &many)),
        ("missing", all(1, &[written(0, &settled)])),
        ("elsewhere", all(0, &[written(ELSEWHERE, &settled)])),
        ("other-file", all(0, &[written(OTHER_FILE, &settled)])),
        (
            "short",
            all(0, &[written(SHORT, &settled), written(0, &run)]),
        ),
        ("with-length", all(0, &[written(WITH_LENGTH, &with_length)])),
        ("raw", all(0, &[written(RAW, &whole[..64])])),
    ]
}
