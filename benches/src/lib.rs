//! What the programs in `src/bin` share: the load, what it is compared with, and the report.

pub mod calls;
#[cfg(feature = "rivals")]
pub mod http;
pub mod load;
pub mod log;
pub mod machine;
#[cfg(feature = "postgres")]
pub mod postgres;
