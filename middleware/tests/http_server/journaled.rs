//! Handlers whose effects are steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{OriginalUri, Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post as route_post;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use onlyonce_middleware::http::axum::{Interrupted, Steps};
use onlyonce_middleware::http::{Body, ByServer, Dedupe, DedupeLayer, Definitive};
use onlyonce_middleware::server::{StepError, Unfinished};
use onlyonce_storage::{
    ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint, FingerprintAlgorithm, Fingerprints,
    IdempotencyKey, KeyState, Scope, ScopedKey, SledOptions, SledStore, Store,
};
use parking_lot::Mutex;
use tower::Layer;

use crate::client::{Raw, post, request};
use crate::kit::{Ledger, memory, serve};

/// A shop that charges and then ships, each of which the bank and the carrier may not do.
#[derive(Clone, Default)]
struct Shop {
    charged: Ledger,
    shipped: Ledger,
    /// Whether the carrier takes nothing.
    closed: Arc<AtomicBool>,
}

impl Shop {
    fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    fn effects(&self) -> (u32, u32) {
        (self.charged.effects(), self.shipped.effects())
    }

    async fn charge(&self, steps: &Steps) -> Result<Bytes, StepError> {
        let charge = async |_| Ok(Bytes::from(format!("receipt {}", self.charged.apply())));
        steps.0.run_keyed("charge", charge).await
    }

    async fn ship(&self, steps: &Steps) -> Result<Bytes, StepError> {
        let ship = async |_| match self.closed.load(Ordering::SeqCst) {
            true => Err(Unfinished::NotExecuted("closed".to_owned())),
            false => Ok(Bytes::from(format!("parcel {}", self.shipped.apply()))),
        };
        steps.0.run_once("ship", ship).await
    }
}

async fn place(State(shop): State<Shop>, steps: Steps) -> Result<String, Interrupted> {
    let receipt = shop.charge(&steps).await?;
    let parcel = shop.ship(&steps).await?;
    Ok([&receipt[..], b", ", &parcel[..]]
        .concat()
        .escape_ascii()
        .to_string())
}

/// Its routes behind one layer, as one service.
fn orders(store: &Arc<dyn Store>, service: &str, shop: &Shop) -> Dedupe<Router> {
    let layer = DedupeLayer::new(Arc::clone(store), Scope::global());
    let layer = layer.journaled(service).unwrap();
    let router = Router::new().route("/orders", route_post(place));
    layer.layer(router.with_state(shop.clone()))
}

async fn on_both_stores(check: impl AsyncFn(Arc<dyn Store>)) {
    check(memory()).await;
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open_async(folder.path(), SledOptions::new()).await;
    check(Arc::new(store.unwrap())).await;
}

#[tokio::test]
async fn an_interrupted_step_is_told_in_progress_and_the_retry_goes_on_at_it() {
    on_both_stores(async |store| {
        let shop = Shop::default();
        shop.close(true);
        let router = Router::new().fallback_service(orders(&store, "shop", &shop));
        let server = serve(router).await;
        let order = post("/orders", "a book").key("k");
        for _ in 0..2 {
            let reply = order.send(server).await;
            assert_eq!((reply.code, reply.said()), (409, "in-progress"));
            assert!(reply.header("retry-after").is_some());
        }
        assert_eq!(shop.effects(), (1, 0));
        // Another request under the key is none of it.
        let other = post("/orders", "a pen").key("k").send(server).await;
        assert_eq!((other.code, other.said()), (422, "mismatch"));
        shop.close(false);
        for said in ["executed", "replayed"] {
            let reply = order.send(server).await;
            assert_eq!((reply.code, reply.said()), (200, said));
            assert_eq!(reply.text(), "receipt 1, parcel 1");
        }
        assert_eq!(shop.effects(), (1, 1));
    })
    .await;
}

/// Hides that its step has no result.
async fn all_is_well(State(shop): State<Shop>, steps: Steps) -> Response {
    let _ = shop.charge(&steps).await;
    let _ = shop.ship(&steps).await;
    (StatusCode::CREATED, "shipped").into_response()
}

#[tokio::test]
async fn what_a_handler_answers_of_a_step_without_a_result_is_nobodys_answer() {
    let (store, shop) = (memory(), Shop::default());
    shop.close(true);
    let layer = DedupeLayer::new(store, Scope::global()).journaled("shop");
    let route = route_post(all_is_well).with_state(shop.clone());
    let router = Router::new().route("/orders", route.layer(layer.unwrap()));
    let server = serve(router).await;
    let order = post("/orders", "").key("k");
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (409, "in-progress"));
    shop.close(false);
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (201, "executed"));
    assert_eq!(shop.effects(), (1, 1));
}

#[tokio::test]
async fn a_step_that_must_not_be_repeated_and_was_cut_off_leaves_the_call_in_doubt() {
    on_both_stores(async |store| {
        async fn place(State(shipped): State<Ledger>, steps: Steps, how: String) -> String {
            let ship = steps.0.run_once("ship", async |_| {
                shipped.apply();
                match how.as_str() {
                    "unknown" => Err(Unfinished::Unknown("no answer".to_owned())),
                    _ => std::future::pending().await,
                }
            });
            let waited = tokio::time::timeout(Duration::from_millis(50), ship).await;
            format!("shipped, {}", waited.is_ok())
        }
        let shipped = Ledger::default();
        let layer = DedupeLayer::new(Arc::clone(&store), Scope::global());
        let router = Router::new().route("/orders", route_post(place));
        let layer = layer.journaled("shop").unwrap();
        let orders = layer.layer(router.with_state(shipped.clone()));
        let server = serve(Router::new().fallback_service(orders.clone())).await;
        for (effects, how) in [(1, "unknown"), (2, "dropped")] {
            for _ in 0..2 {
                let reply = post("/orders", how).key(how).send(server).await;
                assert_eq!((reply.code, reply.said()), (409, "in-doubt"), "{how}");
                assert_eq!(reply.header("retry-after"), None);
            }
            orders.finish_abandoned().await.unwrap();
            assert_eq!(shipped.effects(), effects, "{how}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_panics_between_two_steps_goes_on_behind_the_last_finished_one() {
    async fn place(State(shop): State<Shop>, steps: Steps) -> Result<String, Interrupted> {
        shop.charge(&steps).await?;
        assert!(!shop.closed.load(Ordering::SeqCst), "as it was told");
        shop.ship(&steps).await?;
        Ok("shipped".to_owned())
    }
    let shop = Shop::default();
    shop.close(true);
    let layer = DedupeLayer::new(memory(), Scope::global()).journaled("shop");
    let route = route_post(place).with_state(shop.clone());
    let router = Router::new().route("/orders", route.layer(layer.unwrap()));
    let server = serve(router).await;
    let order = post("/orders", "").key("k");
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (409, "in-doubt"));
    shop.close(false);
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (200, "executed"));
    assert_eq!(shop.effects(), (1, 1));
}

#[tokio::test]
async fn a_5xx_after_the_last_step_is_kept_and_in_doubt_as_that_of_any_handler() {
    async fn place(State(shop): State<Shop>, steps: Steps) -> Result<Response, Interrupted> {
        shop.charge(&steps).await?;
        Ok((StatusCode::BAD_GATEWAY, "broken").into_response())
    }
    let shop = Shop::default();
    let layer = DedupeLayer::new(memory(), Scope::global()).journaled("shop");
    let route = route_post(place).with_state(shop.clone());
    let router = Router::new().route("/orders", route.layer(layer.unwrap()));
    let server = serve(router).await;
    for _ in 0..2 {
        let reply = post("/orders", "").key("k").send(server).await;
        assert_eq!((reply.code, reply.text()), (502, "broken"));
        assert_eq!(reply.said(), "in-doubt");
    }
    assert_eq!(shop.effects(), (1, 0));
}

#[tokio::test]
async fn a_route_that_is_not_journaled_says_so_before_the_effect() {
    let shop = Shop::default();
    let layer = DedupeLayer::new(memory(), Scope::global());
    let route = route_post(place).with_state(shop.clone());
    let server = serve(Router::new().route("/orders", route.layer(layer))).await;
    for _ in 0..2 {
        let reply = post("/orders", "").key("k").send(server).await;
        // The key is not in doubt for it.
        assert_eq!((reply.code, reply.said()), (500, "not-executed"));
    }
    assert_eq!(shop.effects(), (0, 0));
}

#[tokio::test]
async fn a_service_finishes_its_own_calls_that_nobody_asks_for_and_no_others() {
    on_both_stores(async |store| {
        let (shop, other) = (Shop::default(), Shop::default());
        shop.close(true);
        let (ours, theirs) = (
            orders(&store, "shop", &shop),
            orders(&store, "other", &other),
        );
        let server = serve(Router::new().fallback_service(ours.clone())).await;
        let order = post("/orders", "a book").key("k");
        assert_eq!(order.send(server).await.said(), "in-progress");
        shop.close(false);

        let passed = theirs.finish_abandoned().await.unwrap();
        assert_eq!((passed.seen, passed.gone_on_with), (1, 0));
        assert_eq!((shop.effects(), other.effects()), ((1, 0), (0, 0)));

        let passed = ours.finish_abandoned().await.unwrap();
        assert_eq!((passed.seen, passed.gone_on_with), (1, 1));
        assert_eq!(shop.effects(), (1, 1));
        let reply = order.send(server).await;
        assert_eq!(
            (reply.said(), reply.text()),
            ("replayed", "receipt 1, parcel 1")
        );
        let passed = ours.finish_abandoned().await.unwrap();
        assert_eq!(passed.seen, 0);
        assert_eq!(other.effects(), (0, 0));
    })
    .await;
}

/// What a run sees of its request.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: Method,
    address: Uri,
    sent_to: String,
    id: String,
    headers: HeaderMap,
    body: Bytes,
    key: IdempotencyKey,
    scope: Scope,
    by_server: bool,
}

/// Keeps what each run sees; the first stops half-way.
async fn look(
    State(seen): State<Arc<Mutex<Vec<Seen>>>>,
    steps: Steps,
    Path(id): Path<String>,
    OriginalUri(sent_to): OriginalUri,
    Extension(key): Extension<IdempotencyKey>,
    Extension(scope): Extension<Scope>,
    request: Request,
) -> Result<&'static str, Interrupted> {
    let (parts, body) = request.into_parts();
    let this = Seen {
        method: parts.method,
        address: parts.uri,
        sent_to: sent_to.path_and_query().unwrap().to_string(),
        id,
        headers: parts.headers,
        body: axum::body::to_bytes(body, 1 << 20).await.unwrap(),
        key,
        scope,
        by_server: parts.extensions.get::<ByServer>().is_some(),
    };
    let runs = {
        let mut seen = seen.lock();
        seen.push(this);
        seen.len()
    };
    let step = async |_| match runs {
        1 => Err(Unfinished::NotExecuted("closed".to_owned())),
        _ => Ok(Bytes::new()),
    };
    steps.0.run_keyed("step", step).await?;
    Ok("done")
}

/// A request with more than one likes to keep.
fn rich() -> Raw {
    let body: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    request("PATCH", "/v1/orders/4%2F7?b=2&a=%20", body)
        .key("k")
        .header("content-type", "application/x-order; v=1")
        .header("content-encoding", "zip")
        .header("x-tenant", "north")
        .header("accept-language", "de")
        .header("accept-language", "fr;q=0.5")
        .header("authorization", "Bearer s3cret")
        .header("cookie", "session=s3cret")
        .header("x-other", "not listed")
}

// I1
#[tokio::test]
async fn what_is_gone_on_with_is_the_request_byte_for_byte_without_what_was_not_listed() {
    on_both_stores(async |store| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let alice = Scope::principal("alice").unwrap();
        let layer = DedupeLayer::new(Arc::clone(&store), alice.clone())
            .operation("look")
            .unwrap()
            .journaled("shop")
            .unwrap()
            .journaled_headers([http::header::ACCEPT_LANGUAGE])
            .fingerprint_header(HeaderName::from_static("x-tenant"));
        let router = Router::new().route("/orders/{id}", route_post(look).patch(look));
        let orders = layer.layer(router.with_state(Arc::clone(&seen)));
        let app = Router::new().nest_service("/v1", orders.clone());
        let server = serve(app).await;
        assert_eq!(rich().send(server).await.said(), "in-progress");
        let passed = orders.finish_abandoned().await.unwrap();
        assert_eq!(passed.gone_on_with, 1);
        let again = rich().send(server).await;
        assert_eq!((again.said(), again.text()), ("replayed", "done"));

        let mut seen = std::mem::take(&mut *seen.lock());
        let bodies = seen.iter_mut().map(|seen| std::mem::take(&mut seen.body));
        let bodies: Vec<_> = bodies.collect();
        assert_eq!(bodies[0].len(), 70_000);
        // It is too long to be printed.
        assert!(bodies.iter().all(|body| *body == bodies[0]));
        let [first, second] = &seen[..] else {
            panic!("{} runs", seen.len());
        };
        assert!(!first.by_server && second.by_server);
        assert_eq!(first.scope, alice);
        assert_eq!(first.sent_to, "/v1/orders/4%2F7?b=2&a=%20");
        let mut expected = first.clone();
        expected.by_server = true;
        expected.headers = HeaderMap::new();
        for name in [
            "content-type",
            "content-encoding",
            "x-tenant",
            "accept-language",
        ] {
            let name = HeaderName::from_static(name);
            for value in first.headers.get_all(&name) {
                expected.headers.append(name.clone(), value.clone());
            }
        }
        let key = "\"k\"".parse().unwrap();
        expected.headers.insert("idempotency-key", key);
        assert_eq!(expected.headers.len(), 6);
        assert_eq!(second, &expected);
    })
    .await;
}

// I1, B6: the charge may have happened, so that no refusal is the call's answer.
#[tokio::test]
async fn what_refuses_before_the_first_step_answers_nobody_where_the_server_goes_on() {
    async fn charge(
        State(shop): State<Shop>,
        steps: Steps,
        body: Bytes,
    ) -> Result<Response, Interrupted> {
        if body == "definitive" && shop.charged.effects() > 0 {
            return Ok((StatusCode::GONE, Definitive, "gone").into_response());
        }
        let charge = async |_| match shop.charged.apply() {
            1 => Err(Unfinished::Unknown("no answer".to_owned())),
            number => Ok(Bytes::from(number.to_string())),
        };
        steps.0.run_keyed("charge", charge).await?;
        Ok("charged".into_response())
    }
    async fn ask_for_credential(request: Request, next: Next) -> Response {
        match request.headers().contains_key("authorization") {
            true => next.run(request).await,
            false => (StatusCode::FORBIDDEN, "who are you?").into_response(),
        }
    }
    let (store, shop) = (memory(), Shop::default());
    let layer = DedupeLayer::new(Arc::clone(&store), Scope::global());
    let layer = layer.journaled("shop").unwrap();
    let open = Router::new().route("/orders", route_post(charge));
    let open = open.with_state(shop.clone());
    let guarded = layer.layer(open.clone().layer(from_fn(ask_for_credential)));
    let server = serve(Router::new().fallback_service(guarded.clone())).await;
    let order = post("/orders", "").header("authorization", "Bearer s3cret");
    let order = order.key("k");
    assert_eq!(order.send(server).await.said(), "in-progress");
    for _ in 0..2 {
        let passed = guarded.finish_abandoned().await.unwrap();
        assert_eq!((passed.seen, passed.gone_on_with), (1, 1));
    }
    assert_eq!(shop.charged.effects(), 1);
    let reply = order.send(server).await;
    assert_eq!((reply.said(), reply.text()), ("executed", "charged"));
    assert_eq!(shop.charged.effects(), 2);

    // Not even what is said to be for good: nobody had asked.
    let (store, shop) = (memory(), Shop::default());
    let layer = DedupeLayer::new(Arc::clone(&store), Scope::global());
    let router = Router::new().route("/orders", route_post(charge));
    let layer = layer.journaled("shop").unwrap();
    let service = layer.layer(router.with_state(shop.clone()));
    let server = serve(Router::new().fallback_service(service.clone())).await;
    let order = post("/orders", "definitive").key("k");
    assert_eq!(order.send(server).await.said(), "in-progress");
    service.finish_abandoned().await.unwrap();
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (410, "executed"));
    let reply = order.send(server).await;
    assert_eq!((reply.code, reply.said()), (410, "replayed"));
}

#[tokio::test]
async fn a_nested_router_with_the_layer_is_finished_by_a_layered_clone_of_it_as_it_was() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let layer = DedupeLayer::new(memory(), Scope::global());
    let layer = layer.journaled("shop").unwrap();
    let router = Router::new().route("/orders/{id}", route_post(look));
    let router = router.with_state(Arc::clone(&seen));
    let finishing: Dedupe<Router> = layer.layer(router.clone());
    let server = serve(Router::new().nest("/v1", router.layer(layer))).await;
    let order = post("/v1/orders/7", "a book").key("k");
    assert_eq!(order.send(server).await.said(), "in-progress");
    finishing.finish_abandoned().await.unwrap();
    let again = order.send(server).await;
    assert_eq!((again.said(), again.text()), ("replayed", "done"));
    let seen = seen.lock().clone();
    let of_both = [seen[0].id.as_str(), seen[1].id.as_str()];
    assert_eq!(of_both, ["7", "7"]);
    assert_eq!(seen[1].sent_to, "/v1/orders/7");
}

/// Leaves a call standing still with these bytes for its request.
async fn stand_still(store: &Arc<dyn Store>, key: &str, print: Fingerprint, bytes: Vec<u8>) {
    let key = ScopedKey::new(Scope::global(), IdempotencyKey::parse(key).unwrap());
    let mut request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
    request.journal = Some(bytes.into());
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("a new key is claimed");
    };
    let doubted = store.doubt(claim, DoubtReason::OwnerGone, None);
    doubted.await.unwrap();
}

/// The request that a route without options compares so, as it is kept.
fn kept(method: &str, path: &str) -> (Fingerprint, Vec<u8>) {
    let mut print = Fingerprint::builder(FingerprintAlgorithm::new(2));
    print.add("method", method.as_bytes());
    print.add("path", path.as_bytes());
    print.add("body", b"");
    let mut bytes = b"http\x01\x04shop".to_vec();
    bytes.push(u8::try_from(method.len()).unwrap());
    bytes.extend_from_slice(method.as_bytes());
    bytes.extend_from_slice(&u16::try_from(path.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(path.as_bytes());
    bytes.extend_from_slice(&[0; 11]);
    (print.finish(), bytes)
}

// N3
#[tokio::test]
async fn stored_bytes_that_are_not_the_calls_request_are_not_executed() {
    let (store, shop) = (memory(), Shop::default());
    let (print, bytes) = kept("POST", "/orders");
    let orders = orders(&store, "shop", &shop);
    let mut version = bytes.clone();
    version[4] = 2;
    let (_, elsewhere) = kept("POST", "/order");
    let (safe, safe_bytes) = kept("GET", "/orders");
    for (key, print, bytes) in [
        ("empty", print, Vec::new()),
        ("cut", print, bytes[..bytes.len() - 1].to_vec()),
        ("more", print, [&bytes[..], b"x"].concat()),
        ("version", print, version),
        ("protocol", print, b"rpc\x01\x04shop".to_vec()),
        ("elsewhere", print, elsewhere),
        ("safe", safe, safe_bytes),
    ] {
        stand_still(&store, key, print, bytes).await;
        let passed = orders.finish_abandoned().await.unwrap();
        assert_eq!(passed.gone_on_with, 0, "{key}");
    }
    assert_eq!(shop.effects(), (0, 0));
    // The control: its own bytes are.
    stand_still(&store, "own", print, bytes).await;
    let passed = orders.finish_abandoned().await.unwrap();
    assert_eq!(passed.gone_on_with, 1);
    assert_eq!(shop.effects(), (1, 1));
    let key = ScopedKey::new(Scope::global(), IdempotencyKey::parse("own").unwrap());
    let state = store.peek(key).await.unwrap();
    assert!(matches!(state, KeyState::Completed { .. }), "{state:?}");
}

#[tokio::test]
async fn a_layer_that_is_not_journaled_any_more_goes_on_with_nothing() {
    let (store, shop) = (memory(), Shop::default());
    let (print, bytes) = kept("POST", "/orders");
    stand_still(&store, "k", print, bytes).await;
    let plain = DedupeLayer::new(store, Scope::global());
    let router = Router::new().route("/orders", route_post(place));
    let service: Dedupe<Router> = plain.layer(router.with_state(shop.clone()));
    let passed = service.finish_abandoned().await.unwrap();
    assert_eq!((passed.seen, passed.gone_on_with), (1, 0));
    assert_eq!(shop.effects(), (0, 0));
}

#[tokio::test]
async fn a_service_without_axum_finds_its_steps_among_the_extensions() {
    use onlyonce_middleware::server::Steps;
    use tower::ServiceExt;

    let place = tower::service_fn(async |request: http::Request<Body>| {
        let steps = request.extensions().get::<Steps>().unwrap().clone();
        let result = steps.run_keyed("step", async |_| Ok("done".into())).await;
        Ok::<_, StepError>(http::Response::new(Body::from(result?)))
    });
    let layer = DedupeLayer::new(memory(), Scope::global()).journaled("shop");
    let service = layer.unwrap().layer(place);
    let order = http::Request::post("/orders").header("idempotency-key", "k");
    let order = order.body(Body::default()).unwrap();
    let answer = service.oneshot(order).await.unwrap();
    assert_eq!(answer.headers()["idempotency-status"], "executed");
}
