//! Claims that are dropped unspent: they are put in doubt as soon as the database answers.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::pool::Pool;
use super::settling;
use crate::{Abandoned, DoubtReason, FencingToken, KeyDigest};

/// Is told of claims that are dropped.
#[derive(Debug)]
pub(super) struct Abandonment {
    dropped: mpsc::Sender<(KeyDigest, FencingToken)>,
}

// === impl Abandonment ===

impl Abandonment {
    /// Ends with the last claim and the last handle of the store.
    pub(super) fn start(pool: Arc<Pool>, runtime: &Handle) -> Self {
        let (dropped, mut to_doubt) = mpsc::channel(DROPPED_MAX);
        runtime.spawn(async move {
            while let Some((key, token)) = to_doubt.recv().await {
                // OK to ignore because the lapse of the lease is what guarantees the doubt.
                let _ = settling::doubt_first(&pool, key, token, DoubtReason::OwnerGone).await;
            }
        });
        Self { dropped }
    }
}

impl Abandoned for Abandonment {
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        // OK to ignore because a claim for which there is no room here lapses with its lease.
        let _ = self.dropped.try_send((key, token));
    }
}

/// As many claims as a server gives up at once when its database goes away.
const DROPPED_MAX: usize = 1_024;
