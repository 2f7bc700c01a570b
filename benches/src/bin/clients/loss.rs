//! Calls through the client's layers to a server of which some attempts are lost: how many are
//! answered, how long they take, and how many attempts that costs.

use std::num::NonZeroU32;
use std::time::Duration;

use onlyonce::middleware::client::AttemptTimeoutLayer;
use onlyonce::middleware::stack::{self, ClientStack};
use onlyonce::rpc::{Client, ClientAdapter, Method};
use tokio::time::{Instant, sleep};

use crate::peer::{Fate, Loss, Peer};

/// How a client goes about it.
#[derive(Clone, Copy)]
struct Policy {
    name: &'static str,
    attempts: u32,
    attempt_timeout: Duration,
}

pub fn print() {
    let default = Policy {
        name: "default",
        attempts: 3,
        attempt_timeout: Duration::from_secs(10),
    };
    let policies = [
        Policy {
            name: "one attempt",
            attempts: 1,
            ..default
        },
        default,
        Policy {
            name: "attempts of 100 ms",
            attempt_timeout: Duration::from_millis(100),
            ..default
        },
    ];
    println!("loss,lost_percent,policy,answered_percent,attempts_per_call,p50_ms,p99_ms,p999_ms");
    for (name, loss) in [("reset", Loss::Reset), ("silence", Loss::Silence)] {
        for percent in [1, 5, 20] {
            let fate = Fate {
                lost_per_1000: percent * 10,
                loss,
            };
            for policy in policies {
                let Ended {
                    answered,
                    attempts,
                    at,
                } = run(fate, policy);
                let policy = policy.name;
                println!(
                    "{name},{percent},{policy},{answered:.3},{attempts:.4},{:.1},{:.1},{:.1}",
                    at[0], at[1], at[2]
                );
            }
        }
    }
}

struct Ended {
    /// Of a hundred calls.
    answered: f64,
    /// For each call.
    attempts: f64,
    /// What calls took, answered or not: p50, p99 and p99.9, in milliseconds.
    at: [f64; 3],
}

fn run(fate: Fate, policy: Policy) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    fastrand::seed(1);
    runtime.block_on(async move {
        let peer = Peer::new(fate);
        let client = Client::with_stack(peer.clone(), layers(policy));
        let mut running = Vec::new();
        for _ in 0..CALLS {
            let client = client.clone();
            running.push(tokio::spawn(async move {
                let began = Instant::now();
                let ended = client.call(&PAY, &()).await;
                (ended.is_ok(), began.elapsed())
            }));
            sleep(Duration::from_millis(1)).await;
        }
        let (mut answered, mut took) = (0, Vec::new());
        for call in running {
            let (is_answered, time) = call.await.expect("no call panics");
            answered += u32::from(is_answered);
            took.push(time.as_secs_f64() * 1_000.0);
        }
        took.sort_by(f64::total_cmp);
        let at = [0.5, 0.99, 0.999].map(|share| took[(took.len() as f64 * share) as usize]);
        Ended {
            answered: f64::from(answered) * 100.0 / f64::from(CALLS),
            attempts: peer.attempts() as f64 / f64::from(CALLS),
            at,
        }
    })
}

fn layers(policy: Policy) -> ClientStack<ClientAdapter> {
    let attempts = NonZeroU32::new(policy.attempts).expect("an attempt");
    stack::client(ClientAdapter)
        .with_retry(|retry| retry.assume_dedupe().with_attempts_max(attempts))
        .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(policy.attempt_timeout))
}

const PAY: Method<(), ()> = Method::new("pay");
/// A thousand a second.
const CALLS: u32 = 30_000;
