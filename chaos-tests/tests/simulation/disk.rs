//! The simulated disk keeps what was synced: what a store on it acknowledges survives every cut.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::storage::simulated::{SimDisk, SimOptions, SimStore, SyncFate};
use onlyonce::storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyState, ManualClock, RetentionOptions, Scope, ScopedKey, Store,
    StoreError, StoreId, StoreLimits,
};
use onlyonce_chaos::Seed;

async fn opened(disk: &SimDisk) -> SimStore {
    let options = SimOptions {
        id: StoreId::from_bytes([1; 16]),
        clock: Arc::new(ManualClock::default()),
        retention: RetentionOptions::default(),
        limits: StoreLimits::default(),
        durable: None,
    };
    SimStore::open(disk.clone(), options).await.unwrap()
}

fn key(number: u64) -> ScopedKey {
    let key = IdempotencyKey::parse(&format!("call-{number}")).unwrap();
    ScopedKey::new(Scope::global(), key)
}

fn request(number: u64) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
        .field("body", b"1")
        .finish();
    ClaimRequest::new(
        key(number),
        Fingerprints::new(print),
        Duration::from_secs(30),
    )
}

async fn settle(store: &SimStore, number: u64) -> Result<(), StoreError> {
    let ClaimOutcome::Claimed(claim) = store.claim(request(number)).await? else {
        panic!("call {number} was claimed before");
    };
    let answer = Answer::new(AnswerFormat::new(1), format!("answer {number}"));
    store
        .complete(claim, answer)
        .await
        .map_err(|_| StoreError::Closed)
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_after_every_cut_of_the_power() {
    for cut in 0..200 {
        let disk = SimDisk::new();
        disk.decide_syncs(|| SyncFate {
            takes: Duration::from_millis(2),
            fails: false,
        });
        let store = Arc::new(opened(&disk).await);
        let mut acknowledged = 0;
        let working = async {
            for number in 0..20 {
                settle(&store, number).await.unwrap();
                acknowledged = number + 1;
            }
        };
        let _ = tokio::time::timeout(Duration::from_micros(500 * cut), working).await;
        let seed = Seed::new(cut);
        disk.cut_power(&mut |sector| seed.draw(&[sector as u64]).happens(0.5));
        drop(store);
        let store = opened(&disk).await;
        for number in 0..acknowledged {
            let state = store.peek(key(number)).await.unwrap();
            assert!(
                matches!(state, KeyState::Completed(_)),
                "cut {cut}, call {number}: {state:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_its_first_failed_sync_a_store_acknowledges_nothing_more() {
    let disk = SimDisk::new();
    let mut syncs = 0;
    disk.decide_syncs(move || {
        syncs += 1;
        SyncFate {
            takes: Duration::ZERO,
            fails: syncs == 4,
        }
    });
    let store = opened(&disk).await;
    settle(&store, 1).await.unwrap();
    for number in 2..9 {
        assert!(
            settle(&store, number).await.is_err(),
            "call {number} was acknowledged"
        );
    }
    assert!(store.is_poisoned());
}
