//! Goes on with journaled calls that stand still, although nobody asks for them.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use onlyonce_storage::journal::{ABANDONED_CALLS_MAX, AbandonedCall};
use onlyonce_storage::{Cursor, KeyDigest, Store, StoreError};
use tokio::time::{Instant, sleep, timeout};

use super::options::is_too_old;
use crate::jitter;

/// Finds the journaled calls of one store that stand still, and has them gone on with: once when it
/// starts, and then every ten seconds or so.
///
/// A call that stands still again waits twice as long each time, up to ten minutes. What it remembers
/// for that is bounded; what it does not remember it tries each time. A call that was begun longer ago than
/// [`DedupeOptions::go_on_within`](super::DedupeOptions::go_on_within) is left standing, and logged.
///
/// One for each store and process is enough. More do no harm, since a call is run by one at a time.
pub struct Finisher {
    store: Arc<dyn Store>,
    /// How long ago a call may have been begun.
    go_on_within: Duration,
    waiting: HashMap<KeyDigest, Waiting>,
    /// Where the pass before stopped.
    after: Option<Cursor>,
    /// How often the list was begun.
    round: u64,
}

/// A call that was tried.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When it is tried again.
    due: Instant,
    /// How long it waits after that.
    pause: Duration,
    /// In which round it was seen last.
    seen: u64,
}

// === impl Finisher ===

impl Finisher {
    pub(super) fn new(store: Arc<dyn Store>, go_on_within: Duration) -> Self {
        Self {
            store,
            go_on_within,
            waiting: HashMap::new(),
            after: None,
            round: 0,
        }
    }

    /// One pass over the calls that stand still, at most 1,024 of them and at most 32 pages of the
    /// store's list: has `go_on` go on with each that is due, and waits up to 30 s for it. The next pass
    /// goes on where this one stopped.
    ///
    /// `go_on` makes the call's request again and has it executed by the dedupe layer, which goes on
    /// with nothing but that very call where its [`Intent`] names [`AbandonedCall::token`]. What it
    /// returns may be dropped before it has ended. `None` of what it does not know.
    ///
    /// [`Intent`]: crate::server::Intent::goes_on_from
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves what is being executed to the dedupe layer, which ends it.
    pub async fn pass<F, Fut>(&mut self, mut go_on: F) -> Result<Passed, StoreError>
    where
        F: FnMut(AbandonedCall) -> Option<Fut>,
        Fut: Future<Output = ()>,
    {
        let store = Arc::clone(&self.store);
        let Some(journal) = store.journal() else {
            return Ok(Passed::default());
        };
        let mut passed = Passed::default();
        for _ in 0..PASS_PAGES_MAX {
            if passed.seen >= PASS_CALLS_MAX {
                break;
            }
            if self.after.is_none() {
                self.round += 1;
            }
            let page = journal.abandoned(self.after, ABANDONED_CALLS_MAX).await?;
            passed.seen += page.calls.len();
            let (now, mut due) = (store.now(), Vec::new());
            for call in page.calls {
                let is_due = self.is_due(&call);
                if !is_too_old(call.begun_at, now, self.go_on_within) {
                    due.extend(is_due.then_some(call));
                    continue;
                }
                passed.too_old += 1;
                if is_due {
                    let (token, begun_at) = (call.token, call.begun_at.as_millis());
                    tracing::warn!(target: "onlyonce", %token, begun_at, "a journaled call was begun too long ago to be gone on with; resolve it");
                }
            }
            let running = stream::iter(due).filter_map(|call| {
                onlyonce_storage::kill_point!("journal: abandoned call listed, not claimed");
                let running = go_on(call);
                passed.gone_on_with += usize::from(running.is_some());
                std::future::ready(running)
            });
            let waited = running.for_each_concurrent(AT_ONCE, |running| async {
                // One that takes longer goes on by itself.
                let _ = timeout(WAITED_FOR_MAX, running).await;
            });
            waited.await;
            self.after = page.next;
            if self.after.is_none() {
                self.forget();
                break;
            }
        }
        Ok(passed)
    }

    /// Passes over the calls that stand still, now and every ten seconds or so. It never ends; drop it
    /// when the server shuts down.
    ///
    /// See [`pass`](Self::pass).
    pub async fn keep_on<F, Fut>(mut self, mut go_on: F)
    where
        F: FnMut(AbandonedCall) -> Option<Fut>,
        Fut: Future<Output = ()>,
    {
        loop {
            if let Err(error) = self.pass(&mut go_on).await {
                tracing::warn!(target: "onlyonce", %error, "the calls that stand still cannot be listed");
            }
            // Processes that share a store look at different times.
            sleep(EVERY + jitter::up_to(EVERY / 4)).await;
        }
    }

    /// Whether the call is to be gone on with now, which is noted.
    fn is_due(&mut self, call: &AbandonedCall) -> bool {
        let (now, key) = (Instant::now(), call.key.digest());
        let tried = self.waiting.get_mut(&key);
        let (due, pause) = match tried {
            None => (true, PAUSE_MIN),
            Some(waiting) => {
                waiting.seen = self.round;
                (waiting.due <= now, waiting.pause)
            }
        };
        if due && (self.waiting.len() < WAITING_MAX || self.waiting.contains_key(&key)) {
            let next = Waiting {
                due: now + pause,
                pause: (pause * 2).min(PAUSE_MAX),
                seen: self.round,
            };
            self.waiting.insert(key, next);
        }
        due
    }

    /// Forgets the calls that stand still no more. One that was not listed since it is being run may
    /// stand still again afterwards.
    fn forget(&mut self) {
        let (now, round) = (Instant::now(), self.round);
        self.waiting
            .retain(|_, waiting| waiting.seen == round || now < waiting.due + waiting.pause);
    }
}

impl fmt::Debug for Finisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finisher")
            .field("store", &self.store)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// What a pass has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Passed {
    /// Calls that stood still.
    pub seen: usize,
    /// Those of them that were gone on with, whatever it came to.
    pub gone_on_with: usize,
    /// Those of them that were begun too long ago, and stay where they are.
    pub too_old: usize,
}

/// Often enough that nobody waits long for a call whose server has died, and seldom enough that a
/// store does not notice.
const EVERY: Duration = Duration::from_secs(10);

/// What a call stands still for is mostly a peer that is down: it is asked soon, and then ever less.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// After a crash many calls stand still, and they are to go on beside those that come in.
const AT_ONCE: usize = 16;

/// A handler that takes longer holds up nobody else's call.
const WAITED_FOR_MAX: Duration = Duration::from_secs(30);

/// Each brings its request. What is left comes with the next pass.
const PASS_CALLS_MAX: usize = 1_024;

/// A page may have no call that can go on and have cost the store a look at a thousand in doubt: so a pass
/// looks at some 30,000, beside those who wait for the same store.
const PASS_PAGES_MAX: usize = 32;

/// About a megabyte.
const WAITING_MAX: usize = 16_384;
