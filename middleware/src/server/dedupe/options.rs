//! Numbers that the dedupe layer goes by, each with its reason.

use std::time::Duration;

use onlyonce_storage::transition::CLOCK_DIFFERENCE_MAX;
use onlyonce_storage::{KeyPolicy, Timestamp};

/// How the dedupe layer treats keys, duplicates and waiting callers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DedupeOptions {
    /// How long a claim holds without renewal; it is renewed every third of it. Default 30 s: a
    /// crashed owner of a shared store is noticed within it, and a pause of the process (a VM that
    /// migrates) does not end it. At least 100 ms, at most a year.
    pub lease: Duration,
    /// What a duplicate does while the call is being executed. Default: wait up to 5 s.
    pub wait: Wait,
    /// How guessable keys may be. Default: any key that parses.
    pub key_policy: KeyPolicy,
    /// How long answers are kept, where shorter than the store keeps any. Default: as long as the
    /// store keeps them.
    pub retention: Option<Duration>,
    /// Callers who wait for one key. Default 1,024: more is a hot key, and each costs memory.
    pub waiters_per_key_max: usize,
    /// Callers who wait, in all. Default 16,384. Each holds its request, which it executes if the
    /// one that it waits for comes to nothing: what that costs is bounded by what the transport
    /// takes in. One more is told that the call is in progress.
    pub waiters_max: usize,
    /// Calls being executed at once. Default 65,536: far above what one process can serve. One
    /// more is refused as not executed.
    pub flights_max: usize,
    /// How long the outside world is asked about one call in doubt, and how long a call waits for
    /// its turn to be asked about; writing down what it said may take as long again. Default 5 s:
    /// half of a client's attempt, which then still hears the result.
    pub reconcile_timeout: Duration,
    /// Calls in doubt that the outside world is asked about at once. Default 64: after a crash
    /// many are in doubt and all their clients come back, and the outside world is somebody's
    /// server. One more waits for its turn.
    pub reconciles_max: usize,
    /// How often a transactional handler runs for one attempt while others keep changing what it
    /// reads. Default 8: each time somebody else has committed, so this many in a row means that the
    /// row is too hot. Then the attempt is refused as not executed, and may come again.
    pub transaction_runs_max: u32,
    /// For how long after it was begun a journaled call is gone on with, by a duplicate or by the server.
    /// Default 20 h. A step that was cut off is asked for again with its key, and a peer that has
    /// forgotten the key has the effect again: payment providers keep keys for 24 h, and this crate's
    /// stores keep answers as long. The 4 h between are for the run itself, and for what it asks again.
    /// An older call is left in doubt, for an operator to end. Raise it only where all peers of keyed
    /// steps remember for longer; lower it to what the peer remembers that forgets first.
    pub go_on_within: Duration,
}

/// What a duplicate does while the call is being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is refused at once.
    No,
    /// It waits until its own deadline.
    UntilDeadline,
    /// It waits this long, or until its own deadline if that is earlier.
    UpTo(Duration),
}

impl Default for DedupeOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            wait: Wait::UpTo(Duration::from_secs(5)),
            key_policy: KeyPolicy::default(),
            retention: None,
            waiters_per_key_max: 1_024,
            waiters_max: 16_384,
            flights_max: 65_536,
            reconcile_timeout: Duration::from_secs(5),
            reconciles_max: 64,
            transaction_runs_max: 8,
            go_on_within: Duration::from_secs(20 * 60 * 60),
        }
    }
}

/// Whether a journaled call that was begun then has stood still for longer than its peers may remember.
/// Of one that says to have been begun in the future nobody knows how old it is: a clock was wrong.
pub(super) fn is_too_old(begun_at: Timestamp, now: Timestamp, go_on_within: Duration) -> bool {
    now.since(begun_at) > go_on_within || begun_at.since(now) > CLOCK_DIFFERENCE_MAX
}

/// A shorter one could end while a store syncs its first renewal.
pub(super) const LEASE_MIN: Duration = Duration::from_millis(100);

/// Clocks can reckon with it everywhere; who asks for more means that a lease shall not end.
pub(super) const LEASE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
