//! Real processes: a bank's server that can be killed, and clients over real sockets.
//!
//! ```text
//!   executor's process                        server's process, killed and started again
//!     clients ----> [proxy | nothing] ----->    onlyonce chaos-server
//!
//!   clients' process, in its namespace        server's process, in its namespace
//!     onlyonce chaos-clients  ~~ veth ~~>       onlyonce chaos-server
//! ```
//!
//! Whatever is started ends with the run: a child's standard input is held by its parent, and it
//! ends when that does, also when the parent is killed.

mod books;
mod clients;
mod commits;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(not(target_os = "linux"))]
#[path = "no_disk.rs"]
mod disk;
mod felt;
mod log;
mod naive;
mod order;
mod outbox;
mod points;
mod process;
mod remote;
mod run;
mod server;
mod strikes;
mod supervisor;
mod tables;

pub use clients::{ChaosClientsOptions, run as run_clients};
pub use points::kill_points;
pub use server::{ChaosServerOptions, run as run_server};

pub(super) use disk::Disk;
pub(super) use order::call_and_attempt;
pub(super) use process::program;
pub(super) use remote::ClientsProcess;
pub(super) use run::{Run, Wire, Work, can_reach, can_server_fault};
pub(super) use server::loses;
