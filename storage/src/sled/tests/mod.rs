//! What only the inside of the store can show: faults at the seam, how many syncs are made, and
//! what becomes of a directory that was changed behind its back.

mod altered;
mod altered_log;
mod closing;
mod damage;
mod failures;
mod faulty;
mod grouping;
mod sweeps;
mod sweeps_behind;
mod turns;
mod unfinished;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::faulty::{Faulty, Script};
use super::{OpenError, SledOptions, SledStore};
use crate::commit::disk::Engine;
use crate::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Scope, ScopedKey, Store as _, StoreError,
};

fn open(path: &Path, options: &SledOptions) -> (Arc<SledStore>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let (in_disk, in_syncer) = (Arc::clone(&script), Arc::clone(&script));
    let store = SledStore::open_with(path, options, |engine| Engine {
        disk: Box::new(Faulty {
            inner: engine.disk,
            script: in_disk,
        }),
        syncer: Box::new(Faulty {
            inner: engine.syncer,
            script: in_syncer,
        }),
        replays: engine.replays,
    });
    (Arc::new(store.unwrap()), script)
}

fn operator() -> crate::Operator {
    crate::Operator::parse("alice").unwrap()
}

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

fn answer(body: &[u8]) -> Answer {
    Answer::new(AnswerFormat::new(1), body.to_vec())
}

async fn claimed(store: &SledStore, key: &ScopedKey) -> Claim {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn is_poisoned<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Poisoned(_)))
}

/// Fills a file of the log and a little more, so that it turns. As many calls are answered.
async fn fill_log_file(store: &SledStore, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    for number in 0..9 {
        let name = format!("{name}-{number}");
        let claim = claimed(store, &key(&name)).await;
        store.complete(claim, answer(&vec![7; MIB])).await.unwrap();
        names.push(name);
    }
    names
}

/// What a crash of the process leaves, while no checkpoint is under way: a copy of everything.
fn copied(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(path, copy.path());
    copy
}

/// The same of a store whose log has turned: waits for the checkpoint that may be under way.
async fn copied_when_still(path: &Path, store: &SledStore) -> tempfile::TempDir {
    // It ends with the beginning of a turn. The next one is far away.
    let mut last = (turn(path), 0);
    while last.1 < 40 {
        store.seal(key("not-yet-still")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = turn(path);
        last = if now == last.0 {
            (now, last.1 + 1)
        } else {
            (now, 0)
        };
    }
    copied(path)
}

/// In the place of what is there.
fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if to.exists() {
                fs::remove_dir_all(&to).unwrap();
            }
            copy_into(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Opens what must be refused as corrupt; why it was.
fn refused(path: &Path) -> String {
    // The threads of the database that was refused before may hold its file for a moment longer.
    for _ in 0..1_000 {
        match SledStore::open(path, SledOptions::new()) {
            Err(OpenError::Corrupt { reason, .. }) => return reason,
            Err(OpenError::Locked { .. }) => std::thread::park_timeout(Duration::from_millis(5)),
            other => panic!("it was opened: {other:?}"),
        }
    }
    panic!("it stays locked")
}

/// The newest turn of the log that has begun.
fn turn(path: &Path) -> u64 {
    super::log::read(path, true).unwrap().unwrap().turn
}

/// The files of pages, in the order of their names.
fn page_files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.join("pages")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap()
}

/// Numbers that are the same in every run with this seed.
fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    println!("seed {seed}");
    let mut drawn = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    move |below| {
        let mut bytes = [0; 8];
        drawn.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below as u64) as usize
    }
}

/// The database of a closed store.
fn raw(path: &Path) -> ::sled::Db {
    ::sled::Config::new()
        .path(path.join("db"))
        .segment_size(super::open::SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .unwrap()
}

/// sled gives its file back a moment after the last handle is dropped.
fn wait_for(path: &Path) {
    let file = std::fs::File::open(path.join("db").join("db")).unwrap();
    file.lock().unwrap();
}

const MIB: usize = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
