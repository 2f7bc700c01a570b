//! Openings, closings and shutdowns that nobody waits for to the end.

use std::sync::Arc;

use onlyonce::rpc::CallFailure;
use onlyonce::storage::{KeyState, Scope, ScopedKey, SledStore, Store};
use onlyonce_chaos::cancel::{CancelAt, Ended};

use super::operations::{answer, claimed, is_claimed_where_absent, key_of};
use super::server::{name, pay};
use super::services::CutServer;
use super::{on_every_store_that_waits, settled};
use crate::shop::{PAY, Wish, client};
use crate::stores::Folder;

on_every_store_that_waits![
    // B17
    a_shutdown_that_is_dropped_at_any_wait_leaves_every_call_an_answer,
];

async fn a_shutdown_that_is_dropped_at_any_wait_leaves_every_call_an_answer(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let server = CutServer::start(Arc::clone(&store)).await;
        let CutServer {
            shop,
            serving,
            dedupe,
            ..
        } = server;
        let operation = cancel.suspension();
        let first = client(serving.local_addr());
        let call = tokio::spawn(async move { pay(&first, operation, Wish::Hold).await });
        shop.until_runs(1).await;
        // It can only end when the call does, which takes some steps more.
        let gate = {
            let shop = shop.clone();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                shop.open_gate();
            })
        };
        let ended = cancel.run(serving.shutdown(PATIENCE)).await;
        gate.await.unwrap();
        let told = call.await.unwrap();
        // The handler outlives its connection.
        while dedupe.load() != (0, 0) {
            tokio::task::yield_now().await;
        }
        let scope = Scope::global().operation(PAY.name()).unwrap();
        let state = settled(&*store, &ScopedKey::new(scope, name(operation))).await;
        assert!(
            matches!(state, KeyState::Completed(_)),
            "{cancel:?}: {state:?}"
        );

        let next = CutServer::start(Arc::clone(&store)).await;
        let again = pay(&client(next.serving.local_addr()), operation, Wish::Hold).await;
        let receipt = again.unwrap();
        match told {
            Ok(told) => assert_eq!(told, receipt, "{cancel:?}"),
            Err(CallFailure::OutcomeUnknown(_)) => assert_eq!(ended, Ended::Cancelled),
            Err(other) => panic!("{cancel:?}: {other:?}"),
        }
        assert_eq!((shop.paid(operation), next.shop.runs()), (1, 0));
        match ended {
            Ended::Cancelled => Ended::Cancelled,
            Ended::Completed(report) => {
                assert_eq!(report.cut_off, 0);
                Ended::Completed(())
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_closing_that_is_dropped_at_any_wait_closes_the_store_all_the_same() {
    CancelAt::sweep(async |cancel| {
        let folder = Folder::new();
        let store = folder.open().await;
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        store.complete(claim, answer()).await.unwrap();
        let ended = cancel.run(store.close()).await;
        // Nobody else asks it to.
        drop(store);
        let again = reopened(&folder).await;
        is_claimed_where_absent(&*again, &key).await;
        again.close().await.unwrap();
        ended
    })
    .await;
}

#[tokio::test]
async fn an_opening_that_is_dropped_at_any_wait_does_not_keep_the_next_from_opening() {
    CancelAt::sweep(async |cancel| {
        let folder = Folder::new();
        let store = folder.open().await;
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        store.complete(claim, answer()).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let ended = match cancel.run(folder.try_open()).await {
            Ended::Cancelled => Ended::Cancelled,
            Ended::Completed(opened) => {
                drop(opened.unwrap());
                Ended::Completed(())
            }
        };
        let again = reopened(&folder).await;
        is_claimed_where_absent(&*again, &key).await;
        again.close().await.unwrap();
        ended
    })
    .await;
}

/// Opens the store as soon as the one before it has let go.
async fn reopened(folder: &Folder) -> Arc<SledStore> {
    loop {
        match folder.try_open().await {
            Ok(store) => return Arc::new(store),
            Err(onlyonce::storage::OpenError::Locked { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
