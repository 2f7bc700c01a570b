//! What somebody between the pair answers in the other half's place.

use std::net::SocketAddr;

use super::programs::{Program, curl, egress};
use super::scripted::{Reply, Scripted};

/// What an ingress says of its store.
pub(crate) const STORE: &str =
    "Idempotency-Store: \"8e03978e-40d5-43e8-bc93-6894a57f9324\"; now=1763740800000\r\n";

/// Says of itself that it dedupes, and answers calls so.
async fn between(reply: Reply) -> Scripted {
    Scripted::start(move |_, request| {
        if request.starts_with("OPTIONS") {
            Reply::with("204 No Content", STORE, "")
        } else {
            reply.clone()
        }
    })
    .await
}

/// The code, the status, and whether the key is said, of a call without a key of its own.
async fn called(at: SocketAddr, more: &[&str]) -> String {
    let url = format!("http://{at}/pay");
    let written = "%{http_code} %header{idempotency-status} %header{connection} \
                   [%header{idempotency-key}]";
    let mut arguments = vec!["-o", "/dev/null", "-w", written, "-d", "pay 10"];
    arguments.extend(more);
    arguments.push(&url);
    let said = curl(&arguments).await;
    let (words, key) = said.split_once('[').unwrap();
    let key = if key == "]" { "" } else { " and its key" };
    format!(
        "{}{key}",
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    )
}

fn posts(service: &Scripted) -> usize {
    let heard = service.heard();
    let post = |request: &&String| request.starts_with("POST");
    heard.iter().filter(post).count()
}

// H10
#[tokio::test]
async fn a_gateways_error_to_the_only_attempt_is_an_unknown_outcome_and_names_the_key() {
    for code in [
        "500 Oops",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        let between = between(Reply::with(code, "", "from a gateway")).await;
        let egress = egress(between.at, &["--attempts-max", "1"]).await;
        let said = called(egress.at, &[]).await;
        assert_eq!(said, "504 close and its key", "{code}");
        assert_eq!(posts(&between), 1);
    }
}

// H10
#[tokio::test]
async fn a_gateways_error_where_the_budget_is_spent_is_an_unknown_outcome() {
    let between = between(Reply::with("503 Service Unavailable", "", "busy")).await;
    let egress = egress(
        between.at,
        &["--retries-per-second", "0", "--timeout", "10s"],
    )
    .await;
    for _ in 0..3 {
        assert_eq!(called(egress.at, &[]).await, "504 close and its key");
    }
}

#[tokio::test]
async fn a_gateways_refusal_of_the_only_attempt_is_the_answer() {
    let between = between(Reply::with("401 Unauthorized", "", "who are you?")).await;
    let egress = egress(between.at, &["--attempts-max", "1"]).await;
    assert_eq!(called(egress.at, &[]).await, "401 close");
    let own = ["-H", "Idempotency-Key: mine"];
    assert_eq!(called(egress.at, &own).await, "401 close");
}

// C10, C11
#[tokio::test]
async fn an_egress_refuses_a_key_that_is_none_and_closes_after_its_own_refusals_too() {
    let between = between(Reply::ok("paid")).await;
    let egress = egress(between.at, &["--body-bytes-max", "100"]).await;
    for wrong in [
        &["-H", "Idempotency-Key: two words"][..],
        &["-H", "Idempotency-Key: a", "-H", "Idempotency-Key: b"],
    ] {
        let said = called(egress.at, wrong).await;
        assert_eq!(said, "400 not-executed close", "{wrong:?}");
    }
    let long = "x".repeat(200);
    let said = called(egress.at, &["-d", &long]).await;
    assert_eq!(said, "413 not-executed close");
    assert_eq!(posts(&between), 0);
}

async fn readiness(egress: &Program) -> String {
    let url = format!("http://{}/readyz", egress.admin.unwrap());
    curl(&["-o", "/dev/null", "-w", "%{http_code}", &url]).await
}

#[tokio::test]
async fn to_ask_an_egress_whether_it_is_ready_costs_its_calls_nothing() {
    // The first attempt of each call is lost: it takes a retry, of which there are few.
    let service = Scripted::start(|number, request| {
        if request.starts_with("OPTIONS") {
            // Whoever asks for readiness is told so only at first.
            if number == 1 || request.contains("idempotency-key") {
                return Reply::with("204 No Content", STORE, "");
            }
            return Reply::with("503 Service Unavailable", "", "");
        }
        if request.contains("idempotency-attempt: 1\r\n") {
            Reply::Close
        } else {
            let status = format!("{STORE}Idempotency-Status: executed\r\n");
            Reply::with("200 OK", &status, "paid")
        }
    })
    .await;
    let bounds = ["--retries-per-second", "1", "--admin", "127.0.0.1:0"];
    let egress = egress(service.at, &bounds).await;
    assert_eq!(readiness(&egress).await, "200");
    for _ in 0..10 {
        assert_eq!(readiness(&egress).await, "503");
    }
    let asked = service.heard().len();
    assert_eq!(asked, 11, "each question is asked once");
    drop(egress);
}

// H10: what is larger than what is kept comes as it comes, and is not waited for without end.
#[tokio::test]
async fn a_link_that_goes_silent_in_a_long_answer_holds_no_client_of_an_egress_for_ever() {
    let length = 3 << 20;
    let begun = format!(
        "HTTP/1.1 200 OK\r\n{STORE}Idempotency-Status: executed\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(2 << 20)
    );
    let between = between(Reply::Say(begun)).await;
    let place = super::programs::Place::new();
    let outbox = format!("sled:{}", place.path("outbox").display());
    for more in [&[][..], &["--store", &outbox]] {
        let egress = egress(between.at, &[&["--timeout", "2s"][..], more].concat()).await;
        let url = format!("http://{}/pay", egress.at);
        let began = tokio::time::Instant::now();
        let written = [
            "-m",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{size_download}",
        ];
        let said = curl(&[&written[..], &["-d", "x", &url]].concat()).await;
        assert!(began.elapsed().as_secs() < 15, "{said}");
        // Its head was there, and its end was not.
        assert!(said.starts_with("200 "), "{said}");
        assert!(!said.ends_with(&length.to_string()), "{said}");
    }
}
