//! Clients that know nothing of this crate: curl, over HTTP/1.1 and HTTP/2, and Python.

use std::net::SocketAddr;

use tokio::process::Command;

use crate::kit::{layer, paying};

/// What curl printed: the answer's head and body; `None` where there is no curl.
async fn curl(server: SocketAddr, version: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--include",
        "--max-time",
        "20",
        version,
    ]);
    command.args(arguments).arg(format!("http://{server}/pay"));
    let output = command.kill_on_drop(true).output().await;
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("not run: curl cannot be started: {error}");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

async fn pays_once(version: &str) {
    let (server, ledger) = paying(layer()).await;
    let pay = ["--data", "10", "--header", "Idempotency-Key: \"k\""];
    for (said, replayed) in [("executed", false), ("replayed", true)] {
        let Some(reply) = curl(server, version, &pay).await else {
            return;
        };
        let lower = reply.to_lowercase();
        assert!(
            lower.contains(&format!("idempotency-status: {said}\r\n")),
            "{reply}"
        );
        assert_eq!(lower.contains("idempotent-replayed: true\r\n"), replayed);
        assert!(reply.ends_with("10 #1"), "{reply}");
    }
    let other = ["--data", "11", "--header", "Idempotency-Key: k"];
    let refused = curl(server, version, &other).await.unwrap();
    assert!(refused.contains(" 422"), "{refused}");
    let without = curl(server, version, &["--data", "10"]).await.unwrap();
    assert!(without.contains(" 400"), "{without}");
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn curl_pays_once_over_http_1() {
    pays_once("--http1.1").await;
}

#[tokio::test]
async fn curl_pays_once_over_http_2() {
    pays_once("--http2-prior-knowledge").await;
}

#[tokio::test]
async fn curls_own_retries_pay_once() {
    let slow = async || {
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        "paid"
    };
    let ledger = crate::kit::Ledger::default();
    let counted = ledger.clone();
    let handler = move || {
        counted.apply();
        slow()
    };
    let route = axum::routing::post(handler).layer(layer());
    let server = crate::kit::serve(axum::Router::new().route("/pay", route)).await;
    // The first attempt is given up after a second; the retry waits for the handler.
    let retried = [
        "--data",
        "10",
        "--header",
        "Idempotency-Key: k",
        "--retry",
        "3",
        "--retry-max-time",
        "15",
    ];
    let impatient = [
        &retried[..],
        &[
            "--retry-all-errors",
            "--retry-delay",
            "1",
            "--max-time",
            "1",
        ],
    ]
    .concat();
    let Some(reply) = curl(server, "--http1.1", &impatient).await else {
        return;
    };
    assert!(reply.ends_with("paid"), "{reply}");
    assert_eq!(ledger.effects(), 1);
}

const PYTHON: &str = r#"
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
for said, code, body in [("executed", 200, b"10"), ("replayed", 200, b"10"), ("mismatch", 422, b"11")]:
    connection.request("POST", "/pay", body, {"Idempotency-Key": "k"})
    answer = connection.getresponse()
    text = answer.read()
    assert (answer.status, answer.headers["Idempotency-Status"]) == (code, said), answer.headers
    assert code != 200 or text == b"10 #1", text
connection.request("POST", "/pay", iter([b"1", b"0"]), {"Idempotency-Key": "chunked"}, encode_chunked=True)
answer = connection.getresponse()
assert (answer.status, answer.read()) == (200, b"10 #2")
"#;

#[tokio::test]
async fn pythons_http_client_pays_once_over_one_connection() {
    let (server, ledger) = paying(layer()).await;
    let mut command = Command::new("python3");
    command
        .args(["-c", PYTHON, &server.to_string()])
        .kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) => {
            println!("not run: python3 cannot be started: {error}");
            return;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(ledger.effects(), 2);
}
