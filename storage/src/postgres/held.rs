//! The calls that this process holds in transactions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::holding::Hold;
use super::statement::Told;
use crate::transaction::{StatementError, TransactionError};
use crate::{Abandoned, ClaimRequest, FencingToken, KeyDigest};

/// One table for each store. As many as there are connections for transactions.
#[derive(Debug, Default)]
pub(super) struct HeldCalls {
    /// By key and token: a token that was drawn just before the database crashed is drawn again.
    calls: Mutex<HashMap<(KeyDigest, FencingToken), Arc<HeldCall>>>,
}

/// One call that is held.
#[derive(Debug)]
pub(super) struct HeldCall {
    pub(super) request: ClaimRequest,
    pub(super) transaction: tokio::sync::Mutex<OneTransaction>,
    pub(super) run: Mutex<RunState>,
}

/// The transaction of a call. A run that comes after another one has a new one.
#[derive(Debug)]
pub(super) struct OneTransaction {
    /// Nothing once it is over, or its connection is lost.
    pub(super) hold: Option<Hold>,
    /// Which run's it is.
    pub(super) run: u64,
    /// That run has done something in it.
    pub(super) is_used: bool,
}

/// What the newest run of the handler is at. Handles of earlier ones are over.
#[derive(Debug, Default)]
pub(super) struct RunState {
    pub(super) number: u64,
    /// Since when nothing of it can be committed.
    pub(super) failed: Option<TransactionError>,
    /// What aborted the transaction; setting it back to before that repairs it.
    pub(super) aborted: Option<StatementError>,
    /// What was done so far is to be undone before anything else.
    pub(super) discards: bool,
    /// It has its answer, which has no effect.
    pub(super) refuses: bool,
    pub(super) is_over: bool,
    /// Nobody has the claim any more; and so for runs that come after.
    pub(super) is_let_go: bool,
    /// Statements that are not answered yet.
    pub(super) asking: usize,
    pub(super) points: u64,
}

// === impl HeldCalls ===

impl HeldCalls {
    pub(super) fn add(&self, request: ClaimRequest, hold: Hold) {
        self.insert(hold.token, request, Some(hold));
    }

    fn insert(&self, token: FencingToken, request: ClaimRequest, hold: Option<Hold>) {
        let name = (request.key.digest(), token);
        let call = HeldCall {
            request,
            transaction: tokio::sync::Mutex::new(OneTransaction {
                hold,
                run: 0,
                is_used: false,
            }),
            run: Mutex::default(),
        };
        self.calls.lock().insert(name, Arc::new(call));
    }

    pub(super) fn of(&self, key: KeyDigest, token: FencingToken) -> Option<Arc<HeldCall>> {
        self.calls.lock().get(&(key, token)).cloned()
    }

    pub(super) fn remove(&self, key: KeyDigest, token: FencingToken) -> Option<Arc<HeldCall>> {
        self.calls.lock().remove(&(key, token))
    }

    /// What this process was asked to execute under the key, while it holds it.
    pub(super) fn request_of(&self, key: KeyDigest) -> Option<ClaimRequest> {
        let calls = self.calls.lock();
        let call = calls
            .values()
            .find(|call| call.request.key.digest() == key)?;
        Some(call.request.clone())
    }
}

impl Abandoned for HeldCalls {
    /// Nothing was applied: the key is free as soon as the database knows.
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        if let Some(call) = self.remove(key, token) {
            call.let_go();
        }
    }
}

// === impl HeldCall ===

impl HeldCall {
    /// Undoes it, whatever its handler is doing.
    pub(super) fn let_go(&self) {
        {
            let mut run = self.run.lock();
            run.is_over = true;
            run.is_let_go = true;
            run.failed.get_or_insert(TransactionError::Ended);
        }
        // One that waits for an answer gives its connection up when that has come.
        self.gives_up_what_was_let_go();
    }

    /// Closes the connection of a call that was let go. Asked by whoever has waited for an answer of it, after
    /// the transaction is no more in use: then either this sees that it was let go, or that finds it free.
    pub(super) fn gives_up_what_was_let_go(&self) {
        if self.run.lock().is_let_go
            && let Ok(mut transaction) = self.transaction.try_lock()
        {
            transaction.hold = None;
        }
    }

    /// Undoes it, and keeps the connection.
    pub(super) async fn undo(&self) {
        self.run.lock().is_over = true;
        let hold = self.transaction.lock().await.hold.take();
        if let Some(hold) = hold {
            hold.leased.undo().await;
        }
    }

    /// Says to the database that its owner is alive. False once the transaction is gone. One that is busy
    /// with a statement need not say so.
    pub(super) async fn is_alive(&self, within: Duration) -> bool {
        let is_alive = self.answers(within).await;
        self.gives_up_what_was_let_go();
        is_alive && !self.run.lock().is_let_go
    }

    async fn answers(&self, within: Duration) -> bool {
        let Ok(transaction) = self.transaction.try_lock() else {
            return true;
        };
        let Some(hold) = &transaction.hold else {
            // Between two runs there is none; the next one begins it anew, or finds that it cannot.
            return true;
        };
        let Ok(connection) = hold.leased.connection() else {
            return false;
        };
        if self.run.lock().aborted.is_some() {
            // It takes no statement; and it does not wait for long.
            return !connection.is_closed();
        }
        let alive = timeout(within, connection.ask(&Told::new("SELECT 1"))).await;
        matches!(alive, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey, Scope, ScopedKey,
    };

    fn add(calls: &HeldCalls, key: &str, sequence: u64) -> (KeyDigest, FencingToken) {
        let key = IdempotencyKey::parse(key).unwrap();
        let key = ScopedKey::new(Scope::global(), key);
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
        let lease = Duration::from_secs(1);
        let request = ClaimRequest::new(key, Fingerprints::new(print), lease);
        let name = (request.key.digest(), FencingToken::new(1, sequence));
        calls.insert(name.1, request, None);
        name
    }

    /// A number that was drawn and not yet durable is drawn again after a crash of the database: then two
    /// calls have one token, and one key has had two. What is said of the one does not touch the other.
    #[test]
    fn calls_are_told_apart_by_key_and_token_together() {
        let calls = HeldCalls::default();
        let (one, other) = (add(&calls, "one", 7), add(&calls, "other", 7));
        let anew = add(&calls, "one", 8);
        assert_eq!(one.1, other.1);
        assert_eq!(one.0, anew.0);
        let held = |name: (KeyDigest, FencingToken)| calls.of(name.0, name.1);
        assert_eq!(held(other).unwrap().request.key.digest(), other.0);
        let ended = held(one).unwrap();
        calls.abandoned(one.0, one.1);
        assert!(ended.run.lock().is_over);
        assert!(held(one).is_none());
        for left in [other, anew] {
            assert!(!held(left).unwrap().run.lock().is_over);
        }
        assert!(calls.request_of(one.0).is_some());
        assert!(calls.remove(anew.0, anew.1).is_some());
        assert!(calls.request_of(one.0).is_none());
        assert!(held(other).is_some());
    }
}
