//! Which claims of this process are known to run no handler any more.

use std::collections::{HashSet, VecDeque};

use onlyonce_storage::FencingToken;
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

    pub(super) fn is_known(&self, token: FencingToken) -> bool {
        self.tokens.lock().known.contains(&token)
    }
}

/// About a megabyte. Each is a call that ended in doubt while this process lived; an operator who
/// has more of them has an outage.
const ENDED_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

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
}
