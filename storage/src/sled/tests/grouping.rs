//! How many syncs and groups are made for what is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;

use super::{answer, claimed, key, open, request};
use crate::sled::SledOptions;
use crate::transaction::{Table, TransactionalStore as _};
use crate::{ClaimOutcome, KeyState, Store as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_claims_share_their_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let barrier = Arc::new(Barrier::new(64));
    script.slow.store(true, Ordering::SeqCst);
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let key = key(&number.to_string());
                let claim = claimed(&store, &key).await;
                store.complete(claim, answer(b"paid")).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let syncs = script.syncs.load(Ordering::SeqCst);
    assert!(syncs <= 16, "128 operations needed {syncs} syncs");
}

#[tokio::test]
async fn what_only_reads_needs_no_sync() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let claim = claimed(&store, &key("busy")).await;
    assert_eq!(script.syncs.load(Ordering::SeqCst), 1);
    for _ in 0..10 {
        store.peek(key("busy")).await.unwrap();
        store.claim(request(&key("busy"))).await.unwrap();
    }
    assert_eq!(script.syncs.load(Ordering::SeqCst), 1);
    store.complete(claim, answer(b"paid")).await.unwrap();
    assert_eq!(script.syncs.load(Ordering::SeqCst), 2);
}

/// One call alone, with an effect in the store: what its handler reads and the claim that it holds are
/// written nowhere, effect and answer are in one group. A claimed call needs two, without the effect.
#[tokio::test]
async fn a_first_call_is_one_durable_write_in_a_transaction_and_two_where_it_is_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let spent = || {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        [
            count(&script.groups),
            count(&script.writes),
            count(&script.syncs),
        ]
    };
    for number in 1..=3 {
        let before = spent();
        let key = key(&format!("booked-{number}"));
        let ClaimOutcome::Claimed(mut claim) = store.begin(request(&key)).await.unwrap() else {
            panic!("a new key is free");
        };
        let transaction = store.start(&claim);
        let balance = transaction.get(&ACCOUNTS, b"alice").await.unwrap();
        assert_eq!(balance.is_some(), number > 1);
        let lease = Duration::from_secs(60);
        store.renew(&mut claim, lease).await.unwrap();
        transaction.put(&ACCOUNTS, b"alice", b"90").unwrap();
        transaction.put(&ACCOUNTS, b"bob", b"110").unwrap();
        assert_eq!(spent(), before, "nothing is written before the commit");
        let work = transaction.end().unwrap();
        store.commit(claim, work, answer(b"moved")).await.unwrap();
        assert_eq!(spent(), before.map(|count| count + 1));
    }
    let before = spent();
    let claim = claimed(&store, &key("claimed")).await;
    store.complete(claim, answer(b"paid")).await.unwrap();
    assert_eq!(spent(), before.map(|count| count + 2));
}

// G4: there is one writer, so nobody conflicts and nothing is tried again. A thousand who want the
// same key are told in a few groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_writers_of_one_key_conflict_with_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let barrier = Arc::new(Barrier::new(1_000));
    script.slow.store(true, Ordering::SeqCst);
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let key = key("hot");
                match store.claim(request(&key)).await.unwrap() {
                    ClaimOutcome::Claimed(mut claim) => {
                        for _ in 0..3 {
                            let lease = Duration::from_secs(60);
                            store.renew(&mut claim, lease).await.unwrap();
                        }
                        store.complete(claim, answer(b"paid")).await.unwrap();
                        1
                    }
                    ClaimOutcome::InProgress { .. } | ClaimOutcome::Completed(_) => 0,
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let mut given = 0;
    for task in tasks {
        given += task.await.unwrap();
    }
    assert_eq!(given, 1);
    // What one writes is written: a claim, three renewals, the answer, and nothing for the others.
    assert_eq!(script.changes.load(Ordering::SeqCst), 5);
    let groups = script.groups.load(Ordering::SeqCst);
    assert!(groups <= 5, "1,004 operations were {groups} groups");
    let state = store.peek(key("hot")).await.unwrap();
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
    store.close().await.unwrap();
}

const ACCOUNTS: Table = Table::new("accounts");
