//! A disk without room: at a claim nothing may be executed, at a completion the outcome is in
//! doubt, and a record of which only the beginning found room is believed by nobody.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use onlyonce_storage::sled::{OpenError, SledStore};
use onlyonce_storage::{KeyState, Store as _};

use crate::calls::{
    acknowledges_nothing_more, answer, claim, is_completed, is_in_doubt, key, open, poison,
};
use crate::rig::{Image, Mount, Rig, in_own_namespaces, tell};

// G6
#[test]
fn a_full_disk_refuses_a_claim_and_nothing_is_executed() {
    let test = "full_disk::a_full_disk_refuses_a_claim_and_nothing_is_executed";
    in_own_namespaces(test, |rig| {
        let disk = disk(rig);
        let path = disk.at().join("calls");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (held, filler) = runtime.block_on(async {
            let store = open(&path).unwrap();
            complete_some(&store).await;
            let filler = fill(disk.at(), 0);
            // The blocks that the store has already may have room for a few more.
            let mut held = Vec::new();
            let failed = loop {
                match claim(&store, &held.len().to_string()).await {
                    Ok(claim) => held.push(claim),
                    Err(error) => break Err(error.into()),
                }
                assert!(held.len() < CLAIMS_MAX, "the disk is not full");
            };
            let reason = poison(&failed);
            acknowledges_nothing_more(&store, &reason).await;
            tell(&format!("claim {} was refused: {reason}", held.len()));
            (held.len(), filler)
        });
        refuses_to_open(&path);
        fs::remove_file(filler).unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            some_are_completed(&store).await;
            for number in 0..held {
                is_in_doubt(&store, &number.to_string()).await;
            }
            // Nobody was told that it may be executed. If it is there it executes nothing either.
            let state = store.peek(key(&held.to_string())).await.unwrap();
            let just = matches!(state, KeyState::Absent | KeyState::InDoubt(_));
            assert!(just, "{state:?}");
            store.close().await.unwrap();
        });
    });
}

// G6
#[test]
fn a_disk_that_fills_up_in_the_middle_of_an_answer_leaves_its_call_in_doubt() {
    let test =
        "full_disk::a_disk_that_fills_up_in_the_middle_of_an_answer_leaves_its_call_in_doubt";
    in_own_namespaces(test, |rig| {
        // Room for none of it, for its first block, and for less and less of the rest.
        for room in [0, 4, 40, 400, 900] {
            let disk = disk(rig);
            let path = disk.at().join("calls");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let filler = runtime.block_on(async {
                let store = open(&path).unwrap();
                complete_some(&store).await;
                let pending = claim(&store, "pending").await.unwrap();
                let _held = claim(&store, "held").await.unwrap();
                let filler = fill(disk.at(), room * 1024);
                let failed = store
                    .complete(pending, answer("pending", 1024 * 1024))
                    .await;
                let reason = poison(&failed);
                acknowledges_nothing_more(&store, &reason).await;
                tell(&format!(
                    "with room for {room} KiB a completion failed: {reason}"
                ));
                filler
            });
            fs::remove_file(filler).unwrap();
            runtime.block_on(async {
                let store = open(&path).unwrap();
                some_are_completed(&store).await;
                is_in_doubt(&store, "pending").await;
                is_in_doubt(&store, "held").await;
                store.close().await.unwrap();
            });
        }
    });
}

/// Room for the store, and soon for nothing else.
pub fn disk(rig: &Rig) -> Mount {
    let image = Image::sparse(&rig.path("disk.img"), 32, &["-m", "0", "-J", "size=4"]).unwrap();
    Mount::image(&image, &rig.path("disk"), &[]).unwrap()
}

async fn complete_some(store: &SledStore) {
    for number in 0..SOME {
        let name = format!("before-{number}");
        let claim = claim(store, &name).await.unwrap();
        store
            .complete(claim, answer(&name, length_of(number)))
            .await
            .unwrap();
    }
}

async fn some_are_completed(store: &SledStore) {
    for number in 0..SOME {
        is_completed(store, &format!("before-{number}"), length_of(number)).await;
    }
    let claim = claim(store, "after").await.unwrap();
    store.complete(claim, answer("after", 300)).await.unwrap();
    is_completed(store, "after", 300).await;
}

fn length_of(number: usize) -> usize {
    20 + number * number * 10
}

/// Takes all room but `room` bytes.
pub fn fill(disk: &Path, room: usize) -> PathBuf {
    let spare = disk.join("spare");
    fs::write(&spare, vec![1; room]).unwrap();
    File::open(&spare).unwrap().sync_all().unwrap();
    let filler = disk.join("filler");
    let mut file = File::create(&filler).unwrap();
    for length in [1024 * 1024, 64 * 1024, 4 * 1024, 1] {
        let block = vec![1; length];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    file.sync_all().unwrap();
    fs::remove_file(&spare).unwrap();
    filler
}

/// A store cannot be opened without room to note that it was; that is no reason to call it
/// corrupt.
fn refuses_to_open(path: &Path) {
    match open(path) {
        Err(OpenError::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::StorageFull),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("there was room for it"),
    }
}

const SOME: usize = 60;
const CLAIMS_MAX: usize = 10_000;
