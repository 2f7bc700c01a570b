//! One at a time for each key: two runs of one call in one process would settle each other's
//! attempts.

use std::collections::HashMap;
use std::sync::Arc;

use onlyonce_storage::IdempotencyKey;
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard};

/// Who is at which key. Holds an entry only for keys that somebody is at, or waits for.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    keys: Mutex<HashMap<IdempotencyKey, Arc<Turnstile<()>>>>,
}

/// The right to act on one key. Dropping it lets the next one.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    key: IdempotencyKey,
    turnstile: Option<Arc<Turnstile<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

// === impl Turns ===

impl Turns {
    /// Waits for whoever is at `key`.
    pub(crate) async fn take(self: &Arc<Self>, key: &IdempotencyKey) -> Turn {
        let turnstile = Arc::clone(self.keys.lock().entry(key.clone()).or_default());
        // Made before the wait, so that whoever gives up waiting is not left in the table.
        let mut turn = Turn {
            turns: Arc::clone(self),
            key: key.clone(),
            turnstile: Some(Arc::clone(&turnstile)),
            guard: None,
        };
        turn.guard = Some(turnstile.lock_owned().await);
        turn
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let mut keys = self.turns.keys.lock();
        self.guard = None;
        self.turnstile = None;
        // Whoever waits has a handle of its own, which it took under the same lock.
        let alone = keys
            .get(&self.key)
            .is_some_and(|turnstile| Arc::strong_count(turnstile) == 1);
        if alone {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_is_at_a_key_and_nobody_is_left_in_the_table() {
        let turns = Arc::<Turns>::default();
        let (a, b) = (IdempotencyKey::unique(), IdempotencyKey::unique());
        let first = turns.take(&a).await;
        assert!(turns.take(&b).now_or_never().is_some());
        let mut second = Box::pin(turns.take(&a));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(turns.take(&a).now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert_eq!(turns.keys.lock().len(), 1);
        drop(second);
        assert!(turns.keys.lock().is_empty());
    }
}
