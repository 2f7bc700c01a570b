//! The bytes of a request that is kept.
//!
//! ```text
//!  0      version: 1
//!         method: its length (2), its bytes
//!         absolute URI: its length (4), its bytes
//!         header lines, by name: how many (4 bytes), then of each the length of its name (2), its
//!         name, the length of its value (4), its value
//!         body: its length (4), its bytes
//!         whether there are trailers (1), then their lines as above
//! ```
//!
//! Numbers are big-endian. Nothing follows. No credential is in it, see [`LeftOut`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Request, Uri, header};

use crate::http::server::answer::{put_contents, put_lines, take, take_contents, take_lines};
use crate::http::{Body, Contents};

/// What is kept of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) contents: Contents,
}

/// Which headers of a request are not kept.
#[derive(Clone, Debug)]
pub(super) struct LeftOut {
    more: Vec<HeaderName>,
}

// === impl Stored ===

impl Stored {
    /// Its bytes; `None` where a part of it is longer than its length can say.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let (method, uri) = (self.method.as_str(), self.uri.to_string());
        let body = &self.contents.bytes;
        let mut out =
            BytesMut::with_capacity(body.len() + 32 * self.headers.len() + uri.len() + 32);
        out.put_u8(VERSION);
        out.put_u16(u16::try_from(method.len()).ok()?);
        out.put_slice(method.as_bytes());
        out.put_u32(u32::try_from(uri.len()).ok()?);
        out.put_slice(uri.as_bytes());
        put_lines(&mut out, &by_name(&self.headers))?;
        let trailers = self.contents.trailers.as_ref().map(by_name);
        put_contents(&mut out, body, trailers.as_ref())?;
        Some(out.freeze())
    }

    /// What `bytes` say; `None` where they are no request of this version. The body is not copied.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut bytes = bytes.clone();
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let length = bytes.try_get_u16().ok()?;
        let method = Method::from_bytes(&take(&mut bytes, usize::from(length))?).ok()?;
        let length = bytes.try_get_u32().ok()?;
        let uri = Uri::from_maybe_shared(take(&mut bytes, length as usize)?).ok()?;
        let headers = take_lines(&mut bytes)?;
        let contents = take_contents(bytes)?;
        Some(Self {
            method,
            uri,
            headers,
            contents,
        })
    }

    /// The request as it was, but for what was left out.
    pub(super) fn into_request(self) -> Request<Body> {
        let mut request = Request::new(Body::from(self.contents));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

/// The same lines, in an order that does not depend on which came first; values of one name stay in
/// theirs.
fn by_name(lines: &HeaderMap) -> HeaderMap {
    let mut names: Vec<_> = lines.keys().collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let mut sorted = HeaderMap::with_capacity(lines.len());
    for name in names {
        for value in lines.get_all(name) {
            sorted.append(name, value.clone());
        }
    }
    sorted
}

// === impl LeftOut ===

impl LeftOut {
    pub(super) const fn new() -> Self {
        Self { more: Vec::new() }
    }

    pub(super) fn and(&mut self, name: HeaderName) {
        self.more.push(name);
    }

    /// Takes the credentials out of `headers`, and what is written anew for each attempt; answers the
    /// credentials.
    pub(super) fn take_from(&self, headers: &mut HeaderMap) -> HeaderMap {
        let mut credentials = HeaderMap::new();
        let names: Vec<_> = headers.keys().cloned().collect();
        for name in names {
            let credential = self.is_credential(&name, headers);
            if credential {
                for value in headers.get_all(&name) {
                    credentials.append(&name, value.clone());
                }
            }
            let anew = ANEW.contains(&name) || name.as_str().starts_with("idempotency-");
            if credential || anew {
                headers.remove(&name);
            }
        }
        credentials
    }

    fn is_credential(&self, name: &HeaderName, headers: &HeaderMap) -> bool {
        let marked = || {
            headers
                .get_all(name)
                .iter()
                .any(http::HeaderValue::is_sensitive)
        };
        CREDENTIALS.contains(&name.as_str())
            || name.as_str().starts_with("proxy-")
            || self.more.contains(name)
            || marked()
    }
}

/// The transport says how it frames a body.
const ANEW: [HeaderName; 2] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Headers that let their bearer in. Others are the caller's to name, or to mark as sensitive.
const CREDENTIALS: [&str; 10] = [
    "api-key",
    "authorization",
    "cookie",
    "cookie2",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-goog-api-key",
    "x-xsrf-token",
];

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn example() -> Stored {
        let mut headers = HeaderMap::new();
        headers.append("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("link", HeaderValue::from_static("</a>"));
        headers.append("link", HeaderValue::from_static("</b>"));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        Stored {
            method: Method::POST,
            uri: Uri::from_static("http://shop.example/pay?n=1"),
            headers,
            contents: Contents {
                bytes: Bytes::from_static(b"5 EUR"),
                trailers: Some(trailers),
            },
        }
    }

    // Golden bytes: calls that are kept today are resumed by every later version.
    #[test]
    fn the_bytes_of_a_request_are_those_that_are_kept() {
        let golden = b"\x01\x00\x04POST\
            \x00\x00\x00\x1bhttp://shop.example/pay?n=1\
            \x00\x00\x00\x03\
            \x00\x04link\x00\x00\x00\x04</a>\
            \x00\x04link\x00\x00\x00\x04</b>\
            \x00\x06x-name\x00\x00\x00\x04caf\xe9\
            \x00\x00\x00\x055 EUR\
            \x01\x00\x00\x00\x01\x00\x05x-sum\x00\x00\x00\x017";
        assert_eq!(example().encode().unwrap(), golden.as_slice());
        let read = Stored::decode(&Bytes::from_static(golden)).unwrap();
        assert_eq!(read, example());
    }

    #[test]
    fn a_kept_request_that_is_cut_off_or_goes_on_is_none() {
        let bytes = example().encode().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Stored::decode(&bytes.slice(..length)), None, "{length}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert_eq!(Stored::decode(&more.into()), None);
    }

    #[test]
    fn an_unknown_version_of_a_kept_request_is_none() {
        for version in (0..=255).filter(|version| *version != VERSION) {
            let mut bytes = example().encode().unwrap().to_vec();
            bytes[0] = version;
            assert_eq!(Stored::decode(&bytes.into()), None, "{version}");
        }
    }

    // J1
    #[test]
    fn what_lets_its_bearer_in_is_taken_out_of_a_request_before_it_is_kept() {
        let mut left_out = LeftOut::new();
        left_out.and(HeaderName::from_static("x-mine"));
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "proxy-authorization",
            "x-api-key",
            "x-mine",
        ] {
            headers.append(name, HeaderValue::from_static("secret"));
        }
        headers.append("cookie", HeaderValue::from_static("secret too"));
        let mut marked = HeaderValue::from_static("secret");
        marked.set_sensitive(true);
        headers.insert("x-marked", marked);
        for name in ["content-type", "content-length", "idempotency-key", "te"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let credentials = left_out.take_from(&mut headers);
        let mut kept: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["content-type", "te"]);
        assert_eq!(credentials.keys_len(), 6);
        assert_eq!(credentials.get_all("cookie").iter().count(), 2);
        assert!(credentials.contains_key("x-marked"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_of_a_kept_request_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Stored::decode(&bytes.into());
        }

        #[test]
        fn what_is_read_of_a_damaged_request_encodes_to_what_was_read(
            at in 0_usize..120,
            bits in 1_u8..=255,
        ) {
            let mut bytes = example().encode().unwrap().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            if let Some(read) = Stored::decode(&bytes.into()) {
                let again = Stored::decode(&read.encode().unwrap()).unwrap();
                prop_assert_eq!(again.encode(), read.encode());
            }
        }
    }
}
