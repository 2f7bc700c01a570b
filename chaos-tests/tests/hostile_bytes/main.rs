//! What the fuzzer checks, without the fuzzer: the committed corpus of every target, and all that
//! is one step away from it. The targets themselves are in `src/fuzzing`.
//!
//! `ONLYONCE_CORPUS=write cargo test -p onlyonce-chaos --test hostile_bytes` writes the seeds again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use onlyonce::fuzzing::{TARGETS, Target, neighbours};

#[test]
fn the_corpus_has_what_the_encoders_make() {
    for target in TARGETS {
        if std::env::var("ONLYONCE_CORPUS").as_deref() == Ok("write") {
            write_seeds(&target);
        }
        let corpus = corpus(&target);
        for (name, bytes) in (target.seeds)() {
            let committed = corpus.get(name);
            let name = format!("{}/{name}", target.name);
            assert_eq!(
                committed,
                Some(&bytes),
                "{name} is not what the encoder makes"
            );
        }
    }
}

#[test]
fn no_target_has_a_corpus_that_nobody_runs() {
    let folders = fs::read_dir(folder()).unwrap();
    for entry in folders {
        let name = entry.unwrap().file_name();
        assert!(
            TARGETS.iter().any(|target| name == target.name),
            "{}",
            name.display()
        );
    }
}

#[test]
fn the_fuzzer_has_every_target() {
    let manifest = fs::read_to_string(folder().join("../Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    for target in TARGETS {
        let has = bins
            .iter()
            .any(|bin| bin["name"].as_str() == Some(target.name));
        assert!(has, "{} is not in chaos-tests/fuzz", target.name);
    }
    assert_eq!(bins.len(), TARGETS.len());
}

macro_rules! one_test_a_target {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            stands(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_here() {
            let run = [$(stringify!($name)),*];
            assert!(TARGETS.iter().all(|target| run.contains(&target.name)));
        }
    };
}

one_test_a_target![
    first_sent
    frame
    handshake
    key
    log
    message_from_client
    message_from_server
    pages
    record
    value
];

/// Runs the target over its corpus and the neighbours; what broke it is printed.
fn stands(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "a check of nothing");
    let mut runs = 0_u64;
    for (name, seed) in &corpus {
        neighbours(seed, |bytes| {
            runs += 1;
            let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
            assert!(
                ran.is_ok(),
                "{}, near {name}: {}",
                target.name,
                bytes.escape_ascii()
            );
        });
    }
    println!("{name}: {runs} inputs from {} seeds", corpus.len());
}

fn corpus(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder().join(target.name)).unwrap();
    files
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn write_seeds(target: &Target) {
    let folder = folder().join(target.name);
    fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in (target.seeds)() {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}
