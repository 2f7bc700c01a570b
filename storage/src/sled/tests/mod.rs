//! What only the inside of the store can show: faults at the seam, and how many syncs are made.

mod altered;
mod closing;
mod damage;
mod failures;
mod faulty;
mod grouping;
mod sweeps;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::faulty::{Faulty, Script};
use super::{SledOptions, SledStore};
use crate::commit::disk::Engine;
use crate::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Scope, ScopedKey, Store as _, StoreError,
};

fn open(path: &Path, options: &SledOptions) -> (Arc<SledStore>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let (in_disk, in_syncer) = (Arc::clone(&script), Arc::clone(&script));
    let store = SledStore::open_with(path, options, |engine| Engine {
        disk: Box::new(Faulty {
            inner: engine.disk,
            script: in_disk,
        }),
        syncer: Box::new(Faulty {
            inner: engine.syncer,
            script: in_syncer,
        }),
    });
    (Arc::new(store.unwrap()), script)
}

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

fn request(key: &ScopedKey) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(
        key.clone(),
        Fingerprints::new(print),
        Duration::from_secs(30),
    )
}

fn answer(body: &[u8]) -> Answer {
    Answer::new(AnswerFormat::new(1), body.to_vec())
}

async fn claimed(store: &SledStore, key: &ScopedKey) -> Claim {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn is_poisoned<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Poisoned(_)))
}

/// The database of a closed store.
fn raw(path: &Path) -> ::sled::Db {
    ::sled::Config::new()
        .path(path.join("db"))
        .segment_size(super::open::SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .unwrap()
}

/// sled gives its file back a moment after the last handle is dropped.
fn wait_for(path: &Path) {
    let file = std::fs::File::open(path.join("db").join("db")).unwrap();
    file.lock().unwrap();
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
