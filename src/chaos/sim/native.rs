//! Which messages of the native protocol are about which call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onlyonce_chaos::sim::{About, Cut, Protocol, Way};

use super::bank::Transfer;
use crate::rpc::simulated::{Said, first};
use crate::rpc::value;

/// Tells of what a client asks for which of its calls it is.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// Whose calls they are, and how many clients there are.
    client: u32,
    clients: u32,
    /// Where all calls are for one thing: the one that the client makes now.
    only: Option<Arc<AtomicU64>>,
}

/// One connection of the native protocol.
#[derive(Debug)]
pub(super) struct Native {
    naming: Naming,
    hellos: [bool; 2],
    /// By the connection's own numbers.
    calls: BTreeMap<u64, About>,
}

// === impl Naming ===

impl Naming {
    /// Of this client, one of so many.
    pub(super) const fn of(client: u32, clients: u32, only: Option<Arc<AtomicU64>>) -> Self {
        Self {
            client,
            clients,
            only,
        }
    }

    /// The call that these are the arguments of.
    pub(super) fn call(&self, arguments: &[u8]) -> Option<u64> {
        let Transfer { call, .. } = value::decode(arguments).ok()?;
        // What another client asks for as well, its twin asks for with the next call.
        let twin = client_of(call, self.clients) != self.client;
        Some(match &self.only {
            Some(only) => only.load(Ordering::Relaxed),
            None => call + u64::from(twin),
        })
    }
}

// === impl Native ===

impl Native {
    /// A connection of the client of this naming.
    pub(super) const fn of(naming: Naming) -> Self {
        Self {
            naming,
            hellos: [false; 2],
            calls: BTreeMap::new(),
        }
    }
}

impl Protocol for Native {
    fn cut(&mut self, way: Way, bytes: &[u8]) -> Cut {
        let hello = &mut self.hellos[way as usize];
        let Some(message) = first(bytes, !*hello, way == Way::Up) else {
            return Cut::More;
        };
        let whole = message.bytes <= bytes.len();
        *hello |= whole;
        let disowns = message.said == Said::GoAway;
        let about = match message.said {
            Said::Call {
                id,
                attempt,
                arguments,
            } => {
                let call = self.naming.call(&arguments);
                let about = call.map(|call| About { call, attempt });
                self.calls.extend(about.map(|about| (id, about)));
                about
            }
            Said::Reply { id } => self.calls.remove(&id),
            Said::GoAway | Said::Other => None,
        };
        Cut::Message {
            bytes: message.bytes,
            head: message.head,
            about,
            disowns,
        }
    }
}

/// Which of so many clients makes a call.
pub(super) fn client_of(call: u64, clients: u32) -> u32 {
    // OK because it is less than a `u32`.
    u32::try_from(call % u64::from(clients)).unwrap_or(0) + 1
}

/// The key of a call.
pub(super) fn key_of(call: u64) -> String {
    format!("call-{call}")
}
