//! The process ends at any time, and another one goes on.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::rpc::{Kept, Method, OutboxFailure};
use onlyonce::storage::outbox::{OutboxError, OutboxState};
use onlyonce::storage::{
    IdempotencyKey, MemoryStore, OutboxOpenError, OutboxOptions, Scope, SledOutbox, StoreId,
};

use super::shop::{Folder, Line, NOBODY, PAY, START, scripted, shop, shop_at};

// H7, H1
#[tokio::test]
async fn a_call_that_was_sent_is_sent_again_with_the_same_key_bytes_time_and_store() {
    let store = StoreId::random();
    let server = scripted(store, [Line::Silence]).await;
    let folder = Folder::new();
    let opened = folder.open(server.address()).await;
    let outbox = opened.outbox.clone();
    let calling = tokio::spawn(async move { outbox.call(&PAY, &5).await });
    let first = server.seen(1).await.remove(0);
    calling.abort();
    let _ = calling.await;
    opened.end().await;

    // A minute later by the clock of the server.
    server.now.store(START + 60_000, Ordering::SeqCst);
    let opened = folder.open(server.address()).await;
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    let key = opened.key().await;
    assert_eq!(opened.outbox.arguments(&key, &PAY).await.unwrap(), 5);
    let kept = opened.outbox.resume(&key, &PAY).await.unwrap();
    assert_eq!(kept.reply, 7);
    let second = server.seen(2).await.remove(1);
    assert_eq!(first, second);
    assert_eq!(second.store, Some(store));
    let at = second.first_sent.unwrap().as_millis();
    assert!((START..START + 60_000).contains(&at), "{at}");
}

// H7, E7
#[tokio::test]
async fn an_answer_is_kept_over_restarts_until_it_is_acknowledged() {
    let paid = Arc::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let folder = Folder::new();
    let opened = folder.open(serving.local_addr()).await;
    let kept = opened.outbox.call(&PAY, &5).await.unwrap();
    let fault = opened.outbox.call(&PAY, &2_000).await.unwrap_err();
    let OutboxFailure::Fault { key: declined, .. } = fault else {
        panic!("{fault:?}");
    };
    opened.end().await;
    serving.shutdown(Duration::ZERO).await;

    // Without a server: what is kept needs none.
    for _ in 0..2 {
        let opened = folder.open(NOBODY).await;
        assert_eq!(opened.outbox.resume_all().await.unwrap().len(), 0);
        assert_eq!(opened.outbox.fetch(&kept.key, &PAY).await.unwrap(), kept);
        assert_eq!(opened.outbox.resume(&kept.key, &PAY).await.unwrap(), kept);
        let again = opened.outbox.call_as(kept.key.clone(), &PAY, &5).await;
        assert_eq!(again.unwrap(), kept);
        let fault = opened.outbox.fetch(&declined, &PAY).await.unwrap_err();
        assert!(
            matches!(&fault, OutboxFailure::Fault { fault, .. } if fault == "too much"),
            "{fault:?}"
        );
        opened.end().await;
    }
    let opened = folder.open(NOBODY).await;
    opened.outbox.acknowledge(&kept.key).await.unwrap();
    opened.outbox.acknowledge(&declined).await.unwrap();
    opened.end().await;
    let opened = folder.open(NOBODY).await;
    assert_eq!(opened.calls().await, []);
    let gone = opened.outbox.fetch(&kept.key, &PAY).await.unwrap_err();
    assert!(
        matches!(
            gone,
            OutboxFailure::Outbox {
                error: OutboxError::NotThere,
                ..
            }
        ),
        "{gone:?}"
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_could_not_be_sent_is_made_once_when_the_server_is_there() {
    let paid = Arc::<AtomicU32>::default();
    let folder = Folder::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let opened = folder.open(address).await;
    let failed = opened.outbox.call(&PAY, &5).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::NotExecuted(_)),
        "{failed:?}"
    );
    assert_eq!(opened.state().await, OutboxState::Unsent);
    opened.end().await;

    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let _serving = shop_at(listener, Arc::default(), Arc::clone(&paid));
    let opened = folder.open(address).await;
    for _ in 0..3 {
        let resumed = opened.outbox.resume_all().await.unwrap();
        assert!(resumed.iter().all(|call| call.unfinished.is_none()));
    }
    let key = opened.key().await;
    let kept = opened.outbox.fetch(&key, &PAY).await.unwrap();
    assert_eq!(kept, Kept { key, reply: 10_005 });
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

// H7: the answer is lost with the process, and so is nothing else.
#[tokio::test]
async fn a_call_that_was_executed_before_the_crash_is_answered_from_the_record() {
    let (store, paid) = (Arc::<MemoryStore>::default(), Arc::<AtomicU32>::default());
    let serving = shop(store, Arc::clone(&paid)).await;
    let folder = Folder::new();
    let opened = folder.open(serving.local_addr()).await;
    let outbox = opened.outbox.clone();
    let calling = tokio::spawn(async move { outbox.call(&PAY, &5).await });
    while paid.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Perhaps the answer is on its way.
    calling.abort();
    let _ = calling.await;
    opened.end().await;

    let opened = folder.open(serving.local_addr()).await;
    let key = opened.key().await;
    let kept = opened.outbox.resume(&key, &PAY).await.unwrap();
    assert_eq!(kept.reply, 10_005);
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_is_resumed_as_the_method_that_it_is_of() {
    const OTHER: Method<u64, u64, String> = Method::new("shop.refund");
    const OTHER_REPLY: Method<u64, (String, String), String> = Method::new("shop.pay");
    let serving = shop(Arc::default(), Arc::default()).await;
    let opened = Folder::new().open(serving.local_addr()).await;
    let kept = opened.outbox.call(&PAY, &5).await.unwrap();
    let refused = opened.outbox.resume(&kept.key, &OTHER).await.unwrap_err();
    assert!(
        matches!(
            refused,
            OutboxFailure::Outbox {
                error: OutboxError::Mismatch,
                ..
            }
        ),
        "{refused:?}"
    );
    let other = opened.outbox.call_as(kept.key.clone(), &PAY, &6).await;
    let other = other.unwrap_err();
    assert!(
        matches!(other, OutboxFailure::NotWritten(OutboxError::Mismatch)),
        "{other:?}"
    );
    // An answer that cannot be read is still kept.
    let unreadable = opened.outbox.fetch(&kept.key, &OTHER_REPLY).await;
    let unreadable = unreadable.unwrap_err();
    assert!(
        matches!(unreadable, OutboxFailure::Unreadable { .. }),
        "{unreadable:?}"
    );
    assert_eq!(opened.outbox.fetch(&kept.key, &PAY).await.unwrap(), kept);
}

const FOLDER: &str = "ONLYONCE_OUTBOX_FOLDER";

/// Does nothing when it is run as a test.
#[test]
fn tries_to_open_the_outbox_when_it_is_the_other_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let opened = SledOutbox::open(PathBuf::from(folder), Scope::global(), OutboxOptions::new());
    let refused = opened.unwrap_err();
    assert!(
        matches!(refused, OutboxOpenError::Locked { .. }),
        "{refused}"
    );
    println!("!refused");
}

#[tokio::test]
async fn two_processes_on_one_outbox_are_refused() {
    let folder = Folder::new();
    let opened = folder.open(NOBODY).await;
    let name = "restarts::tries_to_open_the_outbox_when_it_is_the_other_process";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("!refused"),
        "{said}"
    );
    opened.end().await;
}

// A1: also within one process.
#[tokio::test]
async fn of_many_who_make_one_call_one_makes_it_and_all_get_its_answer() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = Folder::new().open(serving.local_addr()).await;
    let key = IdempotencyKey::parse("order-1").unwrap();
    let mut calling = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (outbox, key) = (opened.outbox.clone(), key.clone());
        calling.spawn(async move {
            if number % 2 == 0 {
                let _ = outbox.resume_all().await.unwrap();
            }
            outbox.call_as(key, &PAY, &5).await.unwrap().reply
        });
    }
    let replies = calling.join_all().await;
    assert_eq!(replies, [10_005; 20]);
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}
