//! The bytes of a recorded answer.
//!
//! ```text
//!  0      version: 1
//!  1..3   status code
//!         header lines, in order: how many (4 bytes), then of each the length of its name (2), its
//!         name, the length of its value (4), its value
//!         body: its length (4), its bytes
//!         whether there are trailers (1), then their lines as above
//! ```
//!
//! Numbers are big-endian. Nothing follows.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use onlyonce_storage::{Answer, AnswerFormat};

use crate::http::{Body, Contents};
use crate::server::Refusal;

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) contents: Contents,
}

// === impl Recorded ===

impl Recorded {
    /// What `answer` says, which has to be of this format.
    ///
    /// # Errors
    ///
    /// The refusal to give instead, when it is of another format or version.
    pub(crate) fn read(answer: &Answer, format: AnswerFormat) -> Result<Self, Refusal> {
        let unreadable = |reason| Refusal::Unavailable {
            reason,
            retry_after: UNREADABLE_PAUSE,
        };
        if answer.format() != format {
            let number = answer.format().number();
            return Err(unreadable(format!(
                "the answer was recorded in format {number} by another protocol"
            )));
        }
        Self::decode(answer.body()).ok_or_else(|| {
            unreadable("the recorded answer cannot be read by this version".to_owned())
        })
    }

    /// Its bytes; `None` where a part of it is longer than its length can say.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        let body = &self.contents.bytes;
        let mut out = BytesMut::with_capacity(body.len() + 32 * self.headers.len() + 16);
        out.put_u8(VERSION);
        out.put_u16(self.status.as_u16());
        put_lines(&mut out, &self.headers)?;
        put_contents(&mut out, body, self.contents.trailers.as_ref())?;
        Some(out.freeze())
    }

    /// What `bytes` say; `None` where they are no answer of this version. The body is not copied.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut bytes = bytes.clone();
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
        let headers = take_lines(&mut bytes)?;
        let contents = take_contents(bytes)?;
        Some(Self {
            status,
            headers,
            contents,
        })
    }

    /// The answer itself.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.contents));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Puts what a message has behind its head; nothing follows it.
pub(crate) fn put_contents(
    out: &mut BytesMut,
    body: &Bytes,
    trailers: Option<&HeaderMap>,
) -> Option<()> {
    out.put_u32(u32::try_from(body.len()).ok()?);
    out.put_slice(body);
    match trailers {
        None => out.put_u8(0),
        Some(trailers) => {
            out.put_u8(1);
            put_lines(out, trailers)?;
        }
    }
    Some(())
}

/// What a message has behind its head; `None` where anything follows. The body is not copied.
pub(crate) fn take_contents(mut bytes: Bytes) -> Option<Contents> {
    let length = bytes.try_get_u32().ok()?;
    let body = take(&mut bytes, length as usize)?;
    let trailers = match bytes.try_get_u8().ok()? {
        0 => None,
        1 => Some(take_lines(&mut bytes)?),
        _ => return None,
    };
    bytes.is_empty().then_some(Contents {
        bytes: body,
        trailers,
    })
}

pub(crate) fn put_lines(out: &mut BytesMut, lines: &HeaderMap) -> Option<()> {
    out.put_u32(u32::try_from(lines.len()).ok()?);
    for (name, value) in lines {
        let name = name.as_str();
        out.put_u16(u16::try_from(name.len()).ok()?);
        out.put_slice(name.as_bytes());
        out.put_u32(u32::try_from(value.len()).ok()?);
        out.put_slice(value.as_bytes());
    }
    Some(())
}

pub(crate) fn take_lines(bytes: &mut Bytes) -> Option<HeaderMap> {
    let count = bytes.try_get_u32().ok()?;
    let mut lines = HeaderMap::new();
    for _ in 0..count {
        let length = bytes.try_get_u16().ok()?;
        let name = take(bytes, usize::from(length))?;
        let name = HeaderName::from_bytes(&name).ok()?;
        let length = bytes.try_get_u32().ok()?;
        let value = take(bytes, length as usize)?;
        let value = HeaderValue::from_maybe_shared(value).ok()?;
        lines.try_append(name, value).ok()?;
    }
    Some(lines)
}

pub(crate) fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

const VERSION: u8 = 1;

/// A record of another version is there until a server of that version comes back.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Recorded {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("</a>"));
        headers.append("link", HeaderValue::from_static("</b>"));
        headers.insert("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Recorded {
            status: StatusCode::CREATED,
            headers,
            contents: Contents {
                bytes: Bytes::from_static(b"paid"),
                trailers: Some(trailers),
            },
        }
    }

    // Golden bytes: answers that are recorded today are read by every later version.
    #[test]
    fn the_bytes_of_an_answer_are_those_that_are_recorded() {
        let golden = b"\x01\x00\xc9\x00\x00\x00\x03\
            \x00\x04link\x00\x00\x00\x04</a>\
            \x00\x04link\x00\x00\x00\x04</b>\
            \x00\x06x-name\x00\x00\x00\x04caf\xe9\
            \x00\x00\x00\x04paid\
            \x01\x00\x00\x00\x01\x00\x0bgrpc-status\x00\x00\x00\x010";
        assert_eq!(example().encode().unwrap(), golden.as_slice());
        let read = Recorded::decode(&Bytes::from_static(golden)).unwrap();
        assert_eq!(read, example());
    }

    // As an operator writes it by hand.
    #[test]
    fn the_manuals_example_of_an_answer_is_read() {
        let bytes = b"\x01\x00\xc9\x00\x00\x00\x01\
            \x00\x08location\x00\x00\x00\x03/p1\
            \x00\x00\x00\x04paid\x00";
        let read = Recorded::decode(&Bytes::from_static(bytes)).unwrap();
        assert_eq!(read.status, StatusCode::CREATED);
        assert_eq!(read.headers["location"], "/p1");
        assert_eq!(read.contents.bytes, "paid");
    }

    #[test]
    fn an_answer_that_is_cut_off_or_goes_on_is_none() {
        let bytes = example().encode().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Recorded::decode(&bytes.slice(..length)), None, "{length}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert_eq!(Recorded::decode(&more.into()), None);
    }

    #[test]
    fn an_unknown_version_is_none() {
        for version in (0..=255).filter(|version| *version != VERSION) {
            let mut bytes = example().encode().unwrap().to_vec();
            bytes[0] = version;
            assert_eq!(Recorded::decode(&bytes.into()), None, "{version}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Recorded::decode(&bytes.into());
        }

        #[test]
        fn what_is_read_of_a_damaged_answer_encodes_to_what_was_read(
            at in 0_usize..90,
            bits in 1_u8..=255,
        ) {
            let mut bytes = example().encode().unwrap().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            if let Some(read) = Recorded::decode(&bytes.into()) {
                let again = Recorded::decode(&read.encode().unwrap());
                prop_assert_eq!(again, Some(read));
            }
        }
    }
}
