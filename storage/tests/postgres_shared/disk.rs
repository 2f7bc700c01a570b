//! G6: the database's disk is full: nothing is executed, and nothing that was acknowledged is lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use onlyonce_storage::postgres::PostgresStore;
use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{ClaimOutcome, Store as _, StoreError};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};
use crate::rig::{Mount, in_own_namespaces};

#[test]
fn a_full_disk_fails_closed_and_the_store_goes_on_when_there_is_room() {
    let test = "disk::a_full_disk_fails_closed_and_the_store_goes_on_when_there_is_room";
    in_own_namespaces(test, |rig| {
        // The server's folder is removed with it, the mount with this process.
        let mount = Mount::in_memory(&rig.path("disk"), 200).unwrap();
        let folder = mount.at().join("server");
        fs::create_dir(&folder).unwrap();
        let Some(server) = Server::start_in(folder, Durable::Yes) else {
            return;
        };
        run(full_and_free(&server, mount.at()));
        drop(server);
    });
}

async fn full_and_free(server: &Server, disk: &Path) {
    let options = postgres_rig::options(server).answer_within(Duration::from_secs(3));
    let store = postgres_rig::store(options).await;
    // What does not compress takes room.
    let large: Vec<u8> = (0..200 * 1024_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let filler = fill(disk);
    let mut acknowledged = 0;
    let refused = loop {
        match executed(&store, acknowledged, &large).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "the disk is not full");
    };
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused}"
    );
    // Neither by a transaction, nor the next one.
    for number in 0..3 {
        let key = key(&format!("full-{number}"));
        let Ok(ClaimOutcome::Claimed(claim)) = store.begin(request(&key)).await else {
            continue;
        };
        let work = store.start(&claim).end().unwrap();
        let committed = store.commit(claim, work, answer(large.clone())).await;
        assert!(committed.is_err(), "{committed:?}");
    }
    fs::remove_file(filler).unwrap();
    // A database that could not write its log has ended itself.
    server.up_again();
    for number in 0..acknowledged {
        let replayed = replayed(&store, &key(&format!("call-{number}"))).await;
        assert_eq!(replayed, answer(large.clone()), "call {number}");
    }
    let claim = given(store.claim(request(&key("after"))).await.unwrap());
    store.complete(claim, answer("paid")).await.unwrap();
    assert_eq!(replayed(&store, &key("after")).await, answer("paid"));
    // What was refused is nobody's: it is free, or somebody may have executed it.
    let outcome = store
        .claim(request(&key(&format!("call-{acknowledged}"))))
        .await;
    assert!(
        !matches!(outcome, Ok(ClaimOutcome::Completed(_))),
        "{outcome:?}"
    );
}

async fn executed(store: &PostgresStore, number: u32, body: &[u8]) -> Result<(), StoreError> {
    let key = key(&format!("call-{number}"));
    let claim = given(store.claim(request(&key)).await?);
    let completed = store.complete(claim, answer(body.to_vec())).await;
    completed.map_err(|error| match error {
        onlyonce_storage::SettleError::Store(error) => error,
        other => panic!("{other}"),
    })
}

/// Takes all the room there is.
fn fill(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}
