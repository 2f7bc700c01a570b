//! What the manual says of a bound is held by a test of that name.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_row_about_hostile_input_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("src/manual/hostile_input.md")).unwrap();
    let tests = tests();
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut checked = 0;
    for row in rows.filter(|row| !row.starts_with("| input ")) {
        let name = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let name = name.trim_matches('`');
        assert!(tests.contains(name), "no test is called {name}: {row}");
        checked += 1;
    }
    assert!(checked > 20, "only {checked} rows were seen");
}

#[test]
fn what_the_pages_about_guarantees_name_as_shown_is_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = tests();
    let mut checked = 0;
    for page in [
        "guarantees.md",
        "failure_modes.md",
        "fault_injection.md",
        "store_choice.md",
    ] {
        let text = std::fs::read_to_string(root.join("src/manual").join(page)).unwrap();
        // A test is named by a sentence, nothing else that stands there has so many words.
        let sentences = text.split('`').filter(|quoted| {
            let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            quoted.bytes().all(|byte| word(byte) || byte == b'_')
                && quoted.matches('_').count() >= 4
        });
        for name in sentences {
            assert!(tests.contains(name), "{page}: no test is called {name}");
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} names were seen");
}

fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests", "storage", "middleware", "chaos-tests"] {
        collect(&root.join(folder), &mut tests);
    }
    tests
}

/// The names of all functions, and of the targets that a macro makes a test each.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            names.extend(text.lines().filter_map(name_in));
        }
    }
}

fn name_in(line: &str) -> Option<String> {
    let line = line.trim_start();
    let target = line
        .strip_prefix("name: \"")
        .and_then(|line| line.split('"').next());
    let function = line
        .trim_start_matches("pub ")
        .trim_start_matches("async ")
        .strip_prefix("fn ")
        .and_then(|line| line.split('(').next());
    target.or(function).map(str::to_owned)
}
