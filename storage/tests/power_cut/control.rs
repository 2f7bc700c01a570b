//! The rig sees the fault that it is there for: sled without a sync loses what it acknowledged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use onlyonce_storage::sled::SyncPoint;

use crate::calls::bytes;
use crate::child::{self, Child};
use crate::device::{Cache, Disk, Drive};
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::draw;

#[test]
fn a_store_that_only_flushes_loses_what_it_acknowledged() {
    let test = "control::a_store_that_only_flushes_loses_what_it_acknowledged";
    in_own_namespaces(test, |rig| {
        let drive = Drive::new(rig, Cache::Kept);
        let (lost, acknowledged) = lost_of(rig, FLUSHES, &drive, || drive.disk(rig));
        tell(&format!(
            "control: sled with `flush` alone lost {lost} of {acknowledged} acknowledged records \
             in {CUTS} cuts"
        ));
        assert!(lost > 0, "the rig does not see a missing sync");
        // The same program with the sync point in place of the flush: it is the sync that counts.
        let (lost, acknowledged) = lost_of(rig, SYNCS, &drive, || drive.disk(rig));
        tell(&format!(
            "control: with `syncfs` it lost {lost} of {acknowledged}"
        ));
        assert_eq!(lost, 0);
    });
}

#[test]
fn a_drive_that_is_not_told_to_flush_loses_what_was_synced() {
    let test = "control::a_drive_that_is_not_told_to_flush_loses_what_was_synced";
    in_own_namespaces(test, |rig| {
        let drive = Drive::new(rig, Cache::Lost);
        let (lost, acknowledged) = lost_of(rig, SYNCS, &drive, || drive.disk_without_flushes(rig));
        tell(&format!(
            "control: a drive without flushes lost {lost} of {acknowledged} synced records in \
             {CUTS} cuts"
        ));
        assert!(lost > 0, "the rig does not lose the cache of a drive");
        let (lost, acknowledged) = lost_of(rig, SYNCS, &drive, || drive.disk(rig));
        tell(&format!(
            "control: with flushes it lost {lost} of {acknowledged}"
        ));
        assert_eq!(lost, 0);
    });
}

/// How many of how many acknowledged records were lost.
fn lost_of(rig: &Rig, test: &str, drive: &Drive, disk: impl Fn() -> Disk) -> (usize, usize) {
    let (mut lost, mut acknowledged) = (0, 0);
    for number in 0..CUTS {
        let disk = disk();
        let child = Child::start(test, &disk.at().join("db"), "");
        let lines = 100 + draw(&format!("control {number}"), 400);
        assert!(
            child.wait_for(usize::try_from(lines).unwrap(), ""),
            "the child ended by itself"
        );
        let (cut, said) = drive.cut(&disk, &rig.path("control.img"), || child.count());
        acknowledged += said;
        // A disk that cannot be mounted and a database that cannot be opened have lost everything.
        let found = catch_unwind(AssertUnwindSafe(|| {
            let after = cut.turn_on(rig);
            missing(&after.at().join("db"), said)
        }));
        lost += found.unwrap_or(said);
    }
    (lost, acknowledged)
}

fn missing(path: &Path, said: usize) -> usize {
    let db = open(path);
    let is_there = |number: &usize| {
        let name = number.to_string();
        let found = db.get(&name).ok().flatten();
        found.is_some_and(|found| found == bytes(&name, VALUE_BYTES).body())
    };
    said - (0..said).filter(is_there).count()
}

#[test]
fn only_flushes_until_its_power_is_cut_when_it_is_the_child() {
    child::work(FLUSHES, |path, _| {
        let db = open(path);
        // The database is there; what is written from now on is only flushed.
        SyncPoint::open(path).unwrap().commit(&db).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the fault that the rig must see")]
        keep(&db, || {
            db.flush().unwrap();
        });
    });
}

#[test]
fn flushes_and_syncs_until_its_power_is_cut_when_it_is_the_child() {
    child::work(SYNCS, |path, _| {
        let sync = SyncPoint::open(path).unwrap();
        let db = open(path);
        keep(&db, || sync.commit(&db).unwrap());
    });
}

/// Keeps one record after the other, and says so after each `acknowledge`.
fn keep(db: &sled::Db, acknowledge: impl Fn()) {
    for number in 0.. {
        let name = number.to_string();
        let value = bytes(&name, VALUE_BYTES);
        db.insert(&name, value.body().as_ref()).unwrap();
        acknowledge();
        child::say(&name);
    }
}

fn open(path: &Path) -> sled::Db {
    let config = sled::Config::new().path(path).flush_every_ms(None);
    config.open().unwrap()
}

const FLUSHES: &str = "control::only_flushes_until_its_power_is_cut_when_it_is_the_child";
const SYNCS: &str = "control::flushes_and_syncs_until_its_power_is_cut_when_it_is_the_child";
const CUTS: u64 = 5;
const VALUE_BYTES: u64 = 300;
