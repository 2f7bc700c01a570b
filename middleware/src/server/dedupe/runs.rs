//! What this process knows of the runs of handlers: which go on, and which have ended.

use std::collections::{BTreeSet, HashSet, VecDeque};

use onlyonce_storage::{FencingToken, InDoubt, StoreId};
use parking_lot::Mutex;

/// The claims whose handlers have ended in this process without an answer that was recorded.
///
/// A record that says "the lease lapsed" does not say whether its owner lives. Here stands of
/// whom this process knows that it does not. What is not here is not known.
#[derive(Debug, Default)]
pub(super) struct Ended {
    tokens: Mutex<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    known: HashSet<FencingToken>,
    /// In the order in which they ended.
    order: VecDeque<FencingToken>,
}

/// A handler that runs in this process, whatever layer runs it, as long as this lives.
#[derive(Debug)]
pub(super) struct RunningHere {
    name: Name,
}

type Name = ([u8; 16], FencingToken);

/// Of the whole process: a store that is closed and opened again while handlers run takes them for
/// dead, and two layers over one store know nothing of each other.
static RUNNING: Mutex<BTreeSet<Name>> = Mutex::new(BTreeSet::new());

// === impl Ended ===

impl Ended {
    /// Notes that the handler under this claim has returned, or was dropped. The oldest note is
    /// forgotten when there are too many: its call then stays in doubt.
    pub(super) fn note(&self, token: FencingToken) {
        let mut tokens = self.tokens.lock();
        if !tokens.known.insert(token) {
            return;
        }
        tokens.order.push_back(token);
        if tokens.order.len() > ENDED_MAX
            && let Some(oldest) = tokens.order.pop_front()
        {
            tokens.known.remove(&oldest);
        }
    }

    /// Whether the task or process that ran the handler is known to have ended: the store says so
    /// or this process has seen it, and it does not run here.
    pub(super) fn is_owner_known_gone(&self, store: StoreId, doubt: &InDoubt) -> bool {
        let said = doubt.reason.is_owner_known_gone() || self.is_known(doubt.token);
        said && !RunningHere::is_running(store, doubt.token)
    }

    fn is_known(&self, token: FencingToken) -> bool {
        self.tokens.lock().known.contains(&token)
    }
}

// === impl RunningHere ===

impl RunningHere {
    /// Whoever holds it drops it after the handler.
    pub(super) fn begin(store: StoreId, token: FencingToken) -> Self {
        let name = (*store.as_bytes(), token);
        RUNNING.lock().insert(name);
        Self { name }
    }

    fn is_running(store: StoreId, token: FencingToken) -> bool {
        RUNNING.lock().contains(&(*store.as_bytes(), token))
    }
}

impl Drop for RunningHere {
    fn drop(&mut self) {
        RUNNING.lock().remove(&self.name);
    }
}

/// About a megabyte. Each is a call that ended in doubt while this process lived; an operator who
/// has more of them has an outage.
const ENDED_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use onlyonce_storage::{DoubtReason, Timestamp};

    use super::*;

    fn doubt(token: FencingToken, reason: DoubtReason) -> InDoubt {
        InDoubt {
            token,
            since: Timestamp::default(),
            reason,
            answer: None,
        }
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_no_longer_known() {
        let ended = Ended::default();
        let token = |number| FencingToken::new(1, number);
        for number in 0..=ENDED_MAX as u64 {
            ended.note(token(number));
            ended.note(token(number));
        }
        assert!(!ended.is_known(token(0)));
        assert!(ended.is_known(token(1)));
        assert!(ended.is_known(token(ENDED_MAX as u64)));
        assert_eq!(ended.tokens.lock().known.len(), ENDED_MAX);
    }

    #[test]
    fn an_owner_is_gone_when_somebody_knows_it_and_it_does_not_run_here() {
        let (ended, store) = (Ended::default(), StoreId::random());
        let token = FencingToken::new(1, 7);
        let lapsed = doubt(token, DoubtReason::LeaseLapsed);
        assert!(!ended.is_owner_known_gone(store, &lapsed));
        ended.note(token);
        assert!(ended.is_owner_known_gone(store, &lapsed));
        for reason in [
            DoubtReason::Ambiguous,
            DoubtReason::OwnerGone,
            DoubtReason::Unrecorded,
        ] {
            let said = doubt(FencingToken::new(1, 8), reason);
            let elsewhere = RunningHere::begin(StoreId::random(), said.token);
            assert!(ended.is_owner_known_gone(store, &said));
            let running = RunningHere::begin(store, said.token);
            assert!(!ended.is_owner_known_gone(store, &said));
            drop((running, elsewhere));
            assert!(ended.is_owner_known_gone(store, &said));
        }
    }
}
