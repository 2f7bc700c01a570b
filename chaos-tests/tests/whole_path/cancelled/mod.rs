//! Every future of the path dropped at every point at which it waits: callers who go away, and
//! runtimes that end.
//!
//! Each sweep checks the same things after each cancellation: the key is in a state that its life
//! allows and nobody holds it for ever, whoever asks again gets the one answer or is told of a
//! doubt, the effect happened at most once, and nothing is counted as running that is not.

mod clients;
mod endings;
mod inspection;
mod operations;
mod outbox;
mod runtimes;
mod server;
mod services;
mod waiting;

use onlyonce::storage::{KeyState, ScopedKey, Store};

/// Runs a check on a new store of each kind, and on one that suspends around every operation.
macro_rules! on_every_store_that_waits {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        crate::stores::on_every_store![$($(#[$attribute])* $name),*];
        mod on_memory_that_waits {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                super::$name(crate::cancelled::waiting::Waiting::store()).await;
            })*
        }
    };
}
use on_every_store_that_waits;

/// What is known of a key once nobody holds it. A store hears of a claim that was dropped with its
/// next group, so the first looks may come too early; a lease is longer than all of them.
async fn settled(store: &dyn Store, key: &ScopedKey) -> KeyState {
    for _ in 0..LOOKS_MAX {
        let state = store.peek(key.clone()).await.unwrap();
        if !matches!(state, KeyState::InProgress { .. }) {
            return state;
        }
        tokio::task::yield_now().await;
    }
    panic!("a key is held for ever");
}

const LOOKS_MAX: usize = 1_000;
