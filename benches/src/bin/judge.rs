//! How long the checker of fault injection takes for five million calls.
//!
//! `cargo run --release -p onlyonce-bench --bin judge -- 5000000`
//!
//! More than a third of it is the kernel's, which hands out memory in pages of 4 KiB. Where it gives
//! larger ones to whoever asks, `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` asks.

use std::fmt::Write as _;

use onlyonce_chaos::history::{Ending, Event, Happened, RunEnd, RunHeader, Seen};
use onlyonce_chaos::ledger::{Judge, Verdict};
use tokio::time::Instant;

fn main() {
    let calls = std::env::args()
        .nth(1)
        .map_or(5_000_000, |calls| calls.parse().expect("a number of calls"));
    // What making the events takes is not the judge's.
    let began = Instant::now();
    let mut bytes = 0;
    each_event(calls, |event| bytes += event.call);
    let made = began.elapsed();
    for _ in 0..3 {
        let mut judge = Judge::new(RunHeader::new("bench", "none", 1));
        let began = Instant::now();
        each_event(calls, |event| judge.event(event));
        let fed = began.elapsed();
        let report = judge.finish(&RunEnd {
            complete: true,
            ..RunEnd::default()
        });
        let judged = began.elapsed();
        assert_eq!(report.verdict(), Verdict::Valid, "{report}");
        println!(
            "{calls} calls, {} events: {:.3} s ({:.3} s to take them, {:.3} s to judge; {:.3} s more to make them), checksum {bytes}",
            calls * 4,
            judged.saturating_sub(made).as_secs_f64(),
            fed.saturating_sub(made).as_secs_f64(),
            (judged - fed).as_secs_f64(),
            made.as_secs_f64(),
        );
    }
}

/// A call of four clients is invoked, sent, committed with two legs, and answered, while three
/// others are under way.
fn each_event(calls: u64, mut take: impl FnMut(&Event)) {
    let accounts: Vec<String> = (0..64).map(|account| format!("account{account}")).collect();
    let invoked = |call: u64, event: &mut Event| {
        event.call = call;
        event.at_us = call * 10;
        let Happened::Invoked { key, payload, .. } = &mut event.what else {
            return;
        };
        key.clear();
        let _ = write!(key, "order-{call:09}");
        payload.clear();
        payload.extend_from_slice(b"transfer 000000000");
        payload[9..].copy_from_slice(&key.as_bytes()[6..]);
    };
    let event = |what| Event {
        at_us: 0,
        call: 0,
        attempt: 1,
        what,
    };
    let mut invocation = event(Happened::Invoked {
        client: 1,
        key: String::new(),
        payload: Vec::new(),
    });
    let mut sent = event(Happened::Sent);
    let mut ended = event(Happened::Ended {
        ending: Ending::Answered(b"done, and 1000 are left".to_vec()),
    });
    let mut effect = event(Happened::Effect {
        index: 0,
        key: String::new(),
        payload: Vec::new(),
        answer: b"done, and 1000 are left".to_vec(),
        legs: vec![(String::new(), -5), (String::new(), 5)],
        seen: Seen::AtCommit,
    });
    for call in 1..=calls + UNDER_WAY {
        if call <= calls {
            invoked(call, &mut invocation);
            take(&invocation);
            (sent.call, sent.at_us) = (call, call * 10);
            take(&sent);
        }
        let Some(over) = call.checked_sub(UNDER_WAY).filter(|over| *over > 0) else {
            continue;
        };
        (effect.call, effect.at_us) = (over, call * 10 + 1);
        if let Happened::Effect {
            index,
            key: own,
            payload: of,
            legs,
            ..
        } = &mut effect.what
        {
            *index = over;
            own.clear();
            let _ = write!(own, "order-{over:09}");
            of.clear();
            of.extend_from_slice(b"transfer 000000000");
            of[9..].copy_from_slice(&own.as_bytes()[6..]);
            for (leg, (account, _)) in legs.iter_mut().enumerate() {
                account.clone_from(&accounts[(over as usize + leg) % accounts.len()]);
            }
        }
        take(&effect);
        (ended.call, ended.at_us) = (over, call * 10 + 2);
        take(&ended);
    }
}

const UNDER_WAY: u64 = 4;
