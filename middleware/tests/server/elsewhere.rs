//! A duplicate that waits for the execution of another process.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::server::{DedupeLayer, Served};
use onlyonce_storage::{IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey, Store};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::Layer;

use crate::protocol::{Ask, Effects, Handler, Plain, Told, done, send};
use crate::watched::Watched;

/// Whether the word that it is settled comes, or is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Comes,
    IsLost,
}

/// How long after the end of the other process' execution the duplicate has its answer, and how long the
/// word took to be told.
async fn answered_after(word: Word) -> Duration {
    let memory: Arc<MemoryStore> = Arc::default();
    let held = Arc::new(Notify::new());
    let elsewhere = {
        let held = Arc::clone(&held);
        Handler::new(move |_| {
            let held = Arc::clone(&held);
            async move {
                held.notified().await;
                Ok(done("elsewhere"))
            }
        })
    }
    .over(memory.clone());
    let effects = Effects::default();
    let watched = Watched::new(memory.clone());
    let here = DedupeLayer::new(watched.clone() as Arc<dyn Store>, Plain);
    let here = here.layer(Handler::applying(&effects));

    let first = tokio::spawn(async move { send(&elsewhere, Ask::new("k", "pay")).await });
    let scope = Scope::principal("tenant").unwrap();
    let key = ScopedKey::new(scope, IdempotencyKey::parse("k").unwrap());
    while memory.peek(key.clone()).await.unwrap() == KeyState::Absent {
        tokio::task::yield_now().await;
    }
    let duplicate = tokio::spawn(async move { send(&here, Ask::new("k", "pay")).await });
    // Between two looks, which are a quarter of a second apart by then.
    sleep(Duration::from_millis(1_000)).await;
    let began = Instant::now();
    held.notify_one();
    first.await.unwrap();
    if word == Word::Comes {
        watched.told.notify_waiters();
    }
    let told = duplicate.await.unwrap();
    assert_eq!(told, Told::Done("elsewhere".to_owned(), Served::Replayed));
    assert_eq!(effects.of("pay"), 0);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_answered_as_soon_as_it_is_told_that_its_call_is_settled() {
    assert_eq!(answered_after(Word::Comes).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_word_that_is_lost_costs_the_time_until_the_next_look() {
    let after = answered_after(Word::IsLost).await;
    assert!(after > Duration::ZERO, "{after:?}");
    assert!(after <= Duration::from_millis(250), "{after:?}");
}
