//! What the programs in `src/bin` share: the load, what it is compared with, and the report.

pub mod calls;
pub mod chart;
pub mod flame;
#[cfg(feature = "rivals")]
pub mod http;
pub mod in_process;
pub mod load;
pub mod log;
pub mod machine;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "rivals")]
pub mod proxied;
pub mod rounds;
#[cfg(feature = "rivals")]
pub mod rows;
#[cfg(feature = "rivals")]
pub mod rpc;
pub mod table;
