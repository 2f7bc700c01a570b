//! Carrying over to sled what a file of the log holds, on a thread of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ::sled::{Db, Tree};

use super::cause::Cause;
use super::disk::{META_GROUP, words};
use super::log::LogFiles;
use super::open_rows::OpenChanges;
use super::page::Run;
use super::session_rows::SessionRowChanges;
use super::sync::SyncPoint;
use super::tables::TableChanges;
use crate::KeyDigest;
use crate::transaction::Table;

/// Everything up to a group that is not in sled yet.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) group: u64,
    pub(super) pages: Vec<Run>,
    pub(super) open: OpenChanges,
    pub(super) sessions: SessionRowChanges,
    pub(super) tables: TableChanges,
    /// Numbers in the tree of the store's own.
    pub(super) numbers: Vec<(&'static str, u64)>,
    /// The turn of the log that can begin afterwards, in the file that is then free.
    pub(super) next_turn: u64,
    /// Files that are to go after it.
    pub(super) drops: Vec<String>,
}

/// Writes to sled and to files, and keeps to what a power cut demands of that.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) db: Db,
    pub(super) meta: Tree,
    /// Where the files are.
    pub(super) folder: PathBuf,
    pub(super) point: SyncPoint,
}

/// The thread's end in the writer's hand: one checkpoint at a time is under way.
pub(super) struct Checkpoints {
    jobs: Sender<Job>,
    done: Receiver<Result<Done, String>>,
    under_way: bool,
    thread: JoinHandle<()>,
}

/// What a checkpoint leaves behind: keys whose answers are in the tree of open calls, and trees.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) answered: Vec<KeyDigest>,
    /// The handlers' tables.
    pub(super) tables: BTreeMap<Table, Tree>,
}

enum Job {
    Checkpoint(Checkpoint),
    Drop(Vec<String>),
}

// === impl Checkpoints ===

impl Checkpoints {
    pub(super) fn start(target: Target, log: Arc<LogFiles>) -> std::io::Result<Self> {
        let (jobs, asked) = channel();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new()
            .name("onlyonce-checkpoint".to_owned())
            .spawn(move || run(&target, &log, &asked, &tell))?;
        Ok(Self {
            jobs,
            done,
            under_way: false,
            thread,
        })
    }

    /// Begins one. None is under way.
    pub(super) fn begin(&mut self, checkpoint: Checkpoint) -> Result<(), String> {
        self.under_way = true;
        let gone = |_| "the thread that makes checkpoints is gone".to_owned();
        self.jobs.send(Job::Checkpoint(checkpoint)).map_err(gone)
    }

    /// Removes files once everything begun before is done.
    pub(super) fn drop_files(&self, names: Vec<String>) -> Result<(), String> {
        let gone = |_| "the thread that makes checkpoints is gone".to_owned();
        self.jobs.send(Job::Drop(names)).map_err(gone)
    }

    /// What was done meanwhile, if anything was; the error of whatever failed.
    pub(super) fn poll(&mut self) -> Result<Option<Done>, String> {
        let Ok(done) = self.done.try_recv() else {
            return Ok(None);
        };
        self.under_way = false;
        done.map(Some)
    }

    /// Waits for the one that is under way.
    pub(super) fn wait(&mut self) -> Result<Option<Done>, String> {
        if !self.under_way {
            return self.poll();
        }
        let gone = |_| "the thread that makes checkpoints is gone".to_owned();
        let done = self.done.recv().map_err(gone)?;
        self.under_way = false;
        done.map(Some)
    }

    /// Ends the thread when it has done everything, and says how that ended.
    pub(super) fn stop(self) -> Result<(), String> {
        drop(self.jobs);
        let _ = self.thread.join();
        self.done.try_iter().try_for_each(|done| done.map(drop))
    }
}

// === impl Target ===

impl Target {
    /// Carries everything over. Durable when it returns.
    pub(super) fn write(&self, checkpoint: Checkpoint) -> Result<Done, Cause> {
        let answered = checkpoint.open.answered();
        let Checkpoint {
            group,
            pages,
            open,
            sessions,
            tables,
            numbers,
            drops,
            ..
        } = checkpoint;
        let mut unsynced = 0;
        let mut sync_if_much = |bytes| {
            unsynced += bytes;
            if unsynced < UNSYNCED_BYTES_MAX {
                return Ok(());
            }
            unsynced = 0;
            Ok(self.point.commit(&self.db)?)
        };
        let mut memory = Vec::new();
        let mut is_new = false;
        for run in &pages {
            run.write(&mut memory)?;
            is_new |= run.begins_file();
        }
        if is_new {
            sync_folder(&self.folder)?;
        }
        crate::kill_point!("checkpoint: pages durable, rows not written");
        open.write(&mut sync_if_much)?;
        crate::kill_point!("checkpoint: open calls given to sled, sessions not");
        sessions.write(&mut sync_if_much)?;
        crate::kill_point!("checkpoint: sessions given to sled, tables not");
        let tables = tables.write(&self.db, sync_if_much)?;
        crate::kill_point!("checkpoint: everything given to sled, not durable");
        self.point.commit(&self.db)?;
        crate::kill_point!("checkpoint: everything durable, not said to be");
        // All of it or nothing: these pages count from now on, and the log is no longer needed.
        let mut batch = ::sled::Batch::default();
        for run in &pages {
            batch.insert(&*length_row(run.file.name()), &run.end().to_le_bytes());
        }
        for name in &drops {
            batch.remove(&*length_row(name));
        }
        for (name, number) in numbers {
            batch.insert(name, &number.to_le_bytes());
        }
        batch.insert(META_GROUP, &group.to_le_bytes());
        self.meta.apply_batch(batch)?;
        crate::kill_point!("checkpoint: said, not durable");
        self.point.commit(&self.db)?;
        Ok(Done { answered, tables })
    }

    /// Removes files that are no longer needed, and what sled says of them before.
    pub(super) fn drop_files(&self, names: &[String]) -> Result<(), Cause> {
        if names.is_empty() {
            return Ok(());
        }
        let mut batch = ::sled::Batch::default();
        names
            .iter()
            .for_each(|name| batch.remove(&*length_row(name)));
        self.meta.apply_batch(batch)?;
        crate::kill_point!("checkpoint: files not said to be there, still there");
        self.point.commit(&self.db)?;
        for name in names {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            crate::kill_point!("checkpoint: one file removed, the next not");
        }
        Ok(())
    }
}

/// Makes the names of new files durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn length_row(name: &str) -> String {
    format!("{LENGTH_ROW}{name}")
}

fn run(
    target: &Target,
    log: &LogFiles,
    asked: &Receiver<Job>,
    tell: &Sender<Result<Done, String>>,
) {
    let mut failed = false;
    while let Ok(job) = asked.recv() {
        // After a failure nothing more is written.
        if failed {
            continue;
        }
        // OK because nothing of sled is used after a panic but to close it.
        let done = catch_unwind(AssertUnwindSafe(|| work(target, log, job)));
        let done = done.unwrap_or_else(|_| Err("sled panicked in a checkpoint".to_owned()));
        failed = done.is_err();
        // OK to ignore because a writer that is gone has nothing more to write.
        match done {
            Ok(None) => {}
            Ok(Some(done)) => drop(tell.send(Ok(done))),
            Err(error) => drop(tell.send(Err(error))),
        }
    }
}

fn work(target: &Target, log: &LogFiles, job: Job) -> Result<Option<Done>, String> {
    match job {
        Job::Drop(names) => target.drop_files(&names).map(|()| None).map_err(words),
        Job::Checkpoint(checkpoint) => {
            let drops = checkpoint.drops.clone();
            let (group, next_turn) = (checkpoint.group, checkpoint.next_turn);
            let done = target.write(checkpoint).map_err(words)?;
            crate::kill_point!("checkpoint: durable, its file not free");
            log.begin_turn(next_turn, group).map_err(words)?;
            crate::kill_point!("checkpoint: its file free, nobody told");
            target.drop_files(&drops).map_err(words)?;
            Ok(Some(done))
        }
    }
}

/// What sled is taken to write between two syncs (`open_rows.rs` says for what): an eighth of the half
/// of a segment that a power cut permits. `open.rs` says what it makes of more.
const UNSYNCED_BYTES_MAX: usize = super::open::SEGMENT_BYTES / 16;

/// Before the name of a file: how many of its pages count.
pub(super) const LENGTH_ROW: &str = "pages/";
