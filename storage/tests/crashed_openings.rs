//! Stores whose opening, or what came just before it, was ended by a kill: what they acknowledged is
//! there, and they open.
#![cfg(all(feature = "sled", feature = "points", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Clock as _, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Inspect as _, KeyState, ManualClock,
    Operator, Resolution, RetentionOptions, Scope, ScopedKey, Store as _, StoreLimits,
};
use tokio::runtime::Runtime;

/// What an opening puts in doubt is in no log: its rows must never be absent on the way.
#[test]
fn claims_that_were_open_at_a_close_survive_a_kill_in_the_next_opening() {
    const CLAIMS: usize = 700;
    for kill_at in [1, 300, 600] {
        let folder = tempfile::tempdir().unwrap();
        Runtime::new().unwrap().block_on(async {
            let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
            let mut held = Vec::new();
            for number in 0..CLAIMS {
                held.push(claimed(&store, &key(&format!("held-{number}"))).await);
            }
            store.close().await.unwrap();
        });
        let kill_at = format!("checkpoint: one row written, the next not#{kill_at}");
        assert!(child("opens_when_it_is_the_child", folder.path(), &kill_at).is_empty());
        Runtime::new().unwrap().block_on(async {
            let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
            for number in 0..CLAIMS {
                let state = store.peek(key(&format!("held-{number}"))).await.unwrap();
                assert!(matches!(state, KeyState::InDoubt(_)), "{number}: {state:?}");
            }
            store.close().await.unwrap();
        });
    }
}

/// A clock that was set back needs a day again whose file is still being removed.
#[test]
fn a_day_that_was_swept_and_is_needed_again_survives_two_kills() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    Runtime::new().unwrap().block_on(async {
        let store = SledStore::open(folder.path(), clocked(&clock)).unwrap();
        for number in 0..60 {
            let claim = claimed(&store, &key(&format!("early-{number}"))).await;
            store.complete(claim, answer(3_001)).await.unwrap();
        }
        store.close().await.unwrap();
    });
    let lingering = "checkpoint: files not said to be there, still there#1+1500";
    let said = child(
        "sweeps_and_sets_its_clock_back_when_it_is_the_child",
        folder.path(),
        lingering,
    );
    assert!(said.contains("acknowledged 4"), "{said}");
    let on_the_way = "checkpoint: some pages written, the next not#1";
    assert!(child("opens_when_it_is_the_child", folder.path(), on_the_way).is_empty());
    Runtime::new().unwrap().block_on(async {
        let store = SledStore::open(folder.path(), clocked(&clock)).unwrap();
        for number in 0..5 {
            let state = store.peek(key(&format!("late-{number}"))).await.unwrap();
            assert!(
                matches!(state, KeyState::Completed(_)),
                "{number}: {state:?}"
            );
        }
        for number in 0..60 {
            let state = store.peek(key(&format!("early-{number}"))).await.unwrap();
            assert_ne!(state, KeyState::Absent, "{number}");
        }
        store.close().await.unwrap();
    });
}

/// A group is bounded whatever brings the answers in it: the log that it makes can be read.
#[test]
fn many_large_resolutions_at_once_leave_a_log_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let said = child(
        "resolves_many_at_once_when_it_is_the_child",
        folder.path(),
        "",
    );
    assert!(said.contains("acknowledged all"), "{said}");
    Runtime::new().unwrap().block_on(async {
        let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
        for number in 0..LARGE {
            let state = store.peek(key(&format!("large-{number}"))).await;
            assert_ne!(state, Ok(KeyState::Absent), "{number}");
        }
        store.close().await.unwrap();
    });
}

/// Whoever has too few file descriptors has a store that is whole.
#[test]
fn a_store_that_has_too_few_descriptors_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    child("completes_one_when_it_is_the_child", folder.path(), "");
    let mut opened = false;
    for descriptors in 6..40 {
        let said = limited("opens_when_it_is_the_child", folder.path(), descriptors);
        assert!(!said.contains("corrupt"), "{descriptors}: {said}");
        opened |= said.contains("opened");
    }
    assert!(opened, "none was enough");
}

#[test]
fn opens_when_it_is_the_child() {
    let Some(path) = path() else { return };
    let clock = Arc::new(ManualClock::default());
    match SledStore::open(&path, clocked(&clock)) {
        Ok(_) => println!("said: opened"),
        Err(error) => println!("said: {error}"),
    }
}

#[test]
fn sweeps_and_sets_its_clock_back_when_it_is_the_child() {
    let Some(path) = path() else { return };
    let clock = Arc::new(ManualClock::default());
    let begin = clock.now();
    clock.set(begin.plus(DAY * 2));
    Runtime::new().unwrap().block_on(async {
        let store = SledStore::open(&path, clocked(&clock)).unwrap();
        assert_eq!(store.sweep().await.unwrap().answers, 1);
        clock.set(begin);
        for number in 0..5 {
            let claim = claimed(&store, &key(&format!("late-{number}"))).await;
            store.complete(claim, answer(3_001)).await.unwrap();
            println!("said: acknowledged {number}");
        }
        // Until it is killed.
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
}

#[test]
fn resolves_many_at_once_when_it_is_the_child() {
    let Some(path) = path() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limits = StoreLimits::default().answer_bytes_max(LARGE_BYTES);
        let options = SledOptions::new().limits(limits);
        let store = Arc::new(SledStore::open(&path, options).unwrap());
        let mut tokens = Vec::new();
        for number in 0..LARGE {
            let claim = claimed(&store, &key(&format!("large-{number}"))).await;
            tokens.push(claim.token());
            let doubted = store.doubt(claim, DoubtReason::Unrecorded, None).await;
            doubted.unwrap();
        }
        let applied = Resolution::Applied(answer(LARGE_BYTES));
        let resolving: Vec<_> = (0..LARGE)
            .zip(tokens)
            .map(|(number, token)| {
                let (store, applied) = (Arc::clone(&store), applied.clone());
                let key = key(&format!("large-{number}"));
                tokio::spawn(async move {
                    let resolved = store.resolve(key, token, applied, operator());
                    resolved.await.unwrap();
                })
            })
            .collect();
        for resolving in resolving {
            resolving.await.unwrap();
        }
        println!("said: acknowledged all");
        std::process::abort();
    });
}

#[test]
fn completes_one_when_it_is_the_child() {
    let Some(path) = path() else { return };
    Runtime::new().unwrap().block_on(async {
        let store = SledStore::open(&path, SledOptions::new()).unwrap();
        let claim = claimed(&store, &key("one")).await;
        store.complete(claim, answer(100)).await.unwrap();
        std::process::abort();
    });
}

/// Runs a test of this file in a process of its own; what it has said.
fn child(test: &str, path: &Path, kill_at: &str) -> String {
    said(
        Command::new(std::env::current_exe().unwrap()),
        test,
        path,
        kill_at,
    )
}

/// The same with few file descriptors.
fn limited(test: &str, path: &Path, descriptors: u32) -> String {
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""),
        ])
        .arg(std::env::current_exe().unwrap());
    said(shell, test, path, "")
}

fn said(mut command: Command, test: &str, path: &Path, kill_at: &str) -> String {
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(PATH, path);
    if !kill_at.is_empty() {
        command.env("ONLYONCE_KILL_AT", kill_at);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.split_once("said: "));
    lines.map(|(_, words)| format!("{words}\n")).collect()
}

fn path() -> Option<String> {
    std::env::var(PATH).ok()
}

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

async fn claimed(store: &SledStore, key: &ScopedKey) -> Claim {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let request = ClaimRequest::new(key.clone(), Fingerprints::new(print), DAY);
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn operator() -> Operator {
    Operator::parse("alice").unwrap()
}

fn answer(length: usize) -> Answer {
    Answer::new(AnswerFormat::new(1), vec![7; length])
}

fn clocked(clock: &Arc<ManualClock>) -> SledOptions {
    let retention = RetentionOptions::new(Duration::from_secs(3_600), DAY * 7).unwrap();
    SledOptions::new()
        .clock(clock.clone())
        .log_bytes(64 * 1024)
        .retention(retention)
}

const PATH: &str = "ONLYONCE_TEST_STORE";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LARGE: usize = 20;
const LARGE_BYTES: usize = 16 * 1024 * 1024;
