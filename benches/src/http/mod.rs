//! An axum route behind nothing, behind onlyonce, and behind what else there is, over real sockets.

mod connection;
mod route;

pub use self::connection::Connection;
pub use self::route::{Route, Service};
