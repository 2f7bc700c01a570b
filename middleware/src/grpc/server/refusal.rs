//! Why there is no answer, in gRPC's words: an answer of nothing but trailers.
//!
//! Each has a code, a message, and for programs a `google.rpc.ErrorInfo` of the domain `onlyonce`, whose
//! reason is the refusal's name. Where asking again is of use the pushback says when; everywhere else
//! it says that it is of none, so that clients that retry by the code alone do not.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};

use crate::grpc::{Code, names};
use crate::http::names as call;
use crate::http::server::intake::CUT;
use crate::http::{Body, Status};
use crate::server::Refusal;

/// The response to a refused request, without the name of the store.
pub(super) fn response(refusal: &Refusal) -> Response<Body> {
    let name = refusal.name().to_ascii_uppercase();
    let (code, pushback) = code_and_pushback(refusal);
    let mut response = ended(code, &refusal.to_string(), &name);
    let headers = response.headers_mut();
    headers.insert(call::STATUS, status(refusal).header_value());
    if let Some(pushback) = pushback {
        headers.insert(names::PUSHBACK_MS, pushback.header_value());
    }
    response
}

/// The response to somebody who may no longer see the answer that is kept.
pub(super) fn not_authorised() -> Response<Body> {
    let message = "the call was made before, and the caller may not see its answer now";
    ended(Code::PermissionDenied, message, "NOT_AUTHORISED")
}

/// The response to somebody who asks with `OPTIONS` whether the method is protected.
pub(super) fn told() -> Response<Body> {
    let mut response = Response::new(Body::default());
    let allowed = HeaderValue::from_static("OPTIONS, POST");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// When asking again is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    After(Duration),
    Never,
}

// === impl Again ===

impl Again {
    fn header_value(self) -> HeaderValue {
        match self {
            Self::After(pause) => u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).into(),
            Self::Never => HeaderValue::from_static("-1"),
        }
    }
}

/// The one place where the codes are chosen.
fn code_and_pushback(refusal: &Refusal) -> (Code, Option<Again>) {
    let (code, again) = match refusal {
        Refusal::DeadlinePassed { .. } => return (Code::DeadlineExceeded, None),
        // As over HTTP: another attempt may arrive whole.
        Refusal::Unreadable { reason } if reason == CUT => return (Code::Unavailable, None),
        Refusal::FirstSentAhead
        | Refusal::KeyMalformed(_)
        | Refusal::KeyMissing
        | Refusal::Mismatch
        | Refusal::Unreadable { .. } => (Code::InvalidArgument, Again::Never),
        Refusal::InDoubt(_) => (Code::Unknown, Again::Never),
        Refusal::InProgress { retry_after } => (Code::Aborted, Again::After(*retry_after)),
        Refusal::Misdirected { .. }
        | Refusal::SessionExpired
        | Refusal::Stale
        | Refusal::UnknownSession => (Code::FailedPrecondition, Again::Never),
        Refusal::NotRecordable { .. } => (Code::Unimplemented, Again::Never),
        Refusal::OverQuota { retry_after } => (Code::ResourceExhausted, Again::After(*retry_after)),
        Refusal::ScopeMissing => (Code::PermissionDenied, Again::Never),
        Refusal::TooLarge { .. } => (Code::ResourceExhausted, Again::Never),
        // A server says UNAVAILABLE of what came to nothing and may fare better.
        Refusal::TooSlow => return (Code::Unavailable, None),
        Refusal::Unavailable { retry_after, .. } => (Code::Unavailable, Again::After(*retry_after)),
        Refusal::WindowFull => (Code::ResourceExhausted, Again::After(WINDOW_PAUSE)),
    };
    (code, Some(again))
}

const fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::DeadlinePassed { executing: true } | Refusal::InProgress { .. } => {
            Status::InProgress
        }
        Refusal::InDoubt(_) => Status::InDoubt,
        Refusal::Mismatch => Status::Mismatch,
        Refusal::Stale => Status::Stale,
        _ => Status::NotExecuted,
    }
}

fn ended(code: Code, message: &str, reason: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let headers: &mut HeaderMap = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert(names::STATUS, HeaderValue::from(u16::from(code.number())));
    headers.insert(names::MESSAGE, percent_encoded(message));
    let details = base64(&details(code, message, reason));
    let details = HeaderValue::try_from(details).expect("base64 is ASCII");
    headers.insert(names::STATUS_DETAILS, details);
    response
}

fn percent_encoded(message: &str) -> HeaderValue {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(text).expect("what is not printable is encoded")
}

/// A `google.rpc.Status` with one `google.rpc.ErrorInfo`.
fn details(code: Code, message: &str, reason: &str) -> BytesMut {
    let mut info = BytesMut::new();
    put_field(&mut info, 1, reason.as_bytes());
    put_field(&mut info, 2, b"onlyonce");
    let mut any = BytesMut::new();
    put_field(&mut any, 1, b"type.googleapis.com/google.rpc.ErrorInfo");
    put_field(&mut any, 2, &info);
    let mut status = BytesMut::new();
    // Field 1, a number.
    status.put_slice(&[1 << 3, code.number()]);
    put_field(&mut status, 2, message.as_bytes());
    put_field(&mut status, 3, &any);
    status
}

/// A field of Protocol Buffers whose length is said.
fn put_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.put_u8(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    out.put_u8(u8::try_from(length).expect("seven bits"));
    out.put_slice(bytes);
}

/// Without padding, as gRPC has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for letter in 0..=three.len() {
            let six = bits >> (18 - 6 * letter) & 0x3f;
            text.push(char::from(LETTERS[six as usize]));
        }
    }
    text
}

/// A session goes on when its slowest call has ended: about a call's time.
const WINDOW_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use onlyonce_storage::{KeyError, StoreId};

    use super::*;

    // RFC 4648, section 10.
    #[test]
    fn base64_is_as_its_test_vectors_have_it() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8");
    }

    #[test]
    fn a_message_is_printable_whatever_it_says() {
        let encoded = percent_encoded("100 % \u{fc}\n");
        assert_eq!(encoded, "100 %25 %C3%BC%0A");
    }

    // One row a refusal: its code, what is said of the call, and when asking again is of use.
    #[test]
    fn each_refusal_has_its_code_its_status_and_its_pushback() {
        let pause = Duration::from_millis(40);
        let unavailable = Refusal::Unavailable {
            reason: "the store is gone".to_owned(),
            retry_after: pause,
        };
        let never = Some("-1");
        for (refusal, code, said, pushback) in [
            (
                Refusal::DeadlinePassed { executing: false },
                4,
                "not-executed",
                None,
            ),
            (
                Refusal::DeadlinePassed { executing: true },
                4,
                "in-progress",
                None,
            ),
            (Refusal::FirstSentAhead, 3, "not-executed", never),
            (
                Refusal::InProgress { retry_after: pause },
                10,
                "in-progress",
                Some("40"),
            ),
            (
                Refusal::KeyMalformed(KeyError::Several),
                3,
                "not-executed",
                never,
            ),
            (Refusal::KeyMissing, 3, "not-executed", never),
            (
                Refusal::Misdirected {
                    here: StoreId::from_bytes([1; 16]),
                },
                9,
                "not-executed",
                never,
            ),
            (Refusal::Mismatch, 3, "mismatch", never),
            (
                Refusal::NotRecordable { reason: "a stream" },
                12,
                "not-executed",
                never,
            ),
            (
                Refusal::OverQuota { retry_after: pause },
                8,
                "not-executed",
                Some("40"),
            ),
            (Refusal::ScopeMissing, 7, "not-executed", never),
            (Refusal::SessionExpired, 9, "not-executed", never),
            (Refusal::Stale, 9, "stale", never),
            (Refusal::TooLarge { limit: 1 }, 8, "not-executed", never),
            (Refusal::TooSlow, 14, "not-executed", None),
            (unavailable, 14, "not-executed", Some("40")),
            (Refusal::UnknownSession, 9, "not-executed", never),
            (
                Refusal::Unreadable {
                    reason: String::new(),
                },
                3,
                "not-executed",
                never,
            ),
            (Refusal::WindowFull, 8, "not-executed", Some("1000")),
        ] {
            let refused = response(&refusal);
            let line = |name| {
                refused
                    .headers()
                    .get(name)
                    .map(|value: &HeaderValue| value.to_str().unwrap())
            };
            assert_eq!(
                line(names::STATUS),
                Some(code.to_string().as_str()),
                "{refusal:?}"
            );
            assert_eq!(line(call::STATUS), Some(said), "{refusal:?}");
            assert_eq!(line(names::PUSHBACK_MS), pushback, "{refusal:?}");
            assert_eq!(refused.status(), 200);
        }
    }
}
