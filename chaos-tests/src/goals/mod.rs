//! What must have happened for a run to prove anything.
//!
//! A run in which no answer ever got lost after its effect says nothing about lost answers, however
//! green it is. Code that is on the way says when a situation arises, scenarios name the ones that
//! they want, and a run in which a wanted one never arose has failed to prove anything. What a
//! history shows by itself is counted from it, see [`situations`].
//!
//! ```
//! use onlyonce_chaos::goals::Registry;
//! use onlyonce_chaos::sometimes;
//!
//! let goals = Registry::default();
//! for attempt in 1..=3 {
//!     sometimes!(goals, attempt > 1, "a call was tried again");
//! }
//! assert_eq!(goals.goals().count("a call was tried again"), 2);
//! assert_eq!(goals.goals().missed(["a call was tried again", "a clock jumped"]), ["a clock jumped"]);
//! ```

pub mod situations;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Which situations arose, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Goals(BTreeMap<String, u64>);

/// Where a run counts its situations. Clones count together; there is no global one, so that runs
/// side by side do not count each other's.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Goals>>);

/// Counts a situation in a [`Registry`](crate::goals::Registry): `sometimes!(goals, "name")`, or
/// only where a condition holds: `sometimes!(goals, condition, "name")`.
#[macro_export]
macro_rules! sometimes {
    ($goals:expr, $name:expr) => {
        $goals.reached($name)
    };
    ($goals:expr, $condition:expr, $name:expr) => {
        if $condition {
            $goals.reached($name);
        }
    };
}

// === impl Goals ===

impl Goals {
    /// How often this situation arose.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Counts a situation so many times more.
    pub fn add(&mut self, name: &str, times: u64) {
        if let Some(count) = self.0.get_mut(name) {
            *count += times;
        } else if times > 0 {
            self.0.insert(name.to_owned(), times);
        }
    }

    /// Adds what another run has counted.
    pub fn merge(&mut self, other: &Self) {
        for (name, times) in other.iter() {
            self.add(name, times);
        }
    }

    /// Of these, the ones that never arose, in their order.
    #[must_use]
    pub fn missed<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let missed = wanted.into_iter().filter(|name| self.count(name) == 0);
        missed.collect()
    }

    /// All that arose, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, &times)| (name.as_str(), times))
    }
}

// === impl Registry ===

impl Registry {
    /// Counts a situation once.
    pub fn reached(&self, name: &str) {
        self.0.lock().add(name, 1);
    }

    /// What was counted so far.
    #[must_use]
    pub fn goals(&self) -> Goals {
        self.0.lock().clone()
    }
}
