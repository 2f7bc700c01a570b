//! What clients do to a server that fails: `cargo run --release -p onlyonce-bench --bin clients -- WHAT`
//!
//! | what | measures |
//! | --- | --- |
//! | `outage` | attempts a call that reach a server which answers nothing for a minute |
//! | `contention` | a hundred clients that change one row, each until it has done it |
//! | `loss` | calls that are answered, and how long they take, where some attempts are lost |
//!
//! Time is simulated: nothing waits, and what else the machine does changes nothing.

mod contention;
mod loss;
mod outage;
mod peer;

fn main() {
    let what = std::env::args().nth(1);
    match what.as_deref() {
        Some("contention") => contention::print(),
        Some("loss") => loss::print(),
        Some("outage") => outage::print(),
        _ => panic!("say outage, contention or loss"),
    }
}
