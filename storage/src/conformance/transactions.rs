//! What a handler writes to its transaction and the answer of its call are there together, or
//! neither is.

use std::ops::RangeBounds;

use super::Harness;
use super::kit::{
    LEASE, answer, ask, bytes, claimed, completed, given, key, peek, request, request_of, seal,
};
use crate::transaction::{
    CommitError, KEY_BYTES_MAX, Row, RowRange, TABLES_MAX, Table, Transaction, TransactionError,
    TransactionalStore, VALUE_BYTES_MAX,
};
use crate::{Claim, ClaimOutcome, Inspect, KeyState, ScopedKey, SettleError, StoreError};

pub(super) const ACCOUNTS: Table = Table::new("accounts");
const JOURNAL: Table = Table::new("journal");

/// B1: both, also after a crash.
pub async fn what_is_committed_is_there_with_its_answer_after_reopening(mut harness: impl Harness) {
    let key = key("order-1");
    commit_as(&*harness.store(), &key, "paid", async |transaction| {
        transaction
            .put(&ACCOUNTS, b"alice", b"90")
            .expect("it fits");
        transaction
            .put(&JOURNAL, b"1", b"alice 10")
            .expect("it fits");
    })
    .await;
    for opening in 0..3 {
        let store = harness.store();
        assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
        assert_eq!(value(&*store, "alice").await.as_deref(), Some("90"));
        let lines = rows(&*store, &JOURNAL, ..).await;
        assert_eq!(
            lines,
            [("1".into(), "alice 10".into())],
            "opening {opening}"
        );
        if !harness.reopen().await {
            break;
        }
    }
}

/// B1, B3: a crash before the commit leaves nothing, and no doubt: the retry runs.
pub async fn nothing_of_a_run_is_there_before_its_commit(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let (claim, transaction) = begin(&*store, &key).await;
    transaction
        .put(&ACCOUNTS, b"alice", b"90")
        .expect("it fits");
    assert_eq!(value(&*store, "alice").await, None);
    if harness.reopen().await {
        let store = harness.store();
        assert_eq!(peek(&*store, &key).await, KeyState::Absent);
        assert_eq!(value(&*store, "alice").await, None);
        let (again, _) = begin(&*store, &key).await;
        assert!(again.token() > claim.token(), "tokens grow over crashes");
        return;
    }
    drop((claim, transaction));
    becomes_absent(&*store, &key).await;
}

/// A1, A4: it is a claim like any other while it lasts.
pub async fn a_key_that_is_held_is_in_progress_for_everybody(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let (claim, transaction) = begin(&*store, &key).await;
    let tables = transactional(&*store);
    for _ in 0..3 {
        let again = tables.begin(request(&key)).await.expect("it is answered");
        assert!(
            matches!(again, ClaimOutcome::InProgress { .. }),
            "{again:?}"
        );
        let by_claim = ask(&*store, request(&key)).await;
        assert!(matches!(by_claim, ClaimOutcome::InProgress { .. }));
    }
    let wrong = ask(&*store, request_of(&key, "another")).await;
    assert!(matches!(wrong, ClaimOutcome::Mismatch), "{wrong:?}");
    assert!(matches!(
        peek(&*store, &key).await,
        KeyState::InProgress { .. }
    ));
    assert!(matches!(
        seal(&*store, &key).await,
        KeyState::InProgress { .. }
    ));
    commit(&*store, claim, &transaction, "paid")
        .await
        .expect("the owner commits");
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    let again = tables.begin(request(&key)).await.expect("it is answered");
    assert!(matches!(again, ClaimOutcome::Completed(_)), "{again:?}");
}

/// A key that is claimed durably is not given to a transaction, and the other way round.
pub async fn a_key_that_was_claimed_begins_no_transaction(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let claim = claimed(&*store, &key).await;
    let outcome = transactional(&*store).begin(request(&key)).await;
    assert!(matches!(outcome, Ok(ClaimOutcome::InProgress { .. })));
    drop(claim);
    loop {
        match transactional(&*store).begin(request(&key)).await {
            Ok(ClaimOutcome::InDoubt(_)) => return,
            Ok(ClaimOutcome::InProgress { .. }) => tokio::task::yield_now().await,
            other => panic!("a doubt is told to a transaction as well: {other:?}"),
        }
    }
}

/// B15: an owner that goes away has applied nothing.
pub async fn a_run_that_is_dropped_or_released_leaves_its_key_free(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let (claim, transaction) = begin(&*store, &key).await;
    transaction
        .put(&ACCOUNTS, b"alice", b"90")
        .expect("it fits");
    drop(claim);
    becomes_absent(&*store, &key).await;
    let (claim, _) = begin(&*store, &key).await;
    store.release(claim).await.expect("the owner releases");
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    let (claim, transaction) = begin(&*store, &key).await;
    commit(&*store, claim, &transaction, "paid")
        .await
        .expect("the third run commits");
    assert_eq!(value(&*store, "alice").await, None);
}

/// B10: an owner that was frozen past its lease applies nothing, and nobody waits for it.
pub async fn a_run_whose_claim_has_lapsed_cannot_be_committed(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let (mut claim, transaction) = begin(&*store, &key).await;
    harness.clock().advance(LEASE / 2);
    store
        .renew(&mut claim, LEASE)
        .await
        .expect("it still holds");
    harness.clock().advance(LEASE / 2);
    assert!(matches!(
        peek(&*store, &key).await,
        KeyState::InProgress { .. }
    ));
    harness.clock().advance(LEASE / 2);
    transaction.put(&ACCOUNTS, b"alice", b"1").expect("it fits");
    assert_eq!(
        store.renew(&mut claim, LEASE).await,
        Err(SettleError::Fenced)
    );
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    // Somebody else runs meanwhile.
    let (second, theirs) = begin(&*store, &key).await;
    let late = commit(&*store, claim, &transaction, "late").await;
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    theirs.put(&ACCOUNTS, b"alice", b"2").expect("it fits");
    commit(&*store, second, &theirs, "paid")
        .await
        .expect("the second commits");
    assert_eq!(value(&*store, "alice").await.as_deref(), Some("2"));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// A10: two read one row and both write it. One runs again, and sees what the other wrote.
pub async fn an_update_is_never_lost(harness: impl Harness) {
    let store = harness.store();
    put(&*store, "alice", "100").await;
    let (first, mine) = begin(&*store, &key("order-1")).await;
    let (second, theirs) = begin(&*store, &key("order-2")).await;
    for transaction in [&mine, &theirs] {
        assert_eq!(got(transaction, "alice").await.as_deref(), Some("100"));
    }
    mine.put(&ACCOUNTS, b"alice", b"90").expect("it fits");
    theirs.put(&ACCOUNTS, b"alice", b"80").expect("it fits");
    commit(&*store, first, &mine, "90")
        .await
        .expect("the first commits");
    let second = conflict(commit(&*store, second, &theirs, "80").await);
    assert_eq!(value(&*store, "alice").await.as_deref(), Some("90"));
    // The claim still holds, and the run sees what is there now.
    assert!(matches!(
        peek(&*store, &key("order-2")).await,
        KeyState::InProgress { .. }
    ));
    let again = transactional(&*store).start(&second);
    assert_eq!(got(&again, "alice").await.as_deref(), Some("90"));
    again.put(&ACCOUNTS, b"alice", b"70").expect("it fits");
    commit(&*store, second, &again, "70")
        .await
        .expect("the second run commits");
    assert_eq!(value(&*store, "alice").await.as_deref(), Some("70"));
}

/// A10: each reads what the other writes, and neither writes what the other writes.
pub async fn two_that_decide_by_each_others_rows_do_not_both_commit(harness: impl Harness) {
    let store = harness.store();
    put(&*store, "alice", "on call").await;
    put(&*store, "bob", "on call").await;
    let (first, mine) = begin(&*store, &key("order-1")).await;
    let (second, theirs) = begin(&*store, &key("order-2")).await;
    for transaction in [&mine, &theirs] {
        for name in ["alice", "bob"] {
            assert_eq!(got(transaction, name).await.as_deref(), Some("on call"));
        }
    }
    mine.delete(&ACCOUNTS, b"alice").expect("it fits");
    theirs.delete(&ACCOUNTS, b"bob").expect("it fits");
    commit(&*store, first, &mine, "off")
        .await
        .expect("the first commits");
    drop(conflict(commit(&*store, second, &theirs, "off").await));
    assert_eq!(value(&*store, "bob").await.as_deref(), Some("on call"));
}

/// A10: a range remembers also what was not in it.
pub async fn a_row_that_comes_changes_or_goes_within_a_range_is_a_conflict(harness: impl Harness) {
    let store = harness.store();
    for name in ["a", "c", "e", "g"] {
        put(&*store, name, "1").await;
    }
    for (number, (name, text)) in [("b", Some("1")), ("c", Some("2")), ("a", None)]
        .into_iter()
        .enumerate()
    {
        let (claim, transaction) = begin(&*store, &key(&format!("order-{number}"))).await;
        let found = transaction.range(&ACCOUNTS, "a".."f", 10).await;
        transaction.put(&JOURNAL, b"sum", b"x").expect("it fits");
        let found = found.expect("it is read").len();
        match text {
            Some(text) => put(&*store, name, text).await,
            None => remove(&*store, name).await,
        }
        let committed = commit(&*store, claim, &transaction, "sum").await;
        drop(conflict(committed));
        assert!(found >= 3, "{found} rows");
    }
    // A range that was read to its limit says nothing of what lies behind the last row.
    let (claim, transaction) = begin(&*store, &key("first-two")).await;
    let first = transaction.range(&ACCOUNTS, "a"..="g", 2).await;
    assert_eq!(first.expect("it is read").len(), 2);
    put(&*store, "f", "1").await;
    put(&*store, "h", "1").await;
    commit(&*store, claim, &transaction, "two")
        .await
        .expect("nothing that it read has changed");
}

/// A10: the range is empty for both, and both would fill it.
pub async fn of_two_that_find_nothing_and_book_it_one_commits(harness: impl Harness) {
    let store = harness.store();
    let (first, mine) = begin(&*store, &key("order-1")).await;
    let (second, theirs) = begin(&*store, &key("order-2")).await;
    for (transaction, seat) in [(&mine, b"room-1"), (&theirs, b"room-2")] {
        let taken = transaction.range::<&[u8]>(&ACCOUNTS, .., 10).await;
        assert_eq!(taken.expect("it is read"), []);
        transaction.put(&ACCOUNTS, seat, b"taken").expect("it fits");
    }
    commit(&*store, first, &mine, "yours")
        .await
        .expect("the first commits");
    drop(conflict(commit(&*store, second, &theirs, "yours").await));
    assert_eq!(rows(&*store, &ACCOUNTS, ..).await.len(), 1);
}

/// A transaction that only writes has nothing that could have changed.
pub async fn what_others_write_elsewhere_is_no_conflict(harness: impl Harness) {
    let store = harness.store();
    put(&*store, "alice", "1").await;
    let (claim, transaction) = begin(&*store, &key("order-1")).await;
    assert_eq!(got(&transaction, "alice").await.as_deref(), Some("1"));
    transaction.put(&ACCOUNTS, b"bob", b"2").expect("it fits");
    put(&*store, "bob", "3").await;
    // The same again is what was read.
    put(&*store, "alice", "1").await;
    commit(&*store, claim, &transaction, "done")
        .await
        .expect("nothing that it read has changed");
    assert_eq!(value(&*store, "bob").await.as_deref(), Some("2"));
}

/// B19: what was written is seen by its own run, and by nobody else before it is committed.
pub async fn a_run_sees_its_own_writes_and_nobody_else_does(harness: impl Harness) {
    let store = harness.store();
    for name in ["a", "b", "c", "d"] {
        put(&*store, name, "old").await;
    }
    let (claim, transaction) = begin(&*store, &key("order-1")).await;
    transaction.delete(&ACCOUNTS, b"a").expect("it fits");
    transaction.put(&ACCOUNTS, b"b", b"new").expect("it fits");
    transaction.put(&ACCOUNTS, b"bb", b"new").expect("it fits");
    assert_eq!(got(&transaction, "a").await, None);
    assert_eq!(got(&transaction, "bb").await.as_deref(), Some("new"));
    let found = transaction.range(&ACCOUNTS, "a".., 3).await;
    let found = texts(found.expect("it is read"));
    let expected = [("b", "new"), ("bb", "new"), ("c", "old")];
    assert_eq!(
        found,
        expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
    assert_eq!(value(&*store, "b").await.as_deref(), Some("old"));
    let other = transactional(&*store).start(&claim);
    assert_eq!(got(&other, "a").await.as_deref(), Some("old"));
    commit(&*store, claim, &transaction, "done")
        .await
        .expect("nobody else has written");
    let names: Vec<_> = rows(&*store, &ACCOUNTS, ..).await;
    let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "bb", "c", "d"]);
}

/// B20: a handler that swallows an error and says that all is well has nothing committed.
pub async fn a_run_that_has_failed_once_never_ends_well(harness: impl Harness) {
    let store = harness.store();
    let (claim, transaction) = begin(&*store, &key("order-1")).await;
    transaction.put(&ACCOUNTS, b"alice", b"1").expect("it fits");
    let large = vec![0; VALUE_BYTES_MAX + 1];
    let refused = transaction.put(&ACCOUNTS, b"bob", &large);
    assert!(matches!(
        refused,
        Err(TransactionError::ValueTooLarge { .. })
    ));
    assert_eq!(
        transaction.get(&ACCOUNTS, b"alice").await,
        refused.clone().map(|()| None)
    );
    assert_eq!(transaction.end().err(), refused.err());
    assert_eq!(transaction.end().err(), Some(TransactionError::Ended));
    let put = transaction.put(&ACCOUNTS, b"alice", b"2");
    assert_eq!(
        put,
        Err(TransactionError::Ended),
        "a handle that outlives its run"
    );
    for key in [&[][..], &[0; KEY_BYTES_MAX + 1]] {
        let transaction = transactional(&*store).start(&claim);
        let refused = transaction.delete(&ACCOUNTS, key);
        assert!(matches!(refused, Err(TransactionError::KeyLength { .. })));
    }
    let transaction = transactional(&*store).start(&claim);
    let long = [7; KEY_BYTES_MAX];
    let large = vec![7; VALUE_BYTES_MAX];
    transaction
        .put(&ACCOUNTS, &long, &large)
        .expect("it just fits");
    commit(&*store, claim, &transaction, "done")
        .await
        .expect("the largest row is committed");
    let found = transactional(&*store)
        .read(RowRange::of_key(&ACCOUNTS, &long))
        .await;
    assert_eq!(found.expect("it is read")[0].1, large);
}

/// What was read and has changed since is found while the handler runs, too.
pub async fn a_row_that_is_read_twice_and_differs_is_a_conflict_at_once(harness: impl Harness) {
    let store = harness.store();
    let (_claim, transaction) = begin(&*store, &key("order-1")).await;
    assert_eq!(got(&transaction, "alice").await, None);
    put(&*store, "alice", "1").await;
    let again = transaction.get(&ACCOUNTS, b"alice").await;
    assert_eq!(again, Err(TransactionError::Conflict));
    assert_eq!(transaction.end().err(), Some(TransactionError::Conflict));
}

/// An answer that cannot be recorded takes its effect with it: no doubt.
pub async fn a_too_large_answer_commits_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    let (claim, transaction) = begin(&*store, &key).await;
    transaction.put(&ACCOUNTS, b"alice", b"1").expect("it fits");
    let work = transaction.end().expect("nothing has failed");
    let large = answer(bytes(2 * 1024 * 1024));
    let refused = transactional(&*store).commit(claim, work, large).await;
    let too_large = StoreError::AnswerTooLarge {
        size: 2 * 1024 * 1024,
        limit: 1024 * 1024,
    };
    assert!(matches!(refused, Err(CommitError::Refused(error)) if error == too_large));
    becomes_absent(&*store, &key).await;
    assert_eq!(value(&*store, "alice").await, None);
}

/// A10, G4: many at once on few rows, each running again until it commits, also over a reopening.
pub async fn many_transactions_on_the_same_rows_add_up(mut harness: impl Harness) {
    const TASKS: usize = 8;
    const EACH: usize = 25;
    let store = harness.store();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    add_one(&*store, &format!("add-{task}-{number}"), number % 2).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    drop(store);
    for _ in 0..2 {
        let store = harness.store();
        let mut sum = 0;
        for counter in ["counter-0", "counter-1"] {
            let text = value(&*store, counter).await.expect("it was counted");
            sum += text.parse::<usize>().expect("it is a number");
        }
        assert_eq!(sum, TASKS * EACH);
        assert_eq!(rows(&*store, &JOURNAL, ..).await.len(), TASKS * EACH);
        drop(store);
        harness.reopen().await;
    }
}

/// Each table costs memory: the bound holds also within one group.
pub async fn more_tables_than_may_be_are_refused_also_where_all_come_at_once(
    harness: impl Harness,
) {
    let store = harness.store();
    let tasks: Vec<_> = (0..TABLES_MAX + 20)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let own = ScopedKey::new(crate::Scope::global(), crate::IdempotencyKey::unique());
                let (claim, transaction) = loop {
                    match transactional(&*store).begin(request(&own)).await {
                        Ok(ClaimOutcome::OverQuota) => tokio::task::yield_now().await,
                        outcome => {
                            let claim = given(outcome.expect("the store answers"));
                            let transaction = transactional(&*store).start(&claim);
                            break (claim, transaction);
                        }
                    }
                };
                let table = Table::parse(&format!("table-{number}")).expect("it is a name");
                transaction.put(&table, b"a", b"1").expect("it fits");
                commit(&*store, claim, &transaction, "made").await
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.expect("no task panics") {
            Ok(()) => made += 1,
            Err(CommitError::Refused(StoreError::Unavailable { .. })) => {}
            other => panic!("a table too many is {other:?}"),
        }
    }
    assert_eq!(made, TABLES_MAX);
}

async fn add_one(store: &dyn Inspect, name: &str, which: usize) {
    let key = key(name);
    let (mut claim, mut transaction) = begin(store, &key).await;
    let counter = format!("counter-{which}");
    loop {
        let before = got(&transaction, &counter).await;
        let before: usize = before.map_or(0, |text| text.parse().expect("it is a number"));
        let after = (before + 1).to_string();
        let put = transaction.put(&ACCOUNTS, counter.as_bytes(), after.as_bytes());
        put.expect("it fits");
        let put = transaction.put(&JOURNAL, name.as_bytes(), after.as_bytes());
        put.expect("it fits");
        match commit(store, claim, &transaction, &after).await {
            Ok(()) => return,
            Err(CommitError::Conflict(still)) => claim = still,
            Err(error) => panic!("{error}"),
        }
        transaction = transactional(store).start(&claim);
    }
}

pub(super) fn transactional(store: &dyn Inspect) -> &dyn TransactionalStore {
    store.transactions().expect("the store keeps tables")
}

pub(super) async fn begin(store: &dyn Inspect, key: &ScopedKey) -> (Claim, Transaction) {
    let tables = transactional(store);
    let outcome = tables.begin(request(key)).await;
    let claim = given(outcome.expect("the store answers"));
    let transaction = tables.start(&claim);
    (claim, transaction)
}

pub(super) async fn commit(
    store: &dyn Inspect,
    claim: Claim,
    transaction: &Transaction,
    text: &str,
) -> Result<(), CommitError> {
    let work = transaction.end().expect("nothing has failed");
    let answer = answer(text.to_owned());
    transactional(store).commit(claim, work, answer).await
}

fn conflict(committed: Result<(), CommitError>) -> Claim {
    match committed {
        Err(CommitError::Conflict(claim)) => claim,
        other => panic!("what was read has changed, and the commit is answered {other:?}"),
    }
}

pub(super) async fn commit_as(
    store: &dyn Inspect,
    key: &ScopedKey,
    text: &str,
    work: impl AsyncFnOnce(&Transaction),
) {
    let (claim, transaction) = begin(store, key).await;
    work(&transaction).await;
    let committed = commit(store, claim, &transaction, text).await;
    committed.expect("nobody else is there");
}

/// Writes a row under a key of its own.
pub(super) async fn put(store: &dyn Inspect, name: &str, text: &str) {
    let own = ScopedKey::new(crate::Scope::global(), crate::IdempotencyKey::unique());
    commit_as(store, &own, "put", async |transaction| {
        let put = transaction.put(&ACCOUNTS, name.as_bytes(), text.as_bytes());
        put.expect("it fits");
    })
    .await;
}

async fn remove(store: &dyn Inspect, name: &str) {
    let own = ScopedKey::new(crate::Scope::global(), crate::IdempotencyKey::unique());
    commit_as(store, &own, "remove", async |transaction| {
        let removed = transaction.delete(&ACCOUNTS, name.as_bytes());
        removed.expect("it fits");
    })
    .await;
}

pub(super) async fn got(transaction: &Transaction, name: &str) -> Option<String> {
    let found = transaction.get(&ACCOUNTS, name.as_bytes()).await;
    found.expect("it is read").map(|value| text(&value))
}

pub(super) async fn value(store: &dyn Inspect, name: &str) -> Option<String> {
    let range = RowRange::of_key(&ACCOUNTS, name.as_bytes());
    let found = transactional(store).read(range).await;
    let found = found.expect("it is read").pop();
    found.map(|(_, value)| text(&value))
}

async fn rows(
    store: &dyn Inspect,
    table: &Table,
    bounds: impl RangeBounds<&'static [u8]>,
) -> Vec<(String, String)> {
    let range = RowRange::new(table, &bounds, usize::MAX);
    let found = transactional(store).read(range).await;
    texts(found.expect("it is read"))
}

fn texts(rows: Vec<Row>) -> Vec<(String, String)> {
    let rows = rows.into_iter();
    rows.map(|(key, value)| (text(&key), text(&value)))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the suite writes text")
}

/// Waits until a key that was let go is free: a store may need a moment for it.
async fn becomes_absent(store: &dyn Inspect, key: &ScopedKey) {
    for _ in 0..1_000 {
        match peek(store, key).await {
            KeyState::Absent => return,
            KeyState::InProgress { .. } => tokio::task::yield_now().await,
            other => panic!("a key under which nothing was committed is {other:?}"),
        }
    }
    panic!("the key is never free");
}
