//! The store of an ingress proxy, open.

use std::sync::Arc;

use super::ProxyError;
use super::config::Ingress;
use crate::StoreUrl;
use crate::storage::{Inspect, Store, StoreLimits};

/// A store that is open, with the socket by which operators reach it.
pub(super) struct Opened {
    store: Arc<dyn Store>,
    inspect: Arc<dyn Inspect>,
    #[cfg(feature = "sled")]
    sled: Option<SledOpened>,
}

#[cfg(feature = "sled")]
struct SledOpened {
    store: Arc<crate::storage::SledStore>,
    #[cfg(unix)]
    socket: Option<crate::admin::AdminSocket>,
}

// === impl Opened ===

impl Opened {
    /// Opens the store that `ingress` names.
    pub(super) async fn open(
        ingress: &Ingress,
        answer_bytes_max: usize,
    ) -> Result<Self, ProxyError> {
        let limits = StoreLimits::default().answer_bytes_max(answer_bytes_max);
        match &ingress.store {
            StoreUrl::Memory => memory(ingress, limits),
            StoreUrl::Postgres(url) => postgres(url, ingress, limits).await,
            StoreUrl::Sled(path) => sled(path, ingress, limits).await,
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    pub(super) fn inspect(&self) -> Arc<dyn Inspect> {
        Arc::clone(&self.inspect)
    }

    /// Writes everything down.
    pub(super) async fn close(self) -> Result<(), ProxyError> {
        #[cfg(feature = "sled")]
        if let Some(sled) = self.sled {
            #[cfg(unix)]
            if let Some(socket) = sled.socket {
                socket.close().await;
            }
            let closed = sled.store.close().await;
            closed.map_err(|error| ProxyError::Store(error.to_string()))?;
        }
        Ok(())
    }

    fn of<S: Inspect>(store: &Arc<S>) -> Self {
        Self {
            store: store.clone(),
            inspect: store.clone(),
            #[cfg(feature = "sled")]
            sled: None,
        }
    }
}

#[cfg(feature = "memory")]
fn memory(ingress: &Ingress, limits: StoreLimits) -> Result<Opened, ProxyError> {
    let mut options = crate::storage::MemoryOptions::new().limits(limits);
    if let Some(retention) = ingress.retention {
        options = options.retention(retention);
    }
    let store = crate::storage::MemoryStore::with_options(options);
    Ok(Opened::of(&Arc::new(store)))
}

#[cfg(not(feature = "memory"))]
fn memory(_: &Ingress, _: StoreLimits) -> Result<Opened, ProxyError> {
    Err(not_built_in("memory"))
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str, ingress: &Ingress, limits: StoreLimits) -> Result<Opened, ProxyError> {
    use crate::storage::postgres::{PostgresOptions, PostgresStore};
    let mut options = PostgresOptions::new(url).limits(limits);
    if let Some(retention) = ingress.retention {
        options = options.retention(retention);
    }
    let failed = |error: &dyn std::fmt::Display| ProxyError::Store(error.to_string());
    if ingress.migrate {
        let migrated = PostgresStore::migrate(&options).await;
        migrated.map_err(|error| failed(&error))?;
    }
    let store = PostgresStore::open(options).await;
    let store = store.map_err(|error| failed(&error))?;
    Ok(Opened::of(&Arc::new(store)))
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: &str, _: &Ingress, _: StoreLimits) -> Result<Opened, ProxyError> {
    Err(not_built_in("postgres"))
}

#[cfg(feature = "sled")]
async fn sled(
    path: &std::path::Path,
    ingress: &Ingress,
    limits: StoreLimits,
) -> Result<Opened, ProxyError> {
    use crate::storage::{SledOptions, SledStore};
    let mut options = SledOptions::new().limits(limits);
    if let Some(retention) = ingress.retention {
        options = options.retention(retention);
    }
    let store = SledStore::open_async(path, options).await;
    let store = Arc::new(store.map_err(|error| ProxyError::Store(error.to_string()))?);
    // A proxy works without; a path may be too long for a socket.
    #[cfg(unix)]
    let socket = match crate::admin::AdminSocket::serve(store.clone(), path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(target: "onlyonce", %error, "`onlyonce records` cannot ask this proxy");
            None
        }
    };
    let mut opened = Opened::of(&store);
    opened.sled = Some(SledOpened {
        store,
        #[cfg(unix)]
        socket,
    });
    Ok(opened)
}

#[cfg(not(feature = "sled"))]
async fn sled(_: &std::path::Path, _: &Ingress, _: StoreLimits) -> Result<Opened, ProxyError> {
    Err(not_built_in("sled"))
}

#[cfg(not(all(feature = "memory", feature = "postgres", feature = "sled")))]
fn not_built_in(feature: &str) -> ProxyError {
    ProxyError::Store(format!(
        "this program was built without the feature {feature}"
    ))
}
