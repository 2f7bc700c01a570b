//! The suite, on the store on sled.
#![cfg(all(feature = "sled", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::future::Future;
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
            self.store.close().await.unwrap();
            self.store = open(&self.folder, &self.clock).await;
            true
        })
    }
}

onlyonce_storage::conformance!(Sled::start().await);
