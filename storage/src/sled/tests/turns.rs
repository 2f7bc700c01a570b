//! A log that turns many times, in a process that is killed at any moment.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{MIB, answer, claimed, draws, fill_log_file, key, request, turn};
use crate::sled::{SledOptions, SledStore};
use crate::{ClaimOutcome, DoubtReason, Inspect as _, KeyState, Resolution, Store as _};

const DIRECTORY: &str = "ONLYONCE_TURNS_DIRECTORY";
const ROUND: &str = "ONLYONCE_TURNS_ROUND";
const ROUNDS: usize = 10;
const TASKS: usize = 8;

/// What a name says of its call: what becomes of it, and its answer.
fn body(name: &str) -> Vec<u8> {
    let mut draw = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
    let mut size = [0; 4];
    draw.fill(&mut size);
    let size = u32::from_le_bytes(size) as usize;
    // Most are small; one in sixteen has up to a megabyte.
    let length = match size % 16 {
        0 => 20 + size / 16 % (MIB - 20),
        1..4 => 3_000 + size / 16 % 10_000,
        _ => 20 + size / 16 % 1_000,
    };
    let mut body = vec![0; length];
    draw.fill(&mut body);
    body
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
        let store = SledStore::open_async(directory, SledOptions::new()).await;
        let store = Arc::new(store.unwrap());
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (store, round) = (Arc::clone(&store), round.clone());
                tokio::spawn(async move {
                    for number in 0.. {
                        serve(&store, &format!("{round}-{task}-{number}"), number).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn serve(store: &SledStore, name: &str, number: u32) {
    let claim = claimed(store, &key(name)).await;
    let answer = answer(&body(name));
    let became = match number % 8 {
        0 => {
            let doubted = store.doubt(claim, DoubtReason::Ambiguous, Some(answer));
            doubted.await.unwrap();
            "doubted"
        }
        1 => {
            store.release(claim).await.unwrap();
            "released"
        }
        2 => {
            let token = claim.token();
            let doubted = store.doubt(claim, DoubtReason::Ambiguous, Some(answer.clone()));
            doubted.await.unwrap();
            say("doubted", name);
            let resolved = store.resolve(key(name), token, Resolution::Applied(answer));
            resolved.await.unwrap();
            "completed"
        }
        _ => {
            store.complete(claim, answer).await.unwrap();
            "completed"
        }
    };
    say(became, name);
}

fn say(became: &str, name: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{SAYS} {became} {name}").unwrap();
    out.flush().unwrap();
}

const SAYS: &str = "acknowledged:";

/// Runs the child until it has said this much; everything it said.
fn killed_after(path: &Path, round: usize, acknowledged: usize) -> BTreeMap<String, String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("sled::tests::turns::serves_until_it_is_killed_when_it_is_the_child")
        .env(DIRECTORY, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BTreeMap::new();
    let mut count = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(line) = line.strip_prefix(SAYS) else {
            continue;
        };
        let (became, name) = line.trim().split_once(' ').unwrap();
        said.insert(name.to_owned(), became.to_owned());
        count += 1;
        // What it said until it is dead is read as well.
        if count == acknowledged {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(count >= acknowledged, "the child ended by itself");
    said
}

// B21
#[tokio::test]
async fn a_log_that_turns_loses_nothing_wherever_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut draw = draws(51);
    let mut said = BTreeMap::new();
    for round in 0..ROUNDS {
        let acknowledged = 50 + draw(1_200);
        said.extend(killed_after(path, round, acknowledged));
        // Every other time the next process is the first to see what is left.
        if round % 2 == 1 {
            continue;
        }
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        for (name, became) in &said {
            assert_acknowledged(&store, name, became).await;
        }
        store.close().await.unwrap();
    }
    let turns = turn(path);
    println!("{} calls in {turns} turns", said.len());
    assert!(
        turns > 4 * ROUNDS as u64,
        "the log has turned {turns} times"
    );
}

async fn assert_acknowledged(store: &SledStore, name: &str, became: &str) {
    let told = store.claim(request(&key(name))).await.unwrap();
    let found = match (became, told) {
        // Its answer may have been recorded, and the line not be said.
        ("completed" | "doubted", ClaimOutcome::Completed(completion)) => completion.answer,
        ("doubted", ClaimOutcome::InDoubt(doubt)) => doubt.answer.unwrap(),
        // It is given back, so that the next check finds it absent as well.
        ("released", ClaimOutcome::Claimed(claim)) => {
            return store.release(claim).await.unwrap();
        }
        (became, told) => panic!("{name} was {became}: {told:?}"),
    };
    assert_eq!(found, answer(&body(name)), "{name}");
}

// B21: what is in doubt lies in the log, in memory, in sled, and at the end on pages.
#[tokio::test]
async fn the_answer_of_a_call_in_doubt_is_the_same_wherever_it_lies() {
    const LENGTHS: [usize; 9] = [0, 20, 3_991, 3_992, 3_993, 7_992, 7_993, 100_000, MIB];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let name = |length: usize| key(&format!("doubted-{length}"));
    let expected = |length: usize| answer(&vec![(length % 251) as u8; length]);
    let check = async |store: &SledStore, when: &str| {
        for length in LENGTHS {
            let state = store.peek(name(length)).await;
            let Ok(KeyState::InDoubt(doubt)) = state else {
                panic!("{length}, {when}: {state:?}");
            };
            assert_eq!(doubt.answer, Some(expected(length)), "{length}, {when}");
            let told = store.claim(request(&name(length))).await;
            let same = matches!(told, Ok(ClaimOutcome::InDoubt(again)) if again == doubt);
            assert!(same, "{length}, {when}");
        }
    };
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for length in LENGTHS {
        let claim = claimed(&store, &name(length)).await;
        let doubt = store.doubt(claim, DoubtReason::Ambiguous, Some(expected(length)));
        doubt.await.unwrap();
    }
    check(&store, "in the log").await;
    for filled in 0..4 {
        fill_log_file(&store, &format!("fill-{filled}")).await;
        check(&store, &format!("after {filled} files")).await;
    }
    // In the log of a crashed store as well as in one that was closed.
    let copy = super::copied_when_still(path, &store).await;
    store.close().await.unwrap();
    for path in [copy.path(), path] {
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        check(&store, "opened again").await;
        fill_log_file(&store, "fill-again").await;
        check(&store, "opened again and filled").await;
        store.close().await.unwrap();
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        for length in LENGTHS {
            let KeyState::InDoubt(doubt) = store.peek(name(length)).await.unwrap() else {
                panic!("{length} is not in doubt");
            };
            let applied = Resolution::Applied(doubt.answer.unwrap());
            store
                .resolve(name(length), doubt.token, applied)
                .await
                .unwrap();
        }
        let settled = async |store: &SledStore| {
            for length in LENGTHS {
                let told = store.claim(request(&name(length))).await.unwrap();
                let ClaimOutcome::Completed(completion) = told else {
                    panic!("{length}: {told:?}");
                };
                assert_eq!(completion.answer, expected(length));
            }
        };
        settled(&store).await;
        store.close().await.unwrap();
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        settled(&store).await;
        store.close().await.unwrap();
    }
}
