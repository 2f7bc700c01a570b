//! Handlers that work on a transaction of the store, and others who write to the same rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce_middleware::server::{Refusal, Served};
use onlyonce_storage::transaction::{RowRange, Table, TransactionalStore};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey, Store,
};
use tokio::time::timeout;

use crate::doubts::key;
use crate::protocol::{Ask, Handler, NoAnswer, Told, done, send};

const ROWS: Table = Table::new("rows");

/// Reads a row and writes it; the first `lost` runs find that somebody else was faster.
pub fn losing(store: &MemoryStore, lost: u32) -> Handler {
    let (store, runs) = (store.clone(), Arc::new(AtomicU32::new(0)));
    Handler::new(move |ask: Ask| {
        let (store, run) = (store.clone(), runs.fetch_add(1, Ordering::SeqCst));
        async move {
            let transaction = ask.transaction.unwrap();
            transaction.get(&ROWS, b"hot").await.unwrap();
            if run < lost {
                write(&store, &run.to_string()).await;
            }
            transaction.put(&ROWS, b"hot", b"mine").unwrap();
            Ok(done(&format!("run {run}")))
        }
    })
}

/// Somebody else's commit.
async fn write(store: &MemoryStore, text: &str) {
    let key = ScopedKey::new(Scope::global(), IdempotencyKey::unique());
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
    let ClaimOutcome::Claimed(claim) = store.begin(request).await.unwrap() else {
        panic!("a unique key is free");
    };
    let transaction = store.start(&claim);
    transaction.put(&ROWS, b"hot", text.as_bytes()).unwrap();
    let answer = Answer::new(AnswerFormat::new(9), "");
    let work = transaction.end().unwrap();
    store.commit(claim, work, answer).await.unwrap();
}

async fn rows(store: &MemoryStore) -> usize {
    let all = RowRange::new::<&[u8]>(&ROWS, &.., 10);
    store.read(all).await.unwrap().len()
}

// B18, B19: whoever drops the handler, a timeout around it or a `select!` above it, nothing that it
// has written so far is committed, and the key is free.
#[tokio::test(start_paused = true)]
async fn a_transaction_whose_handler_is_dropped_half_way_commits_nothing() {
    let store = MemoryStore::default();
    let server = Handler::new(|ask: Ask| async move {
        let transaction = ask.transaction.unwrap();
        let half = async {
            transaction.put(&ROWS, b"from", b"90").unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            transaction.put(&ROWS, b"to", b"110").unwrap();
        };
        let limit = Duration::from_secs(if ask.body.ends_with("in time") { 9 } else { 1 });
        match timeout(limit, half).await {
            Ok(()) => Ok(done("moved")),
            Err(_) => Err(NoAnswer),
        }
    })
    .over(Arc::new(store.clone()));
    for _ in 0..2 {
        let told = send(&server, Ask::new("k", "book, too late")).await;
        let Told::Refused(Refusal::Unavailable { reason, .. }) = &told else {
            panic!("{told:?}");
        };
        assert!(reason.ends_with("it was rolled back"), "{reason}");
        assert_eq!(rows(&store).await, 0);
        assert_eq!(store.peek(key("k")).await.unwrap(), KeyState::Absent);
    }
    let told = send(&server, Ask::new("k", "book, in time")).await;
    assert_eq!(told, Told::Done("moved".to_owned(), Served::Executed));
    assert_eq!(rows(&store).await, 2);
}

// G4
#[tokio::test(start_paused = true)]
async fn a_run_that_loses_runs_again_and_one_that_always_loses_is_not_executed() {
    let store = MemoryStore::default();
    let server = losing(&store, 2).over(Arc::new(store.clone()));
    let told = send(&server, Ask::new("k", "book")).await;
    assert_eq!(told, Told::Done("run 2".to_owned(), Served::Executed));
    let server = losing(&store, u32::MAX).over(Arc::new(store.clone()));
    let told = send(&server, Ask::new("l", "book")).await;
    assert!(
        matches!(told, Told::Refused(Refusal::Unavailable { .. })),
        "{told:?}"
    );
    assert_eq!(store.peek(key("l")).await.unwrap(), KeyState::Absent);
}
