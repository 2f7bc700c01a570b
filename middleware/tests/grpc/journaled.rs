//! Handlers whose effects are steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use onlyonce_middleware::grpc::DedupeLayer;
use onlyonce_middleware::http::ByServer;
use onlyonce_middleware::server::{StepError, Steps, Unfinished};
use onlyonce_storage::{
    ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint, FingerprintAlgorithm, Fingerprints,
    IdempotencyKey, Scope, ScopedKey, Store,
};
use parking_lot::Mutex;
use tonic::{Code, Request, Response, Status};
use tower::Layer;

use crate::bank::{BankServer, REFUND, Receipt, TRANSFER, Transfer};
use crate::kit::{Ledger, client, framed, keyed, memory, said, serve, transfer};

/// What a run saw of its request.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    transfer: Transfer,
    note: Option<String>,
    has_credential: bool,
    key: IdempotencyKey,
    scope: Scope,
    by_server: bool,
}

/// Two banks, of which the second may be closed.
#[derive(Clone, Default)]
struct Banks {
    taken: Ledger,
    given: Ledger,
    closed: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Banks {
    fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    fn effects(&self) -> (u32, u32) {
        (self.taken.effects(), self.given.effects())
    }

    async fn transfer(&self, steps: &Steps, cents: u64) -> Result<Receipt, StepError> {
        let take = async |_| {
            self.taken.apply();
            Ok(Bytes::from(cents.to_string()))
        };
        let taken = steps.run_keyed("take", take).await?;
        let give = async |_| match self.closed.load(Ordering::SeqCst) {
            true => Err(Unfinished::NotExecuted("closed".to_owned())),
            false if cents == 13 => Err(Unfinished::Unknown("no answer".to_owned())),
            false => {
                self.given.apply();
                Ok(taken.clone())
            }
        };
        let given = steps.run_once("give", give).await?;
        Ok(Receipt {
            number: self.given.effects(),
            text: String::from_utf8_lossy(&given).into_owned(),
        })
    }

    async fn handle(self, request: Request<Transfer>) -> Result<Response<Receipt>, Status> {
        let extensions = request.extensions();
        let Some(steps) = extensions.get::<Steps>().cloned() else {
            return Err(Status::internal("no steps"));
        };
        let note = request.metadata().get("x-note");
        self.seen.lock().push(Seen {
            transfer: request.get_ref().clone(),
            note: note.map(|note| note.to_str().unwrap().to_owned()),
            has_credential: request.metadata().contains_key("authorization"),
            key: extensions.get().cloned().unwrap(),
            scope: extensions.get().cloned().unwrap(),
            by_server: extensions.get::<ByServer>().is_some(),
        });
        let receipt = self.transfer(&steps, request.get_ref().cents).await;
        // What is answered of a step without a result is nobody's answer.
        let receipt = receipt.unwrap_or_default();
        Ok(Response::new(receipt))
    }

    fn handler(
        &self,
    ) -> impl Fn(
        Request<Transfer>,
    ) -> futures_util::future::BoxFuture<'static, Result<Response<Receipt>, Status>>
    + Clone
    + Send
    + Sync
    + 'static {
        let banks = self.clone();
        move |request| Box::pin(banks.clone().handle(request))
    }
}

fn journaled() -> DedupeLayer {
    journaled_over(&memory())
}

fn journaled_over(store: &Arc<dyn Store>) -> DedupeLayer {
    let layer = DedupeLayer::new(Arc::clone(store), Scope::principal("alice").unwrap());
    let layer = layer.protect(TRANSFER).journaled("bank").unwrap();
    layer.journaled_metadata([HeaderName::from_static("x-note")])
}

fn order(key: &'static str, cents: u64) -> Request<Transfer> {
    let mut order = keyed(key, cents);
    let metadata = order.metadata_mut();
    metadata.insert("x-note", "thanks".parse().unwrap());
    metadata.insert("authorization", "Bearer s3cret".parse().unwrap());
    order
}

#[tokio::test]
async fn an_interrupted_step_is_told_in_progress_and_the_retry_goes_on_at_it() {
    let banks = Banks::default();
    banks.close(true);
    let server = serve(journaled(), banks.handler()).await;
    let mut client = client(server).await;
    for _ in 0..2 {
        let told = client.transfer(order("k", 10)).await.unwrap_err();
        assert_eq!(told.code(), Code::Aborted);
        assert_eq!(said(told.metadata()), "in-progress");
        let pushback = told.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert!(pushback.to_str().unwrap().parse::<u32>().unwrap() > 0);
    }
    assert_eq!(banks.effects(), (1, 0));
    banks.close(false);
    for status in ["executed", "replayed"] {
        let reply = client.transfer(order("k", 10)).await.unwrap();
        assert_eq!(said(reply.metadata()), status);
        assert_eq!(reply.get_ref().text, "10");
    }
    assert_eq!(banks.effects(), (1, 1));
}

#[tokio::test]
async fn a_step_that_must_not_be_repeated_and_does_not_know_leaves_the_call_in_doubt() {
    let banks = Banks::default();
    let layer = journaled();
    let server = serve(layer.clone(), banks.handler()).await;
    let mut client = client(server).await;
    for _ in 0..2 {
        let told = client.transfer(order("k", 13)).await.unwrap_err();
        assert_eq!(told.code(), Code::Unknown);
        assert_eq!(said(told.metadata()), "in-doubt");
    }
    let finishing = layer.layer(BankServer::new(banks.handler()));
    let passed = finishing.finish_abandoned().await.unwrap();
    assert_eq!(passed.gone_on_with, 0);
    assert_eq!(banks.effects(), (1, 0));
}

// I1
#[tokio::test]
async fn the_server_finishes_what_nobody_asks_for_with_the_message_and_what_was_listed() {
    let banks = Banks::default();
    banks.close(true);
    let layer = journaled();
    let server = serve(layer.clone(), banks.handler()).await;
    let mut client = client(server).await;
    let told = client.transfer(order("k", 10)).await.unwrap_err();
    assert_eq!(said(told.metadata()), "in-progress");
    banks.close(false);

    // Neither another service's nor another method's.
    let bank = BankServer::new(banks.handler());
    let other = layer.clone().journaled("other").unwrap();
    let refunds = layer.clone().leave_out(TRANSFER).protect(REFUND);
    for elsewhere in [other, refunds] {
        let passed = elsewhere.layer(bank.clone()).finish_abandoned().await;
        let passed = passed.unwrap();
        assert_eq!((passed.seen, passed.gone_on_with), (1, 0));
    }
    assert_eq!(banks.effects(), (1, 0));

    let passed = layer.layer(bank).finish_abandoned().await.unwrap();
    assert_eq!((passed.seen, passed.gone_on_with), (1, 1));
    assert_eq!(banks.effects(), (1, 1));
    let reply = client.transfer(order("k", 10)).await.unwrap();
    assert_eq!(said(reply.metadata()), "replayed");
    assert_eq!(reply.get_ref().text, "10");

    let seen = banks.seen.lock().clone();
    let [first, second] = &seen[..] else {
        panic!("{} runs", seen.len());
    };
    assert!(first.has_credential && !first.by_server);
    assert_eq!(first.scope, Scope::principal("alice").unwrap());
    let mut expected = first.clone();
    expected.has_credential = false;
    expected.by_server = true;
    assert_eq!(second, &expected);
    assert_eq!(second.note.as_deref(), Some("thanks"));
}

/// Leaves a call of this transfer standing still with these bytes for its request.
async fn stand_still(store: &Arc<dyn Store>, key: &str, message: &[u8], bytes: Vec<u8>) {
    let scope = Scope::principal("alice").unwrap();
    let key = ScopedKey::new(scope, IdempotencyKey::parse(key).unwrap());
    let print = Fingerprint::builder(FingerprintAlgorithm::new(4));
    let print = print.field("path", TRANSFER.as_bytes());
    let print = print.field("message", message).finish();
    let mut request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
    request.journal = Some(bytes.into());
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("a new key is claimed");
    };
    let doubted = store.doubt(claim, DoubtReason::OwnerGone, None);
    doubted.await.unwrap();
}

/// A transfer as it is kept.
fn kept(method: &str, body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let mut bytes = b"grpc\x01\x04bank".to_vec();
    bytes.push(length(method.as_bytes()));
    bytes.extend_from_slice(method.as_bytes());
    bytes.extend_from_slice(&[0, length(TRANSFER.as_bytes())]);
    bytes.extend_from_slice(TRANSFER.as_bytes());
    // As it was sent, no headers.
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&[0, 0, 0, length(body)]);
    bytes.extend_from_slice(body);
    bytes.push(0);
    bytes
}

// N3
#[tokio::test]
async fn stored_bytes_that_are_not_the_calls_message_are_not_executed() {
    let (store, banks) = (memory(), Banks::default());
    let service = journaled_over(&store).layer(BankServer::new(banks.handler()));
    let message = |cents| prost::Message::encode_to_vec(&transfer(cents));
    let ours = message(10);
    let own = kept("POST", &framed(&ours));
    let mut http = own.clone();
    http[..4].copy_from_slice(b"http");
    for (key, bytes) in [
        ("another", kept("POST", &framed(&message(11)))),
        ("none", kept("POST", &[])),
        ("half", kept("POST", &framed(&ours)[..8])),
        (
            "two",
            kept("POST", &[framed(&ours), framed(&ours)].concat()),
        ),
        ("method", kept("PUT", &framed(&ours))),
        ("protocol", http),
        ("cut", own[..own.len() - 1].to_vec()),
    ] {
        stand_still(&store, key, &ours, bytes).await;
        let passed = service.finish_abandoned().await.unwrap();
        assert_eq!(passed.gone_on_with, 0, "{key}");
    }
    assert_eq!(banks.effects(), (0, 0));
    // The control: its own bytes are gone on with.
    stand_still(&store, "own", &ours, own).await;
    let passed = service.finish_abandoned().await.unwrap();
    assert_eq!(passed.gone_on_with, 1);
}
