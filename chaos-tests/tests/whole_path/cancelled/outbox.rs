//! A client with an outbox that gives up at any point, and goes on with what is kept.

use std::sync::Arc;

use onlyonce::rpc::{Channel, ChannelOptions, Outbox};
use onlyonce::storage::outbox::OutboxError;
use onlyonce::storage::{MemoryStore, OutboxOptions, Scope, SledOutbox};
use onlyonce_chaos::cancel::{CancelAt, Ended};

use super::server::name;
use super::services::CutServer;
use crate::shop::{PAY, Wish, payment};

// H7
#[tokio::test]
async fn a_call_from_an_outbox_that_is_dropped_at_any_wait_is_resumed_and_pays_once() {
    let server = CutServer::start(Arc::new(MemoryStore::default())).await;
    let folder = tempfile::tempdir().unwrap();
    let kept = outbox_in(folder.path()).await;
    let cancelled = CancelAt::sweep(async |cancel| {
        // A new one, so that connecting and shaking hands are waits of the call too.
        let outbox = client(&server, &kept);
        let operation = cancel.suspension();
        let (key, pay) = (name(operation), payment(operation, Wish::Pay));
        let ended = cancel.run(outbox.call_as(key.clone(), &PAY, &pay)).await;
        let again = outbox.call_as(key.clone(), &PAY, &pay).await.unwrap();
        assert_eq!(server.shop.paid(operation), 1, "{cancel:?}");
        outbox.acknowledge(&key).await.unwrap();
        server.until_idle().await;
        match ended {
            Ended::Completed(first) => {
                assert_eq!(first.unwrap(), again, "{cancel:?}");
                Ended::Completed(())
            }
            Ended::Cancelled => Ended::Cancelled,
        }
    })
    .await;
    assert!(cancelled >= 4, "{cancelled}");
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_wait_and_then_cancelled_is_never_made() {
    let server = CutServer::start(Arc::new(MemoryStore::default())).await;
    let folder = tempfile::tempdir().unwrap();
    let kept = outbox_in(folder.path()).await;
    let mut freed = 0;
    CancelAt::sweep(async |cancel| {
        let outbox = client(&server, &kept);
        let operation = cancel.suspension();
        let (key, pay) = (name(operation), payment(operation, Wish::Pay));
        let ended = cancel.run(outbox.call_as(key.clone(), &PAY, &pay)).await;
        match outbox.cancel(&key).await {
            Ok(()) | Err(OutboxError::NotThere) => {
                server.until_idle().await;
                assert_eq!(server.shop.paid(operation), 0, "{cancel:?}");
                freed += 1;
            }
            Err(OutboxError::MaybeExecuted | OutboxError::NotNow { .. }) => {
                let _kept = outbox.resume(&key, &PAY).await.unwrap();
                assert_eq!(server.shop.paid(operation), 1, "{cancel:?}");
                outbox.acknowledge(&key).await.unwrap();
            }
            Err(other) => panic!("{cancel:?}: {other:?}"),
        }
        server.until_idle().await;
        match ended {
            Ended::Completed(_) => Ended::Completed(()),
            Ended::Cancelled => Ended::Cancelled,
        }
    })
    .await;
    assert!(freed >= 2, "{freed}");
}

async fn outbox_in(folder: &std::path::Path) -> Arc<SledOutbox> {
    let opened = SledOutbox::open_async(folder, Scope::global(), OutboxOptions::new()).await;
    Arc::new(opened.unwrap())
}

fn client(server: &CutServer, kept: &Arc<SledOutbox>) -> Outbox {
    let address = server.serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    Outbox::new(channel, Arc::<SledOutbox>::clone(kept))
}
