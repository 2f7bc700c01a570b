//! Pays an invoice over HTTP, through `reqwest`, so that it is paid once however bad the network is.
//!
//! ```text
//! cargo run --example reqwest_client --features reqwest -- http://127.0.0.1:8080/payments
//! ```

use std::time::Duration;

use onlyonce::http::client::{Client, reqwest, stack};
use onlyonce::http::{Body, Status};
use onlyonce::middleware::client::{Outcome, Ticket};
use onlyonce::storage::IdempotencyKey;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a payment.
#[derive(Debug, PartialEq, Eq)]
pub enum Payment {
    /// It was made, now or by an earlier attempt, and this is the receipt.
    Made {
        /// What the bank answered.
        receipt: String,
        /// Whether it was made by an earlier attempt.
        replayed: bool,
    },
    /// It was not made, and this is why.
    NotMade(String),
    /// Nobody knows yet. Pay the same invoice again: it is the same call.
    Unknown(String),
}

#[allow(dead_code, reason = "a test runs the rest of it")]
#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Some(url) = std::env::args().nth(1) else {
        return Err("usage: reqwest_client URL".into());
    };
    println!("{:?}", pay(&client()?, &url, "invoice-17", 25).await?);
    Ok(())
}

/// The client: made once, and shared by all calls.
pub fn client() -> Result<Client, Failure> {
    let transport = reqwest(::reqwest::Client::builder())?;
    Ok(stack(transport)
        .with_call_timeout(Duration::from_secs(20))
        .build())
}

/// Pays `invoice`. Its key follows from its name, so that paying it again is the same call, also from
/// another process.
pub async fn pay(
    client: &Client,
    url: &str,
    invoice: &str,
    amount: u64,
) -> Result<Payment, Failure> {
    let key = IdempotencyKey::derived("invoice", invoice.as_bytes());
    let body = format!(r#"{{"invoice":"{invoice}","amount":{amount}}}"#);
    let request = http::Request::post(url)
        .header("content-type", "application/json")
        .extension(Ticket::from(key))
        .body(Body::from(body))?;
    match client.send(request).await {
        Ok(response) => {
            let replayed = Status::of(response.headers()) == Some(Status::Replayed);
            let code = response.status();
            // It was read with the attempt that brought it.
            let body = response.body().contents().map(|it| it.bytes.to_vec());
            let receipt = String::from_utf8(body.unwrap_or_default())?;
            Ok(if code.is_success() {
                Payment::Made { receipt, replayed }
            } else {
                Payment::NotMade(format!("{code}: {receipt}"))
            })
        }
        Err(error) if error.outcome == Outcome::NotExecuted => {
            Ok(Payment::NotMade(error.to_string()))
        }
        Err(error) => Ok(Payment::Unknown(error.to_string())),
    }
}
