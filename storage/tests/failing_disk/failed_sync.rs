//! A disk that loses writes and tells it once.
//!
//! The disk is an image in a memory that is full: a write to a new block fails after the kernel
//! has taken it, so the next sync fails, and the one after that succeeds, because the kernel
//! reports a lost write once. Its tables and its journal have their room from the start.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use onlyonce_storage::Store as _;

use crate::calls::{
    acknowledges_nothing_more, answer, claim, is_completed, is_in_doubt, open, poison,
};
use crate::rig::{Image, Mount, Rig, in_own_namespaces, run, tell};

/// A disk, and the memory that it lies in.
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

    /// From now on the disk takes every write.
    fn heal(&self) {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,size=512m"]).arg(self.memory.at());
        run(&mut remount).unwrap();
    }
}

/// Writes the blocks of the journal and the first ones, where the tables are, over themselves: a
/// file in memory takes room for what is written to it.
fn take_room(image: &Image) {
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-R", "blocks <8>"]).arg(image.file());
    let journal = run(&mut debugfs).unwrap();
    let journal = journal.split_whitespace().map(|block| block.parse::<u64>().unwrap());
    let file = File::options().read(true).write(true).open(image.file()).unwrap();
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
    in_own_namespaces("failed_sync::a_sync_fails_once_and_then_says_that_all_is_well", |rig| {
        let losing = Losing::new(rig);
        let disk = Mount::image(&losing.image, &rig.path("disk"), &[]).unwrap();
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

        let _disk = Mount::image(&losing.image, &rig.path("disk"), &[]).unwrap();
        let mut file = File::open(path).unwrap();
        file.seek(SeekFrom::Start((written - 1) * RECORD_BYTES as u64)).unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        let last = answer(&written.to_string(), RECORD_BYTES);
        assert!(found != *last.body(), "nothing was lost");
        tell(&format!("a sync failed ({failed}), the next one did not, and the data is lost"));
    });
}

// G6, B21
#[test]
fn after_its_first_failed_sync_a_store_acknowledges_nothing_more() {
    let test = "failed_sync::after_its_first_failed_sync_a_store_acknowledges_nothing_more";
    in_own_namespaces(test, |rig| {
        for length in [300, 4_000, 60_000, 1024 * 1024] {
            let losing = Losing::new(rig);
            let disk = Mount::image(&losing.image, &rig.path("disk"), &[]).unwrap();
            let path = disk.at().join("calls");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (completed, reason) = runtime.block_on(async {
                let store = open(&path);
                let held = claim(&store, "held").await.unwrap();
                let mut completed = 0;
                let reason = loop {
                    let name = completed.to_string();
                    let failed = match claim(&store, &name).await {
                        Ok(claim) => store.complete(claim, answer(&name, length)).await,
                        Err(error) => Err(error.into()),
                    };
                    if failed.is_err() {
                        break poison(&failed);
                    }
                    completed += 1;
                    assert!(completed < 100_000, "the disk does not fail");
                };
                acknowledges_nothing_more(&store, &reason).await;
                drop(held);
                (completed, reason)
            });
            drop(disk);
            losing.heal();

            let disk = Mount::image(&losing.image, &rig.path("disk"), &[]).unwrap();
            runtime.block_on(async {
                let store = open(&path);
                for number in 0..completed {
                    is_completed(&store, &number.to_string(), length).await;
                }
                is_in_doubt(&store, "held").await;
                let claim = claim(&store, "new").await.unwrap();
                store.complete(claim, answer("new", length)).await.unwrap();
                store.close().await.unwrap();
            });
            drop(disk);
            fs::remove_file(losing.image.file()).unwrap();
            tell(&format!(
                "{completed} answers of {length} bytes were acknowledged before a sync failed \
                 ({reason}); none lost"
            ));
        }
    });
}

const MEMORY_MIB: u64 = 14;

/// Few inodes, so that the tables are short, and nothing that the kernel writes at leisure.
const MKFS: [&str; 8] = [
    "-b", "4096", "-N", "256", "-E", "nodiscard,lazy_itable_init=0", "-J", "size=4",
];
const BLOCK_BYTES: usize = 4_096;
const TABLE_BLOCKS: u64 = 256;
const RECORD_BYTES: usize = 512 * 1024;
