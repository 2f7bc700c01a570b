//! Pages that a store finds in a tree of its database, and the frames on them.
//!
//! An input is a sequence of pages:
//!
//! ```text
//! control (1) | group (1) | length (2, little endian) | as many bytes, or what is left
//! ```
//!
//! The control says what is wrong with the page besides its bytes. Most inputs have right
//! checksums: whoever can write to the disk makes them, and the parsers lie behind them.

use std::collections::BTreeMap;

use onlyonce_storage::sled::fuzzing::{Frames, frame, page, scan};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "pages",
    run,
    seeds,
    memory_bytes_max,
};

/// The flags of the page, of which a writer sets two.
const BEGINS: u8 = 1;
const ENDS: u8 = 2;
const FLAGS: u8 = 7;
/// The bytes are the whole value, checksum and all.
const RAW: u8 = 8;
/// A page is missing before it.
const GAP: u8 = 16;
/// It is the page of another place.
const ELSEWHERE: u8 = 32;
/// Its number has three bytes.
const SHORT_NUMBER: u8 = 64;

struct Page {
    control: u8,
    group: u8,
    bytes: Vec<u8>,
}

/// What is found is what is there, all of it and nothing else, or an error says where it is not.
fn run(bytes: &[u8]) {
    let pages = read_pages(bytes);
    let rows = rows(&pages);
    let is_wrong = |page: &Page| {
        let made = page.control & RAW == 0;
        page.control & (GAP | SHORT_NUMBER) != 0
            || made && page.control & ELSEWHERE != 0
            || made && page.control & FLAGS > BEGINS | ENDS
    };
    match scan(&rows) {
        Ok(found) => {
            assert!(!pages.iter().any(is_wrong), "what is wrong was read");
            check(&pages, &rows, &found);
        }
        Err(words) => {
            let after = words.split("page ").nth(1).expect("it says which page");
            let digits = after.split(|c: char| !c.is_ascii_digit()).next();
            let number: usize = digits.unwrap_or_default().parse().expect("in a number");
            assert!(number <= rows.len(), "{words}");
        }
    }
}

fn check(pages: &[Page], rows: &[(Vec<u8>, Vec<u8>)], found: &Frames) {
    assert_eq!(found.next as usize, rows.len());
    let content = |number: usize| &rows[number].1[13..];
    let flags = |number: usize| rows[number].1[4];
    let group = |number: usize| {
        let group = rows[number].1[5..13].try_into();
        u64::from_le_bytes(group.expect("eight bytes"))
    };
    let whole = (0..pages.len()).filter(|number| flags(*number) & ENDS != 0);
    assert_eq!(found.group, whole.map(group).max().unwrap_or(0));

    // Each run once more and otherwise: all its bytes first, then its frames.
    let mut number = 0;
    let mut expected = found.frames.iter();
    while number < pages.len() {
        let first = number;
        // Where each of its pages begins in the run.
        let mut starts = BTreeMap::new();
        let mut run = Vec::new();
        loop {
            starts.insert(number, run.len());
            run.extend_from_slice(content(number));
            number += 1;
            let ended = flags(number - 1) & ENDS != 0;
            if ended || number == pages.len() || flags(number) & BEGINS != 0 {
                break;
            }
        }
        assert_eq!(flags(first) & BEGINS, BEGINS);
        let mut at = 0;
        while let Some(head) = run.get(at..at + 5) {
            let length = u32::from_le_bytes(head[1..].try_into().expect("four bytes")) as usize;
            let Some(body) = run.get(at + 5..at + 5 + length) else {
                break;
            };
            let next = expected.next().expect("no frame is missing");
            assert_eq!((next.kind, &next.body[..]), (head[0], body));
            // It may be said to begin at the end of a page or at the beginning of the next one.
            let start = starts[&(next.page as usize)];
            assert_eq!(start + usize::from(next.offset), at);
            at += 5 + length;
        }
        let ended = flags(number - 1) & ENDS != 0;
        assert!(!ended || at == run.len(), "a whole group is cut off");
    }
    assert_eq!(expected.next(), None, "a frame was made up");
}

fn read_pages(mut bytes: &[u8]) -> Vec<Page> {
    let mut pages = Vec::new();
    while let Some((&[control, group, low, high], rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        pages.push(Page {
            control,
            group,
            bytes: content.to_vec(),
        });
        bytes = rest;
    }
    pages
}

fn rows(pages: &[Page]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut number: u32 = 0;
    let mut rows = Vec::new();
    for Page {
        control,
        group,
        bytes,
    } in pages
    {
        let says = |bit| control & bit != 0;
        number += u32::from(says(GAP));
        let value = match says(RAW) {
            true => bytes.clone(),
            false => {
                let place = number + u32::from(says(ELSEWHERE));
                page(place, control & FLAGS, u64::from(*group), bytes)
            }
        };
        let mut key = number.to_be_bytes().to_vec();
        if says(SHORT_NUMBER) {
            key.remove(0);
        }
        rows.push((key, value));
        number += 1;
    }
    rows
}

/// The pages of the input and their rows are held beside what is read: of an empty page, which
/// comes in four bytes, that is some hundred.
const fn memory_bytes_max(bytes: usize) -> usize {
    32 * bytes + 4_096
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let made = |kind, body: &[u8]| frame(kind, body).expect("there is such a kind");
    let key = [0x4b; 32];
    let answer = made(1, b"12345678paid");
    let open = made(2, &[&key[..], &[2; 16], b"record"].concat());
    let closed = made(3, &[&key[..], &[2; 16]].concat());
    let settled = made(4, &[&key[..], b"record"].concat());
    let written = |control, group, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("pages are small");
        [&[control, group][..], &length.to_le_bytes(), content].concat()
    };
    let whole = BEGINS | ENDS;
    let run = [&answer[..], &open, &settled].concat();
    let (first, rest) = run.split_at(30);
    let (second, third) = rest.split_at(40);
    let cut = &settled[..settled.len() - 1];
    let long = [&[4][..], &u32::MAX.to_le_bytes(), b"body"].concat();
    let many = (0..60).flat_map(|group| written(whole, group, &made(3, b"")));
    vec![
        ("empty", Vec::new()),
        (
            "each-kind",
            written(whole, 1, &[&answer[..], &open, &closed, &settled].concat()),
        ),
        (
            "over-pages",
            [
                written(BEGINS, 7, first),
                written(0, 7, second),
                written(ENDS, 7, third),
            ]
            .concat(),
        ),
        (
            "torn-and-gone-on",
            [
                written(whole, 1, &settled),
                written(BEGINS, 2, first),
                written(0, 2, second),
                written(whole, 3, &open),
            ]
            .concat(),
        ),
        ("cut-off", written(whole, 1, cut)),
        (
            "absurd-length",
            [written(BEGINS, 1, &long), written(0, 1, &run)].concat(),
        ),
        ("many", many.collect()),
        (
            "gap",
            [written(whole, 1, &closed), written(GAP | whole, 2, &closed)].concat(),
        ),
        ("elsewhere", written(ELSEWHERE | whole, 1, &closed)),
        ("short-number", written(SHORT_NUMBER | whole, 1, &closed)),
        ("raw", written(RAW, 0, &page(0, whole, 1, &closed))),
    ]
}
