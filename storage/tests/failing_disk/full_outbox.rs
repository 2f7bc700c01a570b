//! A disk without room under an outbox: a call that is not kept is not acknowledged, and what was is
//! there when there is room again.

use std::fs;
use std::path::Path;

use onlyonce_storage::outbox::{
    FirstSent, NewCall, OutboxChange, OutboxError, OutboxState, OutboxStore as _,
};
use onlyonce_storage::{
    IdempotencyKey, OutboxOpenError, OutboxOptions, Scope, SledOutbox, Timestamp,
};

use crate::full_disk::{disk, fill};
use crate::rig::{in_own_namespaces, tell};

// G6
#[test]
fn a_full_disk_refuses_a_call_and_what_the_outbox_acknowledged_is_kept() {
    let test = "full_outbox::a_full_disk_refuses_a_call_and_what_the_outbox_acknowledged_is_kept";
    in_own_namespaces(test, |rig| {
        let disk = disk(rig);
        let path = disk.at().join("outbox");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (kept, filler) = runtime.block_on(async {
            let outbox = open(&path).unwrap();
            outbox.write(call(0)).await.unwrap();
            let filler = fill(disk.at(), 0);
            // The blocks that it has already may have room for a few more.
            let mut kept = 1;
            let failed = loop {
                if let Err(error) = outbox.write(call(kept)).await {
                    break error;
                }
                kept += 1;
                assert!(kept < CALLS_MAX, "the disk is not full");
            };
            assert!(matches!(failed, OutboxError::Poisoned(_)), "{failed:?}");
            let sent = FirstSent {
                at: Timestamp::from_millis(1),
                store: None,
            };
            let sent = OutboxChange::MarkSent(sent);
            let refused = outbox.change(&key(0), sent).await;
            assert_eq!(refused.as_ref(), Err(&failed), "and is not sent");
            assert_eq!(outbox.close().await, Err(failed.clone()));
            tell(&format!("call {kept} was refused: {failed}"));
            (kept, filler)
        });
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, OutboxOpenError::Io { .. }), "{refused:?}");
        fs::remove_file(filler).unwrap();
        runtime.block_on(async {
            let outbox = open(&path).unwrap();
            for number in 0..kept {
                let found = outbox.load(&key(number)).await.unwrap();
                assert_eq!(found.request, call(number).request);
                assert_eq!(found.entry.state, OutboxState::Unsent);
            }
            outbox.write(call(CALLS_MAX)).await.unwrap();
            outbox.close().await.unwrap();
        });
    });
}

fn open(path: &Path) -> Result<SledOutbox, OutboxOpenError> {
    SledOutbox::open(path, Scope::global(), OutboxOptions::new())
}

fn key(number: usize) -> IdempotencyKey {
    IdempotencyKey::parse(&number.to_string()).unwrap()
}

fn call(number: usize) -> NewCall {
    NewCall::new(key(number), "m", vec![number as u8; 2_000].into())
}

const CALLS_MAX: usize = 9_000;
