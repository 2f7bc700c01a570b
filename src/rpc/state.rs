//! What is known of a key, in bytes: the answer to peek and seal.

use bytes::Bytes;
use onlyonce_storage::{DoubtReason, KeyState};

use super::codec;

/// What a server tells of a key.
///
/// It is a part of [`KeyState`]: what an operator may see of a record is not all a client's
/// business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nobody has used the key; a call with it would be executed.
    Absent,
    /// It has an answer: the bytes of a reply or a fault.
    Completed(Bytes),
    /// Its outcome is unknown, for this reason.
    InDoubt(String),
    /// Somebody is executing it.
    InProgress,
    /// It has not happened and never will: the key is sealed.
    Sealed,
    /// It is older than what the server remembers.
    Stale,
    /// It was answered, and the answer is no longer kept.
    Tombstone,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum Wire<'a> {
    Absent,
    Completed(&'a [u8]),
    InDoubt(&'a str),
    InProgress,
    Sealed,
    Tombstone,
    Stale,
}

pub(super) fn encode(state: &KeyState) -> Bytes {
    let reason = match state {
        KeyState::InDoubt(in_doubt) => in_doubt.reason.to_string(),
        // What a state that this version cannot name is told as, below.
        _ => DoubtReason::Ambiguous.to_string(),
    };
    let wire = match state {
        KeyState::Absent => Wire::Absent,
        KeyState::Completed(completion) => Wire::Completed(completion.answer.body()),
        KeyState::InDoubt(_) => Wire::InDoubt(&reason),
        KeyState::InProgress { .. } => Wire::InProgress,
        KeyState::Sealed { .. } => Wire::Sealed,
        KeyState::Stale => Wire::Stale,
        KeyState::Tombstone { .. } => Wire::Tombstone,
        // A state that this version cannot name is one whose outcome it does not know.
        _ => Wire::InDoubt(&reason),
    };
    let mut bytes = Vec::new();
    codec::encode_into(wire, &mut bytes);
    bytes.into()
}

pub(super) fn decode(bytes: &[u8]) -> Option<Told> {
    let wire: Wire<'_> = codec::decode(bytes).ok()?;
    Some(match wire {
        Wire::Absent => Told::Absent,
        Wire::Completed(answer) => Told::Completed(Bytes::copy_from_slice(answer)),
        Wire::InDoubt(reason) => Told::InDoubt(reason.to_owned()),
        Wire::InProgress => Told::InProgress,
        Wire::Sealed => Told::Sealed,
        Wire::Stale => Told::Stale,
        Wire::Tombstone => Told::Tombstone,
    })
}

#[cfg(test)]
mod tests {
    use onlyonce_storage::Timestamp;

    use super::*;

    #[test]
    fn states_come_back_and_hostile_bytes_do_not() {
        let at = Timestamp::from_millis(1);
        for (state, told) in [
            (KeyState::Absent, Told::Absent),
            (KeyState::InProgress { since: at }, Told::InProgress),
            (KeyState::Sealed { at }, Told::Sealed),
            (KeyState::Stale, Told::Stale),
            (KeyState::Tombstone { completed_at: at }, Told::Tombstone),
        ] {
            assert_eq!(decode(&encode(&state)), Some(told));
        }
        assert_eq!(decode(b""), None);
        assert_eq!(decode(b"\x09"), None);
        assert_eq!(decode(b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(decode(b"\x00\x00"), None);
    }
}
