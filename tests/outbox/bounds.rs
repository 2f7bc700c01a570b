//! At every bound a call is refused before it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce::rpc::{Kept, Method, OutboxFailure};
use onlyonce::storage::OutboxOptions;
use onlyonce::storage::outbox::{OutboxError, OutboxLimits, OutboxState};

use super::shop::{Folder, NOBODY, PAY, shop};

// E14, E10
#[tokio::test]
async fn a_full_outbox_refuses_before_anything_is_sent_and_says_what_to_do() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let mut limits = OutboxLimits::default();
    limits.calls_max = 2;
    let folder = Folder::new();
    let options = OutboxOptions::new().limits(limits);
    let opened = folder.open_with(serving.local_addr(), options).await;
    let first = opened.outbox.call(&PAY, &1).await.unwrap();
    let _second = opened.outbox.call(&PAY, &2).await.unwrap();
    let full = opened.outbox.call(&PAY, &3).await.unwrap_err();
    assert!(
        matches!(
            full,
            OutboxFailure::NotWritten(OutboxError::CallsFull { limit: 2 })
        ),
        "{full:?}"
    );
    assert!(full.to_string().contains("acknowledge"), "{full}");
    assert_eq!(paid.load(Ordering::SeqCst), 2);
    assert_eq!(opened.calls().await.len(), 2);

    opened.outbox.acknowledge(&first.key).await.unwrap();
    let third: Kept<u64> = opened.outbox.call(&PAY, &3).await.unwrap();
    assert_eq!(third.reply, 30_003);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_written() {
    const SAY: Method<Vec<u8>, ()> = Method::new("say");
    let mut limits = OutboxLimits::default();
    limits.request_bytes_max = 100;
    let options = OutboxOptions::new().limits(limits);
    let opened = Folder::new().open_with(NOBODY, options).await;
    let refused = opened.outbox.call(&SAY, &vec![1; 200]).await.unwrap_err();
    assert!(
        matches!(
            refused,
            OutboxFailure::NotWritten(OutboxError::RequestTooLarge { limit: 100, .. })
        ),
        "{refused:?}"
    );
    assert_eq!(opened.calls().await, []);
}

// F4: the answer is not kept, not lost, and not told as kept.
#[tokio::test]
async fn an_answer_that_is_too_large_to_keep_is_had_once_the_bound_is_raised() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let mut limits = OutboxLimits::default();
    limits.answer_bytes_max = 2;
    let folder = Folder::new();
    let options = OutboxOptions::new().limits(limits);
    let opened = folder.open_with(serving.local_addr(), options).await;
    let failed = opened.outbox.call(&PAY, &5).await.unwrap_err();
    let OutboxFailure::AnswerNotKept { key, error } = &failed else {
        panic!("{failed:?}");
    };
    assert!(error.to_string().contains("answer_bytes_max"), "{error}");
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    let resumed = opened.outbox.resume_all().await.unwrap().remove(0);
    let last = resumed.unfinished.unwrap().last;
    assert!(last.contains("answer_bytes_max"), "{last}");
    opened.end().await;

    let opened = folder.open(serving.local_addr()).await;
    assert_eq!(opened.outbox.resume(key, &PAY).await.unwrap().reply, 10_005);
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}
