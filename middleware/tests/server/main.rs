//! The server's half: what the dedupe layer promises, over a store in memory.

mod protocol;
mod watched;

mod concurrency;
mod endings;
mod identity;
mod outcomes;
