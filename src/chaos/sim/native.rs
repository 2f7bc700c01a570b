//! Which messages of the native protocol are about which call.

use std::collections::BTreeMap;

use onlyonce_chaos::sim::{About, Cut, Protocol, Way};

use super::bank::Transfer;
use crate::rpc::simulated::{Said, first};
use crate::rpc::value;

/// One connection of the native protocol.
#[derive(Debug, Default)]
pub(super) struct Native {
    hellos: [bool; 2],
    /// By the connection's own numbers.
    calls: BTreeMap<u64, About>,
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
                let transfer = value::decode::<Transfer>(&arguments).ok();
                let about = transfer.map(|Transfer { call, .. }| About { call, attempt });
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

/// The key of a call.
pub(super) fn key_of(call: u64) -> String {
    format!("call-{call}")
}
