//! What lies on the disk is not what was written.

use std::fs;
use std::path::Path;

use super::{answer, claimed, key, page_files, raw, refused, request, wait_for};
use crate::sled::{SledOptions, SledStore, SyncPoint};
use crate::{DoubtReason, Store as _, StoreError};

// G5: nobody knows whose records were on a page that cannot be read.
#[tokio::test]
async fn a_missing_or_damaged_page_keeps_the_store_shut() {
    for kind in ["answers-", "settled-"] {
        for damage in ["emptied", "missing", "exchanged", "damaged", "shortened"] {
            let folder = store_with_large_answers().await;
            harm(folder.path(), kind, damage);
            let reason = refused(folder.path());
            assert!(reason.contains(kind), "{damage}: {reason}");
        }
    }
}

// G5: one that sled does not know of is none of ours.
#[tokio::test]
async fn the_file_of_another_bucket_in_the_place_of_one_keeps_the_store_shut() {
    let folder = store_with_large_answers().await;
    let files = page_files(folder.path());
    let [answers, settled] = &files[..] else {
        panic!("{files:?}");
    };
    let (theirs, ours) = (fs::read(answers).unwrap(), fs::read(settled).unwrap());
    fs::write(settled, &theirs[..ours.len()]).unwrap();
    let reason = refused(folder.path());
    assert!(reason.contains("checksum"), "{reason}");
}

// G5
#[tokio::test]
async fn a_missing_answer_is_corrupt_never_absent() {
    let folder = store_with_large_answers().await;
    // Its file and what sled says of it.
    harm(folder.path(), "answers-", "forgotten");
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let replayed = store.claim(request(&key("kept-1"))).await;
    assert!(
        matches!(replayed, Err(StoreError::Corrupt(_))),
        "{replayed:?}"
    );
    let peeked = store.peek(key("kept-1")).await;
    assert!(matches!(peeked, Err(StoreError::Corrupt(_))), "{peeked:?}");
    store.close().await.unwrap();
}

// G5
#[tokio::test]
async fn a_missing_answer_of_a_call_in_doubt_is_corrupt_never_none() {
    let folder = store_with_large_answers().await;
    let db = raw(folder.path());
    let tree = db.open_tree("onlyonce/open").unwrap();
    let parts = tree.iter().keys().map(Result::unwrap);
    for part in parts.filter(|row| row.len() == 36).collect::<Vec<_>>() {
        tree.remove(part).unwrap();
    }
    flush(folder.path(), &db);
    drop((tree, db));
    wait_for(folder.path());
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let peeked = store.peek(key("doubted")).await;
    assert!(matches!(peeked, Err(StoreError::Corrupt(_))), "{peeked:?}");
    store.close().await.unwrap();
}

async fn store_with_large_answers() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    for number in 0..5 {
        let claim = claimed(&store, &key(&format!("kept-{number}"))).await;
        store.complete(claim, answer(&[7; 20_000])).await.unwrap();
    }
    let sealing = (0..100).map(|number| store.seal(key(&format!("sealed-{number}"))));
    for sealing in sealing.collect::<Vec<_>>() {
        sealing.await.unwrap();
    }
    let claim = claimed(&store, &key("doubted")).await;
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, Some(answer(&[7; 20_000])));
    doubted.await.unwrap();
    store.close().await.unwrap();
    folder
}

/// Changes a file of pages of a closed store behind its back.
fn harm(path: &Path, kind: &str, damage: &str) {
    let files = page_files(path).into_iter();
    let mut of_kind = files.filter(|file| super::file_name(file).starts_with(kind));
    let file = of_kind.next().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    assert!(bytes.len() >= 2 * PAGE_BYTES);
    match damage {
        "emptied" => fs::write(&file, "").unwrap(),
        "missing" => fs::remove_file(&file).unwrap(),
        "exchanged" => {
            let (first, second) = bytes.split_at_mut(PAGE_BYTES);
            first.swap_with_slice(&mut second[..PAGE_BYTES]);
            fs::write(&file, bytes).unwrap();
        }
        "damaged" => {
            bytes[PAGE_BYTES + 100] ^= 1;
            fs::write(&file, bytes).unwrap();
        }
        "shortened" => fs::write(&file, &bytes[..bytes.len() - 50]).unwrap(),
        _ => {
            fs::remove_file(&file).unwrap();
            let db = raw(path);
            let meta = db.open_tree("onlyonce/meta").unwrap();
            let said = meta.remove(format!("pages/{}", super::file_name(&file)));
            assert!(said.unwrap().is_some());
            flush(path, &db);
            drop((meta, db));
            wait_for(path);
        }
    }
}

fn flush(path: &Path, db: &::sled::Db) {
    SyncPoint::open(path.join("db"))
        .unwrap()
        .commit(db)
        .unwrap();
}

const PAGE_BYTES: usize = 4_096;
