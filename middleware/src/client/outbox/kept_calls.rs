//! The calls of one outbox: who makes which, and what is kept before anybody is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use onlyonce_storage::outbox::{
    NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, OutboxState, OutboxStore, Unknown,
};
use onlyonce_storage::{Clock as _, IdempotencyKey, SystemClock, kill_point};

use super::policy;
use super::turns::Turns;
use crate::client::Outcome;

/// The calls of one outbox, for the client of any protocol.
///
/// The rule: one task at a time makes a call; an answer is kept before it is told; what may have been
/// executed stays. Only how a call is made, and what its bytes say, is the protocol's.
///
/// Cloning it is cheap; clones share everything.
#[derive(Clone, Debug)]
pub struct KeptCalls {
    store: Arc<dyn OutboxStore>,
    turns: Arc<Turns>,
}

/// How a run of a call ends without an answer that is kept.
#[derive(Debug)]
pub enum Ended<U> {
    /// It was given up before. Nothing was sent.
    GivenUp(Unknown),
    /// The answer has come, and the outbox could not keep it.
    NotKept {
        /// The answer's bytes.
        answer: Bytes,
        /// Why not.
        error: OutboxError,
    },
    /// The outbox failed, or has no such call. Nothing was sent.
    Outbox(OutboxError),
    /// No answer has come.
    Unfinished(Unanswered<U>),
}

/// What making a call came to without an answer.
#[derive(Debug)]
pub struct Unanswered<U> {
    /// What is known of the effect.
    pub outcome: Outcome,
    /// Why asking again is of no use, if so.
    pub cannot_tell: Option<Unknown>,
    /// What the protocol says of it.
    pub why: U,
}

/// How a call that was made with all others has ended.
#[derive(Debug)]
pub struct Ran<U> {
    /// The call, as it was before.
    pub call: OutboxEntry,
    /// Its state now.
    pub state: OutboxState,
    /// Why it has no answer.
    pub ended: Option<Ended<U>>,
}

// === impl KeptCalls ===

impl KeptCalls {
    /// The calls in `store`. Of each store there must be one value only: two would make a call twice
    /// at a time.
    #[must_use]
    pub fn new(store: Arc<dyn OutboxStore>) -> Self {
        Self {
            store,
            turns: Arc::default(),
        }
    }

    /// What keeps them.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn OutboxStore> {
        &self.store
    }

    /// Keeps a call.
    ///
    /// # Errors
    ///
    /// When a bound is met, the key is another call's, or the outbox fails. Then nothing is to be sent;
    /// unless the error [rules it out](OutboxError::rules_out_writing) the call may be there all the same.
    pub async fn write(&self, call: NewCall) -> Result<(), OutboxError> {
        kill_point!("outbox: call made, not written");
        self.store.write(call).await?;
        kill_point!("outbox: call written, not sent");
        Ok(())
    }

    /// One run of a call, after whoever is at it: its answer is kept when this returns it. `make` is
    /// asked only where the call has neither an answer nor been given up.
    ///
    /// # Errors
    ///
    /// An [`Ended`]. What the end leaves behind is noted.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the call as it was last noted.
    pub async fn run<U, M, F>(&self, key: &IdempotencyKey, make: M) -> Result<Bytes, Ended<U>>
    where
        M: FnOnce(OutboxCall) -> F,
        F: Future<Output = Result<Bytes, Unanswered<U>>>,
    {
        let _turn = self.turns.take(key).await;
        let call = self.store.load(key).await.map_err(Ended::Outbox)?;
        match (call.answer, &call.entry.state) {
            (Some(answer), _) => return Ok(answer),
            (None, OutboxState::Unknown { because, .. }) => return Err(Ended::GivenUp(*because)),
            (None, _) => {}
        }
        let call = OutboxCall::new(call.entry, call.request, None);
        match make(call).await {
            Ok(answer) => self.keep(key, answer).await,
            Err(unanswered) => Err(self.settle(key, unanswered).await),
        }
    }

    /// Runs every call that may yet get an answer, up to 16 at once and in no order.
    ///
    /// # Errors
    ///
    /// When the outbox fails. That a call gets no answer is no error here.
    pub async fn run_all<U, R, F>(&self, run: R) -> Result<Vec<Ran<U>>, OutboxError>
    where
        R: Fn(IdempotencyKey) -> F,
        F: Future<Output = Result<Bytes, Ended<U>>>,
    {
        let mut calls = self.store.list().await?;
        calls.retain(|call| call.state.is_unfinished());
        let runs = calls.into_iter().map(|call| {
            let running = run(call.key.clone());
            async move {
                let ended = running.await.err();
                let state = match self.store.load(&call.key).await {
                    Ok(now) => now.entry.state,
                    // Somebody has taken its answer meanwhile.
                    Err(OutboxError::NotThere) => return Ok(None),
                    Err(error) => return Err(error),
                };
                match ended {
                    Some(Ended::Outbox(error)) => Err(error),
                    ended => Ok(Some(Ran { call, state, ended })),
                }
            }
        });
        let ended: Vec<_> = stream::iter(runs)
            .buffer_unordered(RUN_AT_ONCE)
            .collect()
            .await;
        ended.into_iter().filter_map(Result::transpose).collect()
    }

    /// All calls, the oldest first, each with how long ago it was written, on this machine's clock;
    /// zero where that was set back.
    ///
    /// # Errors
    ///
    /// When the outbox fails.
    pub async fn list(&self) -> Result<Vec<(Duration, OutboxEntry)>, OutboxError> {
        let now = SystemClock.now();
        let calls = self.store.list().await?;
        let aged = |call: OutboxEntry| (now.since(call.written_at), call);
        Ok(calls.into_iter().map(aged).collect())
    }

    /// Removes a call, where `change` does, after whoever is at it.
    ///
    /// # Errors
    ///
    /// When the call may not be removed so, or the outbox fails.
    pub async fn remove(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> Result<(), OutboxError> {
        let _turn = self.turns.take(key).await;
        self.store.change(key, change).await?;
        kill_point!("outbox: call removed, nobody told");
        Ok(())
    }

    async fn keep<U>(&self, key: &IdempotencyKey, answer: Bytes) -> Result<Bytes, Ended<U>> {
        kill_point!("outbox: answer there, not kept");
        let change = OutboxChange::Answer(answer.clone());
        let kept = self.store.change(key, change).await;
        if let Err(error) = kept {
            return Err(Ended::NotKept { answer, error });
        }
        kill_point!("outbox: answer kept, nobody told");
        Ok(answer)
    }

    /// Notes what the end of a run leaves behind.
    async fn settle<U>(&self, key: &IdempotencyKey, unanswered: Unanswered<U>) -> Ended<U> {
        if let Some(change) = policy::settle(unanswered.outcome, unanswered.cannot_tell) {
            // OK to ignore because without the note more is held possible, not less; and an outbox
            // that fails says so to whoever asks it next.
            let _ = self.store.change(key, change).await;
            kill_point!("outbox: run settled, nobody told");
        }
        Ended::Unfinished(unanswered)
    }
}

/// So that a server which has just come back is not met by all that waited for it at once.
const RUN_AT_ONCE: usize = 16;
