//! Fault injection for any TCP server or tower service, and a checker of what survived.
//!
//! Whether a call is safe to retry shows only when its *answer* gets lost after the effect. The
//! usual fault injection loses requests, which every retry survives. Here are
//!
//! - [`fault`]: the words that all of it speaks: where, when, what;
//! - [`proxy`]: a TCP proxy for servers in any language, that loses answers from a byte on, resets
//!   and closes in the middle of a frame, delays, slices, and goes silent;
//! - [`layer`]: the same for a tower service, without a socket;
//! - [`cancel`]: drops any future at every point at which it waits;
//! - [`ledger`]: a checker that holds what clients were told against the effects on disk;
//! - [`scenario`]: what a run is told: who calls what, and what goes wrong on the way;
//! - [`executor`]: what carries a scenario out, of ours or of yours;
//! - [`campaign`]: many runs of it, judged and added up;
//! - [`report`]: what they came to, as a page, as text, for machines;
//! - [`history`]: what happened, as lines of JSON;
//! - [`goals`]: what must have happened for a run to prove anything;
//! - [`workload`]: who asks for what, made of a scenario and a seed;
//! - [`seed`]: where every decision comes from.
//!
//! All decisions are drawn from one seed, by what they are about and not by when they are made: a
//! run with the same seed meets the same faults, on any number of threads, and a fault that is
//! added or taken away leaves the others where they were. What is not repeated is timing. Faults
//! end with the value that makes them: there is nothing to clean up.
//!
//! # Example
//!
//! A naive client, found out:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! use onlyonce_chaos::layer::{Fault, FaultLayer, Plan, Rule, Subject};
//! use onlyonce_chaos::ledger::{Effect, Effects, Ending, History, Operation, Verdict, check};
//! use parking_lot::Mutex;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # async fn example() {
//! // A server that executes whatever it gets, and keeps books.
//! let books = Arc::new(Mutex::new(Effects::new()));
//! let server = service_fn({
//!     let books = Arc::clone(&books);
//!     move |(key, _attempt): (u64, u32)| {
//!         books.lock().push(Effect::new(key, "pay", "paid"));
//!         std::future::ready(Ok::<_, Infallible>("paid"))
//!     }
//! });
//!
//! // A tenth of the answers get lost on the way back.
//! let plan = Plan::none().rule(Rule::new(Fault::AnswerLost).probability(0.1));
//! let network = FaultLayer::new(42, plan, |&(key, attempt): &(u64, u32)| Subject { key, attempt });
//! let service = network.layer(server);
//!
//! let mut history = History::new();
//! for key in 0..100 {
//!     let mut attempt = 1;
//!     while service.clone().oneshot((key, attempt)).await.is_err() {
//!         attempt += 1;
//!     }
//!     let operation = Operation::new(key, "pay").attempts(attempt);
//!     history.push(operation.ended(Ending::Answered("paid".into())));
//! }
//!
//! let report = check(&history, &books.lock());
//! assert_eq!(report.verdict(), Verdict::Violated);
//! assert!(report.figures().dsevr() > 0.0, "{report}");
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example());
//! ```

pub mod campaign;
pub mod cancel;
pub mod executor;
pub mod fault;
pub mod goals;
pub mod history;
#[cfg(all(feature = "kernel", target_os = "linux"))]
pub mod kernel;
pub mod layer;
pub mod ledger;
pub mod proxy;
pub mod report;
pub mod scenario;
pub mod seed;
#[cfg(feature = "sim")]
pub mod sim;
pub mod workload;

pub use cancel::CancelAt;
pub use layer::{FaultLayer, FaultService};
pub use proxy::Proxy;
pub use seed::Seed;
