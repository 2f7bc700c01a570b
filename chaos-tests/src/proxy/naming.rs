//! Which attempt of which call a frame is.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use parking_lot::Mutex;

use crate::seed::digest;

/// Tells from a frame which call and attempt it is about. A frame that is about none passes unharmed.
pub struct Naming {
    names: Names,
    ties: Option<(Tie, Tie)>,
    seen: Mutex<Seen>,
}

/// One call and attempt, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) call: u64,
    pub(super) attempt: u32,
}

/// What of one connection waits for its reply.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    in_order: VecDeque<Option<Named>>,
    tied: HashMap<u64, Named>,
}

/// What somebody's code reads from a frame.
type Read<T> = Box<dyn Fn(&[u8]) -> Option<T> + Send + Sync>;

type Tie = Read<u64>;

enum Names {
    Counted,
    By(Read<(u64, u32)>),
    Keyed(Read<Vec<u8>>),
}

#[derive(Default)]
struct Seen {
    calls: u64,
    /// By the key's digest: its call, and how many attempts there were.
    keys: HashMap<u64, Named>,
}

// === impl Naming ===

impl Naming {
    /// Requests are counted: the proxy's third one is call 3, attempt 1. Replies belong to the
    /// requests of their connection in order.
    #[must_use]
    pub fn counted() -> Self {
        Self::of(Names::Counted)
    }

    /// The request itself says its call and attempt, both from 1.
    pub fn by(names: impl Fn(&[u8]) -> Option<(u64, u32)> + Send + Sync + 'static) -> Self {
        Self::of(Names::By(Box::new(names)))
    }

    /// The request says a key: the same key is the same call, and its attempts are counted. After a
    /// million keys each further one is a call of its own.
    pub fn keyed(key: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::of(Names::Keyed(Box::new(key)))
    }

    /// Replies come in any order: both say a number that ties a reply to its request on their
    /// connection.
    #[must_use]
    pub fn tied(
        mut self,
        request: impl Fn(&[u8]) -> Option<u64> + Send + Sync + 'static,
        reply: impl Fn(&[u8]) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        self.ties = Some((Box::new(request), Box::new(reply)));
        self
    }

    fn of(names: Names) -> Self {
        Self {
            names,
            ties: None,
            seen: Mutex::default(),
        }
    }

    /// The request's name; its reply is expected from now on.
    pub(super) fn request(&self, frame: &[u8], exchanges: &mut Exchanges) -> Option<Named> {
        let named = self.name(frame);
        match (&self.ties, named) {
            (None, _) => exchanges.in_order.push_back(named),
            (Some((tie, _)), Some(named)) => {
                if let Some(number) = tie(frame)
                    && exchanges.tied.len() < OPEN_MAX
                {
                    exchanges.tied.insert(number, named);
                }
            }
            (Some(_), None) => {}
        }
        named
    }

    /// The name of the request that this replies to.
    pub(super) fn reply(&self, frame: &[u8], exchanges: &mut Exchanges) -> Option<Named> {
        match &self.ties {
            None => exchanges.in_order.pop_front().flatten(),
            Some((_, tie)) => exchanges.tied.remove(&tie(frame)?),
        }
    }

    fn name(&self, frame: &[u8]) -> Option<Named> {
        match &self.names {
            Names::By(names) => names(frame).map(|(call, attempt)| Named { call, attempt }),
            Names::Counted => Some(self.seen.lock().next()),
            Names::Keyed(key) => {
                let key = digest(&key(frame)?);
                let mut seen = self.seen.lock();
                if let Some(named) = seen.keys.get_mut(&key) {
                    named.attempt += 1;
                    return Some(*named);
                }
                let named = seen.next();
                if seen.keys.len() < KEYS_MAX {
                    seen.keys.insert(key, named);
                }
                Some(named)
            }
        }
    }
}

impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Naming").finish_non_exhaustive()
    }
}

// === impl Exchanges ===

impl Exchanges {
    /// Takes back the request that was named last, in order: nobody will answer it.
    pub(super) fn forget_last(&mut self) {
        self.in_order.pop_back();
    }
}

// === impl Seen ===

impl Seen {
    fn next(&mut self) -> Named {
        self.calls += 1;
        Named {
            call: self.calls,
            attempt: 1,
        }
    }
}

/// 32 MiB.
const KEYS_MAX: usize = 1_000_000;

/// Requests of one connection whose replies are awaited; further ones' replies pass unharmed.
const OPEN_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(call: u64, attempt: u32) -> Option<Named> {
        Some(Named { call, attempt })
    }

    #[test]
    fn the_same_key_is_the_same_call_on_any_connection() {
        let naming = Naming::keyed(|frame| (!frame.is_empty()).then(|| frame.to_vec()));
        let (mut one, mut other) = (Exchanges::default(), Exchanges::default());
        assert_eq!(naming.request(b"a", &mut one), named(1, 1));
        assert_eq!(naming.request(b"b", &mut one), named(2, 1));
        assert_eq!(naming.request(b"a", &mut other), named(1, 2));
        assert_eq!(naming.request(b"", &mut other), None);
        assert_eq!(naming.reply(b"?", &mut other), named(1, 2));
        assert_eq!(naming.reply(b"?", &mut other), None);
        assert_eq!(naming.reply(b"?", &mut one), named(1, 1));
    }

    #[test]
    fn a_reply_out_of_order_is_tied_to_its_request() {
        let last = |frame: &[u8]| frame.last().map(|&byte| u64::from(byte));
        let naming = Naming::by(|frame| Some((u64::from(frame[0]), 3))).tied(last, last);
        let mut exchanges = Exchanges::default();
        naming.request(&[7, 1], &mut exchanges);
        naming.request(&[8, 2], &mut exchanges);
        assert_eq!(naming.reply(&[0, 2], &mut exchanges), named(8, 3));
        assert_eq!(naming.reply(&[0, 2], &mut exchanges), None);
        assert_eq!(naming.reply(&[0, 1], &mut exchanges), named(7, 3));
    }
}
