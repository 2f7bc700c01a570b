//! Calls without an answer: each ends as what it is, stays listed, and goes away only by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::rpc::{Channel, ChannelOptions, Client, Known, OutboxFailure, Status};
use onlyonce::storage::outbox::{OutboxError, OutboxState, Unknown};
use onlyonce::storage::{IdempotencyKey, MemoryStore, SledOutbox, StoreId};

use super::shop::{Folder, HORIZON, Line, NOBODY, Opened, PAY, START, Scripted, scripted, shop};

/// A call that was sent, and whose process ended before it was answered.
async fn sent(server: &Scripted, folder: &Folder) -> IdempotencyKey {
    let opened = folder.open(server.address()).await;
    let outbox = opened.outbox.clone();
    let calling = tokio::spawn(async move { outbox.call(&PAY, &5).await });
    server.seen(1).await;
    calling.abort();
    let _ = calling.await;
    let key = opened.key().await;
    opened.end().await;
    key
}

/// It stays over restarts, is not sent, and goes only by its name.
async fn stays_until_it_is_forgotten(folder: &Folder, server: &Scripted, because: Unknown) {
    let attempts = server.seen.lock().len();
    for _ in 0..2 {
        let opened = folder.open(server.address()).await;
        let state = opened.state().await;
        assert!(
            matches!(&state, OutboxState::Unknown { because: why, .. } if *why == because),
            "{state:?}"
        );
        assert!(opened.outbox.resume_all().await.unwrap().is_empty());
        let key = opened.key().await;
        let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
        let OutboxFailure::OutcomeUnknown(unfinished) = &unknown else {
            panic!("{unknown:?}");
        };
        assert_eq!(unfinished.cannot_tell, Some(because));
        let kept = opened.outbox.cancel(&key).await;
        assert_eq!(kept, Err(OutboxError::MaybeExecuted));
        assert!(opened.outbox.acknowledge(&key).await.is_err());
        opened.end().await;
    }
    assert_eq!(server.seen.lock().len(), attempts, "it was sent again");
    forget(folder.open(NOBODY).await).await;
    let opened = folder.open(NOBODY).await;
    assert_eq!(opened.calls().await, []);
}

async fn forget(opened: Opened) {
    let key = opened.key().await;
    let outbox = &opened.outbox;
    outbox.forget_although_maybe_executed(&key).await.unwrap();
    opened.end().await;
}

// E1, E5
#[tokio::test]
async fn a_call_older_than_the_horizon_is_not_sent_and_its_outcome_is_unknown() {
    let server = scripted(StoreId::random(), [Line::Silence]).await;
    let folder = Folder::new();
    let key = sent(&server, &folder).await;

    // Just within it: it is sent, as old as it is.
    let first = server.seen(1).await.remove(0);
    let age = u64::try_from(HORIZON.as_millis()).unwrap();
    server.now.store(START + age - 60_000, Ordering::SeqCst);
    server
        .script
        .lock()
        .push_back(Line::Refuse(Status::Unavailable));
    let opened = folder.open(server.address()).await;
    let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
    assert!(
        matches!(unknown, OutboxFailure::OutcomeUnknown(_)),
        "{unknown:?}"
    );
    assert_eq!(server.seen(2).await[1], first);
    opened.end().await;

    server.now.store(START + age + 60_000, Ordering::SeqCst);
    let opened = folder.open(server.address()).await;
    let resumed = opened.outbox.resume_all().await.unwrap().remove(0);
    assert_eq!(resumed.key, key);
    let unfinished = resumed.unfinished.unwrap();
    assert_eq!(
        unfinished.cannot_tell,
        Some(Unknown::Aged),
        "{unfinished:?}"
    );
    opened.end().await;
    assert_eq!(server.seen.lock().len(), 2);
    stays_until_it_is_forgotten(&folder, &server, Unknown::Aged).await;
}

// E1
#[tokio::test]
async fn a_call_that_the_server_has_forgotten_ends_unknown_and_is_not_made_anew() {
    let server = scripted(
        StoreId::random(),
        [Line::Silence, Line::Refuse(Status::Stale)],
    )
    .await;
    let folder = Folder::new();
    let key = sent(&server, &folder).await;
    let opened = folder.open(server.address()).await;
    let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
    let text = unknown.to_string();
    assert!(
        text.starts_with("outcome unknown, and nobody can tell"),
        "{text}"
    );
    opened.end().await;
    stays_until_it_is_forgotten(&folder, &server, Unknown::Forgotten).await;
}

// E11
#[tokio::test]
async fn a_server_with_another_store_executes_nothing_and_the_first_one_still_answers() {
    let first = scripted(StoreId::random(), [Line::Silence]).await;
    let folder = Folder::new();
    let key = sent(&first, &folder).await;

    let paid = Arc::<AtomicU32>::default();
    let other = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = folder.open(other.local_addr()).await;
    let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
    let OutboxFailure::OutcomeUnknown(unfinished) = &unknown else {
        panic!("{unknown:?}");
    };
    assert_eq!(unfinished.status, Some(Status::Misdirected));
    assert_eq!(unfinished.cannot_tell, None);
    assert_eq!(paid.load(Ordering::SeqCst), 0);
    opened.end().await;

    let opened = folder.open(first.address()).await;
    assert_eq!(opened.outbox.resume(&key, &PAY).await.unwrap().reply, 7);
}

// H4
#[tokio::test]
async fn a_call_is_sent_once_to_a_server_that_does_not_dedupe_and_never_again() {
    let server = scripted(None, [Line::Silence]).await;
    let folder = Folder::new();
    let key = sent(&server, &folder).await;
    let opened = folder.open(server.address()).await;
    let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
    assert!(
        matches!(unknown, OutboxFailure::OutcomeUnknown(_)),
        "{unknown:?}"
    );
    let text = unknown.to_string();
    assert!(text.contains("does not dedupe"), "{text}");
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    assert_eq!(server.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_call_in_doubt_stays_and_gets_its_answer_once_somebody_knows() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let folder = Folder::new();
    let opened = folder.open(serving.local_addr()).await;
    let doubt = opened.outbox.call(&PAY, &13).await.unwrap_err();
    assert!(matches!(doubt, OutboxFailure::InDoubt(_)), "{doubt:?}");
    assert!(matches!(opened.state().await, OutboxState::InDoubt(_)));
    opened.end().await;

    let opened = folder.open(serving.local_addr()).await;
    let resumed = opened.outbox.resume_all().await.unwrap();
    assert!(matches!(resumed[0].state, OutboxState::InDoubt(_)));
    assert_eq!(paid.load(Ordering::SeqCst), 1);
    let key = opened.key().await;
    let kept = opened.outbox.cancel(&key).await;
    assert_eq!(kept, Err(OutboxError::MaybeExecuted));
    opened.end().await;

    // Somebody resolved it: the server has an answer now.
    let folder = Folder::new();
    let answers = [Line::Refuse(Status::InDoubt), Line::Answer];
    let server = scripted(StoreId::random(), answers).await;
    let opened = folder.open(server.address()).await;
    let doubt = opened.outbox.call(&PAY, &5).await.unwrap_err();
    assert!(matches!(doubt, OutboxFailure::InDoubt(_)), "{doubt:?}");
    let key = doubt.key().unwrap().clone();
    assert_eq!(opened.outbox.resume(&key, &PAY).await.unwrap().reply, 7);
}

#[tokio::test]
async fn only_a_call_that_was_never_executed_can_be_cancelled_and_then_is_never_made() {
    let folder = Folder::new();
    let opened = folder.open(NOBODY).await;
    let failed = opened.outbox.call(&PAY, &5).await.unwrap_err();
    let key = failed.key().unwrap().clone();
    let forgotten = opened.outbox.forget_although_maybe_executed(&key).await;
    assert!(forgotten.is_err(), "it says more than is true");
    opened.outbox.cancel(&key).await.unwrap();
    let gone = opened.outbox.cancel(&key).await;
    assert_eq!(gone, Err(OutboxError::NotThere));
    opened.end().await;

    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = folder.open(serving.local_addr()).await;
    assert!(opened.outbox.resume_all().await.unwrap().is_empty());
    assert_eq!(paid.load(Ordering::SeqCst), 0);
}

// A refusal that proves that nothing was executed frees the call, as if it had never been sent: it
// may be cancelled, and if it is made later it is first sent then.
#[tokio::test]
async fn a_call_that_was_refused_without_being_executed_is_as_if_it_was_never_sent() {
    let script = [
        Line::Refuse(Status::Unavailable),
        Line::Refuse(Status::ArgumentsMalformed),
    ];
    let server = scripted(StoreId::random(), script).await;
    let folder = Folder::new();
    let opened = folder.open(server.address()).await;
    for _ in 0..2 {
        let failed = opened.outbox.call(&PAY, &5).await.unwrap_err();
        assert!(
            matches!(failed, OutboxFailure::NotExecuted(_)),
            "{failed:?}"
        );
        assert_eq!(opened.state().await, OutboxState::Unsent);
        let key = failed.key().unwrap();
        opened.outbox.cancel(key).await.unwrap();
    }

    let line = Line::Refuse(Status::Unavailable);
    server.script.lock().push_back(line);
    let failed = opened.outbox.call(&PAY, &5).await.unwrap_err();
    opened.end().await;
    // Longer than the horizon: it was never executed, so it is not too old.
    let age = u64::try_from(HORIZON.as_millis()).unwrap();
    server.now.store(START + age * 2, Ordering::SeqCst);
    let opened = folder.open(server.address()).await;
    let key = failed.key().unwrap();
    assert_eq!(opened.outbox.resume(key, &PAY).await.unwrap().reply, 7);
    let last = server.seen(4).await.remove(3);
    assert!(last.first_sent.unwrap().as_millis() >= START + age * 2);
}

// After a loss nothing that was proven before is proven any more.
#[tokio::test]
async fn a_refusal_after_a_loss_proves_nothing_and_the_call_cannot_be_cancelled() {
    let script = [Line::Silence, Line::Refuse(Status::Unavailable)];
    let server = scripted(StoreId::random(), script).await;
    let folder = Folder::new();
    let key = sent(&server, &folder).await;
    let opened = folder.open(server.address()).await;
    let unknown = opened.outbox.resume(&key, &PAY).await.unwrap_err();
    assert!(
        matches!(unknown, OutboxFailure::OutcomeUnknown(_)),
        "{unknown:?}"
    );
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    let kept = opened.outbox.cancel(&key).await;
    assert_eq!(kept, Err(OutboxError::MaybeExecuted));
}

#[tokio::test]
async fn a_pending_call_can_be_asked_about_and_sealed_with_its_ticket() {
    let paid = Arc::<AtomicU32>::default();
    let store = Arc::<MemoryStore>::default();
    let serving = shop(store, Arc::clone(&paid)).await;
    let folder = Folder::new();
    let opened = folder.open(NOBODY).await;
    opened.outbox.call(&PAY, &5).await.unwrap_err();
    opened.end().await;

    let opened = folder.open(serving.local_addr()).await;
    let pending = opened.outbox.pending().await.unwrap().remove(0);
    assert!(pending.age < Duration::from_secs(3_600), "{pending:?}");
    let channel = Channel::new(serving.local_addr().to_string(), ChannelOptions::default());
    let stack = onlyonce::middleware::stack::client(onlyonce::rpc::ClientAdapter);
    let client = Client::with_stack(channel, stack);
    let known = client.peek(pending.ticket(), &PAY).await.unwrap();
    assert_eq!(known, Known::Absent);
    let known = client.seal(pending.ticket(), &PAY).await.unwrap();
    assert_eq!(known, Known::Sealed);
    let refused = opened.outbox.resume_all().await.unwrap().remove(0);
    assert_eq!(refused.unfinished.unwrap().status, Some(Status::Stale));
    assert_eq!(paid.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_call_s_own_time_is_written_with_it_and_holds_when_it_is_resumed() {
    let script = [Line::Silence, Line::Silence];
    let server = scripted(StoreId::random(), script).await;
    let folder = Folder::new();
    let opened = folder.open(server.address()).await;
    let hasty = opened
        .outbox
        .clone()
        .with_timeout(Duration::from_millis(50));
    let unknown = hasty.call(&PAY, &5).await.unwrap_err();
    assert!(
        matches!(unknown, OutboxFailure::OutcomeUnknown(_)),
        "{unknown:?}"
    );
    let key = unknown.key().unwrap().clone();
    // To nobody nothing is sent, and that is known.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mute = super::shop::client(&address, Arc::<SledOutbox>::clone(&opened.kept));
    let mute = mute.with_timeout(Duration::from_millis(50));
    let failed = mute.call(&PAY, &5).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::NotExecuted(_)),
        "{failed:?}"
    );
    mute.cancel(failed.key().unwrap()).await.unwrap();
    drop((hasty, mute));
    opened.end().await;

    // The one who resumes it has another time of its own.
    let opened = folder.open(server.address()).await;
    let resuming = opened.outbox.resume(&key, &PAY);
    let unknown = tokio::time::timeout(Duration::from_secs(8), resuming).await;
    let unknown = unknown.unwrap().unwrap_err();
    assert!(
        matches!(unknown, OutboxFailure::OutcomeUnknown(_)),
        "{unknown:?}"
    );
    // The answer is recorded by now, but a busy machine may need more than the call's own time.
    let mut kept = opened.outbox.resume(&key, &PAY).await;
    for _ in 0..100 {
        if !matches!(kept, Err(OutboxFailure::OutcomeUnknown(_))) {
            break;
        }
        kept = opened.outbox.resume(&key, &PAY).await;
    }
    assert_eq!(kept.unwrap().reply, 7);
}
