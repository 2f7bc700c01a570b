//! Clients of the bank.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use onlyonce::http::client::{Client, TransportError, hyper, reqwest, stack};
use onlyonce::http::{Body, Status};
use onlyonce::middleware::client::{CallError, Outcome, RetryBudget, Ticket};
use onlyonce::storage::IdempotencyKey;
use onlyonce_chaos::Proxy;
use onlyonce_chaos::ledger::Ending;
use onlyonce_chaos::proxy::Plan;

pub type Answer = http::Response<Body>;
pub type Failed = CallError<Answer, TransportError>;

/// Which transport is under the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    HyperUtil,
    Reqwest,
}

pub const BOTH: [Over; 2] = [Over::HyperUtil, Over::Reqwest];

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub attempts: u32,
    pub attempt_timeout: Duration,
    pub call_timeout: Duration,
    /// Whether connections are used again.
    pub keeps_connections: bool,
}

/// A few attempts, each on a connection of its own: what is cut is then known by its number.
pub const FEW: Patience = Patience {
    attempts: 4,
    attempt_timeout: Duration::from_secs(5),
    call_timeout: Duration::from_secs(20),
    keeps_connections: false,
};

pub const ONE_ATTEMPT: Patience = Patience { attempts: 1, ..FEW };

pub fn client(over: Over, patience: Patience) -> Client {
    let idle = if patience.keeps_connections { 64 } else { 0 };
    let stack = match over {
        Over::HyperUtil => {
            let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
            builder.retry_canceled_requests(false);
            builder.pool_max_idle_per_host(idle);
            stack(hyper(builder.build(HttpConnector::new())))
        }
        Over::Reqwest => {
            let builder = ::reqwest::Client::builder().pool_max_idle_per_host(idle);
            stack(reqwest(builder).unwrap())
        }
    };
    stack
        .with_attempts_max(NonZeroU32::new(patience.attempts).unwrap())
        .with_attempt_timeout(patience.attempt_timeout)
        .with_call_timeout(patience.call_timeout)
        .with_budget(RetryBudget::unlimited)
        .build()
}

/// The ticket of a call that nobody has sent yet.
pub fn fresh(key: &str) -> Ticket {
    Ticket::never_sent(IdempotencyKey::parse(key).unwrap())
}

pub async fn pay(
    client: &Client,
    addr: SocketAddr,
    ticket: Ticket,
    order: &str,
) -> Result<Answer, Failed> {
    post(client, addr, "pay", ticket, order).await
}

pub async fn post(
    client: &Client,
    addr: SocketAddr,
    route: &str,
    ticket: Ticket,
    order: &str,
) -> Result<Answer, Failed> {
    let request = http::Request::post(format!("http://{addr}/{route}"))
        .header("content-type", "text/plain; charset=utf-8")
        .extension(ticket)
        .body(Body::from(order.to_owned()))
        .unwrap();
    client.send(request).await
}

pub fn text(answer: &Answer) -> String {
    let contents = answer.body().contents().unwrap();
    String::from_utf8(contents.bytes.to_vec()).unwrap()
}

/// What the caller was told, as the checker counts it.
pub fn ending(result: &Result<Answer, Failed>) -> Ending {
    match result {
        Ok(answer) if answer.status().is_success() => Ending::Answered(text(answer).into()),
        Ok(answer) => match Status::of(answer.headers()) {
            Some(Status::NotExecuted) => Ending::Refused,
            status => panic!("{} {status:?}: {}", answer.status(), text(answer)),
        },
        Err(error) => match error.outcome {
            Outcome::InDoubt => Ending::InDoubt,
            Outcome::NotExecuted => Ending::Refused,
            Outcome::Unknown => Ending::Unknown,
        },
    }
}

pub async fn network(upstream: SocketAddr, seed: u64, plan: Plan) -> Proxy {
    let builder = Proxy::builder(upstream).seed(seed).plan(plan);
    builder.listen("127.0.0.1:0").await.unwrap()
}
