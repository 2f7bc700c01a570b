//! What lies on the disk is not what was written.

use std::path::Path;

use super::{answer, claimed, key, raw, request, wait_for};
use crate::sled::{OpenError, SledOptions, SledStore, SyncPoint};
use crate::{Store as _, StoreError};

// G5: nobody knows whose records were on a page that cannot be read.
#[tokio::test]
async fn a_missing_or_damaged_page_keeps_the_store_shut() {
    for kind in ["onlyonce/recent/", "onlyonce/settled/"] {
        for damage in ["missing", "damaged", "shortened"] {
            let folder = store_with_large_answers().await;
            harm(folder.path(), kind, damage);
            let refused = SledStore::open(folder.path(), SledOptions::new());
            let corrupt = matches!(refused, Err(OpenError::Corrupt { .. }));
            assert!(corrupt, "{kind} {damage}: {refused:?}");
        }
    }
}

// G5
#[tokio::test]
async fn a_missing_answer_is_corrupt_never_absent() {
    let folder = store_with_large_answers().await;
    harm(folder.path(), "onlyonce/recent/", "tree");
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

async fn store_with_large_answers() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    for number in 0..5 {
        let claim = claimed(&store, &key(&format!("kept-{number}"))).await;
        store.complete(claim, answer(&[7; 20_000])).await.unwrap();
    }
    store.close().await.unwrap();
    folder
}

/// Changes a tree of a closed store behind its back.
fn harm(path: &Path, kind: &str, damage: &str) {
    let db = raw(path);
    let name = db
        .tree_names()
        .into_iter()
        .find(|name| name.starts_with(kind.as_bytes()))
        .unwrap();
    let tree = db.open_tree(&name).unwrap();
    let (place, value) = tree.iter().nth(2).unwrap().unwrap();
    let mut value = value.to_vec();
    match damage {
        "missing" => drop(tree.remove(&place).unwrap()),
        "damaged" => {
            value[100] ^= 1;
            tree.insert(&place, value).unwrap();
        }
        "shortened" => {
            value.truncate(50);
            tree.insert(&place, value).unwrap();
        }
        _ => drop(db.drop_tree(&name).unwrap()),
    }
    SyncPoint::flush(&db).unwrap();
    drop((tree, db));
    wait_for(path);
}
