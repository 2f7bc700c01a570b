//! What only the inside of the disk can show.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use super::{Loaded, Parts, wait_until_free};
use crate::commit::{Change, Rows};
use crate::record::{CallRecord, Record};
use crate::sled::SyncPoint;
use crate::sled::log::GroupBytes;
use crate::{Answer, KeyDigest, RetentionOptions, StoreError, Timestamp};

/// What an opening has read, before it serves.
impl Rows for Loaded {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        self.rows.record(key)
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        self.rows.answer(key, call)
    }
}

fn loaded(path: &Path) -> Loaded {
    let config = ::sled::Config::new().path(path.join("db"));
    fs::create_dir_all(path.join("pages")).unwrap();
    let parts = Parts {
        db: config.flush_every_ms(None).open().unwrap(),
        db_file: path.join("db/db"),
        folder: path.join("pages"),
        point: SyncPoint::open(path.join("db")).unwrap(),
        lock: File::create(path.join("LOCK")).unwrap(),
    };
    Loaded::read(parts, &RetentionOptions::default()).unwrap()
}

/// A digest that begins like the others.
fn digest(last: u8) -> KeyDigest {
    let mut bytes = [0x5a; 32];
    bytes[31] = last;
    KeyDigest::from_bytes(bytes)
}

#[test]
fn keys_whose_digests_begin_alike_are_all_found_and_never_confused() {
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp::from_millis(1_700_000_000_000);
    // In the same bucket and in others.
    let sealed = |last: u8| Record::Sealed {
        at: now.plus(Duration::from_secs(u64::from(last) * 20_000)),
    };
    let check = |loaded: &Loaded| {
        for last in 0..20 {
            let record = loaded.record(digest(last));
            assert_eq!(record, Ok(Some(sealed(last))), "{last}");
        }
        for last in 20..40 {
            assert_eq!(loaded.record(digest(last)), Ok(None), "{last}");
        }
    };
    let mut opened = loaded(folder.path());
    let mut group = GroupBytes::default();
    for last in 0..20 {
        let change = Change {
            key: digest(last),
            before: None,
            after: Some(sealed(last)),
        };
        opened.rows.apply(change, &mut group).unwrap();
    }
    check(&opened);
    opened.carry_over().unwrap();
    check(&opened);
    let db_file = opened.db_file.clone();
    drop(opened);
    wait_until_free(&db_file);
    check(&loaded(folder.path()));
}
