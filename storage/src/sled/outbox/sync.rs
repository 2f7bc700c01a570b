//! What makes groups durable in sled, and notes beside it which are.

use super::mark::{Mark, MarkFile};
use crate::sled::SyncPoint;
use crate::sled::disk::words;

/// Makes what was given to sled durable. Any error poisons the outbox. Tests put faults before it.
pub(super) trait GroupSync: Send {
    /// Hands what sled was given to the operating system.
    fn flush(&mut self) -> Result<(), String>;

    /// Returns once what was flushed, all groups up to this one, survives a power cut.
    fn sync(&mut self, group: u64) -> Result<(), String>;

    /// Lets go of sled.
    fn close(self: Box<Self>);
}

/// Flushes, syncs and marks.
pub(super) struct MarkedSync {
    pub(super) db: ::sled::Db,
    pub(super) point: SyncPoint,
    pub(super) mark: Mark,
    pub(super) mark_file: MarkFile,
}

// === impl MarkedSync ===

impl MarkedSync {
    /// Writes down, durably, that everything up to here was synced.
    pub(super) fn mark_synced(&mut self) -> Result<(), String> {
        self.mark_file.write(self.mark).map_err(words)?;
        self.mark_file.sync().map_err(words)
    }
}

impl GroupSync for MarkedSync {
    fn flush(&mut self) -> Result<(), String> {
        // What was synced before may be marked now, what is flushed now only by the next group, so
        // that a crash never leaves a mark ahead of its database.
        self.mark_file.write(self.mark).map_err(words)?;
        SyncPoint::flush(&self.db).map_err(words)
    }

    fn sync(&mut self, group: u64) -> Result<(), String> {
        self.point.sync().map_err(words)?;
        self.mark.group = group;
        Ok(())
    }

    fn close(mut self: Box<Self>) {
        // OK to ignore because an older mark is a true one too, it only shows less.
        let _ = self.mark_synced();
    }
}
