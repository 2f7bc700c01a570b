//! Calls within calls: only the outermost client retries.
//!
//! Where each of five layers tries three times, the last one gets 243 times the load just when it
//! cannot bear any. So a handler whose own caller retries leaves that to it: a client stack that is
//! used within it makes one attempt. See [`RetryLayer::retry_within_calls`] for the exception.
//!
//! It is known by the task: calls that the handler makes in a task that it spawned are retried.
//!
//! [`RetryLayer::retry_within_calls`]: crate::client::RetryLayer::retry_within_calls

use std::future::Future;

use tokio::task::futures::TaskLocalFuture;
use tokio::task_local;

task_local! {
    static CALLER_RETRIES: bool;
}

/// Whether this code runs within a handler whose caller retries.
pub(crate) fn caller_retries() -> bool {
    CALLER_RETRIES.try_with(|retries| *retries).unwrap_or(false)
}

/// Runs a handler, whose caller retries or does not.
pub(crate) fn handling<F: Future>(caller_retries: bool, handler: F) -> TaskLocalFuture<bool, F> {
    CALLER_RETRIES.scope(caller_retries, handler)
}
