//! A client of grpcio's, in Python, that knows nothing of this crate and has no code generated for it.
//!
//! `ONLYONCE_PYTHON` names a Python that has grpcio: `.ci/run` makes one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;
use tonic::{Code, Response, Status};

use crate::bank::Receipt;
use crate::kit::{Ledger, answering, counting, framed, layer, paying, serve, transfer};
use crate::peer::Loss;

/// Makes the calls that its arguments name, and prints of each its code, what is said of it, its
/// details and its reply.
const CALLS: &str = r#"
import json, sys, grpc

server, retries, message = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
config = {"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"]}}]}
options = [("grpc.service_config", json.dumps(config))] if retries == "retries" else []
channel = grpc.insecure_channel(server, options=options)
transfer = channel.unary_unary("/bank.Bank/Transfer")
for call in sys.argv[4:]:
    key, timeout = call.split("/")
    metadata = [("idempotency-key", key)] if key else []
    try:
        reply, done = transfer.with_call(message, metadata=metadata, timeout=float(timeout))
    except grpc.RpcError as error:
        reply, done = b"", error
    lines = {}
    for line in list(done.initial_metadata() or []) + list(done.trailing_metadata() or []):
        lines[line.key] = line.value
    details = lines.get("x-seal-bin", b"").hex()
    print(done.code().name, lines.get("idempotency-status", "nothing"), details, reply.hex(), sep="|")
"#;

/// What was printed; `None` where there is no such Python.
async fn python(server: SocketAddr, retries: &str, calls: &[&str]) -> Option<Vec<String>> {
    let Ok(python) = std::env::var("ONLYONCE_PYTHON") else {
        println!("not run: ONLYONCE_PYTHON names no Python with grpcio");
        return None;
    };
    let message = prost::Message::encode_to_vec(&transfer(10));
    let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(&python);
    command.args(["-c", CALLS, &server.to_string(), retries, &hex]);
    let output = command.args(calls).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await;
    let output = output.expect("it ends").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    Some(printed.lines().map(str::to_owned).collect())
}

/// A receipt as it is printed.
fn printed(number: u32, text: &str) -> String {
    let text = text.to_owned();
    let receipt = prost::Message::encode_to_vec(&Receipt { number, text });
    receipt.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_grpcio_client_pays_once() {
    let (server, ledger) = paying(layer()).await;
    let Some(told) = python(server, "plain", &["k/20", "\"k\"/20", "/20"]).await else {
        return;
    };
    let receipt = printed(1, "10 to anna");
    assert_eq!(told[0], format!("OK|executed||{receipt}"));
    assert_eq!(told[1], format!("OK|replayed||{receipt}"));
    assert_eq!(told[2], "INVALID_ARGUMENT|not-executed||");
    assert_eq!(ledger.effects(), 1);
    // Another message with its key, from another client.
    let other = framed(b"");
    let mut request = crate::kit::raw(server, "k");
    *request.body_mut() = other.into();
    assert_eq!(crate::kit::send(request).await.said(), "mismatch");
}

// F3
#[tokio::test]
async fn a_grpcio_client_reads_a_replayed_failure_as_it_read_the_failure() {
    let refuse = || {
        let mut status = Status::new(Code::NotFound, "no such account");
        let seal = tonic::metadata::MetadataValue::from_bytes(&[0, 255]);
        status.metadata_mut().insert_bin("x-seal-bin", seal);
        Err(status)
    };
    let (server, ledger) = answering(layer(), refuse).await;
    let Some(told) = python(server, "plain", &["k/20", "k/20"]).await else {
        return;
    };
    assert_eq!(
        told,
        ["NOT_FOUND|executed|00ff|", "NOT_FOUND|replayed|00ff|"]
    );
    assert_eq!(ledger.effects(), 1);
}

// H11
#[tokio::test]
async fn grpcios_own_retries_pay_once() {
    let (ledger, loss) = (Ledger::default(), Loss::default());
    let (pay, lose) = (counting(&ledger), loss.clone());
    let handler = move |request| {
        lose.happen();
        pay(request)
    };
    let server = loss.before(serve(layer(), handler).await).await;
    let Some(told) = python(server, "retries", &["k/20"]).await else {
        return;
    };
    let receipt = printed(1, "10 to anna");
    assert_eq!(told, [format!("OK|replayed||{receipt}")]);
    assert_eq!(ledger.effects(), 1);
}

// P25
#[tokio::test]
async fn a_grpcio_client_that_gave_up_gets_the_answer_when_it_asks_again() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        let number = counted.apply();
        async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let text = String::new();
            Ok(Response::new(Receipt { number, text }))
        }
    };
    let server = serve(layer(), handler).await;
    let Some(told) = python(server, "plain", &["k/0.5", "k/20"]).await else {
        return;
    };
    assert!(told[0].starts_with("DEADLINE_EXCEEDED") || told[0].starts_with("CANCELLED"));
    assert_eq!(told[1], format!("OK|attached||{}", printed(1, "")));
    assert_eq!(ledger.effects(), 1);
}
