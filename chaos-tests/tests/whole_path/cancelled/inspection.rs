//! What operators ask of a store.

use std::sync::Arc;

use onlyonce::storage::{DoubtReason, Inspect, KeyState, Operator, Resolution};
use onlyonce_chaos::cancel::CancelAt;

use super::operations::{answer, claimed, is_claimed_where_absent, key_of};
use super::{on_every_store_that_waits, settled};

on_every_store_that_waits![
    a_cancelled_resolution_is_made_or_not,
    a_cancelled_sweep_is_made_or_not_and_the_store_goes_on,
];

async fn a_cancelled_resolution_is_made_or_not(store: Arc<dyn Inspect>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        let token = claim.token();
        let reason = DoubtReason::Ambiguous;
        store.doubt(claim, reason, None).await.unwrap();
        let applied = Resolution::Applied(answer());
        let by = Operator::parse("test").unwrap();
        let ended = cancel
            .run(store.resolve(key.clone(), token, applied, by))
            .await;
        match settled(&*store, &key).await {
            KeyState::Completed(completion) => assert!(completion.answer == answer()),
            KeyState::InDoubt(doubt) => assert_eq!(doubt.token, token),
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_sweep_is_made_or_not_and_the_store_goes_on(store: Arc<dyn Inspect>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        let ended = cancel.run(store.sweep()).await;
        // What is in progress stays.
        store.complete(claim, answer()).await.unwrap();
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}
