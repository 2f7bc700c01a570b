//! When the open calls of a scope are counted.
//!
//! Counting them for each claim would read all of them for each claim, and everything that was open a
//! moment ago and is not swept away yet. So a count is good for a while: for a sixteenth of the calls
//! that were still allowed then, and for a second. Sixteen processes that all do so cannot exceed a
//! quota together; near the quota, each claim is counted.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::{ScopeDigest, StoreLimits, Timestamp};

/// For how many claims the last counts are good.
#[derive(Debug, Default)]
pub(super) struct Room {
    scopes: Mutex<HashMap<ScopeDigest, Counted>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    left: u64,
    at: Timestamp,
}

/// Whether a claim has the open calls of its scope counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Anew,
    /// The last count is still good.
    Known,
}

// === impl Room ===

impl Room {
    /// Takes one claim of what is left.
    pub(super) fn take(&self, scope: ScopeDigest, now: Timestamp) -> Count {
        let mut scopes = self.scopes.lock();
        let Some(counted) = scopes.get_mut(&scope) else {
            return Count::Anew;
        };
        let is_young = counted.at <= now && now < counted.at.plus(GOOD_FOR);
        if counted.left == 0 || !is_young {
            scopes.remove(&scope);
            return Count::Anew;
        }
        counted.left -= 1;
        Count::Known
    }

    /// Notes how many are in progress and in doubt.
    pub(super) fn note(
        &self,
        scope: ScopeDigest,
        (in_progress, in_doubt): (u64, u64),
        limits: &StoreLimits,
        now: Timestamp,
    ) {
        let left = |limit: usize, open: u64| (limit as u64).saturating_sub(open);
        let left =
            left(limits.in_progress_max, in_progress).min(left(limits.in_doubt_max, in_doubt));
        let left = left / SHARES;
        let mut scopes = self.scopes.lock();
        if left == 0 {
            scopes.remove(&scope);
            return;
        }
        if scopes.len() >= SCOPES_MAX {
            // They are counted again, which is all that is lost.
            scopes.clear();
        }
        scopes.insert(scope, Counted { left, at: now });
    }
}

/// Processes that cannot exceed a quota together.
const SHARES: u64 = 16;

/// So that doubts and lapses elsewhere are seen.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Half a megabyte.
const SCOPES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    #[test]
    fn a_count_is_good_for_a_sixteenth_of_what_is_left_and_for_a_second() {
        let room = Room::default();
        let limits = StoreLimits::default().in_progress_max(100).in_doubt_max(80);
        let scope = Scope::global().digest();
        let now = Timestamp::from_millis(10_000);
        assert_eq!(room.take(scope, now), Count::Anew);
        // Of 48 that are left, three.
        room.note(scope, (20, 32), &limits, now);
        for _ in 0..3 {
            assert_eq!(room.take(scope, now), Count::Known);
        }
        assert_eq!(room.take(scope, now), Count::Anew);
        for wrong in [now.plus(GOOD_FOR), now.minus(Duration::from_millis(1))] {
            room.note(scope, (0, 0), &limits, now);
            assert_eq!(room.take(scope, now), Count::Known);
            assert_eq!(room.take(scope, wrong), Count::Anew);
        }
        // Near the quota each is counted, and so is each over it.
        for in_doubt in [65, 80, 200] {
            room.note(scope, (0, in_doubt), &limits, now);
            assert_eq!(room.take(scope, now), Count::Anew);
        }
    }

    #[test]
    fn the_counts_of_many_scopes_are_bounded() {
        let room = Room::default();
        let now = Timestamp::from_millis(10_000);
        for number in 0..SCOPES_MAX + 10 {
            let scope = Scope::principal(&number.to_string()).unwrap().digest();
            room.note(scope, (0, 0), &StoreLimits::default(), now);
        }
        assert!(room.scopes.lock().len() <= SCOPES_MAX);
    }
}
