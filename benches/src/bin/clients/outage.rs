//! The load on a server that answers nothing for a minute: attempts for each call, beside what
//! `src/manual/defaults.md` says of each budget.

use std::time::Duration;

use onlyonce::middleware::client::RetryBudget;
use onlyonce::middleware::stack;
use onlyonce::rpc::{Client, ClientAdapter, Method};
use tokio::time::sleep;

use crate::peer::{Fate, Loss, Peer};

pub fn print() {
    println!("budget,calls_per_s,attempts_per_call,said");
    for (name, budget, said) in [
        (
            "none",
            RetryBudget::unlimited as fn() -> RetryBudget,
            [3.0; 3],
        ),
        ("default", RetryBudget::default, [2.0, 1.1, 1.01]),
        ("sre", RetryBudget::sre, [1.1; 3]),
    ] {
        for (rate, said) in [10, 100, 1_000].into_iter().zip(said) {
            let load = load(budget, rate);
            println!("{name},{rate},{load:.3},{said:.2}");
            let off = (load / said - 1.0) * 100.0;
            eprintln!("budget {name}, {rate}/s: {load:.3}, said {said:.2} ({off:+.1} %)");
        }
    }
}

fn load(budget: fn() -> RetryBudget, rate: u32) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    fastrand::seed(1);
    runtime.block_on(async move {
        let peer = Peer::new(Fate {
            lost_per_1000: 1_000,
            loss: Loss::Reset,
        });
        let budget = budget();
        let layers = stack::client(ClientAdapter)
            .with_retry(|retry| retry.assume_dedupe().with_budget(budget));
        let client = Client::with_stack(peer.clone(), layers);
        let calls = rate * SECONDS;
        let mut running = Vec::new();
        for _ in 0..calls {
            let client = client.clone();
            running.push(tokio::spawn(async move { client.call(&PAY, &()).await }));
            sleep(Duration::from_secs(1) / rate).await;
        }
        for call in running {
            let ended = call.await.expect("no call panics");
            ended.expect_err("nobody answers");
        }
        peer.attempts() as f64 / f64::from(calls)
    })
}

const PAY: Method<(), ()> = Method::new("pay");
const SECONDS: u32 = 60;
