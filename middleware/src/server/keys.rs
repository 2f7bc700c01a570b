//! What a server's own code can do with a key.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::{KeyState, ScopedKey, Store, StoreError};
use tokio::time::{Instant, sleep};

use super::dedupe::far;

/// Peeks at keys, seals them, and waits for calls to end. It never executes anything.
#[derive(Clone, Debug)]
pub struct Keys {
    store: Arc<dyn Store>,
}

impl Keys {
    /// The keys in `store`.
    #[must_use]
    pub const fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// What is known of `key`.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    pub async fn peek(&self, key: ScopedKey) -> Result<KeyState, StoreError> {
        self.store.peek(key).await
    }

    /// Makes an absent `key` impossible, as [`Question::Seal`](onlyonce_storage::Question::Seal)
    /// says; otherwise changes nothing and says what is known.
    ///
    /// For ever for calls that were first sent before the seal and say so; for others until the
    /// store's horizon, 7 days after the seal by default.
    ///
    /// # Errors
    ///
    /// When the store cannot tell. The key may be sealed then.
    pub async fn seal(&self, key: ScopedKey) -> Result<KeyState, StoreError> {
        self.store.seal(key).await
    }

    /// What is known of `key` once nobody executes it any more, or after `patience`, whichever
    /// comes first.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    pub async fn resume(&self, key: ScopedKey, patience: Duration) -> Result<KeyState, StoreError> {
        let give_up_at = far(patience);
        loop {
            let state = self.store.peek(key.clone()).await?;
            let executing = matches!(state, KeyState::InProgress { .. });
            if !executing || Instant::now() + PAUSE > give_up_at {
                return Ok(state);
            }
            sleep(PAUSE).await;
        }
    }
}

/// One peek costs a read of the store; ten a second for each waiting caller are cheap.
const PAUSE: Duration = Duration::from_millis(100);
