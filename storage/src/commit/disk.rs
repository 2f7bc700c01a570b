//! What the shell needs of an engine. Tests put faults between the two.

use super::bucket::Bucket;
use super::operation::Change;
use super::overlay::Rows;
use crate::{RetentionOptions, Swept, Timestamp};

/// An engine, seen by the one thread that writes to it. Any error poisons the store, so it is told
/// in words for whoever opens it again.
pub(crate) trait Disk: Rows + Send {
    /// Applies all changes of a group, or none.
    fn apply(&mut self, changes: &[Change]) -> Result<(), String>;

    /// Hands what was applied to the operating system.
    fn flush(&mut self) -> Result<(), String>;

    /// Returns once what was flushed survives a power cut.
    fn sync(&mut self) -> Result<(), String>;

    /// What is past its retention or horizon.
    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due;

    /// Notes that what is due will be gone. The note must be durable before it is removed.
    fn note(&mut self, due: &Due) -> Result<(), String>;

    /// Removes what is due.
    fn remove(&mut self, due: &Due) -> Result<Swept, String>;

    /// Frees the directory: when this returns, it can be opened again.
    fn close(self: Box<Self>);
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
