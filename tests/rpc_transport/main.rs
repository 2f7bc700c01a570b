//! The native protocol's transport, on real sockets: what it carries, how it ends, and that
//! whoever sends a call knows whether any of it was written.

#[cfg(test)]
mod peers;

#[cfg(test)]
mod calls;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod stores;
