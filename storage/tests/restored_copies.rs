//! E11: a copy of a store that was made earlier is put in its place. What handlers wrote and what is
//! remembered of their calls go back together; and where somebody says that it is a copy, nothing
//! that the other store may have executed since is executed again.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::transaction::{RowRange, Table, TransactionalStore as _};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyState, ManualClock, Question, Scope, ScopedKey,
    SessionRequest, SessionState, Store as _, Timestamp,
};

const ACCOUNTS: Table = Table::new("accounts");

/// A store of which a copy was made after the first call, and that went on: where both lie, what the
/// clock says, when the second call was first sent, and the last token and session that were given.
struct Lost {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    second_sent: Timestamp,
    last: (Claim, u64),
}

impl Lost {
    async fn made() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let path = folder.path().join("store");
        let options = SledOptions::new().clock(clock.clone());
        let store = open(&path, &options).await;
        pay(&store, "first", "100").await;
        assert_eq!(session(&store).await, 1);
        store.close().await.unwrap();
        copy(&path, &folder.path().join("copy"));
        // The store goes on, through more than one opening.
        for _ in 0..3 {
            open(&path, &options).await.close().await.unwrap();
        }
        let store = open(&path, &options).await;
        clock.advance(Duration::from_secs(60));
        let second_sent = store.now();
        clock.advance(Duration::from_secs(1));
        pay(&store, "second", "200").await;
        let session = session(&store).await;
        let ClaimOutcome::Claimed(last) = store.claim(request("last", None)).await.unwrap() else {
            panic!("a new key is free");
        };
        store.close().await.unwrap();
        clock.advance(Duration::from_secs(60));
        Self {
            folder,
            clock,
            second_sent,
            last: (last, session),
        }
    }

    fn options(&self) -> SledOptions {
        SledOptions::new().clock(self.clock.clone())
    }

    async fn restored(&self, options: &SledOptions) -> SledStore {
        open(&self.folder.path().join("copy"), options).await
    }
}

#[tokio::test]
async fn tables_and_records_go_back_together() {
    let lost = Lost::made().await;
    let store = lost.restored(&lost.options()).await;
    assert_eq!(balance(&store).await, "100");
    let first = store.peek(key("first")).await.unwrap();
    assert!(matches!(first, KeyState::Completed(_)), "{first:?}");
    assert_eq!(store.peek(key("second")).await.unwrap(), KeyState::Absent);
    // In these books the second call has not happened, so its retry is its first effect.
    pay(&store, "second", "200").await;
    assert_eq!(balance(&store).await, "200");
}

#[tokio::test]
async fn of_a_copy_that_is_said_to_be_one_no_call_from_before_is_executed_again() {
    let lost = Lost::made().await;
    let store = lost.restored(&lost.options().restored_copy()).await;
    // What it knows it tells.
    let first = store.peek(key("first")).await.unwrap();
    assert!(matches!(first, KeyState::Completed(_)), "{first:?}");
    // What it does not know it refuses, and never says that it did not happen.
    let since = Some(lost.second_sent);
    for _ in 0..2 {
        for outcome in [
            store.claim(request("second", since)).await.unwrap(),
            store.begin(request("second", since)).await.unwrap(),
        ] {
            assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        }
        let state = store.ask(Question::Peek, key("second"), since).await;
        assert_eq!(state, Ok(KeyState::Stale));
    }
    // What is new is served, under tokens and in sessions that the lost store cannot have given.
    lost.clock.advance(Duration::from_secs(1));
    let now = Some(store.now());
    let ClaimOutcome::Claimed(claim) = store.claim(request("new", now)).await.unwrap() else {
        panic!("a new key is free");
    };
    assert!(claim.token() > lost.last.0.token());
    store.complete(claim, answer("paid")).await.unwrap();
    assert!(session(&store).await > lost.last.1);
    let gone = SessionRequest::Resume {
        session: lost.last.1,
    };
    let gone = store.session(Scope::global(), gone).await.unwrap();
    assert_eq!(gone, SessionState::Expired);
    let token = store.claim(request("newer", now)).await.unwrap();
    store.close().await.unwrap();

    // It holds from then on, without being said again.
    let store = lost.restored(&lost.options()).await;
    let outcome = store.claim(request("second", since)).await.unwrap();
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    let (ClaimOutcome::Claimed(before), ClaimOutcome::Claimed(after)) =
        (token, store.claim(request("newest", now)).await.unwrap())
    else {
        panic!("new keys are free");
    };
    assert!(after.token() > before.token());
}

async fn pay(store: &SledStore, name: &str, balance: &str) {
    let ClaimOutcome::Claimed(claim) = store.begin(request(name, None)).await.unwrap() else {
        panic!("{name} is free");
    };
    let transaction = store.start(&claim);
    transaction
        .put(&ACCOUNTS, b"alice", balance.as_bytes())
        .unwrap();
    let work = transaction.end().unwrap();
    store.commit(claim, work, answer(name)).await.unwrap();
}

async fn balance(store: &SledStore) -> String {
    let rows = store.read(RowRange::of_key(&ACCOUNTS, b"alice")).await;
    String::from_utf8(rows.unwrap()[0].1.to_vec()).unwrap()
}

async fn session(store: &SledStore) -> u64 {
    let opened = store.session(Scope::global(), SessionRequest::Open).await;
    match opened.unwrap() {
        SessionState::Live { session, .. } => session,
        other => panic!("{other:?}"),
    }
}

async fn open(path: &Path, options: &SledOptions) -> SledStore {
    SledStore::open_async(path, options.clone()).await.unwrap()
}

fn request(name: &str, first_sent: Option<Timestamp>) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let mut request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    request.first_sent = first_sent;
    request
}

fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

fn answer(text: &str) -> Answer {
    Answer::new(AnswerFormat::new(1), text.to_owned())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
