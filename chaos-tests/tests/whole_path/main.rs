//! The whole path: client, network, server, store and handler, with a proxy between both ends and
//! books that the handler keeps, which nothing under test can see.

#[cfg(test)]
mod shop;
#[cfg(test)]
mod stores;

#[cfg(test)]
mod callers;
#[cfg(test)]
mod cancelled;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod disconnects;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod garbled;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod repeated_below;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod slow_store;
