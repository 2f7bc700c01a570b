//! What hostile bytes must not do, one target for each parser. No part of the public API.
//!
//! The parsers are private, so their targets live in this crate, behind the feature `fuzzing`, and
//! those of a store's directory reach theirs through the same feature of `onlyonce-storage`. Each
//! is a function of bytes that panics when a promise is broken. `chaos-tests/fuzz` gives them to
//! libFuzzer; the tests in `chaos-tests/tests/hostile_bytes` run them over a committed corpus and
//! all its neighbours.
//!
//! The rules that every target checks:
//!
//! - nothing panics;
//! - what was decoded is encoded and decoded again to the same;
//! - numbers have one shortest form, so what decoded from as many bytes as it encodes to has
//!   exactly those bytes.

mod first_sent;
mod key;
mod log;
mod mutation;
mod pages;
mod record;

pub use self::mutation::neighbours;
use crate::rpc::fuzzing as rpc;

/// A parser, and what must hold of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that the real encoders made, each with a name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// How much memory an input of so many bytes may take at once.
    pub memory_bytes_max: fn(usize) -> usize,
}

/// Every target.
pub const TARGETS: [Target; 10] = [
    first_sent::TARGET,
    rpc::frame::TARGET,
    rpc::handshake::TARGET,
    key::TARGET,
    log::TARGET,
    rpc::message::FROM_CLIENT,
    rpc::message::FROM_SERVER,
    pages::TARGET,
    record::TARGET,
    rpc::value::TARGET,
];

/// Runs the target of this name.
///
/// # Panics
///
/// When there is none, or when a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the target exists").run)(bytes);
}

/// Of numbers there are longer forms, which decode as well; of the shortest there is one.
pub(crate) fn assert_canonical(read: &[u8], written: &[u8]) {
    assert!(
        written.len() <= read.len(),
        "{} bytes became {}",
        read.len(),
        written.len()
    );
    if written.len() == read.len() {
        assert_eq!(read, written);
    }
}

/// What decoding may take at once: a few times what came, and the fixed cost of telling about it.
pub(crate) const fn few_times(bytes: usize) -> usize {
    4 * bytes + 1024
}
