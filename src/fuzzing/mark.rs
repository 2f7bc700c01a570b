//! Bytes that a store finds in its file MARK.

use onlyonce_storage::sled::fuzzing::mark;

use super::{Target, few_times};

pub(super) const TARGET: Target = Target {
    name: "mark",
    run,
    seeds,
    memory_bytes_max: few_times,
};

/// As they are, and with a right checksum.
fn run(bytes: &[u8]) {
    check(bytes);
    check(&sealed(bytes));
}

/// There is one form of each mark. Only no bytes at all are no mark: whatever else is not one keeps
/// the store shut.
fn check(bytes: &[u8]) {
    match mark(bytes) {
        Ok(None) => assert!(bytes.is_empty()),
        Ok(Some(written)) => assert_eq!(written, bytes),
        Err(words) => assert!(words.contains("MARK"), "{words}"),
    }
}

fn sealed(content: &[u8]) -> Vec<u8> {
    let sum = blake3::hash(content);
    [content, &sum.as_bytes()[..8]].concat()
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let content = |version: u8| {
        let group = 0x0102_0304_u64.to_le_bytes();
        [&[version][..], &[0xcd; 16], &group].concat()
    };
    vec![
        ("content", content(1)),
        ("newer", content(2)),
        ("whole", sealed(&content(1))),
    ]
}
