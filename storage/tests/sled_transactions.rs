//! Transactions on sled: their rows while they wander from the log to sled, and when the process is
//! killed on the way.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::transaction::{
    CommitError, RowRange, Table, Transaction, TransactionalStore,
};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyState, Scope, ScopedKey, Store,
};

const ACCOUNTS: Table = Table::new("accounts");
const JOURNAL: Table = Table::new("journal");

const DIRECTORY: &str = "ONLYONCE_TRANSACTIONS_TEST_DIRECTORY";
const ROUND: &str = "ONLYONCE_TRANSACTIONS_TEST_ROUND";
const ROUNDS: usize = 6;
const TASKS: usize = 16;
const NAMES: u64 = 8;
const OPENING: i64 = 1_000;

/// Every row is what was last committed to it, whether it lies in memory, is being carried over, or
/// is in sled, and after every opening. What it is compared with is a map.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_what_was_last_committed_through_checkpoints_and_openings() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut draw = Draw(7);
    for opening in 0..4 {
        let store = open(folder.path()).await;
        assert_eq!(all(&store, &ACCOUNTS).await, expected, "opening {opening}");
        for step in 0..400 {
            let transaction = begin(&store, &format!("{opening}-{step}")).await;
            for _ in 0..=draw.below(3) {
                let key = format!("row-{:03}", draw.below(60)).into_bytes();
                if draw.below(4) == 0 {
                    transaction.1.delete(&ACCOUNTS, &key).unwrap();
                    expected.remove(&key);
                } else {
                    let value = vec![b'a' + draw.below(26) as u8; draw.below(900) as usize];
                    transaction.1.put(&ACCOUNTS, &key, &value).unwrap();
                    expected.insert(key, value);
                }
            }
            let (claim, transaction) = transaction;
            let work = transaction.end().unwrap();
            store.commit(claim, work, answer("done")).await.unwrap();
            if step % 10 == 0 {
                assert_eq!(all(&store, &ACCOUNTS).await, expected, "{opening}, {step}");
            }
        }
        // Every other time as a crash leaves it: a copy of the files while the store is open.
        if opening % 2 == 1 {
            let left = tempfile::tempdir().unwrap();
            copy(folder.path(), left.path());
            let store = open(left.path()).await;
            assert_eq!(
                all(&store, &ACCOUNTS).await,
                expected,
                "a copy of {opening}"
            );
        }
        store.close().await.unwrap();
    }
}

/// The child: moves money until it is killed, and says a line for every transfer that was
/// acknowledged. Does nothing when it is run as a test.
#[test]
fn moves_money_until_it_is_killed_when_it_is_the_child() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(directory.as_ref()).await);
        for task in 0..TASKS {
            let (store, round) = (Arc::clone(&store), round.clone());
            tokio::spawn(async move {
                let mut draw = Draw(task as u64 + 1);
                for number in 0.. {
                    let name = format!("{round}-{task}-{number}");
                    transfer(&store, &name, &mut draw).await;
                    let line = format!("!{name}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

/// B1, B17: whenever the process is killed, both legs of a transfer, its line in the journal and the
/// answer of its call are there or none of them is, nothing is in doubt, and all that was
/// acknowledged is there.
#[test]
fn a_transfer_is_there_with_its_answer_or_not_at_all_however_often_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "moves_money_until_it_is_killed_when_it_is_the_child",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIRECTORY, folder.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut names = Vec::new();
        // Some rounds end soon after a checkpoint has begun, others before the first.
        let last = 150 + 170 * round;
        for line in lines {
            let line = line.unwrap();
            names.extend(line.split('!').nth(1).map(ToOwned::to_owned));
            if names.len() == last {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            names.len() >= last,
            "round {round}: {} transfers",
            names.len()
        );
        acknowledged.extend(names);
        runtime.block_on(judge(folder.path(), &acknowledged, round));
    }
}

async fn judge(folder: &std::path::Path, acknowledged: &[String], round: usize) {
    let store = open(folder).await;
    let balances = all(&store, &ACCOUNTS).await;
    let sum: i64 = balances.values().map(|balance| number(balance)).sum();
    assert_eq!(
        sum,
        OPENING * balances.len() as i64,
        "money in round {round}"
    );
    let journal = all(&store, &JOURNAL).await;
    let mut moved: BTreeMap<String, i64> = BTreeMap::new();
    for (name, line) in &journal {
        let name = String::from_utf8(name.clone()).unwrap();
        let line = String::from_utf8(line.clone()).unwrap();
        let Ok(KeyState::Completed(completion)) = store.peek(key(&name)).await else {
            panic!("round {round}: {name} has a line and no answer");
        };
        assert_eq!(completion.answer, answer(&line));
        let parts: Vec<_> = line.split(' ').collect();
        *moved.entry(parts[0].to_owned()).or_default() -= parts[2].parse::<i64>().unwrap();
        *moved.entry(parts[1].to_owned()).or_default() += parts[2].parse::<i64>().unwrap();
    }
    for (name, balance) in &balances {
        let name = String::from_utf8(name.clone()).unwrap();
        let moved = moved.get(&name).copied().unwrap_or_default();
        assert_eq!(number(balance), OPENING + moved, "round {round}: {name}");
    }
    for name in acknowledged {
        assert!(
            journal.contains_key(name.as_bytes()),
            "{name} was acknowledged"
        );
    }
    // Whoever was on the way is free to run: neither done nor in doubt.
    for task in 0..TASKS {
        let done =
            |number: &usize| journal.contains_key(format!("{round}-{task}-{number}").as_bytes());
        let next = (0..).find(|number| !done(number)).unwrap();
        let next = key(&format!("{round}-{task}-{next}"));
        assert_eq!(store.peek(next).await.unwrap(), KeyState::Absent);
    }
    store.close().await.unwrap();
}

async fn transfer(store: &SledStore, name: &str, draw: &mut Draw) {
    let from = format!("name-{}", draw.below(NAMES));
    let to = format!("name-{}", NAMES + draw.below(NAMES));
    let amount = draw.below(50) as i64;
    let (mut claim, mut transaction) = begin(store, name).await;
    loop {
        let line = format!("{from} {to} {amount}");
        for (name, amount) in [(&from, -amount), (&to, amount)] {
            let before = transaction.get(&ACCOUNTS, name.as_bytes()).await.unwrap();
            let before = before.map_or(OPENING, |balance| number(&balance));
            let after = (before + amount).to_string();
            transaction
                .put(&ACCOUNTS, name.as_bytes(), after.as_bytes())
                .unwrap();
        }
        transaction
            .put(&JOURNAL, name.as_bytes(), line.as_bytes())
            .unwrap();
        let work = transaction.end().unwrap();
        match store.commit(claim, work, answer(&line)).await {
            Ok(()) => return,
            Err(CommitError::Conflict(still)) => claim = still,
            Err(error) => panic!("{error}"),
        }
        transaction = store.start(&claim);
    }
}

async fn begin(store: &SledStore, name: &str) -> (onlyonce_storage::Claim, Transaction) {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    let ClaimOutcome::Claimed(claim) = store.begin(request).await.unwrap() else {
        panic!("{name} is new");
    };
    let transaction = store.start(&claim);
    (claim, transaction)
}

async fn all(store: &SledStore, table: &Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut after = Vec::new();
    loop {
        let bounds = (
            std::ops::Bound::Excluded(after.clone()),
            std::ops::Bound::Unbounded,
        );
        let rows = store
            .read(RowRange::new(table, &bounds, 300))
            .await
            .unwrap();
        let Some((last, _)) = rows.last() else {
            return found;
        };
        after = last.to_vec();
        found.extend(
            rows.iter()
                .map(|(key, value)| (key.to_vec(), value.to_vec())),
        );
    }
}

async fn open(folder: &std::path::Path) -> SledStore {
    let options = SledOptions::new().log_bytes(64 * 1024);
    SledStore::open_async(folder.join("store"), options)
        .await
        .unwrap()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

fn answer(text: &str) -> Answer {
    Answer::new(AnswerFormat::new(1), text.to_owned())
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// Repeatable numbers.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % end
    }
}
