//! What is known of a key, in bytes: the answer to peek and seal.

use bytes::Bytes;
use onlyonce_storage::{DoubtReason, KeyState};

use super::adapter::body_of;
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
    /// It has not happened: the key was sealed before anybody used it.
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
    let answer = match state {
        KeyState::Completed(completion) => body_of(&completion.answer),
        _ => Bytes::new(),
    };
    let wire = match state {
        KeyState::Absent => Wire::Absent,
        KeyState::Completed(_) => Wire::Completed(&answer),
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
    use onlyonce_storage::{Answer, AnswerFormat, Completion, FencingToken, InDoubt, Timestamp};

    use super::*;
    use crate::rpc::{Reply, Status, value, wire};

    #[test]
    fn the_bytes_of_every_state_never_change() {
        let at = Timestamp::from_millis(1);
        let doubt = KeyState::InDoubt(InDoubt {
            token: TOKEN,
            since: at,
            reason: DoubtReason::OwnerGone,
            answer: None,
        });
        let doubt_golden = b"\x02\x24the owner is gone before it finished";
        for (state, golden) in [
            (KeyState::Absent, &[0][..]),
            (completed(), &[1, 2, 0, 7]),
            (doubt, doubt_golden),
            (KeyState::InProgress { since: at }, &[3]),
            (KeyState::Sealed { at }, &[4]),
            (KeyState::Tombstone { completed_at: at }, &[5]),
            (KeyState::Stale, &[6]),
        ] {
            assert_eq!(&encode(&state)[..], golden, "{state:?}");
        }
    }

    #[test]
    fn the_manuals_example_of_a_state_is_what_is_sent() {
        let reply = Reply::new(Status::State, encode(&completed()));
        let frame = wire::reply(1, &reply);
        assert_eq!(
            [&frame.head[..], &frame.tail[..]].concat(),
            [9, 0, 0, 0, 3, 1, 8, 0, 4, 1, 2, 0, 7]
        );
    }

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

    /// With the reply 7.
    fn completed() -> KeyState {
        let body = value::encode_result::<u64, ()>(Ok(&7)).unwrap();
        KeyState::Completed(Completion {
            answer: Answer::new(AnswerFormat::new(1), body),
            completed_at: Timestamp::from_millis(1),
            token: TOKEN,
        })
    }

    const TOKEN: FencingToken = FencingToken::new(1, 1);
}
