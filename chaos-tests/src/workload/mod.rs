//! What clients ask for, made of a scenario and a seed: pure data, which executors carry out.
//!
//! A [`Plan`] says which client makes which call, with which key and payload, in which order, and
//! who goes down when. [`Books`] are the service that the payloads are for, as a pure machine: an
//! executor keeps them in memory or on disk, behind whatever it tests.
//!
//! ```
//! use onlyonce_chaos::Seed;
//! use onlyonce_chaos::scenario::Scenario;
//! use onlyonce_chaos::workload::{Books, Order, Plan, Reply};
//!
//! let scenario = Scenario::parse("name = \"t\"\nworkload = \"transfers\"\ncalls = 10").unwrap();
//! let plan = Plan::new(&scenario, Seed::new(1));
//! assert_eq!(plan, Plan::new(&scenario, Seed::new(1)));
//! assert_eq!(plan.calls.len(), 10);
//!
//! let mut books = Books::new(plan.opening.clone());
//! let order = Order::parse(&plan.calls[0].payload).unwrap();
//! assert!(matches!(books.apply(&order), Reply::Applied { .. } | Reply::Declined { .. }));
//! ```

mod books;
mod order;
mod plan;

#[cfg(test)]
mod tests;

pub use books::{Books, Reply, SHOP};
pub use order::{Demand, Order, OrderError};
pub use plan::{Plan, PlannedCall, PlannedOutage};
