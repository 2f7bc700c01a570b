//! The suite, on the store on sled.
#![cfg(all(feature = "sled", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce_storage::conformance::{self, Harness};
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{Inspect, ManualClock};

struct Sled {
    clock: Arc<ManualClock>,
    store: Arc<SledStore>,
    folder: tempfile::TempDir,
}

impl Sled {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = open(&folder, &clock).await;
        Self {
            clock,
            store,
            folder,
        }
    }
}

async fn open(folder: &tempfile::TempDir, clock: &Arc<ManualClock>) -> Arc<SledStore> {
    let options = SledOptions::new()
        .clock(clock.clone())
        .limits(conformance::limits());
    let path = folder.path().join("store");
    Arc::new(SledStore::open_async(path, options).await.unwrap())
}

impl Harness for Sled {
    fn store(&self) -> Arc<dyn Inspect> {
        self.store.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn reopen(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            // What a killed process leaves: the files as they are, and nothing that is still
            // in memory. The old store lives on in a folder that nobody looks at any more.
            let left = tempfile::tempdir().unwrap();
            copy(
                &self.folder.path().join("store"),
                &left.path().join("store"),
            );
            self.store = open(&left, &self.clock).await;
            self.folder = left;
            true
        })
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            match std::fs::copy(entry.path(), target) {
                // The store that lives on has removed it: it might as well have done so before.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

onlyonce_storage::conformance!(Sled::start().await);
onlyonce_storage::conformance_transactions!(Sled::start().await);
onlyonce_storage::conformance_journal!(Sled::start().await);
