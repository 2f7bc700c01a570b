//! Single bytes of what a store reads when it is opened are others than were written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ::sled::{Db, IVec};

use super::{answer, claimed, draws, file_name, key, page_files, raw, refused, request, wait_for};
use crate::commit::Rows as _;
use crate::record::{AnswerKept, Record, State};
use crate::sled::cause::Cause;
use crate::sled::disk::{Loaded, Parts};
use crate::sled::{SledOptions, SledStore, SyncPoint};
use crate::{
    Answer, ClaimOutcome, DoubtReason, KeyDigest, KeyState, RetentionOptions, ScopedKey, Store as _,
};

/// A page of a store.
struct Page {
    file: PathBuf,
    number: usize,
    bytes: Vec<u8>,
}

/// Where a page is altered, and how.
#[derive(Debug)]
struct Alteration {
    page: usize,
    at: usize,
    xor: u8,
}

// G5: nobody knows whose records were on a page that was altered.
#[tokio::test]
async fn any_byte_of_a_page_that_is_altered_keeps_the_store_shut_and_is_told_where() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path()).await;
    let db = raw(folder.path());
    let pages = pages(folder.path());
    // All of each head, and of what follows some.
    let heads = (0..pages.len()).flat_map(|page| (0..HEAD_BYTES).map(move |at| (page, at)));
    let heads = heads.map(|(page, at)| Alteration {
        page,
        at,
        xor: 1 << (at % 8),
    });
    for alteration in heads.chain(sample(&pages, 2_000)) {
        let page = &pages[alteration.page];
        put(page, &altered(page, &alteration));
        let refused = read(&db, folder.path()).map(drop);
        let says = matches!(&refused, Err(Cause::Damaged(words)) if words.contains(&place(page)));
        assert!(says, "{alteration:?} of {}: {refused:?}", place(page));
        put(page, &page.bytes);
    }
    read(&db, folder.path()).unwrap();
}

/// The same from outside, sled's own opening and closing included, and what is there when the page
/// is put back.
#[tokio::test]
async fn a_store_with_an_altered_page_is_corrupt_and_whole_again_when_it_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let pages = pages(folder.path());
    for alteration in sample(&pages, 12) {
        let page = &pages[alteration.page];
        put(page, &altered(page, &alteration));
        let reason = refused(folder.path());
        assert!(reason.contains(&place(page)), "{alteration:?}: {reason}");
        wait_for(folder.path());
        put(page, &page.bytes);
    }
    all_are_there(folder.path(), written).await;
}

/// Whoever makes the checksum right as well, a mistake of ours for one, can hide a frame, so that
/// its call is absent. Records and answers have sums of their own: none becomes another one.
#[tokio::test]
async fn a_page_that_is_altered_with_its_checksum_never_tells_another_answer() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let digests: Vec<_> = written.iter().map(|(key, _)| key.digest()).collect();
    let db = raw(folder.path());
    let pages = pages(folder.path());
    let whole = told(&read(&db, folder.path()).unwrap(), &digests);
    assert!(whole.iter().all(Option::is_some));
    let (mut refused, mut hidden, mut unharmed) = (0, 0, 0);
    for alteration in sample(&pages, 600) {
        let page = &pages[alteration.page];
        let mut bytes = altered(page, &alteration);
        make_right(page, &mut bytes);
        put(page, &bytes);
        match read(&db, folder.path()) {
            Err(_) => refused += 1,
            Ok(loaded) => {
                for (now, before) in told(&loaded, &digests).iter().zip(&whole) {
                    if now.is_none() {
                        hidden += 1;
                    } else {
                        assert_eq!(now, before, "{alteration:?}");
                        unharmed += 1;
                    }
                }
            }
        }
        put(page, &page.bytes);
    }
    println!(
        "{refused} alterations refused; {unharmed} records told, {hidden} unreadable or absent"
    );
    assert!(refused > 0 && hidden > 0 && unharmed > 0);
}

/// sled has checksums of its own. Below them an open call is refused or said to be corrupt, and
/// never has another record or another answer; not even one that is cut short or given away.
#[tokio::test]
async fn any_byte_of_an_open_call_that_is_altered_is_refused_or_told_as_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let digests: Vec<_> = written.iter().map(|(key, _)| key.digest()).collect();
    let db = raw(folder.path());
    let tree = db.open_tree("onlyonce/open").unwrap();
    let whole = told(&read(&db, folder.path()).unwrap(), &digests);
    let rows: Vec<(IVec, IVec)> = tree.iter().map(Result::unwrap).collect();
    assert!(rows.iter().any(|(row, _)| row.len() == 36));
    let is_refused_or_corrupt = |what: &str| match read(&db, folder.path()) {
        Err(Cause::Damaged(_)) => {}
        Err(Cause::Disk(error)) => panic!("{what}: {error}"),
        Ok(loaded) => {
            let told = told(&loaded, &digests);
            let other = told
                .iter()
                .zip(&whole)
                .filter(|(now, before)| now != before);
            let other: Vec<_> = other.collect();
            assert_eq!(other.len(), 1, "{what}");
            assert!(
                other.iter().all(|(now, _)| now.is_none()),
                "{what}: {other:?}"
            );
        }
    };
    let mut draw = draws(SEED);
    for (row, value) in &rows {
        for _ in 0..16 {
            let at = draw(value.len());
            let mut bytes = value.to_vec();
            bytes[at] ^= 1 + draw(255) as u8;
            tree.insert(row, bytes).unwrap();
            is_refused_or_corrupt(&format!("byte {at} of {}", row.len()));
        }
        tree.insert(row, &value[..value.len() - 1]).unwrap();
        is_refused_or_corrupt("one byte less");
        tree.insert(row, value).unwrap();
        if row.len() == 36 {
            tree.remove(row).unwrap();
            is_refused_or_corrupt("a part less");
            tree.insert(row, value).unwrap();
        }
    }
    for (row, content) in [
        (&b"short"[..], &b""[..]),
        (&[7; 33], b""),
        (&[7; 36], b"part"),
    ] {
        tree.insert(row, content).unwrap();
        assert!(matches!(read(&db, folder.path()), Err(Cause::Damaged(_))));
        tree.remove(row).unwrap();
    }
    assert_eq!(told(&read(&db, folder.path()).unwrap(), &digests), whole);
}

/// A store with a call of each kind, and what became of each.
async fn fill(path: &Path) -> Vec<(ScopedKey, KeyState)> {
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    let mut keys = Vec::new();
    for (number, length) in [0, 3, 40, 300, 5_000, 9_000].into_iter().enumerate() {
        let name = |what: &str| key(&format!("{what}-{number}"));
        keys.extend(["completed", "sealed", "doubted", "held"].map(name));
        let body = vec![number as u8; length];
        let claim = claimed(&store, &name("completed")).await;
        store.complete(claim, answer(&body)).await.unwrap();
        store.seal(name("sealed")).await.unwrap();
        let claim = claimed(&store, &name("doubted")).await;
        let doubted = store.doubt(claim, DoubtReason::Ambiguous, Some(answer(&body)));
        doubted.await.unwrap();
        drop(claimed(&store, &name("held")).await);
        let claim = claimed(&store, &name("released")).await;
        store.release(claim).await.unwrap();
    }
    store.close().await.unwrap();
    // What was held is in doubt from the next opening on.
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    let mut written = Vec::new();
    for key in keys {
        let state = store.peek(key.clone()).await.unwrap();
        assert_ne!(state, KeyState::Absent);
        let told = store.claim(request(&key)).await.unwrap();
        assert!(!matches!(told, ClaimOutcome::Claimed(_)), "{told:?}");
        written.push((key, state));
    }
    store.close().await.unwrap();
    written
}

async fn all_are_there(path: &Path, written: Vec<(ScopedKey, KeyState)>) {
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for (key, state) in written {
        assert_eq!(store.peek(key).await, Ok(state));
    }
    store.close().await.unwrap();
}

fn pages(path: &Path) -> Vec<Page> {
    let mut pages = Vec::new();
    for file in page_files(path) {
        let bytes = fs::read(&file).unwrap();
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        for (number, bytes) in bytes.chunks(PAGE_BYTES).enumerate() {
            pages.push(Page {
                file: file.clone(),
                number,
                bytes: bytes.to_vec(),
            });
        }
    }
    assert!(pages.len() >= 5, "a check of little: {} pages", pages.len());
    pages
}

/// The same in every run.
fn sample(pages: &[Page], count: usize) -> impl Iterator<Item = Alteration> {
    let mut draw = draws(SEED);
    let pages = pages.len();
    (0..count).map(move |_| Alteration {
        page: draw(pages),
        at: draw(PAGE_BYTES),
        xor: 1 + draw(255) as u8,
    })
}

fn altered(page: &Page, alteration: &Alteration) -> Vec<u8> {
    let mut bytes = page.bytes.clone();
    bytes[alteration.at] ^= alteration.xor;
    bytes
}

fn make_right(page: &Page, bytes: &mut [u8]) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(file_name(&page.file).as_bytes());
    hasher.update(&(page.number as u32).to_le_bytes());
    hasher.update(&bytes[4..]);
    bytes[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

fn put(page: &Page, bytes: &[u8]) {
    let file = File::options().write(true).open(&page.file).unwrap();
    let offset = (page.number * PAGE_BYTES) as u64;
    crate::sled::disk::write_at(&file, bytes, offset).unwrap();
}

/// The part of an opening that reads the pages.
fn read(db: &Db, path: &Path) -> Result<Loaded, Cause> {
    let parts = Parts {
        db: db.clone(),
        db_file: path.join("db").join("db"),
        folder: path.join("pages"),
        point: SyncPoint::open(path.join("db")).unwrap(),
        lock: File::open(path.join("LOCK")).unwrap(),
    };
    Loaded::read(parts, &RetentionOptions::default())
}

/// The records, and with each its answer; `None` where it is absent or cannot be read.
fn told(loaded: &Loaded, digests: &[KeyDigest]) -> Vec<Option<(Record, Option<Answer>)>> {
    let tell = |digest: &KeyDigest| {
        let record = loaded.record(*digest).ok()??;
        let answer = match &record {
            Record::Call(call) if keeps_answer(&call.state) => loaded.answer(*digest, call).ok()?,
            _ => None,
        };
        Some((record, answer))
    };
    digests.iter().map(tell).collect()
}

const fn keeps_answer(state: &State) -> bool {
    match state {
        State::Completed { answer, .. }
        | State::InDoubt {
            answer: Some(answer),
            ..
        } => matches!(answer, AnswerKept::Beside { .. }),
        _ => false,
    }
}

/// As an error names it.
fn place(page: &Page) -> String {
    format!("{}, page {}: ", file_name(&page.file), page.number)
}

const SEED: u64 = 20_261_121;
const PAGE_BYTES: usize = 4_096;
const HEAD_BYTES: usize = 6;
