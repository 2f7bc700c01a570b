//! A file system that becomes read-only under a store, as ext4 does when its journal fails.

use std::process::Command;

use onlyonce_storage::Store as _;
use onlyonce_storage::sled::OpenError;

use crate::calls::{
    acknowledges_nothing_more, answer, claim, is_completed, is_in_doubt, open, poison,
};
use crate::rig::{Image, Mount, in_own_namespaces, run, tell};

#[test]
fn a_disk_that_becomes_read_only_poisons_the_store_and_loses_nothing() {
    let test = "read_only::a_disk_that_becomes_read_only_poisons_the_store_and_loses_nothing";
    in_own_namespaces(test, |rig| {
        let image = Image::sparse(&rig.path("disk.img"), 64, &[]).unwrap();
        let at = rig.path("disk");
        let disk = Mount::image(&image, &at, &[]).unwrap();
        let path = at.join("calls");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            let paid = claim(&store, "paid").await.unwrap();
            store.complete(paid, answer("paid", 20_000)).await.unwrap();
            let pending = claim(&store, "pending").await.unwrap();
            // `remount,ro` is refused while files are open for writing. This is what the file
            // system does by itself when it meets an error.
            let mut abort = Command::new("mount");
            run(abort.args(["-o", "remount,abort"]).arg(&at)).unwrap();
            let failed = store.complete(pending, answer("pending", 300)).await;
            let reason = poison(&failed);
            acknowledges_nothing_more(&store, &reason).await;
            tell(&format!("on a disk that became read-only: {reason}"));
        });
        drop(disk);

        // The journal is replayed by a mount that may write.
        drop(Mount::image(&image, &at, &[]).unwrap());
        let disk = Mount::image(&image, &at, &["ro"]).unwrap();
        let refused = open(&path);
        let not_writable = matches!(refused, Err(OpenError::NotWritable { .. }));
        assert!(not_writable, "{refused:?}");
        drop(disk);

        let _disk = Mount::image(&image, &at, &[]).unwrap();
        runtime.block_on(async {
            let store = open(&path).unwrap();
            is_completed(&store, "paid", 20_000).await;
            is_in_doubt(&store, "pending").await;
            store.close().await.unwrap();
        });
    });
}
