//! The store, reached through the server that owns it, opened here, or shared.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onlyonce::StoreUrl;
use onlyonce::admin::{self, AdminFailure, AdminReply, AdminRequest};
use onlyonce::storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce::storage::{
    ANSWER_BYTES_LIMIT, OpenError, RetentionOptions, SledOptions, SledStore, StoreLimits,
};

use super::Failed;
use super::arguments::{Opens, StoreArguments};
use crate::{exit, schema};

/// Who does what the operator asks.
pub(super) enum Reached {
    Opened(SledStore),
    #[cfg(unix)]
    Server(PathBuf),
    /// Every process asks it directly.
    Shared(PostgresStore),
}

/// A store that this command can reach.
pub(super) enum Named {
    Folder(PathBuf),
    Shared(String),
}

/// The store that is named, not looked at yet.
pub(super) fn named(arguments: &StoreArguments) -> Result<Named, Failed> {
    match arguments.store.parse() {
        Ok(StoreUrl::Sled(folder)) => Ok(Named::Folder(folder)),
        Ok(StoreUrl::Postgres(url)) => Ok(Named::Shared(url)),
        Ok(_) => {
            let words = "a store in memory lives in its process alone, and nobody else can look \
                         into it; ask for sled:PATH or postgres://USER@HOST/DATABASE";
            Err(misused(words.to_owned()))
        }
        Err(error) => Err(misused(error.to_string())),
    }
}

pub(super) fn opens(named: &Named, arguments: &StoreArguments) -> Opens {
    match named {
        Named::Folder(_) if !arguments.open => Opens::No,
        Named::Folder(_) | Named::Shared(_) => Opens::Yes,
    }
}

// === impl Reached ===

impl Reached {
    pub(super) async fn reach(named: Named, arguments: &StoreArguments) -> Result<Self, Failed> {
        let folder = match named {
            Named::Folder(folder) => folder,
            Named::Shared(url) => return shared(&url, arguments).await,
        };
        look_for_store(&folder)?;
        #[cfg(unix)]
        if is_served(&folder).await? {
            return Ok(Self::Server(folder));
        }
        if !arguments.open {
            return Err(unserved(&folder));
        }
        let options = options_of(arguments)?;
        match SledStore::open_async(&folder, options).await {
            Ok(store) => Ok(Self::Opened(store)),
            Err(error @ OpenError::Locked { .. }) => Err(misused(format!(
                "{error}. That process has no admin socket: make one in it with \
                 `AdminSocket::serve`, or stop it first"
            ))),
            Err(error @ (OpenError::Io { .. } | OpenError::Corrupt { .. })) => {
                Err(Failed::new(exit::UNKNOWN, error))
            }
            Err(error) => Err(misused(error.to_string())),
        }
    }

    pub(super) async fn ask(&self, request: AdminRequest) -> Result<AdminReply, Failed> {
        match self {
            Self::Opened(store) => {
                let done = admin::execute(store, request).await;
                done.map_err(|failure| refused(&failure))
            }
            Self::Shared(store) => {
                let done = admin::execute(store, request).await;
                done.map_err(|failure| refused(&failure))
            }
            #[cfg(unix)]
            Self::Server(folder) => admin::ask(folder, &request).await.map_err(failed),
        }
    }

    /// Frees the store, where it was opened here.
    pub(super) async fn close(self) -> Result<(), Failed> {
        match self {
            Self::Opened(store) => {
                let closed = store.close().await;
                closed.map_err(|error| Failed::new(exit::UNKNOWN, error))
            }
            #[cfg(unix)]
            Self::Server(_) => Ok(()),
            Self::Shared(_) => Ok(()),
        }
    }
}

async fn shared(url: &str, arguments: &StoreArguments) -> Result<Reached, Failed> {
    // What the servers record here is their own business.
    let limits = StoreLimits::default().answer_bytes_max(ANSWER_BYTES_LIMIT);
    let options = PostgresOptions::new(url)
        .schema(&arguments.schema)
        .retention(retention_of(arguments)?)
        .limits(limits)
        .connections_max(1);
    let opened = PostgresStore::open(options).await;
    let store = opened.map_err(|error| schema::unopened(&error, &arguments.schema))?;
    Ok(Reached::Shared(store))
}

/// Opening a folder that is no store would make one there.
fn look_for_store(folder: &Path) -> Result<(), Failed> {
    match SledStore::is_in(folder) {
        Ok(true) => Ok(()),
        Ok(false) => Err(misused(format!(
            "there is no store in {}",
            folder.display()
        ))),
        Err(OpenError::NotWritable { source, .. }) => Err(misused(format!(
            "the store in {} cannot be looked at: {source}; ask as the user of its server",
            folder.display()
        ))),
        Err(error @ OpenError::Io { .. }) => Err(Failed::new(exit::UNKNOWN, error)),
        Err(error) => Err(misused(error.to_string())),
    }
}

/// Whether somebody listens at the store's socket.
#[cfg(unix)]
async fn is_served(folder: &Path) -> Result<bool, Failed> {
    let path = folder.join(admin::SOCKET_NAME);
    match tokio::net::UnixStream::connect(&path).await {
        Ok(_) => Ok(true),
        // Nobody has made it, or who made it is dead.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::NotFound
            ) =>
        {
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(misused(format!(
            "{} belongs to another user; ask as that user or as root",
            path.display()
        ))),
        Err(error) => {
            let words = format!("{} cannot be reached: {error}", path.display());
            Err(Failed::new(exit::UNKNOWN, words))
        }
    }
}

fn unserved(folder: &Path) -> Failed {
    misused(format!(
        "no server answers at the admin socket of the store in {}. Where a server runs, it has \
         none: make one in it with `AdminSocket::serve`. Where none runs, --open opens the store \
         for this command; that changes it: calls that were left in progress are in doubt from \
         then on, as they are for the next server",
        folder.display()
    ))
}

fn options_of(arguments: &StoreArguments) -> Result<SledOptions, Failed> {
    let retention = retention_of(arguments)?;
    // What the server records here is its own business.
    let limits = StoreLimits::default().answer_bytes_max(ANSWER_BYTES_LIMIT);
    Ok(SledOptions::new().retention(retention).limits(limits))
}

fn retention_of(arguments: &StoreArguments) -> Result<RetentionOptions, Failed> {
    let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3_600);
    let default = RetentionOptions::default();
    let answer = arguments.retention_hours.map_or(default.answer, hours);
    let horizon = arguments.horizon_hours.map(hours);
    let horizon = horizon.unwrap_or(default.horizon.max(answer));
    let retention = RetentionOptions::new(answer, horizon);
    retention.map_err(|error| misused(error.to_string()))
}

fn refused(failure: &AdminFailure) -> Failed {
    let code = match failure {
        AdminFailure::Invalid(_) => exit::MISUSED,
        _ => exit::UNKNOWN,
    };
    Failed::new(code, super::table::shown(&failure.to_string()))
}

#[cfg(unix)]
fn failed(error: admin::AdminError) -> Failed {
    use admin::AdminError::{Failed as Refused, Stranger, Unsendable, Version};

    match error {
        Refused(failure) => refused(&failure),
        Stranger | Unsendable(_) | Version { .. } => misused(error.to_string()),
        other => Failed::new(exit::UNKNOWN, other),
    }
}

fn misused(words: String) -> Failed {
    Failed::new(exit::MISUSED, words)
}
