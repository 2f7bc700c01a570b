//! Where a run has its store and its till.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Clock, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, ManualClock, Scope, ScopedKey, SledOptions, SledStore, Store,
    SystemClock,
};
use tempfile::TempDir;

/// A store that has something to forget: what was recorded in it is past its horizon. It is made
/// once and copied for each run.
pub struct Prepared(TempDir);

/// What a run begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing is there.
    Empty,
    /// See [`Prepared`].
    Old,
}

// === impl Prepared ===

impl Prepared {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(SystemClock.now().minus(AGE));
        let options = SledOptions::new().clock(Arc::new(clock));
        let store = SledStore::open_async(folder.path().join("store"), options).await;
        let store = store.unwrap();
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
        for name in ["old-1", "old-2"] {
            let key = ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap());
            let request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(1));
            let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
                panic!("a new key is claimed");
            };
            let answer = Answer::new(AnswerFormat::new(1), name);
            store.complete(claim, answer).await.unwrap();
        }
        store.close().await.unwrap();
        Self(folder)
    }

    /// A folder for a run.
    pub fn folder(&self, beginning: Beginning) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        if beginning == Beginning::Old {
            copy(self.0.path(), folder.path());
        }
        folder
    }
}

pub fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            // Not the socket that a killed server leaves behind.
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Past the horizon, and a bucket longer.
const AGE: Duration = Duration::from_secs(10 * 24 * 60 * 60);
