//! An outbox in a directory, opened by one client after the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onlyonce_middleware::http::client::{Client, Outbox, Pending};
use onlyonce_storage::outbox::{OutboxLimits, OutboxState};
use onlyonce_storage::{IdempotencyKey, OutboxOptions, Scope, SledOutbox};

use crate::peer::{over_hyper, quick};

pub struct Folder(tempfile::TempDir);

/// An outbox that is open.
pub struct Opened {
    pub outbox: Outbox,
    pub kept: Arc<SledOutbox>,
}

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("outbox")
    }

    pub async fn open(&self) -> Opened {
        self.open_as(|outbox| outbox).await
    }

    /// With an outbox that is set up otherwise.
    pub async fn open_as(&self, change: impl FnOnce(Outbox) -> Outbox) -> Opened {
        self.open_with(client(), OutboxLimits::default(), change)
            .await
    }

    pub async fn open_with(
        &self,
        client: Client,
        limits: OutboxLimits,
        change: impl FnOnce(Outbox) -> Outbox,
    ) -> Opened {
        open(&self.path(), client, limits, change).await
    }

    /// Whether `secret` stands in any file of the outbox.
    pub fn contains(&self, secret: &[u8]) -> bool {
        contains(&self.path(), secret)
    }
}

/// A client as it is in every life.
pub fn client() -> Client {
    quick(over_hyper()).build()
}

pub async fn open(
    path: &Path,
    client: Client,
    limits: OutboxLimits,
    change: impl FnOnce(Outbox) -> Outbox,
) -> Opened {
    let options = OutboxOptions::new().limits(limits);
    let kept = SledOutbox::open_async(path, Scope::global(), options).await;
    let kept = Arc::new(kept.unwrap());
    let outbox = Outbox::new(client, Arc::<SledOutbox>::clone(&kept));
    Opened {
        outbox: change(outbox),
        kept,
    }
}

fn contains(folder: &Path, secret: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return contains(&path, secret);
        }
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(secret.len()).any(|window| window == secret)
    })
}

impl Opened {
    /// Its only call.
    pub async fn only(&self) -> Pending {
        let mut pending = self.outbox.pending().await.unwrap();
        assert_eq!(pending.len(), 1);
        pending.remove(0)
    }

    pub async fn key(&self) -> IdempotencyKey {
        self.only().await.call.key
    }

    pub async fn state(&self) -> OutboxState {
        self.only().await.call.state
    }

    /// Closes it, as the end of a process does.
    pub async fn end(self) {
        drop(self.outbox);
        self.kept.close().await.unwrap();
    }
}
