//! One event, and its words.

use serde::{Deserialize, Serialize};

use crate::fault::{Phase, What};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// Exhaustive: executors build it.
pub struct Event {
    /// Microseconds since the run began, by the run's own clock.
    pub at_us: u64,
    /// The call's ordinal within the run, from 1; 0 for what is about no call.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub call: u64,
    /// The attempt's ordinal within the call, from 1; 0 for what is about the whole call.
    #[serde(default, skip_serializing_if = "is_zero_attempt")]
    pub attempt: u32,
    /// What it was.
    pub what: Happened,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
// Exhaustive: executors build it, and the checker must know them all.
pub enum Happened {
    /// A client wants a call. A client that comes back after a crash invokes it again, with the
    /// same ordinal, key and payload.
    Invoked {
        /// Which client, from 1.
        client: u32,
        /// The idempotency key: the name of the intent. Twins are two calls with one key.
        key: String,
        /// What was asked for; hexadecimal in the file.
        #[serde(with = "hexadecimal")]
        payload: Vec<u8>,
    },
    /// An attempt was handed to the wire.
    Sent,
    /// A fault struck.
    Fault {
        /// Its name in the scenario.
        name: String,
        /// What it did, such as `drop`.
        what: String,
        /// At which moment of the attempt.
        phase: Phase,
    },
    /// The server has the request.
    Received,
    /// An effect is durable. It is told by the books, not by who wrote them.
    Effect {
        /// Its place in the order of commits. The same number is never given twice.
        index: u64,
        /// Whose effect: the key that is in the books along with it.
        key: String,
        /// For which payload; hexadecimal in the file.
        #[serde(with = "hexadecimal")]
        payload: Vec<u8>,
        /// The answer that was stored with it; hexadecimal in the file.
        #[serde(with = "hexadecimal")]
        answer: Vec<u8>,
        /// What it did to which account.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        legs: Vec<(String, i64)>,
        /// Whether the event's time is that of the commit.
        #[serde(default)]
        seen: Seen,
    },
    /// The server has handed an answer to the wire.
    Replied,
    /// The answer that the client is about to be told was not recorded, and says so: it is delivered
    /// this once, and whoever asks for it later may be told that the call is in doubt.
    Unrecorded,
    /// What the client was told in the end. A call can end more than once: it is resumed, or its
    /// answer is asked for again.
    Ended {
        /// How.
        ending: Ending,
    },
    /// A process, a disk or a clock changed its state: `server-1` was `killed`, `started`,
    /// `paused`, `resumed`, had its `power cut`, or [came back with another store](OTHER_STORE).
    Lifecycle {
        /// Which one.
        who: String,
        /// What became of it.
        event: String,
    },
    /// The record of this key was removed because its time was over: later attempts are refused.
    Swept {
        /// Whose record.
        key: String,
    },
    /// The client has said that it needs the answer of this call no more: later attempts are
    /// refused.
    Acknowledged,
    /// No fault strikes from now on, and whatever was down is up: what is still open must end
    /// within [`RunHeader::resolve_within_ms`](super::RunHeader::resolve_within_ms).
    FaultsEnded,
}

/// How a call ended, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
// Exhaustive: the checker must know them all.
pub enum Ending {
    /// An answer that promises the effect: first answers and replays alike.
    Answered(#[serde(with = "hexadecimal")] Vec<u8>),
    /// A definitive answer that promises that there is no effect, such as "insufficient funds".
    Declined(#[serde(with = "hexadecimal")] Vec<u8>),
    /// The client was told that no attempt of this call was or will be executed.
    Refused,
    /// The server says that it does not know.
    InDoubt,
    /// The client gave up without having learned anything.
    Unknown,
}

/// Whether the time of an effect is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// It was seen when it was committed: the event's time is the commit's, or just before it, and never
    /// later than that of its answer.
    #[default]
    AtCommit,
    /// It was read from the books afterwards: only the order of commits is known.
    AtTheEnd,
}

// === impl Happened ===

impl Happened {
    /// The name for reports, as it is in the file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Invoked { .. } => "invoked",
            Self::Sent => "sent",
            Self::Fault { .. } => "fault",
            Self::Received => "received",
            Self::Effect { .. } => "effect",
            Self::Replied => "replied",
            Self::Unrecorded => "unrecorded",
            Self::Ended { .. } => "ended",
            Self::Lifecycle { .. } => "lifecycle",
            Self::Swept { .. } => "swept",
            Self::Acknowledged => "acknowledged",
            Self::FaultsEnded => "faults-ended",
        }
    }
}

// === impl Ending ===

impl Ending {
    /// The name for reports, as it is in the file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Declined(_) => "declined",
            Self::Refused => "refused",
            Self::InDoubt => "in-doubt",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of a server whose store is gone for good, with all that it knew, in a
/// [`Happened::Lifecycle`].
///
/// Of a call that was begun before, nobody can be asked any more. A client that is told so says it of its call: there
/// it stands with the call's number, and when the call then ends [`Ending::Unknown`] it is not stuck.
pub const OTHER_STORE: &str = "came back with another store";

/// What [`Happened::Fault`] says of a fault that was let strike and did nothing, such as
/// `power-cut in vain`: it has not struck.
#[must_use]
pub fn in_vain(what: What) -> String {
    format!("{what}{IN_VAIN}")
}

/// Whether that is what it says.
#[must_use]
pub fn was_in_vain(what: &str) -> bool {
    what.ends_with(IN_VAIN)
}

const IN_VAIN: &str = " in vain";

fn is_zero(call: &u64) -> bool {
    *call == 0
}

fn is_zero_attempt(attempt: &u32) -> bool {
    *attempt == 0
}

/// Bytes as text that every JSON reader takes and every person can compare.
mod hexadecimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::borrow::Cow;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(DIGITS[usize::from(nibble)]));
            }
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        }
        let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
        let bytes = pairs.iter().map(byte).collect::<Option<_>>();
        bytes.ok_or_else(|| D::Error::custom("a digit that is not hexadecimal"))
    }

    fn digit(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }

    const DIGITS: &[u8; 16] = b"0123456789abcdef";
}
