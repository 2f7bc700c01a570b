//! Who calls.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use onlyonce_middleware::http::{DedupeLayer, from_extension};
use onlyonce_storage::Scope;

use crate::client::post;
use crate::kit::{Ledger, counting, memory, serve};

/// Knows two callers by their credentials, of which one was refreshed.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let credential = request.headers().get("authorization");
    let principal = match credential.and_then(|value| value.to_str().ok()) {
        Some("alice-1" | "alice-2") => "alice",
        Some("bob") => "bob",
        Some(_) => return StatusCode::UNAUTHORIZED.into_response(),
        None => return next.run(request).await,
    };
    request
        .extensions_mut()
        .insert(Scope::principal(principal).unwrap());
    next.run(request).await
}

// C12, C13, C14, I2
#[tokio::test]
async fn the_scope_is_whom_authentication_found_and_nobody_is_refused() {
    let ledger = Ledger::default();
    let layer = DedupeLayer::new(memory(), from_extension());
    let route = counting(&ledger)
        .layer::<_, Infallible>(layer)
        .layer(from_fn(authenticate));
    let server = serve(Router::new().route("/pay", route)).await;
    let pay = |credential| {
        post("/pay", "")
            .key("k")
            .header("authorization", credential)
    };

    let unknown = pay("mallory").send(server).await;
    assert_eq!(unknown.code, 401);
    let nobody = post("/pay", "").key("k").send(server).await;
    assert_eq!((nobody.code, nobody.said()), (403, "not-executed"));
    assert_eq!(nobody.problem(), "scope-missing");
    assert_eq!(ledger.effects(), 0);

    assert_eq!(pay("alice-1").send(server).await.text(), " #1");
    // A refreshed credential is the same caller; another caller is another call.
    let again = pay("alice-2").send(server).await;
    assert_eq!((again.said(), again.text()), ("replayed", " #1"));
    let bob = pay("bob").send(server).await;
    assert_eq!((bob.said(), bob.text()), ("executed", " #2"));
}

// I2
#[tokio::test]
async fn what_a_request_says_of_its_scope_counts_for_nothing() {
    let ledger = Ledger::default();
    let layer = DedupeLayer::new(memory(), from_extension());
    let route = counting(&ledger)
        .layer::<_, Infallible>(layer)
        .layer(from_fn(authenticate));
    let server = serve(Router::new().route("/pay", route)).await;
    for name in [
        "scope",
        "x-scope",
        "x-tenant",
        "idempotency-scope",
        "x-forwarded-user",
    ] {
        let spoofed = post("/pay", "")
            .key("k")
            .header(name, "alice")
            .send(server)
            .await;
        assert_eq!(spoofed.code, 403, "{name}");
        let bob = post("/pay", "").key(name).header("authorization", "bob");
        assert_eq!(
            bob.header(name, "alice").send(server).await.said(),
            "executed"
        );
    }
    let alice = post("/pay", "").key("k").header("authorization", "alice-1");
    assert_eq!(alice.send(server).await.said(), "executed");
    assert_eq!(ledger.effects(), 6);
}

#[tokio::test]
async fn a_closure_says_the_scope() {
    let ledger = Ledger::default();
    let by_path = |request: &Parts| {
        let tenant = request.uri.path().strip_prefix("/pay/")?;
        Scope::principal(tenant).ok()
    };
    let layer = DedupeLayer::new(memory(), by_path);
    let router = Router::new()
        .route("/pay/{tenant}", counting(&ledger))
        .layer(layer);
    let server = serve(router).await;
    for tenant in ["a", "b"] {
        let path = format!("/pay/{tenant}");
        assert_eq!(
            post(&path, "").key("k").send(server).await.said(),
            "executed"
        );
    }
    assert_eq!(ledger.effects(), 2);
}

// I6: keys are data.
#[tokio::test]
async fn keys_that_look_like_code_or_paths_are_keys() {
    let (server, ledger) = crate::kit::paying(crate::kit::layer()).await;
    let keys = [
        "';DROP/**/TABLE/**/records;--",
        "../../etc/passwd",
        "%00%0d%0a",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "KEYS[1]",
        "*",
    ];
    for (index, key) in keys.into_iter().enumerate() {
        let first = post("/pay", "").key(key).send(server).await;
        assert_eq!(
            (first.said(), first.text()),
            ("executed", &*format!(" #{}", index + 1))
        );
    }
    for (index, key) in keys.into_iter().enumerate() {
        let again = post("/pay", "").key(key).send(server).await;
        assert_eq!(
            (again.said(), again.text()),
            ("replayed", &*format!(" #{}", index + 1))
        );
        let shown = format!("{:?}{:?}", again.headers, again.body);
        assert!(!shown.contains(key));
    }
    assert_eq!(ledger.effects(), 7);
}
