//! What operators do with the records of a store that a running server owns: look, resolve, seal,
//! sweep.
//!
//! One process owns an embedded store, so a second one cannot open it. [`AdminSocket`] lets it ask:
//! a Unix socket in the store's folder, for the user of the server and for root alone. The program
//! `onlyonce records` finds it by itself; [`ask`] is the same from code.
//!
//! The rule: **an operator gets what was asked for and no more.** Answers stay where they are
//! unless they are asked for; nothing that passes here is logged.
//!
//! ```
//! use std::sync::Arc;
//! use onlyonce::admin::{self, AdminReply, AdminRequest, AdminSocket};
//! use onlyonce::storage::{SledOptions, SledStore};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("calls");
//! let store = Arc::new(SledStore::open_async(&path, SledOptions::new()).await?);
//! let admin = AdminSocket::serve(store.clone(), &path)?;
//!
//! // In another process of the same user:
//! let reply = admin::ask(&path, &AdminRequest::Stats).await?;
//! assert!(matches!(reply, AdminReply::Stats(stats) if stats.in_doubt == 0));
//!
//! admin.close().await;
//! store.close().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(unix)]
mod client;
mod execute;
mod message;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod wire;

#[cfg(unix)]
pub use self::client::{AdminError, ask};
pub use self::execute::execute;
pub use self::message::{
    AdminFailure, AdminReply, AdminRequest, AnswerView, BucketView, KeyName, KeyView, ListQuery,
    Outcome, PageView, RecordView, ScopeView, StateView, StatsView, StepOutcome, StepView,
    SweptView,
};
#[cfg(unix)]
pub use self::socket::{AdminSocket, SOCKET_NAME};
