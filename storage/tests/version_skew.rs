//! F10: what an older version wrote is read, and what a newer one wrote is refused with both
//! versions named, and never taken for an absent key.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::codec::{RECORD_FORMAT, decode, encode};
use onlyonce_storage::journal::Step;
use onlyonce_storage::record::{AnswerKept, Record, State};
use onlyonce_storage::sled::{OpenError, SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerBytes, AnswerFormat, CallJournal, ClaimOutcome, ClaimRequest, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Inspect, KeyView, Operator, Resolution,
    Scope, ScopedKey, StateView, StepName, Store, StoreError, Timestamp,
};

/// A completed call and a seal in format 1, as bytes. They are never made anew: whatever format is
/// written one day, these are on somebody's disk.
const CALL_1: &str = concat!(
    "01000105616c69636501087472616e736665720a6f726465722d34373131",
    "01abababababababababababababababababababababababababababababababab",
    "03fb2c01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    "fd0068e5cf8b01000001fd1864e5cf8b0100000109080701fc80ee3600",
    "00fd0a68e5cf8b010000fd1468e5cf8b01000002050470616964f6b8134e7313e8ae",
);
const SEAL_1: &str = "0101fd0168e5cf8b010000f932686e6d95b546";

/// A resolved call whose answer is gone, and a seal, in format 2.
const RESOLVED_2: &str = concat!(
    "02000105616c69636501087472616e736665720a6f726465722d34373131",
    "01abababababababababababababababababababababababababababababababab",
    "03fb2c01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    "fd0068e5cf8b01000001fd1864e5cf8b0100000109080701fc80ee3600",
    "00fd0a68e5cf8b010000fd1468e5cf8b0100000101056361726f6c47a01787305e7006",
);
const SEAL_2: &str = "0201fd0168e5cf8b01000000b5529fc274650219";

#[test]
fn records_of_format_1_are_read_by_every_version() {
    let at = |millis: u64| Timestamp::from_millis(1_700_000_000_000 + millis);
    assert_eq!(decode(&bytes(SEAL_1)), Ok(Record::Sealed { at: at(1) }));
    let Ok(Record::Call(call)) = decode(&bytes(CALL_1)) else {
        panic!("{:?}", decode(&bytes(CALL_1)));
    };
    assert_eq!(call.key.key().as_str(), "order-4711");
    assert_eq!(call.key.scope().principal_name(), Some("alice"));
    assert_eq!(call.fingerprint.digest(), &[0xab; 32]);
    assert_eq!((call.token.incarnation(), call.token.sequence()), (3, 300));
    assert_eq!(
        (call.claimed_at, call.first_sent),
        (at(0), Some(Timestamp::from_millis(1_699_999_999_000)))
    );
    assert_eq!(call.retention, Some(Duration::from_secs(3_600)));
    let completed = State::Completed {
        at: at(10),
        answer_until: at(20),
        answer: AnswerKept::Here(Answer::new(AnswerFormat::new(5), &b"paid"[..])),
        resolved_by: None,
    };
    assert_eq!(call.state, completed);
}

#[test]
fn records_of_format_2_are_read_by_every_version_with_who_resolved_them() {
    let sealed = Record::Sealed {
        at: Timestamp::from_millis(1_700_000_000_001),
    };
    assert_eq!(decode(&bytes(SEAL_2)), Ok(sealed));
    let Ok(Record::Call(call)) = decode(&bytes(RESOLVED_2)) else {
        panic!("{:?}", decode(&bytes(RESOLVED_2)));
    };
    let Ok(Record::Call(mut before)) = decode(&bytes(CALL_1)) else {
        panic!("format 1 is read");
    };
    if let State::Completed {
        answer,
        resolved_by,
        ..
    } = &mut before.state
    {
        *answer = AnswerKept::Gone;
        *resolved_by = Some(Operator::parse("carol").unwrap());
    }
    assert_eq!(call, before);
}

/// A call in progress with a journal, in format 3.
const JOURNALED_3: &str = concat!(
    "03000105616c69636501087472616e736665720a6f726465722d34373131",
    "01abababababababababababababababababababababababababababababababab",
    "03fb2c01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    "fd0068e5cf8b01000001fd1864e5cf8b0100000109080701fc80ee3600",
    "02fd1e68e5cf8b01000000",
    "04504f535402077265736572766501033132610663686172676500110e9ae925d9be80",
);

#[test]
fn records_of_format_3_are_read_by_every_version_with_their_journals() {
    let Ok(Record::Call(mut call)) = decode(&bytes(JOURNALED_3)) else {
        panic!("{:?}", decode(&bytes(JOURNALED_3)));
    };
    let name = |name| StepName::parse(name).unwrap();
    let steps = vec![
        Step::done(name("reserve"), Bytes::from("12a")),
        Step::begun(name("charge")),
    ];
    let journal = CallJournal::with_steps(Bytes::from("POST"), steps);
    assert_eq!(call.journal.take(), Some(Box::new(journal)));
    // All the rest is as it is without one, and written as the version before would.
    let written = encode(&Record::Call(call));
    assert_eq!(written[0], WITHOUT_JOURNAL);
    assert_eq!(
        written[1..written.len() - 8],
        bytes(JOURNALED_3)[1..written.len() - 8]
    );
}

/// A program that knows of no journals must not take the call for one without: it would let it be run
/// again from its beginning. What is written for everybody else it reads.
#[test]
fn only_a_call_with_a_journal_is_written_in_a_format_that_older_versions_refuse() {
    let journaled = bytes(JOURNALED_3);
    let read = decode(&journaled).unwrap();
    assert_eq!(encode(&read), journaled);
    assert_eq!((journaled[0], RECORD_FORMAT), (3, 3));
    for without in [RESOLVED_2, SEAL_2] {
        let record = decode(&bytes(without)).unwrap();
        assert_eq!(encode(&record), bytes(without));
    }
    // Without its number it is nothing.
    for older in [1, 2] {
        let mut journaled = journaled.clone();
        journaled[0] = older;
        assert!(matches!(
            decode(&reseal(&journaled)),
            Err(StoreError::Corrupt(_))
        ));
    }
}

/// What format 1 cannot say is not read into it.
#[test]
fn format_1_has_nothing_behind_it() {
    let mut record = bytes(SEAL_2);
    record[0] = 1;
    assert!(matches!(
        decode(&reseal(&record)),
        Err(StoreError::Corrupt(_))
    ));
    let mut record = bytes(SEAL_1);
    record[0] = 2;
    assert!(matches!(
        decode(&reseal(&record)),
        Err(StoreError::Corrupt(_))
    ));
}

#[test]
fn every_other_record_format_is_refused_in_words_that_name_both() {
    let mut record = bytes(SEAL_1);
    for found in (0..=u8::MAX).filter(|format| !(1..=RECORD_FORMAT).contains(format)) {
        record[0] = found;
        let refused = decode(&reseal(&record)).unwrap_err();
        let supported = RECORD_FORMAT;
        assert_eq!(refused, StoreError::UnknownFormat { found, supported });
        assert_eq!(
            refused.to_string(),
            format!(
                "record has format {found}, this version reads up to {supported}; upgrade first"
            )
        );
    }
}

#[tokio::test]
async fn a_settled_record_of_a_newer_version_keeps_the_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let ClaimOutcome::Claimed(claim) = store.claim(request()).await.unwrap() else {
        panic!("a new key is claimed");
    };
    let answer = Answer::new(AnswerFormat::new(1), &b"paid"[..]);
    store.complete(claim, answer).await.unwrap();
    store.close().await.unwrap();

    assert!(make_newer(folder.path()) > 0);
    assert_shut(folder.path());
}

#[tokio::test]
async fn an_open_record_of_a_newer_version_keeps_the_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let claimed = store.claim(request()).await.unwrap();
    assert!(matches!(claimed, ClaimOutcome::Claimed(_)), "{claimed:?}");
    std::mem::forget(claimed);
    store.close().await.unwrap();

    assert!(make_open_newer(folder.path()) > 0);
    assert_shut(folder.path());
}

#[tokio::test]
async fn a_call_that_an_older_version_left_open_is_in_doubt_and_can_be_resolved_with_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let claimed = store.claim(request()).await.unwrap();
    assert!(matches!(claimed, ClaimOutcome::Claimed(_)), "{claimed:?}");
    std::mem::forget(claimed);
    store.close().await.unwrap();
    assert_eq!(make_open_older(folder.path()), 1);

    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let ClaimOutcome::InDoubt(doubt) = store.claim(request()).await.unwrap() else {
        panic!("its owner is gone");
    };
    let answer = Answer::new(AnswerFormat::new(1), &b"paid"[..]);
    let (applied, by) = (
        Resolution::Applied(answer),
        Operator::parse("carol").unwrap(),
    );
    let resolved = store.resolve(key(), doubt.token, applied, by.clone()).await;
    assert_eq!(resolved, Ok(()));
    store.close().await.unwrap();

    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let shown = store.show(key(), AnswerBytes::LeaveOut).await.unwrap();
    let KeyView::Call(view) = shown else {
        panic!("{shown:?}");
    };
    let StateView::Completed { resolved_by, .. } = view.state else {
        panic!("{view:?}");
    };
    assert_eq!(resolved_by, Some(by));
}

/// Nobody knows what a record says that cannot be read, so no key of the store is safe to claim.
fn assert_shut(store: &Path) {
    let refused = SledStore::open(store, SledOptions::new()).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
    let newer = RECORD_FORMAT + 1;
    let both = format!("format {newer}, this version reads up to {RECORD_FORMAT}");
    assert!(refused.to_string().contains(&both), "{refused}");
}

#[test]
fn a_folder_of_a_newer_version_is_refused_in_words_that_name_both() {
    let folder = tempfile::tempdir().unwrap();
    drop(SledStore::open(folder.path(), SledOptions::new()).unwrap());
    let mark = folder.path().join("FORMAT");
    let ours: u32 = fs::read_to_string(&mark)
        .unwrap()
        .trim()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    for found in [ours + 1, 4_294_967_295] {
        fs::write(&mark, format!("onlyonce sled store, format {found}\n")).unwrap();
        let refused = SledStore::open(folder.path(), SledOptions::new()).unwrap_err();
        assert!(
            matches!(refused, OpenError::NewerFormat { .. }),
            "{refused:?}"
        );
        let path = folder.path().display();
        assert_eq!(
            refused.to_string(),
            format!("store in {path} has format {found}, this version reads up to {ours}; upgrade")
        );
    }
}

#[test]
fn a_log_of_a_newer_version_is_refused_in_words_that_name_both() {
    for name in ["LOG-0", "LOG-1"] {
        let folder = tempfile::tempdir().unwrap();
        drop(SledStore::open(folder.path(), SledOptions::new()).unwrap());
        let path = folder.path().join(name);
        let mut log = fs::read(&path).unwrap();
        let ours = log[0];
        log[0] = ours + 1;
        let head = reseal(&log[..LOG_HEAD_BYTES]);
        log[..LOG_HEAD_BYTES].copy_from_slice(&head);
        fs::write(&path, log).unwrap();
        let refused = SledStore::open(folder.path(), SledOptions::new()).unwrap_err();
        let both = format!(
            "{name}: it has format {}, this version reads up to {ours}",
            ours + 1
        );
        assert!(refused.to_string().contains(&both), "{refused}");
    }
}

fn key() -> ScopedKey {
    ScopedKey::new(
        Scope::global(),
        IdempotencyKey::parse("order-4711").unwrap(),
    )
}

fn request() -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(key(), Fingerprints::new(print), Duration::from_secs(30))
}

/// Makes every settled record one of the next format, checksums and all, as a newer version would have
/// written it; how many there were.
fn make_newer(store: &Path) -> usize {
    let mut changed = 0;
    for entry in fs::read_dir(store.join("pages")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mut pages = fs::read(entry.path()).unwrap();
        for (number, page) in (0_u32..).zip(pages.chunks_exact_mut(PAGE_BYTES)) {
            let found = records_in(page);
            for (start, end) in &found {
                let mut record = page[*start..*end].to_vec();
                record[0] = RECORD_FORMAT + 1;
                page[*start..*end].copy_from_slice(&reseal(&record));
            }
            // A page begins with the checksum of its file, its number and what follows.
            let mut sum = crc32fast::Hasher::new();
            sum.update(name.as_bytes());
            sum.update(&number.to_le_bytes());
            sum.update(&page[4..]);
            page[..4].copy_from_slice(&sum.finalize().to_le_bytes());
            changed += found.len();
        }
        fs::write(entry.path(), pages).unwrap();
    }
    changed
}

/// The same with the rows of calls that are open.
fn make_open_newer(store: &Path) -> usize {
    change_open(store, |mut record| {
        record[0] = RECORD_FORMAT + 1;
        reseal(&record)
    })
}

/// The rows of calls that are open, as the version before would have written them.
fn make_open_older(store: &Path) -> usize {
    change_open(store, |mut record| {
        record[0] = 1;
        // Nobody has resolved it, which takes one byte before the checksum.
        assert_eq!(record.remove(record.len() - 9), 0);
        reseal(&record)
    })
}

fn change_open(store: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) -> usize {
    let db = sled::Config::new()
        .path(store.join("db"))
        .flush_every_ms(None)
        .segment_size(2 * 1024 * 1024)
        .open()
        .unwrap();
    let rows = db.open_tree("onlyonce/open").unwrap();
    for row in rows.iter() {
        let (key, record) = row.unwrap();
        rows.insert(key, change(record.to_vec())).unwrap();
    }
    let changed = rows.len();
    drop((rows, db));
    // sled gives its file back a moment after the last handle is dropped.
    let file = fs::File::open(store.join("db").join("db")).unwrap();
    file.lock().unwrap();
    changed
}

/// Where the records are: nothing but a record has a record's checksum.
fn records_in(page: &[u8]) -> Vec<(usize, usize)> {
    let starts = (0..page.len()).filter(|start| page[*start] == WITHOUT_JOURNAL);
    let spans = starts.flat_map(|start| (start + 9..=page.len()).map(move |end| (start, end)));
    spans
        .filter(|(start, end)| decode(&page[*start..*end]).is_ok())
        .collect()
}

/// The record with the checksum that belongs to it.
fn reseal(record: &[u8]) -> Vec<u8> {
    let content = &record[..record.len() - 8];
    [content, &blake3::hash(content).as_bytes()[..8]].concat()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The format of a record that keeps no journal.
const WITHOUT_JOURNAL: u8 = 2;
const LOG_HEAD_BYTES: usize = 64;
const PAGE_BYTES: usize = 4_096;
