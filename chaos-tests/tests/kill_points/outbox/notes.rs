//! What the client made of its answers: the use for which they were asked.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onlyonce_chaos::ledger::Ending;
use parking_lot::Mutex;

use crate::clients::Told;
use crate::orders::Order;

/// A line for every ending that the client was told, durable before it tells its outbox so.
#[derive(Clone)]
pub struct Notes(Arc<Mutex<File>>);

// === impl Notes ===

impl Notes {
    pub fn open(folder: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path(folder))
            .unwrap();
        Self(Arc::new(Mutex::new(file)))
    }

    /// Blocks for the disk, as applications do.
    pub fn note(&self, operation: u64, ending: &Ending) {
        let text = match ending {
            Ending::Answered(text) => format!("answered {}", str::from_utf8(text).unwrap()),
            Ending::Declined(text) => format!("declined {}", str::from_utf8(text).unwrap()),
            Ending::InDoubt => "doubt -".to_owned(),
            other => panic!("operation {operation} ended {other:?}"),
        };
        let mut file = self.0.lock();
        // In one write, so that a kill leaves the whole line or none of it.
        let line = format!("{operation} {text}\n");
        file.write_all(line.as_bytes()).unwrap();
        file.sync_data().unwrap();
    }

    /// The operations of which something was noted.
    pub fn done(folder: &Path) -> BTreeSet<u64> {
        Self::lines(folder)
            .into_iter()
            .map(|(done, _)| done)
            .collect()
    }

    pub fn told(folder: &Path) -> Told {
        let told = Told::default();
        for (operation, ending) in Self::lines(folder) {
            told.note(Order { operation }, ending);
        }
        told
    }

    fn lines(folder: &Path) -> Vec<(u64, Ending)> {
        let text = std::fs::read_to_string(path(folder)).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let operation = words.next().unwrap().parse().unwrap();
            let (kind, text) = (words.next().unwrap(), words.next().unwrap());
            let ending = match kind {
                "answered" => Ending::Answered(text.to_owned().into()),
                "declined" => Ending::Declined(text.to_owned().into()),
                _ => Ending::InDoubt,
            };
            (operation, ending)
        };
        text.lines().map(line).collect()
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("notes")
}
