//! What becomes of a call whose answer the service does not give.

use std::net::SocketAddr;

use super::programs::{Place, Program, curl, free_port, proxy};
use super::scripted::{Reply, Scripted};

/// The code, the status and the body that a call under this key gets.
async fn called(at: SocketAddr, key: &str, more: &[&str]) -> (String, String) {
    let (url, key) = (
        format!("http://{at}/pay"),
        format!("Idempotency-Key: {key}"),
    );
    let written = "\n%{http_code} %header{idempotency-status}";
    let mut arguments = vec!["-w", written, "--data-raw", "pay 10", "-H", &key];
    arguments.extend(more);
    arguments.push(&url);
    let said = curl(&arguments).await;
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

async fn status(at: SocketAddr, key: &str) -> String {
    called(at, key, &[]).await.0
}

async fn ingress(upstream: SocketAddr, more: &[&str]) -> Program {
    let upstream = format!("http://{upstream}");
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:", "--global-scope"]);
    arguments.extend(more);
    proxy(&arguments).await
}

// B2, D4
#[tokio::test]
async fn a_connection_that_is_lost_after_bytes_were_sent_leaves_its_call_in_doubt() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned();
    for lost in [
        Reply::Close,
        Reply::SayAndClose("HTTP/1.1 200".to_owned()),
        Reply::SayAndClose(cut),
        Reply::Say("no HTTP at all\r\n\r\n".to_owned()),
    ] {
        let service = Scripted::always(lost).await;
        let ingress = ingress(service.at, &[]).await;
        assert_eq!(status(ingress.at, "a").await, "409 in-doubt");
        assert_eq!(status(ingress.at, "a").await, "409 in-doubt");
        assert_eq!(service.heard().len(), 1);
    }
}

// D4
#[tokio::test]
async fn a_5xx_is_kept_and_in_doubt_and_what_was_not_executed_frees_the_key() {
    let service = Scripted::start(|_, request| {
        let key = |key: &str| request.contains(&format!("{key}\r\n"));
        if key("failed") {
            Reply::with("500 Internal Server Error", "", "broken")
        } else if key("busy") {
            Reply::with("429 Too Many Requests", "Retry-After: 3\r\n", "busy")
        } else {
            Reply::with("402 Payment Required", "", "no money")
        }
    })
    .await;
    let ingress = ingress(service.at, &[]).await;
    let in_doubt = ("500 in-doubt".to_owned(), "broken".to_owned());
    assert_eq!(called(ingress.at, "failed", &[]).await, in_doubt);
    assert_eq!(called(ingress.at, "failed", &[]).await, in_doubt);
    assert_eq!(service.heard().len(), 1);
    assert_eq!(status(ingress.at, "busy").await, "429 not-executed");
    assert_eq!(status(ingress.at, "busy").await, "429 not-executed");
    assert_eq!(service.heard().len(), 3);
    assert_eq!(status(ingress.at, "refused").await, "402 executed");
    assert_eq!(status(ingress.at, "refused").await, "402 replayed");
    assert_eq!(service.heard().len(), 4);
}

#[tokio::test]
async fn a_call_in_doubt_runs_again_only_where_that_was_said() {
    let service = Scripted::start(|number, _| match number {
        1 => Reply::Close,
        _ => Reply::ok("paid"),
    })
    .await;
    let ingress = ingress(service.at, &["--in-doubt", "rerun"]).await;
    assert_eq!(status(ingress.at, "a").await, "409 in-doubt");
    assert_eq!(status(ingress.at, "a").await, "200 executed");
    assert_eq!(status(ingress.at, "a").await, "200 replayed");
    let heard = service.heard();
    let tokens: Vec<_> = heard.iter().map(|request| token(request)).collect();
    assert_eq!(heard.len(), 2);
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

fn token(request: &str) -> (u64, u64) {
    let line = request
        .lines()
        .find_map(|line| line.strip_prefix("idempotency-fencing-token: "));
    let (incarnation, sequence) = line.unwrap().split_once('.').unwrap();
    (incarnation.parse().unwrap(), sequence.parse().unwrap())
}

// B2
#[tokio::test]
async fn the_service_is_asked_what_became_of_a_call_in_doubt() {
    let service = Scripted::start(|_, request| {
        let key = |key: &str| request.contains(&format!("\"{key}\"\r\n"));
        if !request.starts_with("GET /outcome") {
            return if request.matches("rerun: 1").count() > 0 {
                Reply::ok("paid anew")
            } else {
                Reply::Close
            };
        }
        if key("applied") {
            Reply::with("201 Created", "Idempotency-Outcome: applied\r\n", "receipt")
        } else if key("lost") {
            Reply::with("200 OK", "Idempotency-Outcome: not-applied\r\n", "")
        } else if key("open") {
            Reply::with("200 OK", "Idempotency-Outcome: unknown\r\n", "")
        } else {
            Reply::with("404 Not Found", "", "what?")
        }
    })
    .await;
    let url = format!("http://{}/outcome", service.at);
    let ingress = ingress(service.at, &["--reconcile-url", &url]).await;
    for key in ["applied", "lost", "open", "other"] {
        assert_eq!(status(ingress.at, key).await, "409 in-doubt", "{key}");
    }
    let applied = called(ingress.at, "applied", &[]).await;
    assert_eq!(applied, ("201 replayed".to_owned(), "receipt".to_owned()));
    assert_eq!(status(ingress.at, "open").await, "409 in-doubt");
    assert_eq!(status(ingress.at, "other").await, "409 in-doubt");
    let again = called(ingress.at, "lost", &["-H", "rerun: 1"]).await;
    assert_eq!(again, ("200 executed".to_owned(), "paid anew".to_owned()));

    // It is told which call and which run of it.
    let heard = service.heard();
    let question = heard.iter().find(|request| request.starts_with("GET"));
    let question = question.unwrap();
    let call = heard.iter().find(|request| request.contains("applied\r\n"));
    assert!(
        question.contains("idempotency-key: \"applied\"\r\n"),
        "{question}"
    );
    assert_eq!(token(question), token(call.unwrap()));
}

// B2: half a receipt is no receipt.
#[tokio::test]
async fn an_answer_to_the_question_that_ends_with_its_connection_is_recorded_only_where_that_is_trusted()
 {
    let receipt = "HTTP/1.0 201 Created\r\nIdempotency-Outcome: applied\r\n\r\nreceipt";
    for (trusted, after) in [(false, "409 in-doubt"), (true, "201 replayed")] {
        let service = Scripted::start(move |_, request| {
            if request.starts_with("GET /outcome") {
                Reply::SayAndClose(receipt.to_owned())
            } else {
                Reply::Close
            }
        })
        .await;
        let url = format!("http://{}/outcome", service.at);
        let mut more = vec!["--reconcile-url", &url];
        if trusted {
            more.extend(["--close-delimited", "trust"]);
        }
        let ingress = ingress(service.at, &more).await;
        assert_eq!(status(ingress.at, "a").await, "409 in-doubt");
        assert_eq!(status(ingress.at, "a").await, after);
    }
}

#[tokio::test]
async fn a_service_that_takes_no_connection_yet_is_waited_for_and_what_was_not_sent_is_free() {
    let place = Place::new();
    let port = free_port();
    let upstream = format!("127.0.0.1:{port}").parse().unwrap();
    let ingress = ingress(upstream, &["--timeout", "8s"]).await;
    assert_eq!(status(ingress.at, "a").await, "503 not-executed");
    let at = ingress.at;
    let waiting = tokio::spawn(async move { status(at, "a").await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let _bank = place.bank_at(port, "0").await;
    // The bank knows no such path, but it is the bank that says so.
    assert_eq!(waiting.await.unwrap(), "404 executed");
}

// P25
#[tokio::test]
async fn a_connection_that_was_idle_is_not_used_for_a_call() {
    let service = Scripted::start(|_, _| Reply::ok("paid")).await;
    // The service closes nothing: only the proxy's own bound ends a connection.
    let ingress = ingress(service.at, &["--upstream-idle", "500ms"]).await;
    assert_eq!(status(ingress.at, "a").await, "200 executed");
    assert_eq!(status(ingress.at, "b").await, "200 executed");
    assert_eq!(service.connections(), 1);
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    assert_eq!(status(ingress.at, "c").await, "200 executed");
    assert_eq!(service.connections(), 2);
}

// F11
#[tokio::test]
async fn an_answer_is_recorded_as_it_is_and_not_in_an_encoding_that_others_do_not_take() {
    let service = Scripted::start(|_, request| {
        let gzip = request
            .to_ascii_lowercase()
            .contains("accept-encoding: gzip");
        if gzip {
            Reply::with("200 OK", "Content-Encoding: gzip\r\n", "not for everybody")
        } else {
            Reply::ok("plain")
        }
    })
    .await;
    let ingress = ingress(service.at, &[]).await;
    let compressed = called(ingress.at, "a", &["-H", "Accept-Encoding: gzip"]).await;
    assert_eq!(compressed, ("200 executed".to_owned(), "plain".to_owned()));
    let (_, body) = called(ingress.at, "a", &[]).await;
    assert_eq!(body, "plain");
}

// F11
#[tokio::test]
async fn what_a_client_that_takes_gzip_has_called_first_is_read_by_one_that_takes_none() {
    let place = Place::new();
    let bank = place.service("gzip_bank.py", 0, "0").await;
    let ingress = ingress(bank.at, &[]).await;
    let said = "ten were taken, and ten more were not\n".repeat(20);
    let asked = |path: &'static str, more: &'static [&'static str]| async move {
        let url = format!("http://{}{path}", ingress.at);
        let key = format!("Idempotency-Key: {}", &path[1..]);
        let written = "\n%{http_code} %header{idempotency-status} %header{content-encoding}";
        let mut arguments = vec!["-w", written, "-d", "10", "-H", &key, "--output", "-"];
        arguments.extend(more);
        arguments.push(&url);
        let said = curl(&arguments).await;
        let (body, status) = said.rsplit_once('\n').unwrap();
        (body.to_owned(), status.trim().to_owned())
    };
    let gzip = &["--compressed"][..];
    let first = asked("/asked", gzip).await;
    assert_eq!(first, (said.clone(), "200 executed".to_owned()));
    let replayed = asked("/asked", &[]).await;
    assert_eq!(replayed, (said.clone(), "200 replayed".to_owned()));
    // A service that compresses whatever it is told does so for everybody, and says so.
    let first = asked("/always", gzip).await;
    assert_eq!(first, (said.clone(), "200 executed gzip".to_owned()));
    let replayed = asked("/always", gzip).await;
    assert_eq!(replayed, (said, "200 replayed gzip".to_owned()));
    assert_eq!(asked("/always", &[]).await.1, "200 replayed gzip");
    assert_eq!(place.effects().len(), 2);
}
