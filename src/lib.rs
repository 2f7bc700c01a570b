//! A reliability layer that makes any remote call safe to retry.

pub mod rpc;
