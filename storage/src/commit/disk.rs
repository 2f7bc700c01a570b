//! What the shell needs of an engine. Tests put faults between the two.

use super::bucket::Bucket;
use super::operation::Change;
use super::overlay::Rows;
use crate::{RetentionOptions, Swept, Timestamp};

/// An engine, seen by the one thread that writes to it. Any error poisons the store, so it is told
/// in words for whoever opens it again.
pub(crate) trait Disk: Rows + Send {
    /// Applies changes, which are seen by later reads at once. Nothing is durable yet.
    fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), String>;

    /// Hands everything that was applied since the last time to the engine, as one group. Answers
    /// the number of the last group. After a crash a part of a group may be there: it says nothing
    /// that is wrong, and nobody was told of it.
    fn hand_over(&mut self) -> Result<u64, String>;

    /// Notes that the store is in use at a time that is trusted.
    fn note_used(&mut self, now: Timestamp) -> Result<(), String>;

    /// What is past its retention or horizon.
    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due;

    /// Notes that what is due will be gone, and moves what must stay. Both must be durable before
    /// anything is removed.
    fn note(&mut self, due: &Due, now: Timestamp) -> Result<(), String>;

    /// Removes what is due.
    fn remove(&mut self, due: &Due) -> Result<Swept, String>;

    /// Frees the directory: when this returns, it can be opened again.
    fn close(self: Box<Self>, syncer: Box<dyn Syncer>);
}

/// The half of an engine that makes groups durable, on a thread of its own, while the other half
/// goes on. Any error poisons the store.
pub(crate) trait Syncer: Send {
    /// Hands what the engine was given to the operating system.
    fn flush(&mut self) -> Result<(), String>;

    /// Returns once what was flushed, all groups up to this one, survives a power cut.
    fn sync(&mut self, group: u64) -> Result<(), String>;

    /// Lets go of the engine.
    fn close(self: Box<Self>);
}

/// Both halves.
pub(crate) struct Engine {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) syncer: Box<dyn Syncer>,
}

/// The buckets that a sweep drops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Buckets whose answers go.
    pub(crate) answers: Vec<Bucket>,
    /// Buckets of which nothing stays.
    pub(crate) indexes: Vec<Bucket>,
}

// === impl Due ===

impl Due {
    pub(crate) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.indexes.is_empty()
    }

    /// Calls first sent at or before this time are forgotten with it.
    pub(crate) fn forgotten_until(&self) -> Option<Timestamp> {
        self.indexes.iter().map(|bucket| bucket.end()).max()
    }

    /// Answers that were settled before this time are gone with it.
    pub(crate) fn answers_until(&self) -> Option<Timestamp> {
        self.answers.iter().map(|bucket| bucket.end()).max()
    }
}
