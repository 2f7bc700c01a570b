//! The messages after the handshake: what a frame's payload is.
//!
//! A payload is a kind (one byte), the kind's fields in bincode, and for calls and replies the
//! bytes whose length is the last field. Kinds have numbers of their own in both directions, so
//! that a peer that echoes is noticed.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::{IdempotencyKey, KEY_BYTES_MAX, KeyError, SessionCall, StoreId, Timestamp};

use super::frame::{Frame, LENGTH_BYTES};
use super::{METHOD_BYTES_MAX, ProtocolError, Reply, Status, Verb, codec};

/// What a client says.
#[derive(Debug)]
pub(super) enum FromClient {
    /// Every call of the session below this number was answered to its caller.
    Acknowledge {
        session: u64,
        first_unanswered: u64,
    },
    Call(Call),
    /// Nothing more will come, and nothing is waited for.
    Goodbye,
}

/// What a server says.
#[derive(Debug)]
pub(super) enum FromServer {
    /// No call above `last_id` was or will be executed.
    GoAway {
        last_id: u64,
        reason: Arc<str>,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
}

/// A call as it arrived.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) verb: Verb,
    pub(super) method: Arc<str>,
    pub(super) key: Option<Result<IdempotencyKey, KeyError>>,
    pub(super) first_sent: Option<Timestamp>,
    pub(super) attempt: NonZeroU32,
    pub(super) deadline: Option<Duration>,
    pub(super) session: Option<SessionCall>,
    pub(super) store: Option<StoreId>,
    pub(super) arguments: Bytes,
}

/// A call as it is sent.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) id: u64,
    pub(super) verb: Verb,
    pub(super) method: &'a str,
    pub(super) key: Option<&'a IdempotencyKey>,
    pub(super) first_sent: Option<Timestamp>,
    pub(super) attempt: NonZeroU32,
    pub(super) deadline: Option<Duration>,
    pub(super) session: Option<SessionCall>,
    pub(super) store: Option<StoreId>,
    pub(super) arguments: &'a Bytes,
}

/// The frame of a call.
pub(super) fn call(call: &Outgoing<'_>) -> Frame {
    let fields = CallV1 {
        id: call.id,
        verb: verb_number(call.verb),
        method: call.method,
        key: call.key.map(|key| key.as_str().as_bytes()),
        first_sent: call.first_sent.map(Timestamp::as_millis),
        attempt: call.attempt.get(),
        deadline_ms: call.deadline.map(millis),
        session: call
            .session
            .map(|s| (s.session, s.sequence, s.first_unanswered)),
        store: call.store.map(|store| *store.as_bytes()),
        arguments_bytes: call.arguments.len() as u64,
    };
    frame(CALL, fields, call.arguments.clone())
}

/// The frame that acknowledges calls of a session. Nobody replies to it.
pub(super) fn acknowledge(session: u64, first_unanswered: u64) -> Frame {
    let fields = AcknowledgeV1 {
        session,
        first_unanswered,
    };
    frame(ACKNOWLEDGE, fields, Bytes::new())
}

/// The frame that ends a client's side.
pub(super) fn goodbye() -> Frame {
    frame(GOODBYE, (), Bytes::new())
}

/// The frame of a reply to call `id`.
pub(super) fn reply(id: u64, reply: &Reply) -> Frame {
    let fields = ReplyV1 {
        id,
        status: reply.status.number(),
        retry_after_ms: reply.retry_after.map(millis),
        body_bytes: reply.body.len() as u64,
    };
    frame(REPLY, fields, reply.body.clone())
}

/// The frame that says which calls were taken before the server goes away.
pub(super) fn go_away(last_id: u64, reason: &str) -> Frame {
    frame(GO_AWAY, GoAwayV1 { last_id, reason }, Bytes::new())
}

/// What a client said with this payload.
pub(super) fn from_client(payload: &Bytes) -> Result<FromClient, ProtocolError> {
    let (kind, fields) = split_kind(payload)?;
    match kind {
        ACKNOWLEDGE => {
            let AcknowledgeV1 {
                session,
                first_unanswered,
            } = all(kind, fields)?;
            Ok(FromClient::Acknowledge {
                session,
                first_unanswered,
            })
        }
        CALL => decode_call(payload, fields).map(FromClient::Call),
        GOODBYE => all::<()>(kind, fields).map(|()| FromClient::Goodbye),
        kind => Err(ProtocolError::UnknownKind { kind }),
    }
}

/// What a server said with this payload.
pub(super) fn from_server(payload: &Bytes) -> Result<FromServer, ProtocolError> {
    let (kind, fields) = split_kind(payload)?;
    match kind {
        GO_AWAY => {
            let GoAwayV1 { last_id, reason } = all(kind, fields)?;
            Ok(FromServer::GoAway {
                last_id,
                reason: printable(reason).into(),
            })
        }
        REPLY => decode_reply(payload, fields),
        kind => Err(ProtocolError::UnknownKind { kind }),
    }
}

/// A text from a peer, without what would move a terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn decode_call(payload: &Bytes, fields: &[u8]) -> Result<Call, ProtocolError> {
    let malformed = |what| ProtocolError::Malformed { kind: CALL, what };
    let (call, tail) = codec::decode_prefix::<CallV1<'_>>(fields).map_err(malformed)?;
    if call.arguments_bytes != tail.len() as u64 {
        return Err(malformed("its arguments are not as long as it says"));
    }
    if call.method.is_empty() || call.method.len() > METHOD_BYTES_MAX {
        return Err(malformed("its method has not 1 to 255 bytes"));
    }
    let attempt = NonZeroU32::new(call.attempt).ok_or_else(|| malformed("its attempt is 0"))?;
    Ok(Call {
        id: call.id,
        verb: verb_of(call.verb)?,
        method: call.method.into(),
        key: call.key.map(parse_key),
        first_sent: call.first_sent.map(Timestamp::from_millis),
        attempt,
        deadline: call.deadline_ms.map(Duration::from_millis),
        session: call
            .session
            .map(|(session, sequence, first_unanswered)| SessionCall {
                session,
                sequence,
                first_unanswered,
            }),
        store: call.store.map(StoreId::from_bytes),
        arguments: payload.slice_ref(tail),
    })
}

fn decode_reply(payload: &Bytes, fields: &[u8]) -> Result<FromServer, ProtocolError> {
    let malformed = |what| ProtocolError::Malformed { kind: REPLY, what };
    let (reply, tail) = codec::decode_prefix::<ReplyV1>(fields).map_err(malformed)?;
    if reply.body_bytes != tail.len() as u64 {
        return Err(malformed("its body is not as long as it says"));
    }
    let number = reply.status;
    let status = Status::from_number(number).ok_or(ProtocolError::UnknownStatus { number })?;
    let after = reply.retry_after_ms.map(Duration::from_millis);
    Ok(FromServer::Reply {
        id: reply.id,
        reply: Reply::new(status, payload.slice_ref(tail)).retry_after(after),
    })
}

/// A key that is none is the caller's mistake, which the server answers; it does not end the
/// connection.
fn parse_key(bytes: &[u8]) -> Result<IdempotencyKey, KeyError> {
    if bytes.len() > KEY_BYTES_MAX {
        let length = bytes.len();
        return Err(KeyError::TooLong { length });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => IdempotencyKey::parse(text),
        Err(_) => {
            let position = bytes.iter().position(|byte| !byte.is_ascii_graphic());
            Err(KeyError::Unprintable {
                position: position.unwrap_or_default(),
            })
        }
    }
}

fn frame(kind: u8, fields: impl bincode::Encode, tail: Bytes) -> Frame {
    let mut head = Vec::with_capacity(128);
    head.resize(LENGTH_BYTES, 0);
    head.push(kind);
    codec::encode_into(fields, &mut head);
    Frame::new(head, tail)
}

fn split_kind(payload: &[u8]) -> Result<(u8, &[u8]), ProtocolError> {
    let (kind, fields) = payload.split_first().ok_or(ProtocolError::FrameEmpty)?;
    Ok((*kind, fields))
}

fn all<'a, M: bincode::BorrowDecode<'a, ()>>(
    kind: u8,
    fields: &'a [u8],
) -> Result<M, ProtocolError> {
    codec::decode(fields).map_err(|what| ProtocolError::Malformed { kind, what })
}

const fn verb_number(verb: Verb) -> u8 {
    match verb {
        Verb::Call => 1,
        Verb::Peek => 2,
        Verb::Seal => 3,
    }
}

const fn verb_of(number: u8) -> Result<Verb, ProtocolError> {
    match number {
        1 => Ok(Verb::Call),
        2 => Ok(Verb::Peek),
        3 => Ok(Verb::Seal),
        number => Err(ProtocolError::UnknownVerb { number }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct CallV1<'a> {
    id: u64,
    verb: u8,
    method: &'a str,
    key: Option<&'a [u8]>,
    first_sent: Option<u64>,
    attempt: u32,
    deadline_ms: Option<u64>,
    session: Option<(u64, u64, u64)>,
    store: Option<[u8; 16]>,
    arguments_bytes: u64,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct ReplyV1 {
    id: u64,
    status: u8,
    retry_after_ms: Option<u64>,
    body_bytes: u64,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct GoAwayV1<'a> {
    last_id: u64,
    reason: &'a str,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct AcknowledgeV1 {
    session: u64,
    first_unanswered: u64,
}

const CALL: u8 = 1;
const GOODBYE: u8 = 2;
const REPLY: u8 = 3;
const GO_AWAY: u8 = 4;
const ACKNOWLEDGE: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn full_call<'a>(key: &'a IdempotencyKey, arguments: &'a Bytes) -> Outgoing<'a> {
        Outgoing {
            id: 7,
            verb: Verb::Call,
            method: "transfer",
            key: Some(key),
            first_sent: Some(Timestamp::from_millis(1_700_000_000_000)),
            attempt: NonZeroU32::new(2).unwrap(),
            deadline: Some(Duration::from_secs(30)),
            session: Some(SessionCall {
                session: 5,
                sequence: 300,
                first_unanswered: 299,
            }),
            store: Some(StoreId::from_bytes([0xab; 16])),
            arguments,
        }
    }

    fn bare_call<'a>(verb: Verb, arguments: &'a Bytes) -> Outgoing<'a> {
        Outgoing {
            id: 1,
            verb,
            method: "m",
            key: None,
            first_sent: None,
            attempt: NonZeroU32::MIN,
            deadline: None,
            session: None,
            store: None,
            arguments,
        }
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        [&frame.head[..], &frame.tail[..]].concat()
    }

    fn payload(frame: &Frame) -> Bytes {
        bytes(frame)[LENGTH_BYTES..].to_vec().into()
    }

    #[test]
    fn the_bytes_of_a_full_call_never_change() {
        let key = IdempotencyKey::parse("order-4711").unwrap();
        let arguments = Bytes::from_static(b"\x01\x02\x03");
        let mut golden = vec![68, 0, 0, 0, 1, 7, 1, 8];
        golden.extend_from_slice(b"transfer");
        golden.extend_from_slice(&[1, 10]);
        golden.extend_from_slice(b"order-4711");
        golden.extend_from_slice(&[1, 253, 0x00, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0, 0]);
        golden.push(2);
        golden.extend_from_slice(&[1, 251, 0x30, 0x75]);
        golden.extend_from_slice(&[1, 5, 251, 0x2c, 0x01, 251, 0x2b, 0x01]);
        golden.push(1);
        golden.extend_from_slice(&[0xab; 16]);
        golden.extend_from_slice(&[3, 1, 2, 3]);
        assert_eq!(bytes(&call(&full_call(&key, &arguments))), golden);
    }

    #[test]
    fn the_bytes_of_bare_messages_never_change() {
        let arguments = Bytes::new();
        for (verb, number) in [(Verb::Call, 1), (Verb::Peek, 2), (Verb::Seal, 3)] {
            assert_eq!(
                bytes(&call(&bare_call(verb, &arguments))),
                [12, 0, 0, 0, 1, 1, number, 1, b'm', 0, 0, 1, 0, 0, 0, 0]
            );
        }
        assert_eq!(bytes(&goodbye()), [1, 0, 0, 0, 2]);
        assert_eq!(
            bytes(&go_away(9, "bye")),
            [6, 0, 0, 0, 4, 9, 3, b'b', b'y', b'e']
        );
    }

    #[test]
    fn the_bytes_of_a_reply_never_change() {
        let answer = Reply::new(Status::Executed, "ok");
        assert_eq!(
            bytes(&reply(300, &answer)),
            [9, 0, 0, 0, 3, 251, 0x2c, 0x01, 1, 0, 2, b'o', b'k']
        );
        let later = Reply::new(Status::InProgress, "").retry_after(Some(Duration::from_millis(50)));
        assert_eq!(bytes(&reply(1, &later)), [6, 0, 0, 0, 3, 1, 16, 1, 50, 0]);
    }

    #[test]
    fn a_call_comes_out_as_it_went_in() {
        let key = IdempotencyKey::parse("order-4711").unwrap();
        let arguments = Bytes::from_static(b"\x01\x02\x03");
        let sent = full_call(&key, &arguments);
        let Ok(FromClient::Call(call)) = from_client(&payload(&call(&sent))) else {
            panic!("not a call");
        };
        assert_eq!(
            (call.id, call.verb, &*call.method),
            (7, Verb::Call, "transfer")
        );
        assert_eq!(call.key, Some(Ok(key.clone())));
        assert_eq!(call.first_sent, sent.first_sent);
        assert_eq!(call.attempt, sent.attempt);
        assert_eq!(call.deadline, sent.deadline);
        assert_eq!(call.session, sent.session);
        assert_eq!(call.store, sent.store);
        assert_eq!(call.arguments, arguments);
    }

    #[test]
    fn every_truncation_and_every_excess_is_an_error() {
        let key = IdempotencyKey::parse("order-4711").unwrap();
        let arguments = Bytes::from_static(b"\x01\x02\x03");
        let from_clients = [
            payload(&call(&full_call(&key, &arguments))),
            payload(&goodbye()),
            payload(&acknowledge(5, 301)),
        ];
        for whole in from_clients {
            for length in 0..whole.len() {
                assert!(from_client(&whole.slice(..length)).is_err(), "{length}");
            }
            assert!(from_client(&[&whole[..], &[0]].concat().into()).is_err());
        }
        let answer = Reply::new(Status::Executed, "ok");
        for whole in [payload(&reply(300, &answer)), payload(&go_away(9, "bye"))] {
            for length in 0..whole.len() {
                assert!(from_server(&whole.slice(..length)).is_err(), "{length}");
            }
            assert!(from_server(&[&whole[..], &[0]].concat().into()).is_err());
        }
    }

    #[test]
    fn the_bytes_of_an_acknowledgement_never_change() {
        let bytes = payload(&acknowledge(5, 301));
        assert_eq!(&bytes[..], [5, 5, 251, 0x2d, 0x01]);
        let read = from_client(&bytes);
        let same = matches!(
            read,
            Ok(FromClient::Acknowledge {
                session: 5,
                first_unanswered: 301
            })
        );
        assert!(same, "{read:?}");
    }

    #[test]
    fn what_is_unknown_is_named() {
        let of_client = |bytes: &[u8]| from_client(&Bytes::copy_from_slice(bytes)).unwrap_err();
        let of_server = |bytes: &[u8]| from_server(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(of_client(&[9]), ProtocolError::UnknownKind { kind: 9 });
        assert_eq!(
            of_client(&[3, 1, 1, 0, 0]),
            ProtocolError::UnknownKind { kind: 3 }
        );
        assert_eq!(of_server(&[1]), ProtocolError::UnknownKind { kind: 1 });
        assert_eq!(
            of_server(&[3, 1, 99, 0, 0]),
            ProtocolError::UnknownStatus { number: 99 }
        );
        assert_eq!(
            of_client(&[1, 1, 4, 1, b'm', 0, 0, 1, 0, 0, 0, 0]),
            ProtocolError::UnknownVerb { number: 4 }
        );
    }

    #[test]
    fn fields_that_cannot_be_are_refused() {
        let what = |bytes: &[u8]| match from_client(&Bytes::copy_from_slice(bytes)) {
            Err(ProtocolError::Malformed { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            what(&[1, 1, 1, 1, b'm', 0, 0, 0, 0, 0, 0, 0]),
            "its attempt is 0"
        );
        assert_eq!(
            what(&[1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
            "its method has not 1 to 255 bytes"
        );
        assert_eq!(
            what(&[1, 1, 1, 1, 0xff, 0, 0, 1, 0, 0, 0, 0]),
            "a text is not UTF-8"
        );
        assert_eq!(
            what(&[1, 1, 1, 1, b'm', 0, 0, 1, 0, 0, 0, 5]),
            "its arguments are not as long as it says"
        );
        let hostile = [&[1, 1, 1, 253][..], &u64::MAX.to_le_bytes()].concat();
        assert_eq!(what(&hostile), "it claims more bytes than any message has");
    }

    #[test]
    fn a_key_that_is_none_is_told_apart_from_a_broken_frame() {
        let key_of = |key: &[u8]| {
            let mut bytes = vec![1, 1, 1, 1, b'm', 1];
            codec::encode_into(key, &mut bytes);
            bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
            match from_client(&bytes.into()) {
                Ok(FromClient::Call(call)) => call.key,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(key_of(b""), Some(Err(KeyError::Empty)));
        assert_eq!(
            key_of(b"a\xff"),
            Some(Err(KeyError::Unprintable { position: 1 }))
        );
        assert_eq!(
            key_of(&[b'k'; 256]),
            Some(Err(KeyError::TooLong { length: 256 }))
        );
    }

    #[test]
    fn a_reason_cannot_move_the_cursor() {
        let frame = payload(&go_away(1, "bye\u{1b}[2J\n"));
        let Ok(FromServer::GoAway { reason, .. }) = from_server(&frame) else {
            panic!("not a goaway");
        };
        assert_eq!(&*reason, "bye [2J ");
    }
}
