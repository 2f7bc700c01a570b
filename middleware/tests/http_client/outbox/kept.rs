//! What is kept, and what leaves the outbox.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request};
use onlyonce_middleware::client::Ticket;
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{Outbox, OutboxFailure};
use onlyonce_storage::outbox::{
    NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, OutboxLimits, OutboxState,
    OutboxStore, Written,
};
use onlyonce_storage::{IdempotencyKey, SledOutbox, StoreFuture, Timestamp};

use super::folder::{Folder, client};
use crate::peer::{Fault, Peer, answer, text};

// H7
#[tokio::test]
async fn a_call_over_http_is_sent_again_with_the_same_key_bytes_time_and_store() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    peer.misbehave([Fault::Silent]);
    let outbox = opened.outbox.clone();
    let mut request = peer.post("5 EUR");
    let headers = request.headers_mut();
    headers.insert("x-note", HeaderValue::from_static("lunch"));
    headers.insert("authorization", HeaderValue::from_static("Bearer of-old"));
    let calling = tokio::spawn(async move { outbox.call(request).await });
    while peer.effects().is_empty() {
        tokio::task::yield_now().await;
    }
    calling.abort();
    let _ = calling.await;
    opened.end().await;

    let opened = folder
        .open_as(|outbox| {
            outbox.with_credentials(|head| {
                let credential = HeaderValue::from_static("Bearer anew");
                head.headers.insert("authorization", credential);
                // These would make it another call, and are undone.
                head.method = Method::GET;
                head.uri = "http://nowhere.example/".parse().unwrap();
            })
        })
        .await;
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    let key = opened.key().await;
    let about = opened.outbox.request(&key).await.unwrap();
    assert_eq!(about.headers()["x-note"], "lunch");
    assert_eq!(text_of(about.into_body()).await, "5 EUR");
    let kept = opened.outbox.resume(&key).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    assert_eq!(peer.effects().len(), 1);

    let seen = peer.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    for header in [
        "idempotency-key",
        "idempotency-first-sent",
        "idempotency-store",
        "x-note",
    ] {
        assert!(seen[0].header(header).is_some(), "{header}");
        assert_eq!(seen[0].header(header), seen[1].header(header), "{header}");
    }
    assert_eq!(seen[0].header("authorization"), Some("Bearer of-old"));
    assert_eq!(seen[1].header("authorization"), Some("Bearer anew"));
}

async fn text_of(body: Body) -> String {
    super::shop::text(body).await
}

// H7, E7
#[tokio::test]
async fn an_answer_over_http_is_kept_over_restarts_until_it_is_acknowledged() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let lines = format!(
        "idempotency-status: executed\r\n{}link: </a>\r\nlink: </b>\r\nset-cookie: s=secret-of-9\r\n",
        peer.store_line()
    );
    peer.misbehave([Fault::Say(answer(402, &lines, "too much"))]);
    let opened = folder.open().await;
    let kept = opened.outbox.call(peer.post("a")).await.unwrap();
    let key = kept.key;
    opened.end().await;

    for _ in 0..2 {
        let opened = folder.open().await;
        assert!(opened.outbox.resume_all().await.unwrap().is_empty());
        let cancelled = opened.outbox.cancel(&key).await.unwrap_err();
        assert!(
            matches!(cancelled, OutboxError::NotNow { .. }),
            "{cancelled}"
        );
        for kept in [
            opened.outbox.fetch(&key).await,
            opened.outbox.resume(&key).await,
        ] {
            let response = kept.unwrap().response;
            assert_eq!(response.status(), 402);
            let links: Vec<_> = response.headers().get_all("link").iter().collect();
            assert_eq!(links, ["</a>", "</b>"]);
            assert!(!response.headers().contains_key("set-cookie"));
            assert_eq!(text(response).await, "too much");
        }
        opened.end().await;
    }
    assert_eq!(peer.seen().len(), 1);
    assert!(!folder.contains(b"secret-of-9"));
    let opened = folder.open().await;
    opened.outbox.acknowledge(&key).await.unwrap();
    opened.end().await;
    let opened = folder.open().await;
    assert!(opened.outbox.pending().await.unwrap().is_empty());
}

// J1
#[tokio::test]
async fn no_credential_of_a_call_stands_in_the_files_of_its_outbox() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let x_pin = HeaderName::from_static("x-pin");
    let opened = folder.open_as(|outbox| outbox.leaving_out(x_pin)).await;
    peer.misbehave([Fault::CloseDone, Fault::CloseDone, Fault::CloseDone]);
    let mut request = peer.post("what-is-kept");
    let mut marked = HeaderValue::from_static("secret-5");
    marked.set_sensitive(true);
    request.headers_mut().insert("x-marked", marked);
    for (name, secret) in [
        ("authorization", "Bearer secret-1"),
        ("cookie", "session=secret-2"),
        ("proxy-authorization", "Basic secret-3"),
        ("x-api-key", "secret-4"),
        ("x-pin", "secret-6"),
    ] {
        let secret = HeaderValue::from_static(secret);
        request.headers_mut().insert(name, secret);
    }
    // All of them are sent.
    let _ = opened.outbox.call(request).await;
    let seen = peer.seen();
    for name in ["authorization", "cookie", "x-api-key", "x-pin", "x-marked"] {
        assert!(seen[0].header(name).is_some(), "{name}");
    }
    opened.end().await;
    assert!(folder.contains(b"what-is-kept"));
    assert!(!folder.contains(b"secret"));
}

#[tokio::test]
async fn what_could_not_be_sent_over_http_may_be_cancelled_and_what_was_sent_may_not() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let refused = Request::post("http://127.0.0.1:1/").body("a").unwrap();
    let failed = opened.outbox.call(refused).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::NotExecuted(_)),
        "{failed:?}"
    );
    assert_eq!(opened.state().await, OutboxState::Unsent);
    let key = opened.key().await;
    opened.outbox.cancel(&key).await.unwrap();

    peer.misbehave([Fault::CloseDone, Fault::CloseDone, Fault::CloseDone]);
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    let key = failed.key().unwrap().clone();
    let cancelled = opened.outbox.cancel(&key).await.unwrap_err();
    assert_eq!(cancelled, OutboxError::MaybeExecuted);
    let acknowledged = opened.outbox.acknowledge(&key).await.unwrap_err();
    assert!(
        matches!(acknowledged, OutboxError::NotNow { .. }),
        "{acknowledged}"
    );
    let outbox = &opened.outbox;
    outbox.forget_although_maybe_executed(&key).await.unwrap();
    assert!(outbox.pending().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_full_outbox_refuses_a_call_over_http_before_it_is_sent() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let mut limits = OutboxLimits::default();
    limits.calls_max = 1;
    let opened = folder.open_with(client(), limits, |outbox| outbox).await;
    let kept = opened.outbox.call(peer.post("a")).await.unwrap();
    let refused = opened.outbox.call(peer.post("b")).await.unwrap_err();
    assert!(
        matches!(
            refused,
            OutboxFailure::NotWritten(OutboxError::CallsFull { limit: 1 })
        ),
        "{refused:?}"
    );
    assert_eq!(peer.seen().len(), 1);
    opened.outbox.acknowledge(&kept.key).await.unwrap();
    let _ = opened.outbox.call(peer.post("b")).await.unwrap();
}

#[tokio::test]
async fn an_answer_over_http_that_is_larger_than_is_kept_leaves_the_call_to_be_resumed() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let mut limits = OutboxLimits::default();
    limits.answer_bytes_max = 10;
    let opened = folder.open_with(client(), limits, |outbox| outbox).await;
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    let OutboxFailure::AnswerNotKept { error, .. } = failed else {
        panic!("{failed:?}");
    };
    assert!(
        matches!(error, OutboxError::AnswerTooLarge { limit: 10, .. }),
        "{error}"
    );
    opened.end().await;
    let opened = folder.open().await;
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    let kept = opened.outbox.resume(&opened.key().await).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    assert_eq!(peer.effects().len(), 1);
}

// An outbox of another protocol.
#[tokio::test]
async fn what_is_no_kept_request_is_not_sent_and_stays() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let uri = peer.url("/");
    let length = u8::try_from(uri.len()).unwrap();
    // What has no effect goes out without a note, so it is none of an outbox.
    let mut get = vec![1, 0, 3, b'G', b'E', b'T', 0, 0, 0, length];
    get.extend_from_slice(uri.as_bytes());
    get.extend_from_slice(&[0; 9]);
    for bytes in [b"not a request".to_vec(), get] {
        let key = IdempotencyKey::unique();
        let call = NewCall::new(key.clone(), "shop.pay", bytes.into());
        opened.kept.write(call).await.unwrap();
        let failed = opened.outbox.resume(&key).await.unwrap_err();
        assert!(
            matches!(failed, OutboxFailure::NotExecuted(_)),
            "{failed:?}"
        );
        assert_eq!(opened.state().await, OutboxState::Unsent);
        opened.outbox.cancel(&key).await.unwrap();
    }
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_request_that_cannot_be_kept_is_refused_before_anything_is_written() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let with = |ticket: Ticket| {
        let mut request = peer.post("a");
        request.extensions_mut().insert(ticket);
        request
    };
    let sent = Ticket::new(IdempotencyKey::unique()).first_sent(Timestamp::from_millis(1));
    let get = Request::get(peer.url("/"));
    let uri = format!("http://me:pass@{}/", peer.address);
    let mut no_key = peer.post("a");
    let value = HeaderValue::from_static("\"");
    no_key.headers_mut().insert("idempotency-key", value);
    for (request, why) in [
        (get.body(Body::default()).unwrap(), "no effect"),
        (with(sent), "outside of the outbox"),
        (
            Request::post(uri).body("a".into()).unwrap(),
            "credentials in it",
        ),
        (Request::post("/").body("a".into()).unwrap(), "absolute"),
        (no_key, "idempotency-key"),
        (
            Request::post(peer.url("/"))
                .body(vec![0; 1024 * 1024 + 1].into())
                .unwrap(),
            "larger than",
        ),
    ] {
        let refused = opened.outbox.call(request).await.unwrap_err();
        assert!(
            matches!(refused, OutboxFailure::Unwritable(_)),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(why), "{refused}");
    }
    assert!(opened.outbox.pending().await.unwrap().is_empty());
    assert!(peer.seen().is_empty());
}

// A1: also within one process.
#[tokio::test]
async fn of_many_who_make_one_call_over_http_one_makes_it_and_all_get_its_answer() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let mut calling = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (outbox, mut request) = (opened.outbox.clone(), peer.post("a"));
        let key = Ticket::never_sent(IdempotencyKey::parse("order-1").unwrap());
        request.extensions_mut().insert(key);
        // Differs from one to the next, and is not of the call.
        let bearer = HeaderValue::try_from(format!("Bearer {number}")).unwrap();
        request.headers_mut().insert("authorization", bearer);
        calling.spawn(async move {
            if number % 2 == 0 {
                let _ = outbox.resume_all().await.unwrap();
            }
            text(outbox.call(request).await.unwrap().response).await
        });
    }
    assert_eq!(calling.join_all().await, ["done"; 20]);
    assert_eq!(peer.seen().len(), 1);
    let mut other = peer.post("b");
    let key = IdempotencyKey::parse("order-1").unwrap();
    other.extensions_mut().insert(key);
    let refused = opened.outbox.call(other).await.unwrap_err();
    assert!(
        matches!(refused, OutboxFailure::NotWritten(OutboxError::Mismatch)),
        "{refused:?}"
    );
}

/// An outbox that fails where a call is noted as sent, or where its answer is kept.
#[derive(Debug)]
struct Failing {
    inner: Arc<SledOutbox>,
    at: &'static str,
}

impl OutboxStore for Failing {
    fn write(&self, call: NewCall) -> StoreFuture<'_, Written, OutboxError> {
        if self.at != WRITE_ANSWER {
            return self.inner.write(call);
        }
        Box::pin(async {
            self.inner.write(call).await?;
            Err(OutboxError::Unavailable("it did not answer".to_owned()))
        })
    }

    fn change(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> StoreFuture<'_, (), OutboxError> {
        if change.name() == self.at {
            return Box::pin(async { Err(OutboxError::Poisoned("no space left".to_owned())) });
        }
        self.inner.change(key, change)
    }

    fn load(&self, key: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError> {
        self.inner.load(key)
    }

    fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError> {
        self.inner.list()
    }
}

#[tokio::test]
async fn a_call_over_http_that_cannot_be_noted_as_sent_is_not_sent() {
    for peer in [Peer::deduping(1).await, Peer::plain().await] {
        let folder = Folder::new();
        let opened = folder.open().await;
        let inner = Arc::clone(&opened.kept);
        let outbox = Outbox::new(client(), Arc::new(Failing { inner, at: "send" }));
        let failed = outbox.call(peer.post("a")).await.unwrap_err();
        assert!(
            matches!(failed, OutboxFailure::NotExecuted(_)),
            "{failed:?}"
        );
        assert!(failed.to_string().contains("no space left"), "{failed}");
        assert!(peer.seen().is_empty());
        assert_eq!(opened.state().await, OutboxState::Unsent);
    }
}

#[tokio::test]
async fn an_answer_over_http_that_cannot_be_kept_is_not_told_and_comes_again() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let (inner, at) = (Arc::clone(&opened.kept), "keep the answer of");
    let outbox = Outbox::new(client(), Arc::new(Failing { inner, at }));
    let failed = outbox.call(peer.post("a")).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::AnswerNotKept { .. }),
        "{failed:?}"
    );
    let key = opened.key().await;
    let kept = opened.outbox.resume(&key).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    assert_eq!(peer.effects().len(), 1);
}

// G7
#[tokio::test]
async fn a_call_over_http_whose_writing_was_not_answered_names_its_key_and_happens_once() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let (inner, at) = (Arc::clone(&opened.kept), WRITE_ANSWER);
    let outbox = Outbox::new(client(), Arc::new(Failing { inner, at }));
    let failed = outbox.call(peer.post("a")).await.unwrap_err();
    let OutboxFailure::Outbox { key, .. } = failed else {
        panic!("{failed:?}");
    };
    assert!(peer.seen().is_empty());
    let kept = opened.outbox.resume(&key).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    opened.outbox.resume_all().await.unwrap();
    assert_eq!(peer.effects().len(), 1);
}

/// It writes, and its answer is lost.
const WRITE_ANSWER: &str = "answer that it has written";
