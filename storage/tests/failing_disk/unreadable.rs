//! A disk that does not give back a part of what is on it, until it is well again.
//!
//! The disk is an image that is cut off while it is mounted: what lies behind the cut answers with
//! an I/O error. There is no journal, and what an opening writes lies before the cut.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use onlyonce_storage::Store as _;
use onlyonce_storage::sled::OpenError;

use crate::calls::{answer, claim, is_completed, is_in_doubt, open};
use crate::rig::{Image, Mount, in_own_namespaces, run, tell};

// G5: sled takes a part of its log that it cannot read for one that is not there, and cuts the log
// before it. Whoever opens a store on such a disk must be told of the disk, and lose nothing.
#[test]
fn a_disk_that_cannot_be_read_is_an_io_error_and_loses_nothing() {
    let test = "unreadable::a_disk_that_cannot_be_read_is_an_io_error_and_loses_nothing";
    in_own_namespaces(test, |rig| {
        let options = ["-O", "^has_journal", "-b", "4096"];
        let image = Image::sparse(&rig.path("disk.img"), 96, &options).unwrap();
        let at = rig.path("disk");
        let path = at.join("calls");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let disk = Mount::image(&image, &at, &[]).unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            for number in 0..CALLS {
                let name = number.to_string();
                let claim = claim(&store, &name).await.unwrap();
                store.complete(claim, answer(&name, LENGTH)).await.unwrap();
            }
            // What is open lies in sled.
            for number in 0..HELD {
                let name = format!("held-{number}");
                drop(claim(&store, &name).await.unwrap());
            }
            store.close().await.unwrap();
        });
        drop(disk);

        let blocks = log_blocks(&image);
        let whole = fs::metadata(image.file()).unwrap().len();
        // From the whole log to its last block.
        let mut cuts: Vec<_> = (0..=CUTS)
            .map(|part| blocks[(blocks.len() - 1) * part / CUTS] * BLOCK_BYTES)
            .collect();
        cuts.dedup();
        for cut in cuts {
            let disk = Mount::image(&image, &at, &[]).unwrap();
            let behind = cut_off(&image, cut, whole);
            match open(&path) {
                Err(OpenError::Io { source, .. }) => {
                    tell(&format!("behind byte {cut}: {source}"));
                }
                Err(other) => panic!("behind byte {cut}: {other:?}"),
                Ok(_) => panic!("behind byte {cut}: the disk could be read"),
            }
            drop(disk);
            // The disk is well again.
            let file = File::options().write(true).open(image.file()).unwrap();
            file.write_all_at(&behind, cut).unwrap();
        }

        let _disk = Mount::image(&image, &at, &[]).unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            for number in 0..CALLS {
                is_completed(&store, &number.to_string(), LENGTH).await;
            }
            for number in 0..HELD {
                is_in_doubt(&store, &format!("held-{number}")).await;
            }
            store.close().await.unwrap();
        });
    });
}

/// The blocks of sled's log, in the order in which they lie on the disk.
fn log_blocks(image: &Image) -> Vec<u64> {
    let mut debugfs = Command::new("debugfs");
    debugfs
        .args(["-R", "blocks /calls/db/db"])
        .arg(image.file());
    let blocks = run(&mut debugfs).unwrap();
    let mut blocks: Vec<u64> = blocks
        .split_whitespace()
        .map(|block| block.parse().unwrap())
        .collect();
    blocks.sort_unstable();
    blocks
}

/// Takes what lies behind `cut` from the disk, and answers it.
fn cut_off(image: &Image, cut: u64, whole: u64) -> Vec<u8> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(image.file())
        .unwrap();
    let mut behind = vec![0; usize::try_from(whole - cut).unwrap()];
    file.read_exact_at(&mut behind, cut).unwrap();
    file.set_len(cut).unwrap();
    let gone = file.read_exact_at(&mut [0], cut).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::UnexpectedEof);
    behind
}

/// A third, a quarter: where the beginning of the log can be read and its segments cannot.
const CUTS: usize = 12;
const CALLS: usize = 60;
const HELD: usize = 600;
const LENGTH: usize = 60_000;
const BLOCK_BYTES: u64 = 4_096;
