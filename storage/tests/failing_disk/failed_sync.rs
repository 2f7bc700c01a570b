//! A disk that loses writes and tells it once.
//!
//! The disk is an image in a memory that is full: a write to a new block fails after the kernel
//! has taken it, so the next sync fails, and the one after that succeeds, because the kernel
//! reports a lost write once. Its tables and its journal have their room from the start.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use onlyonce_storage::Store as _;
use onlyonce_storage::sled::OpenError;

use crate::calls::{
    acknowledges_nothing_more, answer, claim, is_completed, is_in_doubt, open, poison,
};
use crate::rig::{Image, Mount, Rig, in_own_namespaces, run, tell};

/// A disk that loses writes, and the memory that it lies in.
#[derive(Debug)]
struct Losing {
    image: Image,
    memory: Mount,
}

// === impl Losing ===

impl Losing {
    fn new(rig: &Rig) -> Self {
        let memory = Mount::in_memory(&rig.path("memory"), MEMORY_MIB).unwrap();
        let file = memory.at().join("disk.img");
        let image = Image::sparse(&file, 64, &MKFS).unwrap();
        take_room(&image);
        Self { image, memory }
    }

    /// Mounts it so that it tells of every write that it loses.
    fn mount(&self, rig: &Rig) -> Mount {
        let disk = self.mount_silent(rig);
        // A request of more than a page may be taken in part; see below.
        fs::write(disk.device().join("queue/max_sectors_kb"), "4").unwrap();
        disk
    }

    /// Mounts it so that it may lose the end of a write and say that all is well, which is how
    /// the kernel's loop device (6.18) does a write for which there is only some room.
    fn mount_silent(&self, rig: &Rig) -> Mount {
        Mount::image(&self.image, &rig.path("disk"), &[]).unwrap()
    }

    /// From now on the disk takes every write.
    fn heal(&self) {
        let mut remount = Command::new("mount");
        remount
            .args(["-o", "remount,size=512m"])
            .arg(self.memory.at());
        run(&mut remount).unwrap();
    }
}

/// Writes the blocks of the journal and the first ones, where the tables are, over themselves: a
/// file in memory takes room for what is written to it.
fn take_room(image: &Image) {
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-R", "blocks <8>"]).arg(image.file());
    let journal = run(&mut debugfs).unwrap();
    let journal = journal
        .split_whitespace()
        .map(|block| block.parse::<u64>().unwrap());
    let file = File::options()
        .read(true)
        .write(true)
        .open(image.file())
        .unwrap();
    for block in journal.chain(0..TABLE_BLOCKS) {
        let mut bytes = [0; BLOCK_BYTES];
        let at = block * BLOCK_BYTES as u64;
        file.read_exact_at(&mut bytes, at).unwrap();
        file.write_all_at(&bytes, at).unwrap();
    }
}

// The control: the kernel does what the test below is about.
#[test]
fn a_sync_fails_once_and_then_says_that_all_is_well() {
    in_own_namespaces(
        "failed_sync::a_sync_fails_once_and_then_says_that_all_is_well",
        |rig| {
            let losing = Losing::new(rig);
            let disk = losing.mount(rig);
            let path = disk.at().join("records");
            let mut file = File::create(&path).unwrap();
            let mut written: u64 = 0;
            let failed = loop {
                written += 1;
                let record = answer(&written.to_string(), RECORD_BYTES);
                file.write_all(record.body()).unwrap();
                if let Err(error) = file.sync_data() {
                    break error;
                }
                assert!(written < 1_000, "the disk does not fail");
            };
            file.sync_data().unwrap();
            drop((file, disk));
            losing.heal();

            let _disk = losing.mount(rig);
            let found = fs::read(path).unwrap();
            let is_there = |number: &u64| {
                let at = usize::try_from(*number - 1).unwrap() * RECORD_BYTES;
                let record = answer(&number.to_string(), RECORD_BYTES);
                found.get(at..at + RECORD_BYTES) == Some(record.body())
            };
            assert!(!is_there(&written), "nothing was lost");
            assert!(
                (1..written).all(|number| is_there(&number)),
                "the disk lies of what it took"
            );
            tell(&format!(
                "a sync failed ({failed}), the next one did not, and the data is lost"
            ));
        },
    );
}

// G6, B21
#[test]
fn after_its_first_failed_sync_a_store_acknowledges_nothing_more() {
    let test = "failed_sync::after_its_first_failed_sync_a_store_acknowledges_nothing_more";
    in_own_namespaces(test, |rig| {
        for length in LENGTHS {
            let losing = Losing::new(rig);
            let disk = losing.mount(rig);
            let path = disk.at().join("calls");
            let (completed, reason) = serve_until_it_fails(&path, length);
            drop(disk);
            losing.heal();

            let _disk = losing.mount(rig);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let store = open(&path).unwrap();
                for number in 0..completed {
                    is_completed(&store, &number.to_string(), length).await;
                }
                is_in_doubt(&store, "held").await;
                let claim = claim(&store, "new").await.unwrap();
                store.complete(claim, answer("new", length)).await.unwrap();
                store.close().await.unwrap();
            });
            tell(&format!(
                "{completed} answers of {length} bytes were acknowledged before a sync failed \
                 ({reason}), none lost"
            ));
        }
    });
}

// G5
#[test]
fn a_disk_that_loses_a_write_without_a_word_leaves_a_corrupt_store_never_a_shorter_one() {
    let test = "failed_sync::\
                a_disk_that_loses_a_write_without_a_word_leaves_a_corrupt_store_never_a_shorter_one";
    in_own_namespaces(test, |rig| {
        for length in LENGTHS {
            let losing = Losing::new(rig);
            let disk = losing.mount_silent(rig);
            let path = disk.at().join("calls");
            let (completed, _) = serve_until_it_fails(&path, length);
            drop(disk);
            losing.heal();

            let _disk = losing.mount(rig);
            let found = match open(&path) {
                Err(OpenError::Corrupt { reason, .. }) => format!("is corrupt: {reason}"),
                Err(other) => panic!("{other:?}"),
                // A kernel that tells, or a loss that did not matter.
                Ok(store) => {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        for number in 0..completed {
                            is_completed(&store, &number.to_string(), length).await;
                        }
                        store.close().await.unwrap();
                    });
                    "lost nothing".to_owned()
                }
            };
            tell(&format!(
                "after {completed} answers of {length} bytes the store {found}"
            ));
        }
    });
}

/// How many calls were completed before the disk failed, and what the store then said.
fn serve_until_it_fails(path: &Path, length: usize) -> (usize, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(path).unwrap();
        let _held = claim(&store, "held").await.unwrap();
        for completed in 0..CALLS_MAX {
            let name = completed.to_string();
            let done = match claim(&store, &name).await {
                Ok(claim) => store.complete(claim, answer(&name, length)).await,
                Err(error) => Err(error.into()),
            };
            if done.is_err() {
                let reason = poison(&done);
                acknowledges_nothing_more(&store, &reason).await;
                return (completed, reason);
            }
        }
        panic!("the disk does not fail");
    })
}

const LENGTHS: [usize; 4] = [300, 4_000, 60_000, 1024 * 1024];
const CALLS_MAX: usize = 100_000;

/// Room for the tables, for the journal, and for a few MiB of calls.
const MEMORY_MIB: u64 = 9;

/// Few inodes, so that the tables are short, and nothing that the kernel writes at leisure.
const MKFS: [&str; 8] = [
    "-b",
    "4096",
    "-N",
    "256",
    "-E",
    "nodiscard,lazy_itable_init=0",
    "-J",
    "size=4",
];
const BLOCK_BYTES: usize = 4_096;
const TABLE_BLOCKS: u64 = 256;
const RECORD_BYTES: usize = 512 * 1024;
