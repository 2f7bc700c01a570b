//! The process is killed while handlers note what they have done: every note that was acknowledged is
//! there, whole, and the call goes on behind it, or is not given where a step was begun.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::journal::{ABANDONED_CALLS_MAX, Journal as _, Step};
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, CallJournal, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason,
    Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey, InDoubt, Scope, ScopedKey,
    StepName, StepNote, Store,
};

const DIRECTORY: &str = "ONLYONCE_KILL_TEST_DIRECTORY";
const ROUND: &str = "ONLYONCE_KILL_TEST_ROUND";
const SEED: &str = "ONLYONCE_KILL_SEED";
const ROUNDS: u64 = 6;
const TASKS: usize = 8;

/// What was said of a call last: each is durable, and the next may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Claimed,
    Reserved,
    Charging,
    Charged,
    Completed,
}

const STAGES: [(Said, &str); 5] = [
    (Said::Claimed, "claimed"),
    (Said::Reserved, "reserved"),
    (Said::Charging, "charging"),
    (Said::Charged, "charged"),
    (Said::Completed, "completed"),
];

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

fn request(name: &str) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(300);
    let mut request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    request.journal = Some(body("request", name));
    request
}

/// Bytes that nothing else has; of every seventh call too many for one row of sled.
fn body(what: &str, name: &str) -> Bytes {
    let number: usize = name.rsplit('-').next().unwrap().parse().unwrap();
    let times = if number.is_multiple_of(7) { 500 } else { 3 };
    format!("{what} of {name};").repeat(times).into()
}

fn answer(name: &str) -> Answer {
    Answer::new(AnswerFormat::new(1), body("answer", name))
}

fn step(step: &str) -> StepName {
    StepName::parse(step).unwrap()
}

/// What the journal of a call holds at a stage.
fn journal(name: &str, said: Said) -> CallJournal {
    let mut steps = Vec::new();
    if said >= Said::Reserved {
        steps.push(Step::done(step("reserve"), body("seat", name)));
    }
    if said == Said::Charging {
        steps.push(Step::begun(step("charge")));
    }
    if said >= Said::Charged {
        steps.push(Step::done(step("charge"), body("receipt", name)));
    }
    CallJournal::with_steps(body("request", name), steps)
}

/// The child: runs handlers until it is killed, and says a line for everything acknowledged. Does
/// nothing when it is run as a test.
#[test]
fn runs_handlers_until_it_is_killed_when_it_is_the_child() {
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
                    handle(&store, &format!("{round}-{task}-{number}"), number).await;
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

async fn handle(store: &SledStore, name: &str, number: usize) {
    let claim = match store.claim(request(name)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("a new key is claimed, and this one is answered {other:?}"),
    };
    say("claimed", name);
    let (key, token) = (claim.digest(), claim.token());
    let note = |note| store.note(key, token, note);
    let reserved = StepNote::done(step("reserve"), body("seat", name));
    note(reserved).await.unwrap();
    say("reserved", name);
    note(StepNote::begun(step("charge"))).await.unwrap();
    say("charging", name);
    let charged = StepNote::done(step("charge"), body("receipt", name));
    note(charged).await.unwrap();
    say("charged", name);
    if number.is_multiple_of(3) {
        // It goes on for ever: it is found where it stands.
        std::mem::forget(claim);
        return;
    }
    store.complete(claim, answer(name)).await.unwrap();
    say("completed", name);
}

/// In one write, so that the parent sees whole lines or none.
fn say(what: &str, name: &str) {
    let line = format!("!{what} {name}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

// B3, B21
#[test]
fn after_kill_9_every_note_that_was_acknowledged_is_there_and_its_call_goes_on() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand_seed(),
    };
    println!("{SEED}={seed}");
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut said = BTreeMap::new();
    for round in 0..ROUNDS {
        let lines_max = 40 + draw(seed, round) % 400;
        run_and_kill(folder.path(), round, lines_max, &mut said);
        runtime.block_on(check(folder.path(), &mut said));
    }
    for (stage, _) in STAGES {
        let count = said.values().filter(|said| **said == stage).count();
        println!("{count} calls ended {stage:?}");
    }
    assert!(said.len() > 60, "only {} calls were made", said.len());
}

/// Runs a child until it has said `lines_max` lines, kills it, and reads the rest of what it said.
fn run_and_kill(directory: &Path, round: u64, lines_max: u64, said: &mut BTreeMap<String, Said>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "runs_handlers_until_it_is_killed_when_it_is_the_child",
        ])
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
        let (what, name) = line.split_once(' ').unwrap();
        let stage = STAGES.iter().find(|(_, words)| *words == what);
        let (stage, _) = stage.unwrap_or_else(|| panic!("the child said {line:?}"));
        said.insert(name.to_owned(), *stage);
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

/// Compares what is there with what was said, and takes note of it: it is there from now on.
async fn check(directory: &Path, said: &mut BTreeMap<String, Said>) {
    let store = SledStore::open_async(directory, SledOptions::new()).await;
    let store = store.unwrap();
    let mut abandoned = abandoned(&store).await;
    for (name, said) in said.iter_mut() {
        let found = found(&store, name, &mut abandoned).await;
        let next = STAGES
            .iter()
            .map(|(stage, _)| *stage)
            .find(|stage| *stage > *said);
        // What was not acknowledged may be durable, but for a step more at most.
        assert!(
            found == *said || Some(found) == next,
            "{name}: {said:?} was said, and {found:?} is there"
        );
        *said = found;
    }
    // Calls whose claim was durable and never acknowledged.
    for (name, request) in abandoned {
        assert_eq!(request, body("request", &name), "{name}");
    }
    store.close().await.unwrap();
}

/// What is there of a call, which goes on if it can.
async fn found(store: &SledStore, name: &str, abandoned: &mut BTreeMap<String, Bytes>) -> Said {
    let listed = abandoned.remove(name);
    let mut asked = request(name);
    match store.claim(asked.clone()).await.unwrap() {
        ClaimOutcome::Completed(Completion { answer: kept, .. }) => {
            assert!(kept == answer(name), "{name} has another answer");
            assert_eq!(listed, None, "{name}");
            return Said::Completed;
        }
        ClaimOutcome::InDoubt(InDoubt { token, reason, .. }) => {
            assert_eq!(reason, DoubtReason::OwnerGone, "{name}");
            asked.rerun_of = Some(token);
        }
        other => panic!("{name} is answered {other:?}"),
    }
    match store.claim(asked).await.unwrap() {
        ClaimOutcome::Claimed(claim) => {
            assert_eq!(listed, Some(body("request", name)), "{name}");
            let found = claim.journal().unwrap().clone();
            stop_again(store, claim).await;
            let stages = [Said::Claimed, Said::Reserved, Said::Charged];
            let stage = stages
                .into_iter()
                .find(|stage| found == journal(name, *stage));
            stage.unwrap_or_else(|| panic!("{name} has the journal {found:?}"))
        }
        // Nobody knows what became of its step.
        ClaimOutcome::InDoubt(_) => {
            assert_eq!(listed, None, "{name}");
            Said::Charging
        }
        other => panic!("{name} is answered {other:?}"),
    }
}

/// Leaves the call as it was found.
async fn stop_again(store: &SledStore, claim: Claim) {
    let stopped = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    stopped.unwrap();
}

/// Every call that can go on, with its request.
async fn abandoned(store: &SledStore) -> BTreeMap<String, Bytes> {
    let (mut calls, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.abandoned(after, ABANDONED_CALLS_MAX).await.unwrap();
        for call in page.calls {
            calls.insert(call.key.key().as_str().to_owned(), call.request);
        }
        after = page.next;
        if after.is_none() {
            return calls;
        }
    }
}

fn rand_seed() -> u64 {
    let name = uuid::Uuid::new_v4();
    u64::from_le_bytes(name.as_bytes()[..8].try_into().unwrap())
}

/// A number of this round, from the seed.
fn draw(seed: u64, round: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&round.to_le_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap())
}
