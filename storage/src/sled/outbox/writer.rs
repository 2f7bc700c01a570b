//! The thread that decides, writes and waits for the disk, one group after the other.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::open::Opened;
use super::rows::{Group, Rows};
use super::sync::GroupSync;
use crate::outbox::table::{Row, Table};
use crate::outbox::{NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, Written};
use crate::sled::disk::wait_until_free;
use crate::{Clock, IdempotencyKey, kill_point};

/// What is asked of the thread.
pub(super) enum Message {
    Change(IdempotencyKey, OutboxChange, Caller<()>),
    Close,
    List(Caller<Vec<OutboxEntry>>),
    Load(IdempotencyKey, Caller<OutboxCall>),
    Write(NewCall, Caller<Written>),
}

/// Who waits for a reply.
pub(super) type Caller<T> = oneshot::Sender<Result<T, OutboxError>>;

/// Why nothing more is written, once that is so.
pub(super) type Poison = Arc<Mutex<Option<String>>>;

/// The thread's state.
pub(super) struct Writer {
    rows: Rows,
    table: Table,
    syncer: Box<dyn GroupSync>,
    clock: Arc<dyn Clock>,
    poison: Poison,
    db_file: PathBuf,
    lock: File,
}

/// What is told once the group is durable.
type Reply = Box<dyn FnOnce(Result<(), OutboxError>, &Table, &Rows) + Send>;

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        opened: Opened,
        clock: Arc<dyn Clock>,
        poison: Poison,
        seam: impl FnOnce(Box<dyn GroupSync>) -> Box<dyn GroupSync>,
    ) -> Self {
        Self {
            rows: opened.rows,
            table: opened.table,
            syncer: seam(Box::new(opened.syncer)),
            clock,
            poison,
            db_file: opened.db_file,
            lock: opened.lock,
        }
    }

    /// Until everybody is gone or it is told to close. Then the directory is free.
    pub(super) fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut open = true;
        while open {
            let Some(first) = messages.blocking_recv() else {
                break;
            };
            let (mut group, mut replies) = (Group::default(), Vec::new());
            let mut next = Some(first);
            while let Some(message) = next {
                match self.take(message, &mut group) {
                    Some(reply) => replies.push(reply),
                    None => {
                        messages.close();
                        open = false;
                    }
                }
                let room = replies.len() < GROUP_MAX && group.bytes < GROUP_BYTES_MAX;
                next = if room { messages.try_recv().ok() } else { None };
            }
            let done = self.commit(group);
            for reply in replies {
                reply(done.clone(), &self.table, &self.rows);
            }
        }
        // What is still in the queue is told that the outbox is closed: its callers are dropped.
        drop(messages);
        self.close();
    }

    /// Frees the directory: when this returns, it can be opened again.
    fn close(self) {
        let Self {
            rows,
            syncer,
            poison,
            db_file,
            lock,
            ..
        } = self;
        drop(rows);
        match poison.lock().is_none() {
            true => syncer.close(),
            // Nothing more is written.
            false => drop(syncer),
        }
        kill_point!("outbox: database closed, lock held");
        wait_until_free(&db_file);
        drop(lock);
    }

    /// Decides what a message comes to; `None` for the word to close.
    fn take(&mut self, message: Message, group: &mut Group) -> Option<Reply> {
        Some(match message {
            Message::Close => return None,
            Message::List(caller) => Box::new(move |done, table, _| {
                tell(caller, done.map(|()| table.list()));
            }),
            // Read once the group is in the tree.
            Message::Load(key, caller) => Box::new(move |done, table, rows| {
                let call = done.and_then(|()| rows.load(table.find(&key)?));
                tell(caller, call);
            }),
            Message::Change(key, change, caller) => {
                let decided = self.table.change(&key, change);
                let decided = decided.map(|row| add(group, row));
                Box::new(move |done, _, _| tell(caller, done.and(decided)))
            }
            Message::Write(call, caller) => {
                let decided = self.table.write(call, self.clock.now());
                let decided = decided.map(|(written, row)| {
                    add(group, row);
                    written
                });
                Box::new(move |done, _, _| tell(caller, done.and(decided)))
            }
        })
    }

    /// Makes a group durable, or poisons the outbox.
    fn commit(&mut self, group: Group) -> Result<(), OutboxError> {
        if let Some(reason) = self.poison.lock().clone() {
            return Err(OutboxError::Poisoned(reason));
        }
        if group.is_empty() {
            return Ok(());
        }
        let work = || {
            self.rows.apply(group, self.table.next())?;
            kill_point!("outbox: group applied, not flushed");
            self.syncer.flush()?;
            kill_point!("outbox: group flushed, not synced");
            self.syncer.sync(self.rows.group)?;
            kill_point!("outbox: group synced, nobody told");
            Ok(())
        };
        // OK because nothing is written after a panic.
        let done = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err("the writer panicked".to_owned()));
        done.map_err(|reason: String| {
            *self.poison.lock() = Some(reason.clone());
            OutboxError::Poisoned(reason)
        })
    }
}

fn add(group: &mut Group, row: Option<Row>) {
    if let Some(row) = row {
        group.add(&row);
    }
}

fn tell<T>(caller: Caller<T>, result: Result<T, OutboxError>) {
    // OK to ignore because a caller that is gone needs no reply.
    let _ = caller.send(result);
}

/// More share one sync than a client has calls in flight by default.
const GROUP_MAX: usize = 512;

/// With one more call of the largest size it stays below what may lie between two syncs: sled writes
/// up to three times what it is given, and must sync before half a segment.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
