//! Journals of many calls: bounded together, and in what is written at once.
#![cfg(all(feature = "memory", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::journal::NoteError;
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, KeyState, MemoryOptions, MemoryStore,
    Scope, ScopedKey, StepName, StepNote, Store, StoreError, StoreLimits,
};

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

fn request(text: &str, bytes: usize) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(600);
    let mut request = ClaimRequest::new(key(text), Fingerprints::new(print), lease);
    request.journal = Some(Bytes::from(vec![7; bytes]));
    request
}

async fn claimed(store: &dyn Store, request: ClaimRequest) -> Claim {
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("a new key is claimed, and this one is answered {other:?}"),
    }
}

async fn note(store: &dyn Store, claim: &Claim, note: StepNote) -> Result<(), NoteError> {
    let journal = store.journal().unwrap();
    journal.note(claim.digest(), claim.token(), note).await
}

fn name(name: &str) -> StepName {
    StepName::parse(name).unwrap()
}

fn done(step: &str, bytes: usize) -> StepNote {
    StepNote::done(name(step), Bytes::from(vec![7; bytes]))
}

fn limits() -> StoreLimits {
    StoreLimits::default().journals_bytes_max(10_000)
}

/// Whether it is refused because of all journals together, in words that say what to do.
fn is_full(refused: &StoreError) -> bool {
    let words = refused.to_string();
    matches!(refused, StoreError::Unavailable { .. })
        && words.contains("10000 bytes together; resolve what is in doubt, or raise the bound")
}

// E10
#[tokio::test]
async fn beyond_the_bound_of_all_journals_nothing_is_begun_and_what_was_begun_is_finished() {
    let options = MemoryOptions::new().limits(limits());
    fill(&MemoryStore::with_options(options)).await;
    let folder = tempfile::tempdir().unwrap();
    let options = SledOptions::new().limits(limits());
    let store = SledStore::open(folder.path().join("store"), options).unwrap();
    fill(&store).await;
    store.close().await.unwrap();
}

async fn fill(store: &dyn Store) {
    let first = claimed(store, request("first", 4_000)).await;
    let second = claimed(store, request("second", 4_000)).await;
    note(store, &second, StepNote::begun(name("charge")))
        .await
        .unwrap();
    let refused = store.claim(request("third", 4_000)).await.unwrap_err();
    assert!(is_full(&refused), "{refused}");
    assert_eq!(store.peek(key("third")).await, Ok(KeyState::Absent));
    let Err(NoteError::Store(refused)) = note(store, &first, done("reserve", 3_000)).await else {
        panic!("there is no room for it");
    };
    assert!(is_full(&refused), "{refused}");
    // What was begun may have happened: its result is kept whatever there is.
    note(store, &second, done("charge", 4_000)).await.unwrap();
    let Err(NoteError::Store(refused)) = note(store, &first, StepNote::begun(name("a"))).await
    else {
        panic!("there is no room for it");
    };
    assert!(is_full(&refused), "{refused}");
    // Nothing else is kept from anything.
    let mut plain = request("plain", 0);
    plain.journal = None;
    let plain = claimed(store, plain).await;
    store.release(plain).await.unwrap();
    let duplicate = store.claim(request("first", 4_000)).await.unwrap();
    assert!(
        matches!(duplicate, ClaimOutcome::InProgress { .. }),
        "{duplicate:?}"
    );
    let token = second.token();
    store
        .doubt(second, DoubtReason::OwnerGone, None)
        .await
        .unwrap();
    let mut again = request("second", 4_000);
    again.rerun_of = Some(token);
    let second = claimed(store, again).await;
    // What is settled makes room.
    let paid = Answer::new(AnswerFormat::new(1), "paid");
    store.complete(second, paid).await.unwrap();
    let third = claimed(store, request("third", 4_000)).await;
    store.release(third).await.unwrap();
    store.release(first).await.unwrap();
}

/// An opening counts what an earlier one has left.
#[tokio::test]
async fn a_restart_is_no_way_around_the_bound_of_all_journals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let open = || SledStore::open(&path, SledOptions::new().limits(limits())).unwrap();
    let store = open();
    for text in ["first", "second"] {
        std::mem::forget(claimed(&store, request(text, 4_500)).await);
    }
    store.close().await.unwrap();
    let store = open();
    let refused = store.claim(request("third", 4_500)).await.unwrap_err();
    assert!(is_full(&refused), "{refused}");
    store.close().await.unwrap();
}

/// E10: a group is bounded by what it writes, not by what it is told: each note, however short, writes
/// its journal anew.
#[tokio::test(flavor = "multi_thread")]
async fn short_notes_of_many_large_journals_at_once_make_no_large_group() {
    const CALLS: usize = 24;
    const BYTES: usize = 128 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let options = || SledOptions::new().log_bytes(256 * 1024);
    let store = Arc::new(SledStore::open(&path, options()).unwrap());
    let mut claims = Vec::new();
    for number in 0..CALLS {
        claims.push(claimed(&*store, request(&number.to_string(), BYTES)).await);
    }
    let mut largest = 0;
    for round in 0..2 {
        let notes: Vec<_> = claims
            .iter()
            .map(|claim| {
                let (store, key, token) = (Arc::clone(&store), claim.digest(), claim.token());
                tokio::spawn(async move {
                    let journal = store.journal().unwrap();
                    let note = done(&format!("step-{round}"), 1);
                    journal.note(key, token, note).await.unwrap();
                })
            })
            .collect();
        for note in notes {
            note.await.unwrap();
            largest = largest.max(log_bytes(&path));
        }
    }
    println!("a file of the log had up to {largest} bytes");
    assert!(largest < 16 * BYTES as u64, "{largest} bytes");
    let tokens: Vec<_> = claims.iter().map(Claim::token).collect();
    claims.into_iter().for_each(std::mem::forget);
    Arc::into_inner(store).unwrap().close().await.unwrap();
    // All of it is there: sled has it in rows of 4,000 bytes.
    let store = SledStore::open(&path, options()).unwrap();
    for (number, token) in tokens.into_iter().enumerate() {
        let mut again = request(&number.to_string(), 0);
        again.rerun_of = Some(token);
        let claim = claimed(&store, again).await;
        let journal = claim.journal().unwrap();
        assert_eq!((journal.request().len(), journal.steps().len()), (BYTES, 2));
        std::mem::forget(claim);
    }
    store.close().await.unwrap();
}

/// The larger file of the log.
fn log_bytes(store: &Path) -> u64 {
    let files = ["LOG-0", "LOG-1"].map(|name| std::fs::metadata(store.join(name)));
    let sizes = files
        .into_iter()
        .map(|file| file.map_or(0, |file| file.len()));
    sizes.max().unwrap()
}
