//! What the shell needs of an engine. Tests put faults between the two.

use std::sync::Arc;

use super::bucket::Bucket;
use super::operation::{Change, ClaimReply};
use super::overlay::Rows;
use super::sessions::SessionChange;
use crate::inspect::BucketStats;
use crate::transaction::Writes;
use crate::transition::Circumstances;
use crate::{ClaimRequest, RetentionOptions, Swept, Timestamp};

/// An engine, seen by the one thread that writes to it. Any error poisons the store, so it is told
/// in words for whoever opens it again.
pub(crate) trait Disk: Rows + Send {
    /// Applies changes, which are seen by later reads at once. Nothing is durable yet.
    fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), String>;

    /// Applies what changes of sessions, with the next group.
    fn apply_sessions(&mut self, changes: Vec<SessionChange>) -> Result<(), String>;

    /// Applies what transactions have written, as [`apply`](Self::apply) applies their records: both
    /// are in one group.
    fn apply_rows(&mut self, writes: Writes) -> Result<(), String> {
        if writes.is_empty() {
            return Ok(());
        }
        Err("this disk keeps no tables".to_owned())
    }

    /// Makes everything that was applied and noted since the last time one group, for the other
    /// half to write. `None` when there is nothing. Call it only when all groups before are
    /// durable. `memory` is that of an earlier group, to be used again.
    fn hand_over(&mut self, memory: Vec<u8>) -> Result<Option<Written>, String>;

    /// Notes, with the next group, that the store is in use at a time that is trusted.
    fn note_used(&mut self, now: Timestamp) -> Result<(), String>;

    /// What is past its retention or horizon.
    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due;

    /// Notes, with the next group, that what is due will be gone. That group must be durable
    /// before anything is removed.
    fn note(&mut self, due: &Due) -> Result<(), String>;

    /// Lets go of what is due. It may leave the disk later.
    fn remove(&mut self, due: &Due) -> Result<Swept, String>;

    /// What is settled, by the stretch of time in which it is forgotten; oldest first. Counted, not
    /// walked.
    fn buckets(&self) -> Vec<BucketStats> {
        Vec::new()
    }

    /// Frees the directory: when this returns, it can be opened again. After a failure nothing
    /// more is written.
    fn close(self: Box<Self>, syncer: Box<dyn Syncer>, failed: bool);
}

/// The half of an engine that makes groups durable, on a thread of its own, while the other half
/// goes on. Any error poisons the store.
pub(crate) trait Syncer: Send {
    /// Gives a group to the operating system.
    fn write(&mut self, group: &Written) -> Result<(), String>;

    /// Returns once what was written survives a power cut.
    fn sync(&mut self) -> Result<(), String>;
}

/// Reads what is settled and durable beside the writer, on the thread of whoever asks.
pub(crate) trait Replays: Send + Sync {
    /// What a claim comes to, if its call is settled and durable and can be read without waiting
    /// for the disk or the writer. Otherwise the writer is to be asked.
    fn replay(&self, request: &ClaimRequest, at: &Circumstances) -> Option<ClaimReply>;
}

/// Both halves, and who reads beside them.
pub(crate) struct Engine {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) syncer: Box<dyn Syncer>,
    pub(crate) replays: Arc<dyn Replays>,
}

/// A group as it is written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    /// Whether it is the first of its file.
    pub(crate) begins_file: bool,
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
