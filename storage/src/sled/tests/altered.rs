//! Single bytes of what a store reads when it is opened are others than were written.

use std::fs::File;
use std::path::Path;

use ::sled::{Db, IVec};

use super::{answer, claimed, key, raw, request, wait_for};
use crate::commit::Rows as _;
use crate::record::{AnswerKept, Record, State};
use crate::sled::cause::Cause;
use crate::sled::disk::{Parts, SledDisk};
use crate::sled::{OpenError, SledOptions, SledStore, SyncPoint};
use crate::{
    Answer, ClaimOutcome, DoubtReason, KeyDigest, KeyState, RetentionOptions, ScopedKey, Store as _,
};

/// A page of a store.
struct Page {
    tree: IVec,
    number: IVec,
    value: IVec,
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
    let pages = pages(&db);
    // All of each head, and of what follows some.
    let heads = (0..pages.len()).flat_map(|page| (0..HEAD_BYTES).map(move |at| (page, at)));
    let heads = heads.map(|(page, at)| Alteration {
        page,
        at,
        xor: 1 << (at % 8),
    });
    for alteration in heads.chain(sample(&pages, 2_000)) {
        let page = &pages[alteration.page];
        put(&db, page, &altered(page, &alteration));
        let refused = read(&db, folder.path()).map(drop);
        let says = matches!(&refused, Err(Cause::Damaged(words)) if words.contains(&place(page)));
        assert!(says, "{alteration:?} of {}: {refused:?}", place(page));
        put(&db, page, &page.value);
    }
    read(&db, folder.path()).unwrap();
}

/// The same from outside, sled's own opening and closing included, and what is there when the page
/// is put back.
#[tokio::test]
async fn a_store_with_an_altered_page_is_corrupt_and_whole_again_when_it_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let db = raw(folder.path());
    let pages = pages(&db);
    drop(db);
    wait_for(folder.path());
    for alteration in sample(&pages, 12) {
        let page = &pages[alteration.page];
        put_closed(folder.path(), page, &altered(page, &alteration));
        match SledStore::open(folder.path(), SledOptions::new()) {
            Err(OpenError::Corrupt { reason, .. }) => {
                assert!(reason.contains(&place(page)), "{alteration:?}: {reason}");
            }
            other => panic!("{alteration:?}: {other:?}"),
        }
        wait_for(folder.path());
        put_closed(folder.path(), page, &page.value);
    }
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    for (key, state) in written {
        assert_eq!(store.peek(key).await, Ok(state));
    }
    store.close().await.unwrap();
}

/// Whoever makes the checksum right as well, a mistake of ours for one, can hide a frame, so that
/// its call is absent or what it was before. Records and answers have sums of their own: none
/// becomes another one.
#[tokio::test]
async fn a_page_that_is_altered_with_its_checksum_never_tells_another_answer() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let digests: Vec<_> = written.iter().map(|(key, _)| key.digest()).collect();
    let db = raw(folder.path());
    let pages = pages(&db);
    let whole = told(&read(&db, folder.path()).unwrap(), &digests);
    assert!(whole.iter().all(Option::is_some));
    let (mut refused, mut hidden, mut unharmed) = (0, 0, 0);
    for alteration in sample(&pages, 600) {
        let page = &pages[alteration.page];
        let mut value = altered(page, &alteration);
        make_right(page, &mut value);
        put(&db, page, &value);
        match read(&db, folder.path()) {
            Err(_) => refused += 1,
            Ok(disk) => {
                for (now, before) in told(&disk, &digests).iter().zip(&whole) {
                    match now {
                        None => hidden += 1,
                        Some((record, answer)) => {
                            let (whole, told) = before.as_ref().unwrap();
                            let earlier = !record.is_settled() && answer.is_none();
                            let same = record == whole && answer == told;
                            assert!(same || earlier, "{alteration:?}: {record:?} {answer:?}");
                            unharmed += 1;
                        }
                    }
                }
            }
        }
        put(&db, page, &page.value);
    }
    println!(
        "{refused} alterations refused; {unharmed} records told, {hidden} unreadable or absent"
    );
    assert!(refused > 0 && unharmed > 0);
}

// G5: a mark that cannot be believed is no mark that was never written.
#[tokio::test]
async fn any_bit_of_the_mark_that_is_altered_keeps_the_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(folder.path()).await;
    let path = folder.path().join("MARK");
    let whole = std::fs::read(&path).unwrap();
    let damaged = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        match SledStore::open(folder.path(), SledOptions::new()) {
            Err(OpenError::Corrupt { reason, .. }) => {
                assert!(reason.contains("MARK"), "{what}: {reason}");
            }
            other => panic!("{what}: {other:?}"),
        }
    };
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged(&bytes, &format!("bit {bit}"));
    }
    for length in 1..whole.len() {
        damaged(&whole[..length], &format!("{length} bytes"));
    }
    std::fs::write(&path, &whole).unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    for (key, state) in written {
        assert_eq!(store.peek(key).await, Ok(state));
    }
    store.close().await.unwrap();
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

fn pages(db: &Db) -> Vec<Page> {
    let mut pages = Vec::new();
    for tree in db.tree_names() {
        if !tree.starts_with(b"onlyonce/recent/") && !tree.starts_with(b"onlyonce/settled/") {
            continue;
        }
        for row in &db.open_tree(&tree).unwrap() {
            let (number, value) = row.unwrap();
            pages.push(Page {
                tree: tree.clone(),
                number,
                value,
            });
        }
    }
    assert!(pages.len() > 10, "a check of little: {} pages", pages.len());
    pages
}

/// The same in every run.
fn sample(pages: &[Page], count: usize) -> impl Iterator<Item = Alteration> {
    println!("seed {SEED}");
    let mut drawn = blake3::Hasher::new()
        .update(&SEED.to_le_bytes())
        .finalize_xof();
    let mut draw = move |below: usize| {
        let mut bytes = [0; 8];
        drawn.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below as u64) as usize
    };
    let lengths: Vec<_> = pages.iter().map(|page| page.value.len()).collect();
    (0..count).map(move |_| {
        let page = draw(lengths.len());
        Alteration {
            page,
            at: draw(lengths[page]),
            xor: 1 + draw(255) as u8,
        }
    })
}

fn altered(page: &Page, alteration: &Alteration) -> Vec<u8> {
    let mut value = page.value.to_vec();
    value[alteration.at] ^= alteration.xor;
    value
}

fn make_right(page: &Page, value: &mut [u8]) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&page.number);
    hasher.update(&value[4..]);
    value[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

fn put(db: &Db, page: &Page, value: &[u8]) {
    let tree = db.open_tree(&page.tree).unwrap();
    tree.insert(&page.number, value).unwrap();
}

fn put_closed(path: &Path, page: &Page, value: &[u8]) {
    let db = raw(path);
    put(&db, page, value);
    SyncPoint::flush(&db).unwrap();
    drop(db);
    wait_for(path);
}

/// The part of an opening that reads the pages.
fn read(db: &Db, path: &Path) -> Result<SledDisk, Cause> {
    let parts = Parts {
        db: db.clone(),
        db_file: path.join("db").join("db"),
        point: SyncPoint::open(path.join("db")).unwrap(),
        lock: File::open(path.join("LOCK")).unwrap(),
    };
    SledDisk::open(parts, &RetentionOptions::default())
}

/// The records, and with each its answer; `None` where it is absent or cannot be read.
fn told(disk: &SledDisk, digests: &[KeyDigest]) -> Vec<Option<(Record, Option<Answer>)>> {
    let tell = |digest: &KeyDigest| {
        let record = disk.record(*digest).ok()??;
        let answer = match &record {
            Record::Call(call) if keeps_answer(&call.state) => disk.answer(*digest, call).ok()?,
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
    let number = u32::from_be_bytes((&*page.number).try_into().unwrap());
    format!(
        "bucket {}: page {number}: ",
        String::from_utf8_lossy(&page.tree)
    )
}

const SEED: u64 = 20_261_121;
const HEAD_BYTES: usize = 13;
