//! The codes of gRPC.

use http::{HeaderMap, Response};

use super::names;
use crate::http::{Body, Contents};

/// How a call ended, as gRPC numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "gRPC's own words, and its documents explain them"
)]
pub enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

// === impl Code ===

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number that stands in `grpc-status`: 0 to 16.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What `response` ends with: what its trailers say, or its headers where there is nothing else.
    /// `None` where neither says anything, or its body is not in memory. A code that cannot be read is
    /// [`Unknown`](Self::Unknown), as gRPC has it.
    #[must_use]
    pub fn of(response: &Response<Body>) -> Option<Self> {
        Self::ending(response.headers(), response.body().contents()?)
    }

    /// What an answer of these headers and contents ends with.
    pub(crate) fn ending(headers: &HeaderMap, contents: &Contents) -> Option<Self> {
        let lines = ending_lines(headers, contents)?;
        Self::in_lines(lines)
    }

    /// What these lines say.
    pub(crate) fn in_lines(lines: &HeaderMap) -> Option<Self> {
        let mut values = lines.get_all(names::STATUS).iter();
        let (value, more) = (values.next()?, values.next());
        let text = value.to_str().ok().filter(|_| more.is_none());
        let number = text.and_then(|text| text.parse::<usize>().ok());
        let code = number.and_then(|number| Self::ALL.get(number));
        Some(code.copied().unwrap_or(Self::Unknown))
    }
}

/// The lines in which an answer says how it ended. Its headers are that only where nothing follows
/// them: before a message they say nothing of its end.
pub(crate) fn ending_lines<'a>(
    headers: &'a HeaderMap,
    contents: &'a Contents,
) -> Option<&'a HeaderMap> {
    match &contents.trailers {
        Some(trailers) => Some(trailers),
        None => contents.bytes.is_empty().then_some(headers),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn lines(status: &[&'static str]) -> HeaderMap {
        let mut lines = HeaderMap::new();
        for text in status {
            lines.append(names::STATUS, http::HeaderValue::from_static(text));
        }
        lines
    }

    fn contents(message: &'static str, trailers: Option<HeaderMap>) -> Contents {
        Contents {
            bytes: Bytes::from_static(message.as_bytes()),
            trailers,
        }
    }

    // P24
    #[test]
    fn the_code_is_read_where_the_answer_ends() {
        let of = |headers, contents| Code::ending(&headers, &contents);
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            let text: &'static str = number.to_string().leak();
            let trailers = Some(lines(&[text]));
            assert_eq!(of(lines(&[]), contents("m", trailers)), Some(code));
            assert_eq!(of(lines(&[text]), contents("", None)), Some(code));
        }
        // What is said before the message is not how it ended.
        assert_eq!(of(lines(&["0"]), contents("m", None)), None);
        let failed = Some(lines(&["13"]));
        let ended = of(lines(&["0"]), contents("m", failed));
        assert_eq!(ended, Some(Code::Internal));
        assert_eq!(of(lines(&["0"]), contents("", Some(lines(&[])))), None);
    }

    #[test]
    fn a_code_that_cannot_be_read_is_unknown() {
        for wrong in [&["17"][..], &[""], &["-1"], &["ok"], &["0", "0"]] {
            assert_eq!(Code::in_lines(&lines(wrong)), Some(Code::Unknown));
        }
    }
}
