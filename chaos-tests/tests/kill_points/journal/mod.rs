//! A server whose handler is journaled is killed at each point of its journal. Nobody asks for the
//! call again: the next life of the server finishes it, or says that it is in doubt.
//!
//! One step is a keyed call of another server, which lives; one adds a line to the till and must not be
//! repeated; one is a keyed call again.

mod bank;
mod child;
mod kills;
