//! A tower layer that loses requests before the service, and answers after it.
//!
//! Most fault layers only fail a call *instead of* making it, which never shows a double effect:
//! the dangerous fault is the answer that gets lost *after the effect*, so that the caller tries
//! again what has already happened. This layer has both, and delays on either side.
//!
//! ```text
//!            request delayed, request lost
//!   caller ------------------------------------> service: the effect
//!          <------------------------------------
//!            answer delayed, answer lost
//! ```
//!
//! [`ChaosLayer`] takes its faults in the words that the proxy, the kernel and the simulation have too,
//! see [`fault`](crate::fault); [`FaultLayer`] has four of its own.
//!
//! Which attempt of which call is hit is drawn from the seed for each (key, attempt, phase), so
//! that neither threads nor timing can change it. It stands innermost in a client's stack, where
//! the transport would be: inside retries (outside of them it would fail whole calls).
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use onlyonce_chaos::layer::{Fault, FaultError, FaultLayer, Plan, Rule, Subject};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # async fn example() {
//! static EFFECTS: AtomicU32 = AtomicU32::new(0);
//! let transfer = service_fn(|_: (u64, u32)| async {
//!     EFFECTS.fetch_add(1, Ordering::Relaxed);
//!     Ok::<_, std::convert::Infallible>("done")
//! });
//!
//! let plan = Plan::none().rule(Rule::new(Fault::AnswerLost).nth(1));
//! let layer = FaultLayer::new(42, plan, |&(key, attempt): &(u64, u32)| Subject { key, attempt });
//! let service = layer.layer(transfer);
//!
//! let first = service.clone().oneshot((7, 1)).await;
//! assert!(matches!(first, Err(FaultError::AnswerLost)));
//! let second = service.oneshot((7, 2)).await;
//! assert!(matches!(second, Ok("done")));
//! // What the naive retry has done:
//! assert_eq!(EFFECTS.load(Ordering::Relaxed), 2);
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example());
//! ```

mod chaos;
mod error;
mod plan;
mod service;

#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod tests;

pub use chaos::{ChaosLayer, ChaosService};
pub use error::FaultError;
pub use plan::{Fault, FaultKind, Plan, Rule, Script, Subject};
pub use service::{FaultLayer, FaultService, ResponseFuture};
