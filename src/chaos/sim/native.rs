//! Which messages of the native protocol are about which call.

use std::collections::BTreeMap;

use onlyonce_chaos::sim::{About, Cut, Protocol, Way};

use crate::rpc::simulated::{Said, first};

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
        let about = match message.said {
            Said::Call { id, key, attempt } => {
                let about = call_of(&key).map(|call| About { call, attempt });
                self.calls.extend(about.map(|about| (id, about)));
                about
            }
            Said::Reply { id } => self.calls.remove(&id),
            Said::Other => None,
        };
        Cut::Message {
            bytes: message.bytes,
            head: message.head,
            about,
        }
    }
}

/// The key of a call: its ordinal can be read from it.
pub(super) fn key_of(call: u64) -> String {
    format!("call-{call}")
}

/// The ordinal that a key was made of.
pub(super) fn call_of(key: &str) -> Option<u64> {
    let digits = key.strip_prefix("call-")?;
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_its_key() {
        assert_eq!(call_of(&key_of(17)), Some(17));
        assert_eq!(call_of("call-17-again"), Some(17));
        assert_eq!(call_of("order-17"), None);
    }
}
