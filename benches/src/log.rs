//! What somebody would write by hand: a log with group commit.
//!
//! One thread appends framed records (length, CRC-32, key, value) to a file, calls `fdatasync` once
//! for everything that has arrived meanwhile, and keeps the values in a map. It has no leases, no
//! fingerprints, no quotas, no expiry, and forgets nothing; it is a bound, not a rival.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

/// A key.
pub type Key = [u8; 16];

/// The handle on the log's thread.
#[derive(Clone, Debug)]
pub struct Log {
    queue: mpsc::Sender<(Operation, oneshot::Sender<bool>)>,
}

#[derive(Debug)]
enum Operation {
    /// Written unless the key is there.
    Insert(Key, Vec<u8>),
    Overwrite(Key, Vec<u8>),
}

// === impl Log ===

impl Log {
    /// A new log in the file `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let (queue, mut asked) = mpsc::channel::<(Operation, oneshot::Sender<bool>)>(1_024);
        std::thread::spawn(move || {
            let mut index: HashMap<Key, Vec<u8>> = HashMap::new();
            let (mut bytes, mut replies) = (Vec::new(), Vec::new());
            while let Some(first) = asked.blocking_recv() {
                let mut next = Some(first);
                while let Some((operation, caller)) = next {
                    let (key, value, is_new) = match operation {
                        Operation::Insert(key, value) => {
                            let is_new = !index.contains_key(&key);
                            (key, value, is_new)
                        }
                        Operation::Overwrite(key, value) => (key, value, true),
                    };
                    if is_new {
                        append(&mut bytes, key, &value);
                        index.insert(key, value);
                    }
                    replies.push((caller, is_new));
                    next = (replies.len() < 1_024)
                        .then(|| asked.try_recv().ok())
                        .flatten();
                }
                file.write_all(&bytes).expect("the disk takes it");
                file.sync_data().expect("the disk syncs");
                bytes.clear();
                for (caller, is_new) in replies.drain(..) {
                    let _ = caller.send(is_new);
                }
            }
        });
        Ok(Self { queue })
    }

    /// Whether the key was new; then its value is durable.
    pub async fn insert(&self, key: Key, value: Vec<u8>) -> bool {
        self.ask(Operation::Insert(key, value)).await
    }

    /// Durable when it returns.
    pub async fn overwrite(&self, key: Key, value: Vec<u8>) -> bool {
        self.ask(Operation::Overwrite(key, value)).await
    }

    async fn ask(&self, operation: Operation) -> bool {
        let (reply, waiting) = oneshot::channel();
        self.queue
            .send((operation, reply))
            .await
            .expect("the thread lives as long as its handle");
        waiting.await.expect("every question is answered")
    }
}

fn append(bytes: &mut Vec<u8>, key: Key, value: &[u8]) {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&key);
    sum.update(value);
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sum.finalize().to_le_bytes());
    bytes.extend_from_slice(&key);
    bytes.extend_from_slice(value);
}
