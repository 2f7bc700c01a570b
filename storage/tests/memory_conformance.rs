//! The suite, on the store in memory.
#![cfg(all(feature = "memory", feature = "conformance"))]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce_storage::conformance::{self, Harness};
use onlyonce_storage::{Inspect, ManualClock, MemoryOptions, MemoryStore};

struct Memory {
    clock: Arc<ManualClock>,
    store: MemoryStore,
}

impl Memory {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let options = MemoryOptions::new()
            .clock(clock.clone())
            .limits(conformance::limits());
        Self {
            clock,
            store: MemoryStore::with_options(options),
        }
    }
}

impl Harness for Memory {
    fn store(&self) -> Arc<dyn Inspect> {
        Arc::new(self.store.clone())
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn reopen(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { false })
    }
}

onlyonce_storage::conformance!(Memory::new());
onlyonce_storage::conformance_transactions!(Memory::new());
onlyonce_storage::conformance_journal!(Memory::new());
