//! The first words of a peer: a client's hello, and a server's welcome or refusal.

use bytes::BytesMut;
use onlyonce_storage::{StoreId, Timestamp};

use super::trickle::{Trickle, at_once};
use crate::fuzzing::{Target, assert_canonical, few_times};
use crate::rpc::handshake::{Credential, Hello, Welcome, read_hello, refusal, refusal_with};
use crate::rpc::{HandshakeError, PROTOCOL_VERSION, RefusalCode};

pub(crate) const TARGET: Target = Target {
    name: "handshake",
    run,
    seeds,
    // Room for one read of 1 KiB; while it grows, twice.
    memory_bytes_max: |bytes| few_times(bytes) + 4 * 1024,
};

/// The first byte says how many bytes come at a time.
fn run(bytes: &[u8]) {
    let [step, stream @ ..] = bytes else {
        return;
    };
    let mut io = Trickle::new(stream, usize::from(*step) + 1);
    let mut buffer = BytesMut::new();
    let hello = match at_once(read_hello(&mut io, &mut buffer)) {
        Ok(hello) => hello,
        Err(error) => return refuse(&error),
    };
    let opening = &stream[..OPENING_BYTES + hello.len()];
    assert!(stream[opening.len()..].starts_with(&buffer));
    match Hello::decode(&hello) {
        Ok(hello) => {
            let written = hello.encode();
            assert_canonical(opening, &written);
            assert_eq!(reread(&written, Hello::decode).encode(), written);
        }
        Err(error) => refuse(&error),
    }
    match Welcome::decode(&hello) {
        Ok(welcome) => {
            assert!(welcome.in_flight_max > 0);
            let written = welcome.encode();
            assert_canonical(opening, &written);
            assert_eq!(reread(&written, Welcome::decode), welcome);
        }
        Err(HandshakeError::Refused { code, text }) => {
            assert!(!text.contains(char::is_control), "{text:?}");
            let again = reread_refusal(&refusal_with(code, &text));
            assert_eq!(again, (code, text.to_string()));
        }
        Err(_) => {}
    }
}

/// Whatever a peer said, it can be refused, in HTTP or in words that our clients read.
fn refuse(error: &HandshakeError) {
    if let HandshakeError::WrongPeer { said } = error {
        assert!(said.len() <= 4 * 16 && !said.contains(char::is_control));
    }
    if let HandshakeError::Version { ours, theirs } = error {
        assert!(*ours == PROTOCOL_VERSION && theirs != ours);
    }
    let answer = refusal(error, RefusalCode::Malformed, "why");
    if !answer.starts_with(b"HTTP/1.1 400 ") {
        assert_eq!(
            reread_refusal(&answer),
            (RefusalCode::Malformed, "why".to_owned())
        );
    }
}

fn reread<T>(opening: &[u8], decode: fn(&bytes::Bytes) -> Result<T, HandshakeError>) -> T {
    let mut io = Trickle::new(opening, usize::MAX);
    let hello = at_once(read_hello(&mut io, &mut BytesMut::new()));
    decode(&hello.expect("an opening of ours is read")).expect("a hello of ours is read")
}

fn reread_refusal(opening: &[u8]) -> (RefusalCode, String) {
    let mut io = Trickle::new(opening, usize::MAX);
    let hello = at_once(read_hello(&mut io, &mut BytesMut::new()));
    match Welcome::decode(&hello.expect("an opening of ours is read")) {
        Err(HandshakeError::Refused { code, text }) => (code, text.to_string()),
        other => panic!("{other:?}"),
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = |credential: Vec<u8>, session| Hello {
        credential: Credential::new(credential).unwrap_or_default(),
        session,
        frame_bytes_max: 2 * 1024 * 1024,
    };
    let welcome = Welcome {
        now: Timestamp::from_millis(1_700_000_000_000),
        store: Some(StoreId::from_bytes([0xab; 16])),
        session: Some(9),
        frame_bytes_max: 2 * 1024 * 1024,
        in_flight_max: 256,
    };
    let bare = Welcome {
        store: None,
        session: None,
        ..welcome
    };
    let mut newer = bare.encode();
    newer[8] = 2;
    let at = |step: u8, bytes: &[u8]| [&[step], bytes].concat();
    vec![
        ("hello", at(255, &hello(b"me".to_vec(), Some(9)).encode())),
        ("hello-slow", at(0, &hello(Vec::new(), None).encode())),
        (
            "hello-and-frame",
            at(
                3,
                &[hello(Vec::new(), None).encode(), vec![1, 0, 0, 0, 2]].concat(),
            ),
        ),
        ("welcome", at(255, &welcome.encode())),
        ("welcome-bare", at(0, &bare.encode())),
        (
            "refusal",
            at(255, &refusal_with(RefusalCode::ShuttingDown, "later")),
        ),
        ("newer-version", at(255, &newer)),
        ("http", at(255, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")),
        ("tls", at(255, b"\x16\x03\x01\x02\x00\x01\x00\x01")),
    ]
}

/// Magic bytes, version and length.
const OPENING_BYTES: usize = 14;
