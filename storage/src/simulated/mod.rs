//! A store over a disk that is simulated: for simulations of whole systems; no part of the public
//! API.
//!
//! The decisions are those of the pure [`GroupCore`](crate::commit::GroupCore), the bytes of a group
//! are those that the embedded store writes. The shell is another: a task instead of two threads, so
//! that a simulation owns every moment, and a disk that forgets what no sync has made durable.

mod disk;
mod log;
mod rows;
mod shell;
mod store;

pub use self::disk::{Sector, SimDisk, SyncFate};
pub use self::store::{Durable, NotOpened, SimOptions, SimStore};
