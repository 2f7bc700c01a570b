//! What a handler without the layer does with its effect on sled: rows that are durable in groups.
//!
//! One thread applies all rows that have arrived as one batch, lets sled write it out, waits for the
//! disk, and answers their callers. `flush` alone would be faster, and is lost with the power.

use std::fs::File;
use std::path::Path;

use sled::{Batch, Config};
use tokio::sync::{mpsc, oneshot};

/// The handle on the rows' thread.
#[derive(Clone, Debug)]
pub struct Rows {
    queue: mpsc::Sender<(u64, Vec<u8>, oneshot::Sender<()>)>,
}

// === impl Rows ===

impl Rows {
    /// No rows yet, in a folder of their own.
    ///
    /// # Panics
    ///
    /// When the folder cannot be used.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        let database = Config::new().path(folder).flush_every_ms(None).open();
        let database = database.expect("a database");
        let file = File::open(folder.join("db")).expect("its file");
        let (queue, mut asked) = mpsc::channel::<(u64, Vec<u8>, oneshot::Sender<()>)>(1_024);
        std::thread::spawn(move || {
            let mut callers = Vec::new();
            while let Some(first) = asked.blocking_recv() {
                let mut batch = Batch::default();
                let mut next = Some(first);
                while let Some((number, row, caller)) = next {
                    batch.insert(&number.to_be_bytes(), row);
                    callers.push(caller);
                    next = (callers.len() < 1_024)
                        .then(|| asked.try_recv().ok())
                        .flatten();
                }
                database.apply_batch(batch).expect("the rows fit");
                #[expect(
                    clippy::disallowed_methods,
                    reason = "it is made durable by the sync that follows"
                )]
                let flushed = database.flush();
                flushed.expect("the disk takes them");
                file.sync_data().expect("the disk syncs");
                for caller in callers.drain(..) {
                    let _ = caller.send(());
                }
            }
        });
        Self { queue }
    }

    /// Durable when it returns.
    ///
    /// # Panics
    ///
    /// When the disk does not do its work.
    pub async fn put(&self, number: u64, row: Vec<u8>) {
        let (reply, waiting) = oneshot::channel();
        let sent = self.queue.send((number, row, reply)).await;
        sent.expect("the thread lives as long as its handle");
        waiting.await.expect("every row is answered");
    }
}
