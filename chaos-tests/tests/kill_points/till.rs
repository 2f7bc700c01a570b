//! Where the handler's effects are: a file that nothing under test can see.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onlyonce_storage::kill_point;
use parking_lot::Mutex;

use super::orders::Receipt;

/// A line for every effect, made durable before the handler answers. A second effect of the same
/// operation is a line of its own, with another receipt.
#[derive(Clone)]
pub struct Till(Arc<Mutex<Book>>);

struct Book {
    file: File,
    lines: u64,
}

// === impl Till ===

impl Till {
    pub fn open(folder: &Path) -> Self {
        let lines = Self::read(folder).len() as u64;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path(folder))
            .unwrap();
        Self(Arc::new(Mutex::new(Book { file, lines })))
    }

    /// The effects so far, in order.
    pub fn read(folder: &Path) -> Vec<(u64, Receipt)> {
        let text = std::fs::read_to_string(path(folder)).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
        let effect = |(index, line): (usize, &str)| {
            let operation = line.parse().unwrap();
            (operation, Receipt::new(operation, index as u64 + 1))
        };
        text.lines().enumerate().map(effect).collect()
    }

    /// Makes the effect, durably, once for every time it is called.
    pub async fn pay(&self, operation: u64) -> Receipt {
        let till = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut book = till.0.lock();
            // In one write, so that a kill leaves the whole line or none of it.
            let line = format!("{operation}\n");
            book.file.write_all(line.as_bytes()).unwrap();
            kill_point!("handler: effect made, not synced");
            book.file.sync_data().unwrap();
            book.lines += 1;
            Receipt::new(operation, book.lines)
        })
        .await
        .unwrap()
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("till")
}
