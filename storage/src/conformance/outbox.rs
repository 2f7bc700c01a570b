//! What every outbox keeps, as one named test a claim.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::outbox::{
    FirstSent, NewCall, OutboxChange, OutboxEntry, OutboxError, OutboxLimits, OutboxState,
    OutboxStore, Unknown, Written,
};
use crate::{IdempotencyKey, Scope, StoreId, Timestamp};

/// A place for an outbox, and how it is opened there.
pub trait OutboxHarness: Send + Sync {
    /// Opens the outbox as a process would, for the calls of this scope. In words, why not.
    fn open(
        &self,
        scope: Scope,
        limits: OutboxLimits,
    ) -> Pin<Box<dyn Future<Output = Result<OpenOutbox, String>> + Send + '_>>;
}

/// An outbox that is open, and how it is closed.
#[expect(
    missing_debug_implementations,
    reason = "the way to close it is a function"
)]
pub struct OpenOutbox {
    /// The outbox.
    pub store: Arc<dyn OutboxStore>,
    /// Closes it, so that it can be opened again.
    pub close: Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>,
}

/// H7: a call with its bytes and its state is there for whoever opens the outbox next.
pub async fn calls_with_their_bytes_and_states_outlive_the_process(place: impl OutboxHarness) {
    let outbox = opened(&place).await;
    // Larger than a part, and empty.
    let large: Bytes = (0..9_000_u32).flat_map(u32::to_le_bytes).collect();
    for (name, request) in [("a", large.clone()), ("b", Bytes::new()), ("c", "c".into())] {
        let written = outbox.store.write(call(name, request)).await;
        assert_eq!(written, Ok(Written::New));
    }
    for (name, change) in [
        ("a", OutboxChange::MarkSent(sent())),
        ("a", OutboxChange::Answer(large.clone())),
        ("b", OutboxChange::MarkSent(sent())),
        ("b", OutboxChange::GiveUp(Unknown::Aged)),
    ] {
        changed(&outbox, name, change).await;
    }
    let before = listed(&outbox).await;
    (outbox.close)().await;

    let outbox = opened(&place).await;
    assert_eq!(listed(&outbox).await, before);
    let a = outbox.store.load(&key("a")).await.expect("it is there");
    assert_eq!((a.request, a.answer), (large.clone(), Some(large)));
    let b = outbox.store.load(&key("b")).await.expect("it is there");
    assert_eq!(b.answer, None);
    changed(&outbox, "a", OutboxChange::Acknowledge).await;
    changed(&outbox, "c", OutboxChange::Cancel).await;
    let written = outbox.store.write(call("d", "d")).await;
    assert_eq!(written, Ok(Written::New));
    (outbox.close)().await;

    let outbox = opened(&place).await;
    let unknown = OutboxState::Unknown {
        sent: sent(),
        because: Unknown::Aged,
    };
    let left = [
        ("b".to_owned(), unknown),
        ("d".to_owned(), OutboxState::Unsent),
    ];
    assert_eq!(states(&outbox).await, left);
    let numbers: Vec<_> = listed(&outbox)
        .await
        .iter()
        .map(|call| call.number)
        .collect();
    assert!(numbers[1] > 3, "no number is used again: {numbers:?}");
}

/// A second process is refused, and told that it is.
pub async fn a_second_opening_is_refused_until_the_first_is_closed(place: impl OutboxHarness) {
    let outbox = opened(&place).await;
    let second = place.open(Scope::global(), OutboxLimits::default()).await;
    let Err(refused) = second else {
        panic!("two of them would make a call at the same time");
    };
    assert!(refused.contains("an outbox of its own"), "{refused}");
    let store = Arc::clone(&outbox.store);
    (outbox.close)().await;
    assert_eq!(store.list().await, Err(OutboxError::Closed));
    let written = store.write(call("a", "a")).await;
    assert_eq!(written, Err(OutboxError::Closed));
    drop(opened(&place).await);
}

/// C12: under another principal its keys are new.
pub async fn an_outbox_of_another_principal_is_refused_for_its_keys_are_new_there(
    place: impl OutboxHarness,
) {
    (opened(&place).await.close)().await;
    let scope = Scope::principal("shop-8").expect("it is a scope");
    let Err(refused) = place.open(scope, OutboxLimits::default()).await else {
        panic!("its calls would be executed again");
    };
    assert!(refused.contains("another scope"), "{refused}");
    drop(opened(&place).await);
}

/// A key belongs to one call.
pub async fn a_key_that_is_there_is_the_same_call_or_refused(place: impl OutboxHarness) {
    let outbox = opened(&place).await;
    let write = async |call: NewCall| outbox.store.write(call).await;
    assert_eq!(write(call("a", "abc")).await, Ok(Written::New));
    assert_eq!(write(call("a", "abc")).await, Ok(Written::There));
    let other_bytes = write(call("a", "abd")).await;
    assert_eq!(other_bytes, Err(OutboxError::Mismatch));
    let other_method = write(NewCall::new(key("a"), "n", "abc".into())).await;
    assert_eq!(other_method, Err(OutboxError::Mismatch));
    changed(&outbox, "a", OutboxChange::MarkSent(sent())).await;
    assert_eq!(write(call("a", "abc")).await, Ok(Written::There));
    assert_eq!(
        states(&outbox).await,
        [("a".to_owned(), OutboxState::Sent(sent()))]
    );
    let absent = outbox.store.load(&key("b")).await;
    assert_eq!(absent.map(drop), Err(OutboxError::NotThere));
    let absent = outbox.store.change(&key("b"), OutboxChange::Cancel).await;
    assert_eq!(absent, Err(OutboxError::NotThere));
}

/// H7: what may have been executed goes only by name, and its first attempt is told by nobody anew.
pub async fn what_may_have_been_executed_is_neither_cancelled_nor_sent_anew(
    place: impl OutboxHarness,
) {
    let outbox = opened(&place).await;
    for name in ["a", "b"] {
        let written = outbox.store.write(call(name, name)).await;
        assert_eq!(written, Ok(Written::New));
    }
    let change =
        async |name: &str, change: OutboxChange| outbox.store.change(&key(name), change).await;
    let early = change("a", OutboxChange::Acknowledge).await;
    assert!(
        matches!(early, Err(OutboxError::NotNow { .. })),
        "{early:?}"
    );
    // First to a server that names no store, then to the one whose it is: once.
    let nameless = FirstSent {
        store: None,
        ..sent()
    };
    for first in [nameless, nameless, sent(), sent()] {
        assert_eq!(change("a", OutboxChange::MarkSent(first)).await, Ok(()));
    }
    let later = FirstSent {
        at: Timestamp::from_millis(71),
        ..sent()
    };
    let anew = change("a", OutboxChange::MarkSent(later)).await;
    assert!(matches!(anew, Err(OutboxError::NotNow { .. })), "{anew:?}");
    let cancelled = change("a", OutboxChange::Cancel).await;
    assert_eq!(cancelled, Err(OutboxError::MaybeExecuted));
    assert_eq!(change("a", OutboxChange::Doubt).await, Ok(()));
    assert_eq!(change("a", OutboxChange::Doubt).await, Ok(()));
    let cancelled = change("a", OutboxChange::Cancel).await;
    assert_eq!(cancelled, Err(OutboxError::MaybeExecuted));
    let not_executed = change("a", OutboxChange::NotExecuted).await;
    assert!(
        not_executed.is_err(),
        "a doubt is none that was not executed"
    );
    assert_eq!(change("a", OutboxChange::ForgetMaybeExecuted).await, Ok(()));

    assert_eq!(change("b", OutboxChange::MarkSent(sent())).await, Ok(()));
    assert_eq!(change("b", OutboxChange::NotExecuted).await, Ok(()));
    assert_eq!(
        states(&outbox).await,
        [("b".to_owned(), OutboxState::Unsent)]
    );
    assert_eq!(change("b", OutboxChange::Cancel).await, Ok(()));
    assert_eq!(listed(&outbox).await, []);
}

/// E10, E14: a new call is refused before it is sent; what is kept stays.
pub async fn at_every_bound_a_call_is_refused_and_what_is_kept_stays(place: impl OutboxHarness) {
    let limits = OutboxLimits {
        calls_max: 2,
        bytes_max: 10,
        request_bytes_max: 8,
        answer_bytes_max: 4,
    };
    for _ in 0..2 {
        let outbox = place.open(Scope::global(), limits).await;
        let outbox = outbox.unwrap_or_else(|why| panic!("{why}"));
        let write =
            async |name: &str, bytes: usize| outbox.store.write(call(name, vec![7; bytes])).await;
        let too_large = write("large", 9).await;
        assert_eq!(
            too_large,
            Err(OutboxError::RequestTooLarge { size: 9, limit: 8 })
        );
        assert_eq!(write("a", 6).await, Ok(Written::New));
        let full = write("b", 5).await;
        assert_eq!(full, Err(OutboxError::BytesFull { held: 6, limit: 10 }));
        assert_eq!(write("b", 4).await, Ok(Written::New));
        let full = write("c", 0).await;
        assert_eq!(full, Err(OutboxError::CallsFull { limit: 2 }));
        assert_eq!(write("a", 6).await, Ok(Written::There));
        assert_eq!(listed(&outbox).await.len(), 2);

        // An answer that came is kept above the bound on bytes, but not above its own.
        changed(&outbox, "a", OutboxChange::MarkSent(sent())).await;
        let answer = |bytes: usize| OutboxChange::Answer(vec![1; bytes].into());
        let refused = outbox.store.change(&key("a"), answer(5)).await;
        assert_eq!(
            refused,
            Err(OutboxError::AnswerTooLarge { size: 5, limit: 4 })
        );
        changed(&outbox, "a", answer(4)).await;
        // What is removed makes room.
        changed(&outbox, "a", OutboxChange::Acknowledge).await;
        assert_eq!(write("c", 6).await, Ok(Written::New));
        changed(&outbox, "b", OutboxChange::Cancel).await;
        changed(&outbox, "c", OutboxChange::Cancel).await;
        (outbox.close)().await;
    }
}

/// Many at once are all kept, each once.
pub async fn many_at_once_are_all_kept(place: impl OutboxHarness) {
    let outbox = opened(&place).await;
    let mut writing = tokio::task::JoinSet::new();
    for number in 0..200_usize {
        let store = Arc::clone(&outbox.store);
        writing.spawn(async move {
            let name = format!("call-{number}");
            let written = store.write(call(&name, vec![7; number * 200])).await;
            assert_eq!(written, Ok(Written::New));
            let change = OutboxChange::MarkSent(sent());
            assert_eq!(store.change(&key(&name), change).await, Ok(()));
        });
    }
    writing.join_all().await;
    (outbox.close)().await;
    let outbox = opened(&place).await;
    let states = states(&outbox).await;
    assert_eq!(states.len(), 200);
    assert!(
        states
            .iter()
            .all(|(_, state)| *state == OutboxState::Sent(sent()))
    );
    let listed = listed(&outbox).await;
    assert!(listed.is_sorted_by(|one, next| one.number < next.number));
}

/// What is asked is done, or not, before what is asked later, whether anybody waits for it or not.
pub async fn a_change_that_nobody_waits_for_is_made_in_its_turn_or_not_at_all(
    place: impl OutboxHarness,
) {
    let outbox = opened(&place).await;
    for number in 0..40 {
        let name = format!("call-{number}");
        let written = outbox.store.write(call(&name, "x")).await;
        assert_eq!(written, Ok(Written::New));
        let key = key(&name);
        let marked = outbox.store.change(&key, OutboxChange::MarkSent(sent()));
        // Asked for, and given up at once.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, marked).await;
        match outbox.store.change(&key, OutboxChange::Cancel).await {
            Ok(()) => {}
            Err(OutboxError::MaybeExecuted) => {
                changed(&outbox, &name, OutboxChange::ForgetMaybeExecuted).await;
            }
            other => panic!("{other:?}"),
        }
    }
    (outbox.close)().await;
    let outbox = opened(&place).await;
    assert_eq!(
        listed(&outbox).await,
        [],
        "a late word has brought one back"
    );
}

async fn opened(place: &impl OutboxHarness) -> OpenOutbox {
    let opened = place.open(Scope::global(), OutboxLimits::default()).await;
    opened.unwrap_or_else(|why| panic!("{why}"))
}

async fn listed(outbox: &OpenOutbox) -> Vec<OutboxEntry> {
    outbox.store.list().await.expect("it lists its calls")
}

async fn states(outbox: &OpenOutbox) -> Vec<(String, OutboxState)> {
    let told = |entry: OutboxEntry| (entry.key.as_str().to_owned(), entry.state);
    listed(outbox).await.into_iter().map(told).collect()
}

async fn changed(outbox: &OpenOutbox, name: &str, change: OutboxChange) {
    let changed = outbox.store.change(&key(name), change).await;
    assert_eq!(changed, Ok(()), "{name}");
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).expect("it is a key")
}

fn call(name: &str, request: impl Into<Bytes>) -> NewCall {
    NewCall::new(key(name), "m", request.into())
}

fn sent() -> FirstSent {
    FirstSent {
        at: Timestamp::from_millis(70),
        store: Some(StoreId::from_bytes([3; 16])),
    }
}
