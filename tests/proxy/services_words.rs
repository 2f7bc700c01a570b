//! What a service says, or seems to say, of a call.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::programs::{Place, Program, curl, free_port, proxy};
use super::scripted::{Reply, Scripted};

async fn ingress(upstream: SocketAddr, more: &[&str]) -> Program {
    with_scope(upstream, &[&["--global-scope"], more].concat()).await
}

async fn with_scope(upstream: SocketAddr, more: &[&str]) -> Program {
    let upstream = format!("http://{upstream}");
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:"]);
    arguments.extend(more);
    proxy(&arguments).await
}

/// The code and the status that a call under this key gets.
async fn status(at: SocketAddr, key: &str, more: &[&str]) -> String {
    let (url, key) = (
        format!("http://{at}/pay"),
        format!("Idempotency-Key: {key}"),
    );
    let written = "%{http_code} %header{idempotency-status}";
    let mut arguments = vec!["-o", "/dev/null", "-w", written, "-d", "pay 10", "-H", &key];
    arguments.extend(more);
    arguments.push(&url);
    curl(&arguments).await
}

// F4, B2: an end of the connection is no end of an answer.
#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_in_doubt_unless_it_is_trusted() {
    for head in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ] {
        let cut = Reply::SayAndClose(format!("{head}<paid>ha"));
        let service = Scripted::always(cut).await;
        let careful = ingress(service.at, &[]).await;
        assert_eq!(status(careful.at, "a", &[]).await, "409 in-doubt");
        assert_eq!(status(careful.at, "a", &[]).await, "409 in-doubt");
        assert_eq!(service.heard().len(), 1);
        let trusting = ingress(service.at, &["--close-delimited", "trust"]).await;
        assert_eq!(status(trusting.at, "a", &[]).await, "200 executed");
        assert_eq!(status(trusting.at, "a", &[]).await, "200 replayed");
        assert_eq!(service.heard().len(), 2);
        // What is not protected comes as it comes.
        let url = format!("http://{}/", careful.at);
        assert_eq!(curl(&[&url]).await, "<paid>ha");
    }
}

#[tokio::test]
async fn an_answer_with_a_length_or_in_chunks_or_without_a_body_is_whole() {
    for answer in [
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npaid",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npaid\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let service = Scripted::always(Reply::SayAndClose(answer.to_owned())).await;
        let ingress = ingress(service.at, &[]).await;
        let said = status(ingress.at, "a", &[]).await;
        assert!(said.ends_with(" executed"), "{answer:?}: {said}");
        let said = status(ingress.at, "a", &[]).await;
        assert!(said.ends_with(" replayed"), "{answer:?}: {said}");
    }
}

// D1, D4
#[tokio::test]
async fn a_service_that_speaks_of_keys_of_its_own_frees_none_here() {
    let words = "Idempotency-Status: not-executed\r\nIdempotent-Replayed: true\r\n";
    let service = Scripted::always(Reply::with("200 OK", words, "paid")).await;
    let careful = ingress(service.at, &[]).await;
    assert_eq!(status(careful.at, "a", &[]).await, "200 executed");
    assert_eq!(status(careful.at, "a", &[]).await, "200 replayed");
    assert_eq!(service.heard().len(), 1);
    let trusting = ingress(service.at, &["--upstream-status", "trust"]).await;
    assert_eq!(status(trusting.at, "a", &[]).await, "200 not-executed");
    assert_eq!(status(trusting.at, "a", &[]).await, "200 not-executed");
    assert_eq!(service.heard().len(), 3);
}

// D1, H10: what a service that dedupes by itself says of a call that is still going on there is not the
// call's answer.
#[tokio::test]
async fn a_service_that_says_that_a_call_is_open_leaves_it_in_doubt_and_does_not_end_it() {
    for said in ["in-progress", "in-doubt"] {
        let words = format!("Idempotency-Status: {said}\r\nRetry-After: 1\r\n");
        let open = Reply::with("409 Conflict", &words, "later");
        let service = Scripted::start(move |number, _| match number {
            1 => open.clone(),
            _ => Reply::ok("paid"),
        })
        .await;
        let ingress = ingress(service.at, &["--in-doubt", "rerun"]).await;
        assert_eq!(status(ingress.at, "a", &[]).await, "409 in-doubt", "{said}");
        assert_eq!(status(ingress.at, "a", &[]).await, "200 executed", "{said}");
        assert_eq!(status(ingress.at, "a", &[]).await, "200 replayed", "{said}");
    }
}

// B2: nobody asked for another protocol.
#[tokio::test]
async fn a_service_that_changes_the_protocol_unasked_gives_no_answer() {
    let change = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let service = Scripted::always(Reply::Say(change.to_owned())).await;
    let ingress = ingress(service.at, &[]).await;
    assert_eq!(status(ingress.at, "a", &[]).await, "409 in-doubt");
    assert_eq!(status(ingress.at, "a", &[]).await, "409 in-doubt");
    assert_eq!(service.heard().len(), 1);
    let url = format!("http://{}/", ingress.at);
    let code = curl(&["-o", "/dev/null", "-w", "%{http_code}", &url]).await;
    assert_eq!(code, "502");
}

// C2
#[tokio::test]
async fn a_key_that_comes_to_another_host_never_gets_the_first_ones_answer() {
    let service = Scripted::start(|_, request| {
        let host = |line: &str| line.to_ascii_lowercase().starts_with("host: ");
        Reply::ok(request.lines().find(|line| host(line)).unwrap_or("none"))
    })
    .await;
    let ingress = ingress(service.at, &[]).await;
    let host = |name: &str| format!("Host: {name}");
    let (one, other) = (host("one.example"), host("other.example"));
    assert_eq!(status(ingress.at, "a", &["-H", &one]).await, "200 executed");
    assert_eq!(
        status(ingress.at, "a", &["-H", &other]).await,
        "422 mismatch"
    );
    assert_eq!(status(ingress.at, "a", &["-H", &one]).await, "200 replayed");
    // By another port one comes to the same.
    let port = host("ONE.example:8080");
    assert_eq!(
        status(ingress.at, "a", &["-H", &port]).await,
        "200 replayed"
    );
    assert_eq!(service.heard().len(), 1);
}

// C13, I2: CGI, WSGI and PHP take `_` for `-`.
#[tokio::test]
async fn a_header_that_is_spelled_like_the_principals_does_not_reach_the_service() {
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = with_scope(service.at, &["--scope-header", "x-tenant"]).await;
    let ann = ["-H", "X-Tenant: ann", "-H", "X_Tenant: bob"];
    assert_eq!(status(ingress.at, "a", &ann).await, "200 executed");
    let heard = service.heard().remove(0).to_ascii_lowercase();
    assert!(heard.contains("x-tenant: ann\r\n"), "{heard}");
    assert!(!heard.contains("x_tenant"), "{heard}");
}

// B7: claimed, not sent, and the process stands still until nobody waits any more.
#[tokio::test]
async fn what_was_not_sent_when_its_time_was_over_is_not_sent_later() {
    let place = Place::new();
    let port = free_port();
    let upstream = format!("127.0.0.1:{port}").parse().unwrap();
    let ingress = ingress(upstream, &["--timeout", "4s"]).await;
    let at = ingress.at;
    let waiting = tokio::spawn(async move { status(at, "a", &[]).await });
    // It tries to connect, again and again.
    sleep(Duration::from_millis(500)).await;
    ingress.signal("STOP").await;
    sleep(Duration::from_secs(5)).await;
    let bank = place.bank_at(port, "0").await;
    ingress.signal("CONT").await;
    let said = waiting.await.unwrap();
    assert!(said.starts_with("50") || said.starts_with("409"), "{said}");
    sleep(Duration::from_secs(1)).await;
    // Nothing of it came late: the key is free, and this call is the first.
    assert_eq!(said, "503 not-executed");
    assert_eq!(status(ingress.at, "a", &[]).await, "404 executed");
    drop(bank);
}
