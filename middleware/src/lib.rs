//! Tower layers that make a remote call safe to retry.

pub mod client;
pub mod jitter;
pub mod observe;
