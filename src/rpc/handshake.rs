//! What two peers say to each other before the first call.
//!
//! ```text
//! +---------------+-----------------+----------------+-----------------------+
//! | magic bytes   | version, u16 LE | length, u32 LE | hello                 |
//! | 8 bytes       | 2 bytes         | 4 bytes        | 1 to 8,192 bytes      |
//! +---------------+-----------------+----------------+-----------------------+
//! ```
//!
//! Both directions have this shape, and the shape and the refusal stay the same in every version,
//! so that two versions can always tell each other why they do not talk. A peer that speaks
//! something else is recognised by its first byte, so nobody waits for bytes that never come.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use onlyonce_storage::{StoreId, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::wire::printable;
use super::{HandshakeError, RefusalCode, codec};

/// The version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// The largest credential, in bytes: room for a signed assertion, too little to hurt.
pub const CREDENTIAL_BYTES_MAX: usize = 4 * 1024;

/// What a client says that wants a new session: no session has this id.
pub(super) const NEW_SESSION: u64 = 0;

/// Says who calls: opaque to the transport, at most 4 KiB. Never printed.
#[derive(Clone, Default)]
pub struct Credential(Bytes);

/// A credential is longer than 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credential has {length} bytes, at most {CREDENTIAL_BYTES_MAX} are allowed")]
pub struct CredentialTooLong {
    /// How long it was, in bytes.
    length: usize,
}

/// A client's hello.
#[derive(Clone, Debug)]
pub(super) struct Hello {
    pub(super) credential: Credential,
    pub(super) session: Option<u64>,
    pub(super) frame_bytes_max: usize,
}

/// A server's hello to a client that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) now: Timestamp,
    pub(super) store: Option<StoreId>,
    pub(super) session: Option<u64>,
    pub(super) frame_bytes_max: usize,
    pub(super) in_flight_max: u32,
}

// === impl Credential ===

impl Credential {
    /// The credential of somebody who has none.
    #[must_use]
    pub const fn none() -> Self {
        Self(Bytes::new())
    }

    /// The credential with these bytes.
    ///
    /// # Errors
    ///
    /// When they are more than 4 KiB.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, CredentialTooLong> {
        let bytes = bytes.into();
        if bytes.len() > CREDENTIAL_BYTES_MAX {
            let length = bytes.len();
            return Err(CredentialTooLong { length });
        }
        Ok(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} bytes)", self.0.len())
    }
}

// === impl Hello ===

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = HelloV1 {
            credential: self.credential.as_bytes(),
            session: self.session,
            frame_bytes_max: self.frame_bytes_max as u64,
        };
        opening(PROTOCOL_VERSION, HELLO, fields)
    }

    pub(super) fn decode(hello: &Bytes) -> Result<Self, HandshakeError> {
        let [HELLO, fields @ ..] = &hello[..] else {
            return Err(HandshakeError::Malformed("it is no client's hello"));
        };
        let hello: HelloV1<'_> = codec::decode(fields).map_err(HandshakeError::Malformed)?;
        let credential = Credential::new(Bytes::copy_from_slice(hello.credential))
            .map_err(|_| HandshakeError::Malformed("its credential is longer than 4 KiB"))?;
        Ok(Self {
            credential,
            session: hello.session,
            frame_bytes_max: usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX),
        })
    }
}

// === impl Welcome ===

impl Welcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = WelcomeV1 {
            now_ms: self.now.as_millis(),
            store: self.store.map(|store| *store.as_bytes()),
            session: self.session,
            frame_bytes_max: self.frame_bytes_max as u64,
            in_flight_max: self.in_flight_max,
        };
        opening(PROTOCOL_VERSION, WELCOME, fields)
    }

    /// The welcome, or the refusal, that a server's hello is.
    pub(super) fn decode(hello: &Bytes) -> Result<Self, HandshakeError> {
        match &hello[..] {
            [WELCOME, fields @ ..] => {
                let welcome: WelcomeV1 =
                    codec::decode(fields).map_err(HandshakeError::Malformed)?;
                if welcome.in_flight_max == 0 {
                    return Err(HandshakeError::Malformed("it permits no call at all"));
                }
                Ok(Self {
                    now: Timestamp::from_millis(welcome.now_ms),
                    store: welcome.store.map(StoreId::from_bytes),
                    session: welcome.session,
                    frame_bytes_max: usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX),
                    in_flight_max: welcome.in_flight_max,
                })
            }
            [REFUSAL, fields @ ..] => {
                let refusal: RefusalV1<'_> =
                    codec::decode(fields).map_err(HandshakeError::Malformed)?;
                Err(HandshakeError::Refused {
                    code: RefusalCode::from_number(refusal.code),
                    text: printable(refusal.text).into(),
                })
            }
            _ => Err(HandshakeError::Malformed("it is no server's hello")),
        }
    }
}

/// What a server writes to a peer that it does not take: in our own words, or in HTTP's if the
/// peer seems to speak that.
pub(super) fn refusal(error: &HandshakeError, code: RefusalCode, text: &str) -> Vec<u8> {
    if let HandshakeError::WrongPeer { said } = error
        && said.starts_with(|first: char| first.is_ascii_uppercase())
    {
        return http_refusal();
    }
    refusal_with(code, text)
}

/// A refusal in our own words.
pub(super) fn refusal_with(code: RefusalCode, text: &str) -> Vec<u8> {
    let code = code.number();
    opening(PROTOCOL_VERSION, REFUSAL, RefusalV1 { code, text })
}

/// Reads the peer's hello, and leaves what follows it in `buffer`.
///
/// A wrong peer is an error as soon as its first wrong byte is there; a hello that is too long
/// before it is buffered.
pub(super) async fn read_hello(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Bytes, HandshakeError> {
    loop {
        if let Some(length) = check(buffer)? {
            buffer.advance(PREAMBLE_BYTES);
            return Ok(buffer.split_to(length).freeze());
        }
        buffer.reserve(HELLO_BYTES_MAX.min(1024));
        let count = io
            .read_buf(buffer)
            .await
            .map_err(|error| HandshakeError::Io(Arc::new(error)))?;
        if count == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}

/// The length of the hello behind the preamble, once all of both is there.
fn check(buffer: &[u8]) -> Result<Option<usize>, HandshakeError> {
    let magic = &buffer[..buffer.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        let said = buffer[..buffer.len().min(SAID_BYTES)].escape_ascii();
        return Err(HandshakeError::WrongPeer {
            said: said.to_string().into(),
        });
    }
    let Some([.., v0, v1, l0, l1, l2, l3]) = buffer.first_chunk::<PREAMBLE_BYTES>() else {
        return Ok(None);
    };
    let theirs = u16::from_le_bytes([*v0, *v1]);
    if theirs != PROTOCOL_VERSION {
        let ours = PROTOCOL_VERSION;
        return Err(HandshakeError::Version { ours, theirs });
    }
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    if length > HELLO_BYTES_MAX {
        return Err(HandshakeError::Malformed("it is longer than 8 KiB"));
    }
    Ok((buffer.len() >= PREAMBLE_BYTES + length).then_some(length))
}

fn opening(version: u16, kind: u8, fields: impl bincode::Encode) -> Vec<u8> {
    let mut hello = vec![kind];
    codec::encode_into(fields, &mut hello);
    let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + hello.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    // OK because no hello of ours is longer than 8 KiB: the credential is at most half of that.
    let length = u32::try_from(hello.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&hello);
    bytes
}

fn http_refusal() -> Vec<u8> {
    let text =
        format!("This port speaks onlyonce RPC (protocol version {PROTOCOL_VERSION}), not HTTP.\n");
    let length = text.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct HelloV1<'a> {
    credential: &'a [u8],
    session: Option<u64>,
    frame_bytes_max: u64,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct WelcomeV1 {
    now_ms: u64,
    store: Option<[u8; 16]>,
    session: Option<u64>,
    frame_bytes_max: u64,
    in_flight_max: u32,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RefusalV1<'a> {
    code: u8,
    text: &'a str,
}

/// The first byte is no text's and no TLS record's; the line end provokes an answer from servers
/// that wait for lines, and shows a channel that translates line ends; 0x1a ends text files.
const MAGIC: [u8; 8] = *b"\x89ONCE\r\n\x1a";

const PREAMBLE_BYTES: usize = 14;

/// Twice the largest credential.
const HELLO_BYTES_MAX: usize = 8 * 1024;

/// Enough of a wrong peer's words to recognise it.
const SAID_BYTES: usize = 16;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Bytes, BytesMut), HandshakeError> {
        let (mut theirs, mut ours) = duplex(16 * 1024);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let mut buffer = BytesMut::new();
        let hello = read_hello(&mut ours, &mut buffer).await?;
        Ok((hello, buffer))
    }

    fn hello() -> Hello {
        Hello {
            credential: Credential::new("me").unwrap(),
            session: Some(9),
            frame_bytes_max: 4096,
        }
    }

    fn welcome() -> Welcome {
        Welcome {
            now: Timestamp::from_millis(1_700_000_000_000),
            store: Some(StoreId::from_bytes([0xab; 16])),
            session: None,
            frame_bytes_max: 2 * 1024 * 1024,
            in_flight_max: 256,
        }
    }

    #[test]
    fn the_bytes_of_a_hello_never_change() {
        let mut golden = b"\x89ONCE\r\n\x1a\x01\x00\x09\x00\x00\x00".to_vec();
        golden.extend_from_slice(&[1, 2, b'm', b'e', 1, 9, 251, 0x00, 0x10]);
        assert_eq!(hello().encode(), golden);
    }

    #[test]
    fn the_bytes_of_a_welcome_never_change() {
        let mut golden = b"\x89ONCE\r\n\x1a\x01\x00\x24\x00\x00\x00".to_vec();
        golden.extend_from_slice(&[2, 253, 0x00, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0, 0, 1]);
        golden.extend_from_slice(&[0xab; 16]);
        golden.extend_from_slice(&[0, 252, 0, 0, 0x20, 0, 251, 0x00, 0x01]);
        assert_eq!(welcome().encode(), golden);
    }

    #[test]
    fn the_bytes_of_a_refusal_never_change() {
        let bytes = refusal_with(RefusalCode::BadCredential, "who?");
        assert_eq!(
            bytes,
            b"\x89ONCE\r\n\x1a\x01\x00\x07\x00\x00\x00\x03\x01\x04who?"
        );
    }

    #[tokio::test]
    async fn what_follows_a_hello_stays_for_the_frames() {
        let bytes = [hello().encode(), b"rest".to_vec()].concat();
        let (read, rest) = read(&bytes).await.unwrap();
        let read = Hello::decode(&read).unwrap();
        assert_eq!(read.credential.as_bytes(), b"me");
        assert_eq!((read.session, read.frame_bytes_max), (Some(9), 4096));
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn a_server_s_answer_comes_out_as_it_went_in() {
        let (bytes, _) = read(&welcome().encode()).await.unwrap();
        assert_eq!(Welcome::decode(&bytes).unwrap(), welcome());
        let refusal = refusal_with(RefusalCode::ShuttingDown, "later\u{7}");
        let (bytes, _) = read(&refusal).await.unwrap();
        let error = Welcome::decode(&bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "server refused the connection (shutting down): later "
        );
    }

    #[tokio::test]
    async fn every_truncation_is_an_error() {
        for whole in [hello().encode(), welcome().encode()] {
            for length in 0..whole.len() {
                let error = read(&whole[..length]).await.unwrap_err();
                assert!(matches!(error, HandshakeError::Closed), "{length}");
            }
        }
        let whole = Bytes::from(hello().encode()).slice(PREAMBLE_BYTES..);
        for length in 0..whole.len() {
            assert!(Hello::decode(&whole.slice(..length)).is_err(), "{length}");
        }
        let whole = Bytes::from(welcome().encode()).slice(PREAMBLE_BYTES..);
        for length in 0..whole.len() {
            assert!(Welcome::decode(&whole.slice(..length)).is_err(), "{length}");
        }
    }

    #[tokio::test]
    async fn a_wrong_peer_is_shown_by_its_first_16_bytes() {
        let error = read(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "peer does not speak onlyonce RPC; it began with \"HTTP/1.1 400 Bad\""
        );
        let error = read(b"\x89ONC\n\x00").await.unwrap_err();
        assert!(error.to_string().ends_with(r#""\x89ONC\n\x00""#), "{error}");
    }

    #[tokio::test]
    async fn another_version_is_named_beside_ours() {
        let error = read(&opening(7, HELLO, ())).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "peer speaks protocol version 7, this program speaks version 1"
        );
    }

    #[tokio::test]
    async fn a_hello_over_the_limit_is_refused_before_it_is_buffered() {
        let mut bytes = hello().encode();
        bytes[10..14].copy_from_slice(&8193_u32.to_le_bytes());
        let error = read(&bytes[..14]).await.unwrap_err();
        assert!(matches!(
            error,
            HandshakeError::Malformed("it is longer than 8 KiB")
        ));
    }

    #[test]
    fn a_credential_is_bounded_and_never_printed() {
        assert!(Credential::new(vec![b'x'; 4096]).is_ok());
        assert!(Credential::new(vec![b'x'; 4097]).is_err());
        let shown = format!("{:?}", Credential::new("hunter2").unwrap());
        assert_eq!(shown, "Credential(7 bytes)");
    }

    #[test]
    fn http_is_answered_in_http() {
        let wrong = |said: &str| HandshakeError::WrongPeer { said: said.into() };
        let code = RefusalCode::Malformed;
        assert!(refusal(&wrong("POST / HTTP/1.1"), code, "").starts_with(b"HTTP/1.1 400 "));
        assert!(refusal(&wrong(r"\x16\x03\x01"), code, "").starts_with(&MAGIC));
    }
}
