//! The bytes of a request that is kept beside the claim of a journaled call, so that its server can go
//! on with the call although nobody asks again.
//!
//! ```text
//!  0..4   "http" or "grpc", so that no other protocol takes it for its own
//!  4      version: 1
//!         name of the service whose request it is: its length (1), its bytes
//!         method: its length (1), its bytes
//!         path and query: their length (2), their bytes
//!         path and query as the client sent them, where a router outside took a part away; else 0 (2)
//!         header lines, body and trailers, as those of a recorded answer
//! ```
//!
//! Numbers are big-endian. Nothing follows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use super::answer::{put_contents, put_lines, take, take_contents, take_lines};
use crate::http::Contents;

/// What is kept of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Whose it is.
    pub(crate) service: Box<str>,
    pub(crate) method: Method,
    pub(crate) address: PathAndQuery,
    /// As the client sent it, where that is another.
    pub(crate) sent_to: Option<PathAndQuery>,
    pub(crate) headers: HeaderMap,
    pub(crate) contents: Contents,
}

/// Which adapter keeps a request. Names are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[cfg(feature = "grpc")]
    Grpc,
    Http,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotStored {
    #[error("it is cut off, goes on behind its end, or says what no request says")]
    Malformed,
    #[error("it is of another protocol")]
    OtherProtocol,
    #[error("it was kept by another version")]
    OtherVersion,
}

// === impl Protocol ===

impl Protocol {
    const fn name(self) -> &'static [u8; 4] {
        match self {
            #[cfg(feature = "grpc")]
            Self::Grpc => b"grpc",
            Self::Http => b"http",
        }
    }
}

// === impl Stored ===

impl Stored {
    /// Its bytes; `None` where a part of it is longer than its length can say.
    pub(super) fn encode(&self, protocol: Protocol) -> Option<Bytes> {
        let body = &self.contents.bytes;
        let mut out = BytesMut::with_capacity(body.len() + 32 * self.headers.len() + 256);
        out.put_slice(protocol.name());
        out.put_u8(VERSION);
        put_short(&mut out, self.service.as_bytes())?;
        put_short(&mut out, self.method.as_str().as_bytes())?;
        put_address(&mut out, self.address.as_str())?;
        let sent_to = self.sent_to.as_ref();
        put_address(&mut out, sent_to.map_or("", PathAndQuery::as_str))?;
        put_lines(&mut out, &self.headers)?;
        put_contents(&mut out, body, self.contents.trailers.as_ref())?;
        Some(out.freeze())
    }

    /// What `bytes` say. The body is not copied.
    ///
    /// # Errors
    ///
    /// Why they are no request.
    pub(super) fn decode(protocol: Protocol, bytes: &Bytes) -> Result<Self, NotStored> {
        let mut bytes = bytes.clone();
        let name = protocol.name().as_slice();
        match take(&mut bytes, name.len()) {
            Some(kept_by) if kept_by == name => {}
            _ => return Err(NotStored::OtherProtocol),
        }
        match bytes.try_get_u8() {
            Ok(VERSION) => Self::take(bytes).ok_or(NotStored::Malformed),
            Ok(_) => Err(NotStored::OtherVersion),
            Err(_) => Err(NotStored::Malformed),
        }
    }

    fn take(mut bytes: Bytes) -> Option<Self> {
        let service = take_short(&mut bytes)?;
        let service = std::str::from_utf8(&service).ok()?.into();
        let method = Method::from_bytes(&take_short(&mut bytes)?).ok()?;
        let address = take_address(&mut bytes)??;
        let sent_to = take_address(&mut bytes)?;
        let headers = take_lines(&mut bytes)?;
        let contents = take_contents(bytes)?;
        Some(Self {
            service,
            method,
            address,
            sent_to,
            headers,
            contents,
        })
    }
}

fn put_short(out: &mut BytesMut, bytes: &[u8]) -> Option<()> {
    out.put_u8(u8::try_from(bytes.len()).ok()?);
    out.put_slice(bytes);
    Some(())
}

fn take_short(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u8().ok()?;
    take(bytes, usize::from(length))
}

fn put_address(out: &mut BytesMut, address: &str) -> Option<()> {
    out.put_u16(u16::try_from(address.len()).ok()?);
    out.put_slice(address.as_bytes());
    Some(())
}

/// An address, or that there is none.
fn take_address(bytes: &mut Bytes) -> Option<Option<PathAndQuery>> {
    let length = bytes.try_get_u16().ok()?;
    let address = take(bytes, usize::from(length))?;
    if address.is_empty() {
        return Some(None);
    }
    if !address.starts_with(b"/") {
        return None;
    }
    PathAndQuery::from_maybe_shared(address).ok().map(Some)
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &Bytes) -> Result<Stored, NotStored> {
        Stored::decode(Protocol::Http, bytes)
    }

    fn encode(stored: &Stored) -> Bytes {
        stored.encode(Protocol::Http).unwrap()
    }

    fn example() -> Stored {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("text/plain"));
        headers.append("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-name", HeaderValue::from_static("tea"));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        Stored {
            service: "shop".into(),
            method: Method::POST,
            address: PathAndQuery::from_static("/orders?a=1"),
            sent_to: Some(PathAndQuery::from_static("/v1/orders?a=1")),
            headers,
            contents: Contents {
                bytes: Bytes::from_static(b"\x00two books"),
                trailers: Some(trailers),
            },
        }
    }

    // Golden bytes: requests that are kept today are gone on with by every later version.
    #[test]
    fn the_bytes_of_a_request_are_those_that_are_kept() {
        let golden = b"http\x01\x04shop\x04POST\
            \x00\x0b/orders?a=1\
            \x00\x0e/v1/orders?a=1\
            \x00\x00\x00\x03\
            \x00\x0ccontent-type\x00\x00\x00\x0atext/plain\
            \x00\x06x-name\x00\x00\x00\x04caf\xe9\
            \x00\x06x-name\x00\x00\x00\x03tea\
            \x00\x00\x00\x0a\x00two books\
            \x01\x00\x00\x00\x01\x00\x05x-sum\x00\x00\x00\x017";
        assert_eq!(encode(&example()), golden.as_slice());
        let read = decode(&Bytes::from_static(golden));
        assert_eq!(read, Ok(example()));
    }

    #[test]
    fn a_request_that_is_cut_off_or_goes_on_is_none() {
        let bytes = encode(&example());
        for length in 0..bytes.len() {
            let cut = decode(&bytes.slice(..length));
            assert!(cut.is_err(), "{length}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert_eq!(decode(&more.into()), Err(NotStored::Malformed));
    }

    #[test]
    fn what_is_of_another_protocol_or_version_says_so() {
        let other = Bytes::from_static(b"rpc\x01\x03pay\x07");
        assert_eq!(decode(&other), Err(NotStored::OtherProtocol));
        for version in (0..=255).filter(|version| *version != VERSION) {
            let mut bytes = encode(&example()).to_vec();
            bytes[4] = version;
            assert_eq!(decode(&bytes.into()), Err(NotStored::OtherVersion));
        }
    }

    #[test]
    fn an_address_elsewhere_or_none_is_no_address() {
        for address in ["", "orders", "http://b.example/", "*", "//"] {
            let mut stored = Vec::from(*b"http\x01\x04shop\x04POST\x00");
            stored.push(u8::try_from(address.len()).unwrap());
            stored.extend_from_slice(address.as_bytes());
            stored.extend_from_slice(&[0; 11]);
            let read = decode(&stored.into()).map(|read| read.address.to_string());
            let expected = match address {
                // A path, and no host: it stays here.
                "//" => Ok("//".to_owned()),
                _ => Err(NotStored::Malformed),
            };
            assert_eq!(read, expected, "{address}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[b"http", &[VERSION][..], &bytes].concat().into());
        }

        #[test]
        fn what_is_read_of_a_damaged_request_encodes_to_what_was_read(
            at in 0_usize..160,
            bits in 1_u8..=255,
        ) {
            let mut bytes = encode(&example()).to_vec();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            if let Ok(read) = decode(&bytes.into()) {
                let again = decode(&encode(&read));
                prop_assert_eq!(again, Ok(read));
            }
        }
    }
}
