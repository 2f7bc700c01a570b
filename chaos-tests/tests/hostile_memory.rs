//! What hostile bytes may take of memory while they are decoded: measured at the allocator.
//!
//! The counter counts the whole process, so this is one test in a binary of its own.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::PathBuf;

use onlyonce::fuzzing::{TARGETS, neighbours};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

#[test]
fn decoding_takes_no_more_memory_than_a_few_times_what_came() {
    for target in TARGETS {
        let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target.name);
        let mut largest = (0, 0);
        for entry in fs::read_dir(corpus).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            neighbours(&seed, |bytes| {
                let taken = peak_of(|| (target.run)(bytes));
                let limit = (target.memory_bytes_max)(bytes.len());
                assert!(
                    taken <= limit,
                    "{}: {} bytes took {taken}, more than {limit}: {}",
                    target.name,
                    bytes.len(),
                    bytes.escape_ascii()
                );
                largest = largest.max((taken, bytes.len()));
            });
        }
        let (taken, came) = largest;
        assert!(taken > 0, "a check of nothing");
        println!(
            "{}: at most {taken} bytes, for an input of {came}",
            target.name
        );
    }
}

/// How far the memory in use rises while `run` runs.
fn peak_of(run: impl FnOnce()) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    run();
    ALLOCATOR.peak_usage().saturating_sub(before)
}
