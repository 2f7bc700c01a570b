//! What the ingress does with keys and principals, asked by curl.

use std::net::SocketAddr;

use super::programs::{Place, Program, curl, egress, proxy};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                    </int></value></param></params></methodCall>";

/// The code, and the status, that a withdrawal with these headers gets.
async fn asked(at: SocketAddr, headers: &[&str]) -> String {
    asked_of(at, headers, CALL, &[]).await
}

async fn asked_of(at: SocketAddr, headers: &[&str], body: &str, more: &[&str]) -> String {
    let url = format!("http://{at}/RPC2");
    let mut arguments = vec!["-o", "/dev/null", "-w", WRITTEN, "--data-raw", body];
    arguments.extend(["-H", "Content-Type: text/xml"]);
    arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
    arguments.extend(more);
    arguments.push(&url);
    curl(&arguments).await
}

const WRITTEN: &str = "%{http_code} %header{idempotency-status}";

async fn bank_and(place: &Place, more: &[&str]) -> (Program, Program) {
    let bank = place.bank().await;
    let ingress = place.ingress(bank.at, more).await;
    (bank, ingress)
}

async fn bank_and_principals(place: &Place, scope: &[&str]) -> (Program, Program) {
    let bank = place.bank().await;
    let upstream = format!("http://{}", bank.at);
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:"]);
    arguments.extend(scope);
    let ingress = proxy(&arguments).await;
    (bank, ingress)
}

// A1, B21
#[tokio::test]
async fn a_key_is_executed_once_over_either_version_of_http() {
    let place = Place::new();
    let (_bank, ingress) = bank_and(&place, &[]).await;
    let key = "Idempotency-Key: order-1";
    assert_eq!(asked(ingress.at, &[key]).await, "200 executed");
    assert_eq!(asked(ingress.at, &[key]).await, "200 replayed");
    let http2 = ["--http2-prior-knowledge"];
    let over_http2 = asked_of(ingress.at, &[key], CALL, &http2).await;
    assert_eq!(over_http2, "200 replayed");
    let other = "Idempotency-Key: order-2";
    let over_http2 = asked_of(ingress.at, &[other], CALL, &http2).await;
    assert_eq!(over_http2, "200 executed");
    assert_eq!(place.effects().len(), 2);
}

#[tokio::test]
async fn the_service_gets_the_key_and_a_token_that_grows_and_nobody_else_sets() {
    let place = Place::new();
    let (bank, ingress) = bank_and(&place, &[]).await;
    for key in ["a", "b"] {
        let key = format!("Idempotency-Key: \"{key}\"");
        let forged = "Idempotency-Fencing-Token: 999.999";
        assert_eq!(asked(ingress.at, &[&key, forged]).await, "200 executed");
    }
    let effects = place.effects();
    assert_eq!(effects[0].key, "\"a\"");
    let tokens: Vec<(u64, u64)> = effects.iter().map(|effect| token(&effect.token)).collect();
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    assert_ne!(tokens[0].0, 999);
    // Nor where nothing is protected.
    let passing = proxy(&[
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &format!("http://{}", bank.at),
        "--store",
        "memory:",
        "--global-scope",
        "--keyless",
        "pass",
    ])
    .await;
    let forged = "Idempotency-Fencing-Token: 999.999";
    assert_eq!(asked(passing.at, &[forged]).await, "200 unprotected");
    assert_eq!(place.effects()[2].token, "-");
}

fn token(text: &str) -> (u64, u64) {
    let (incarnation, sequence) = text.split_once('.').unwrap();
    (incarnation.parse().unwrap(), sequence.parse().unwrap())
}

// C9
#[tokio::test]
async fn a_request_without_a_key_is_refused_or_passed_or_given_one_as_was_said() {
    let place = Place::new();
    let (bank, refusing) = bank_and(&place, &[]).await;
    assert_eq!(asked(refusing.at, &[]).await, "400 not-executed");
    assert_eq!(place.taken(), 0);
    let upstream = format!("http://{}", bank.at);
    let with = |policy: &'static str| {
        let upstream = upstream.clone();
        async move {
            let listen = [
                "--listen",
                "127.0.0.1:0",
                "--store",
                "memory:",
                "--global-scope",
            ];
            let mut arguments = vec!["--upstream", &upstream, "--keyless", policy];
            arguments.extend(listen);
            proxy(&arguments).await
        }
    };
    let passing = with("pass").await;
    assert_eq!(asked(passing.at, &[]).await, "200 unprotected");
    let generating = with("generate").await;
    let url = format!("http://{}/RPC2", generating.at);
    let written = "%{http_code} %header{idempotency-key}";
    let arguments = ["-o", "/dev/null", "-w", written, "--data-raw", CALL, &url];
    let said = curl(&arguments).await;
    let key = said.strip_prefix("200 ").unwrap();
    assert_eq!(place.effects().last().unwrap().key, key);
    let again = format!("Idempotency-Key: {key}");
    assert_eq!(
        asked_of(generating.at, &[&again], CALL, &[]).await,
        "422 mismatch"
    );
    assert_eq!(place.effects().len(), 2);
}

// C10, C11
#[tokio::test]
async fn a_malformed_key_and_two_keys_are_refused() {
    let place = Place::new();
    let (_bank, ingress) = bank_and(&place, &[]).await;
    for wrong in [
        &["Idempotency-Key: two words"][..],
        &["Idempotency-Key: a", "Idempotency-Key: b"],
        &["Idempotency-Key: a,b"],
    ] {
        assert_eq!(
            asked(ingress.at, wrong).await,
            "400 not-executed",
            "{wrong:?}"
        );
    }
    assert!(place.effects().is_empty());
}

// C12, C13, I2
#[tokio::test]
async fn two_tenants_with_the_same_key_never_meet_and_nobody_is_refused() {
    let place = Place::new();
    let (_bank, ingress) = bank_and_principals(&place, &["--scope-header", "x-tenant"]).await;
    let key = "Idempotency-Key: same";
    assert_eq!(
        asked(ingress.at, &[key, "X-Tenant: ann"]).await,
        "200 executed"
    );
    assert_eq!(
        asked(ingress.at, &[key, "X-Tenant: bob"]).await,
        "200 executed"
    );
    assert_eq!(
        asked(ingress.at, &[key, "X-Tenant: ann"]).await,
        "200 replayed"
    );
    assert_eq!(asked(ingress.at, &[key]).await, "403 not-executed");
    let hop = "Connection: close, X-Tenant";
    let hidden = asked(ingress.at, &[key, "X-Tenant: ann", hop]).await;
    assert_eq!(hidden, "400 not-executed");
    assert_eq!(place.effects().len(), 2);
}

// I2
#[tokio::test]
async fn only_who_has_a_credential_of_the_file_gets_in() {
    let place = Place::new();
    // The SHA-256 digest of `ann:a-long-password`.
    let digest = place_digest("ann:a-long-password").await;
    let file = place.path("credentials");
    std::fs::write(&file, format!("ann {digest}\n")).unwrap();
    let file = file.display().to_string();
    let scope = ["--static-credentials", file.as_str()];
    let (_bank, ingress) = bank_and_principals(&place, &scope).await;
    let key = ["Idempotency-Key: one"];
    let user = |user: &'static str| {
        let at = ingress.at;
        async move { asked_of(at, &key, CALL, &["--user", user]).await }
    };
    assert_eq!(user("ann:a-long-password").await, "200 executed");
    assert_eq!(user("ann:another").await, "403 not-executed");
    assert_eq!(asked(ingress.at, &key).await, "403 not-executed");
    assert_eq!(place.effects().len(), 1);
}

/// A token that ends in an hour, signed with this secret.
async fn token_of(principal: &str, secret: &str) -> String {
    let program = "
import base64, hashlib, hmac, json, sys, time
encoded = lambda data: base64.urlsafe_b64encode(data).rstrip(b'=')
head = encoded(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())
claims = encoded(json.dumps({'sub': sys.argv[1], 'exp': int(time.time()) + 3600}).encode())
signed = head + b'.' + claims
print((signed + b'.' + encoded(hmac.new(sys.argv[2].encode(), signed, hashlib.sha256).digest())).decode())
";
    super::programs::printed(program, &[principal, secret]).await
}

// C13, I2
#[tokio::test]
async fn a_token_signed_with_any_key_of_the_folder_names_the_same_principal_and_no_other_does() {
    let place = Place::new();
    let (old, new) = ("the-old-secret".repeat(4), "the-new-secret".repeat(4));
    let folder = place.path("keys");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("2025"), &old).unwrap();
    std::fs::write(folder.join("2026"), &new).unwrap();
    std::fs::write(folder.join(".hidden"), "no key").unwrap();
    let folder = folder.display().to_string();
    let scope = ["--scope-jwt-claim", "sub", "--scope-jwt-algorithm", "HS256"];
    let scope = [&scope[..], &["--scope-jwt-key", &folder]].concat();
    let (_bank, ingress) = bank_and_principals(&place, &scope).await;
    let with = |token: String| {
        let at = ingress.at;
        async move {
            let token = format!("Authorization: Bearer {token}");
            asked(at, &["Idempotency-Key: one", &token]).await
        }
    };
    // The credential was refreshed meanwhile: it is the same call.
    assert_eq!(with(token_of("ann", &old).await).await, "200 executed");
    assert_eq!(with(token_of("ann", &new).await).await, "200 replayed");
    assert_eq!(with(token_of("bob", &new).await).await, "200 executed");
    let strange = token_of("ann", &"another-secret".repeat(4)).await;
    assert_eq!(with(strange).await, "403 not-executed");
    assert_eq!(place.effects().len(), 2);
}

async fn place_digest(text: &str) -> String {
    let program = "import hashlib, sys; print(hashlib.sha256(sys.argv[1].encode()).hexdigest())";
    super::programs::printed(program, &[text]).await
}

#[tokio::test]
async fn an_egress_sends_nothing_to_a_service_that_does_not_say_that_it_dedupes() {
    let place = Place::new();
    let bank = place.bank().await;
    let egress = egress(bank.at, &["--timeout", "3s", "--admin", "127.0.0.1:0"]).await;
    assert_eq!(asked(egress.at, &[]).await, "503 not-executed");
    assert!(place.effects().is_empty());
    let ready = format!("http://{}/readyz", egress.admin.unwrap());
    let arguments = ["-o", "/dev/null", "-w", "%{http_code}", &ready];
    assert_eq!(curl(&arguments).await, "503");
}

// C1
#[tokio::test]
async fn a_key_of_the_clients_own_goes_through_the_pair() {
    let place = Place::new();
    let (_bank, ingress) = bank_and(&place, &[]).await;
    let egress = egress(ingress.at, &[]).await;
    let key = ["Idempotency-Key: mine"];
    assert_eq!(asked(egress.at, &key).await, "200 executed");
    assert_eq!(asked(egress.at, &key).await, "200 replayed");
    let other = asked_of(egress.at, &key, "another body", &[]).await;
    assert_eq!(other, "422 mismatch");
    assert_eq!(place.effects().len(), 1);
}

// A1: the pair speaks HTTP/2 to each other, with and without an outbox.
#[tokio::test]
async fn a_pair_that_speaks_http_2_to_each_other_executes_each_call_once() {
    let place = Place::new();
    let (_bank, ingress) = bank_and(&place, &[]).await;
    let outbox = format!("sled:{}", place.path("outbox").display());
    for (number, more) in [&[][..], &["--store", &outbox]].into_iter().enumerate() {
        let http2 = [&["--upstream-http2"][..], more].concat();
        let egress = egress(ingress.at, &http2).await;
        let said = asked(egress.at, &[]).await;
        assert!(said.starts_with("200 "), "{said}");
        let over_http2 = asked_of(egress.at, &[], CALL, &["--http2-prior-knowledge"]).await;
        assert!(over_http2.starts_with("200 "), "{over_http2}");
        let key = format!("Idempotency-Key: mine-{number}");
        assert_eq!(asked(egress.at, &[&key]).await, "200 executed");
        assert_eq!(asked(egress.at, &[&key]).await, "200 replayed");
        assert_eq!(place.effects().len(), 3 * (number + 1));
    }
}

// A service that speaks HTTP/2 alone: here another ingress, with a store of its own.
#[tokio::test]
async fn a_service_of_http_2_is_called_once_a_key() {
    let place = Place::new();
    let (_bank, inner) = bank_and(&place, &[]).await;
    let upstream = format!("http://{}", inner.at);
    let arguments = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let more = ["--store", "memory:", "--global-scope", "--upstream-http2"];
    let outer = proxy(&[&arguments[..], &more[..]].concat()).await;
    let key = "Idempotency-Key: order-1";
    assert_eq!(asked(outer.at, &[key]).await, "200 executed");
    assert_eq!(asked(outer.at, &[key]).await, "200 replayed");
    assert_eq!(place.effects().len(), 1);
}
