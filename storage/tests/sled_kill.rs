//! The process is killed while it serves: what was acknowledged is there, what was not is in
//! doubt, and nothing can be executed again.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, KeyState, Scope, ScopedKey, Store,
};

const DIRECTORY: &str = "ONLYONCE_KILL_TEST_DIRECTORY";
const ROUND: &str = "ONLYONCE_KILL_TEST_ROUND";
const ROUNDS: usize = 6;
const TASKS: usize = 32;

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

fn request(key: &ScopedKey) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(
        key.clone(),
        Fingerprints::new(print),
        Duration::from_secs(30),
    )
}

/// Every tenth is larger than what sled takes in one piece.
fn answer(name: &str) -> Answer {
    let large = name.ends_with('0');
    let body = name.repeat(if large { 2_000 } else { 5 });
    Answer::new(AnswerFormat::new(1), body)
}

/// The child: serves until it is killed, and says a line for everything acknowledged. Does
/// nothing when it is run as a test.
#[test]
fn serves_until_it_is_killed_when_it_is_the_child() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = SledOptions::new().log_bytes(64 * 1024);
        let store = SledStore::open_async(directory, options).await;
        let store = Arc::new(store.unwrap());
        for task in 0..TASKS {
            let (store, round) = (Arc::clone(&store), round.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    let name = format!("{round}-{task}-{number}");
                    serve(&store, &name).await;
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

async fn serve(store: &SledStore, name: &str) {
    let key = key(name);
    let ClaimOutcome::Claimed(claim) = store.claim(request(&key)).await.unwrap() else {
        panic!("a new key is claimed");
    };
    say("claimed", name);
    store.complete(claim, answer(name)).await.unwrap();
    say("completed", name);
}

/// In one write, so that the parent sees whole lines or none.
fn say(what: &str, name: &str) {
    let line = format!("!{what} {name}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[test]
fn after_kill_9_what_was_acknowledged_is_there_and_the_rest_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut said = HashMap::new();
    for round in 0..ROUNDS {
        let lines_max = 50 + 137 * round;
        run_and_kill(folder.path(), round, lines_max, &mut said);
        // Also what earlier rounds acknowledged.
        runtime.block_on(check(folder.path(), &said));
    }
    let completed = said.values().filter(|completed| **completed).count();
    assert!(completed > 100, "only {completed} calls were completed");
}

/// Runs a child until it has said `lines_max` lines, kills it, and reads the rest of what it said.
fn run_and_kill(
    directory: &std::path::Path,
    round: usize,
    lines_max: usize,
    said: &mut HashMap<String, bool>,
) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serves_until_it_is_killed_when_it_is_the_child"])
        .args(["--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut seen = 0;
    for line in output.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        // The first may stand behind what the test harness prints.
        let Some((_, line)) = line.split_once('!') else {
            continue;
        };
        match line.split_once(' ') {
            Some(("claimed", name)) => {
                said.entry(name.to_owned()).or_insert(false);
            }
            Some(("completed", name)) => {
                said.insert(name.to_owned(), true);
            }
            _ => panic!("the child said {line:?}"),
        }
        seen += 1;
        if seen == lines_max {
            // SIGKILL: nothing is flushed, no destructor runs.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(
        seen >= lines_max,
        "the child ended by itself after {seen} lines"
    );
}

async fn check(directory: &std::path::Path, said: &HashMap<String, bool>) {
    let store = SledStore::open_async(directory, SledOptions::new()).await;
    let store = store.unwrap();
    for (name, completed) in said {
        let key = key(name);
        match store.peek(key.clone()).await.unwrap() {
            KeyState::Completed(completion) => {
                assert!(
                    completion.answer == answer(name),
                    "{name} has another answer"
                );
            }
            KeyState::InDoubt(doubt) if !completed => {
                assert_eq!(doubt.reason, DoubtReason::OwnerGone, "{name}");
            }
            other => panic!("{name}, completed: {completed}, is {other:?}"),
        }
        let outcome = store.claim(request(&key)).await.unwrap();
        let refused = !matches!(outcome, ClaimOutcome::Claimed(_));
        assert!(refused, "{name} could be executed again");
    }
    store.close().await.unwrap();
}
