//! What a frame holds: calls and goodbyes to a server, replies and farewells to a client.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::{IdempotencyKey, KeyError, SessionCall, StoreId, Timestamp};

use crate::fuzzing::{Target, assert_canonical, few_times};
use crate::rpc::frame::{Frame, LENGTH_BYTES};
use crate::rpc::wire::{self, Call, FromClient, FromServer, Outgoing};
use crate::rpc::{METHOD_BYTES_MAX, Reply, Status, Verb, state};

pub(crate) const FROM_CLIENT: Target = Target {
    name: "message_from_client",
    run: from_client,
    seeds: seeds_of_clients,
    memory_bytes_max: few_times,
};

pub(crate) const FROM_SERVER: Target = Target {
    name: "message_from_server",
    run: from_server,
    seeds: seeds_of_servers,
    memory_bytes_max: few_times,
};

/// How the wire takes these bytes as a key: never as a reason to end the connection.
pub(crate) fn key_on_the_wire(key: &[u8]) -> Result<IdempotencyKey, KeyError> {
    // Written out, since the encoder takes only keys that are some.
    let mut payload = vec![1, 1, 1, 1, b'm', 1, 253];
    payload.extend_from_slice(&(key.len() as u64).to_le_bytes());
    payload.extend_from_slice(key);
    payload.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
    match wire::from_client(&payload.into()) {
        Ok(FromClient::Call(call)) => call.key.expect("a key was sent"),
        other => panic!("{other:?}"),
    }
}

fn from_client(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    match wire::from_client(&payload) {
        Ok(FromClient::Call(call)) => {
            assert!(matches!(call.method.len(), 1..=METHOD_BYTES_MAX));
            // Of a key that is none nothing is kept.
            if let Some(written) = rewritten(&call) {
                assert_canonical(bytes, &written);
                match wire::from_client(&written.clone().into()) {
                    Ok(FromClient::Call(again)) => assert_eq!(rewritten(&again), Some(written)),
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(FromClient::Acknowledge {
            session,
            first_unanswered,
        }) => {
            let written = payload_of(&wire::acknowledge(session, first_unanswered));
            assert_canonical(bytes, &written);
        }
        Ok(FromClient::Goodbye) => assert_eq!(bytes, payload_of(&wire::goodbye())),
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

fn rewritten(call: &Call) -> Option<Vec<u8>> {
    let key = call.key.as_ref().map(Result::as_ref).transpose().ok()?;
    Some(payload_of(&wire::call(&Outgoing {
        id: call.id,
        verb: call.verb,
        method: &call.method,
        key,
        first_sent: call.first_sent,
        attempt: call.attempt,
        deadline: call.deadline,
        session: call.session,
        store: call.store,
        arguments: &call.arguments,
    })))
}

fn from_server(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    match wire::from_server(&payload) {
        Ok(FromServer::Reply { id, reply }) => {
            let written = payload_of(&wire::reply(id, &reply));
            assert_canonical(bytes, &written);
            let again = wire::from_server(&written.into());
            assert!(
                matches!(&again, Ok(FromServer::Reply { id: i, reply: r }) if (*i, r) == (id, &reply)),
                "{again:?}"
            );
            // What a question is answered with is decoded by the client as well.
            let _ = state::decode(&reply.body);
        }
        Ok(FromServer::GoAway { last_id, reason }) => {
            assert!(!reason.contains(char::is_control), "{reason:?}");
            let written = payload_of(&wire::go_away(last_id, &reason));
            let again = wire::from_server(&written.into());
            assert!(
                matches!(&again, Ok(FromServer::GoAway { last_id: l, reason: r }) if (*l, r) == (last_id, &reason)),
                "{again:?}"
            );
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

fn payload_of(frame: &Frame) -> Vec<u8> {
    [&frame.head[LENGTH_BYTES..], &frame.tail[..]].concat()
}

fn seeds_of_clients() -> Vec<(&'static str, Vec<u8>)> {
    let key = IdempotencyKey::parse("order-4711").ok();
    let arguments = Bytes::from_static(b"\x01\x02\x03");
    let full = Outgoing {
        id: 7,
        verb: Verb::Call,
        method: "transfer",
        key: key.as_ref(),
        first_sent: Some(Timestamp::from_millis(1_700_000_000_000)),
        attempt: NonZeroU32::MIN,
        deadline: Some(Duration::from_secs(30)),
        session: Some(SessionCall {
            session: 5,
            sequence: 300,
            first_unanswered: 299,
        }),
        store: Some(StoreId::from_bytes([0xab; 16])),
        arguments: &arguments,
    };
    let question = |verb| Outgoing {
        id: 300,
        verb,
        method: "m",
        key: None,
        first_sent: None,
        attempt: NonZeroU32::MAX,
        deadline: None,
        session: None,
        store: None,
        arguments: &arguments,
    };
    let mut not_a_key = vec![1, 1, 1, 1, b'm', 1, 3, b'a', b' ', b'b', 0, 1, 0, 0, 0, 0];
    not_a_key[7] = 0xff;
    vec![
        ("call", payload_of(&wire::call(&full))),
        ("peek", payload_of(&wire::call(&question(Verb::Peek)))),
        ("seal", payload_of(&wire::call(&question(Verb::Seal)))),
        ("not-a-key", not_a_key),
        ("goodbye", payload_of(&wire::goodbye())),
        ("acknowledge", payload_of(&wire::acknowledge(5, 301))),
    ]
}

fn seeds_of_servers() -> Vec<(&'static str, Vec<u8>)> {
    let reply = |reply: Reply| payload_of(&wire::reply(300, &reply));
    let later = Reply::new(Status::InProgress, "").retry_after(Some(Duration::from_millis(50)));
    let sealed = onlyonce_storage::KeyState::Sealed {
        at: Timestamp::from_millis(1),
    };
    vec![
        ("executed", reply(Reply::new(Status::Executed, "ok"))),
        ("in-progress", reply(later)),
        (
            "sealed",
            reply(Reply::new(Status::State, state::encode(&sealed))),
        ),
        // Completed, with an answer.
        (
            "completed",
            reply(Reply::new(Status::State, &b"\x01\x03\x00ok"[..])),
        ),
        (
            "refused",
            reply(Reply::refusal(Status::Misdirected, "another store")),
        ),
        ("go-away", payload_of(&wire::go_away(9, "shutting down"))),
    ]
}
