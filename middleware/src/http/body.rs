//! Bodies: whole ones, which can be sent again, and streams.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Body as _;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;

/// What a body fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or a response: in memory, or a stream, or the one before the other.
#[derive(Default)]
pub struct Body {
    /// What comes first.
    ready: Contents,
    /// What comes then. A lock that is never taken: it makes the stream `Sync`.
    rest: Option<Mutex<UnsyncBoxBody<Bytes, BoxError>>>,
}

/// A body in memory. Cloning it does not copy its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The bytes.
    pub bytes: Bytes,
    /// What came after them.
    pub trailers: Option<HeaderMap>,
}

/// What reading a body came to.
#[derive(Debug)]
pub enum Read {
    /// All of it.
    Whole(Contents),
    /// It is larger than the limit. This is the same body: what was read stands before the rest.
    TooLarge(Body),
}

/// A body that is being read: see [`Body::read`].
#[must_use = "a body is read while this is awaited"]
pub struct Reading {
    read: Parts,
    trailers: Option<HeaderMap>,
    /// What is still to come.
    stream: Option<UnsyncBoxBody<Bytes, BoxError>>,
    limit: usize,
}

/// The same request once more, if its body is in memory.
pub(crate) fn try_clone_request(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

// === impl Body ===

impl Body {
    /// A body that comes as it comes.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let stream = body.map_err(Into::into).boxed_unsync();
        Self {
            ready: Contents::default(),
            rest: Some(Mutex::new(stream)),
        }
    }

    /// The same body once more, if it is in memory.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        self.contents().cloned().map(Self::from)
    }

    /// What it contains, if it is in memory.
    #[must_use]
    pub const fn contents(&self) -> Option<&Contents> {
        match self.rest {
            None => Some(&self.ready),
            Some(_) => None,
        }
    }

    /// Reads it to its end, with its trailers, if it has at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When the stream fails. What was read of it is gone.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the body.
    pub fn read(self, limit: usize) -> Reading {
        Reading {
            trailers: self.ready.trailers,
            read: Parts::from(self.ready.bytes),
            stream: self.rest.map(Mutex::into_inner),
            limit,
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Whether there is an end to it.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, BoxError>> {
        while let Some(stream) = &mut self.stream {
            let Some(frame) = std::task::ready!(Pin::new(stream).poll_frame(cx)) else {
                self.stream = None;
                break;
            };
            match frame?.into_data() {
                Ok(data) => self.read.push(data),
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else {
                        let unknown = "a body frame that is neither data nor trailers";
                        return Poll::Ready(Err(unknown.into()));
                    };
                    self.trailers = Some(trailers);
                    return Poll::Ready(Ok(Read::Whole(self.contents())));
                }
            }
            if self.read.length() > self.limit {
                break;
            }
        }
        Poll::Ready(Ok(if self.read.length() > self.limit {
            let rest = self.stream.take().map(Mutex::new);
            let ready = self.contents();
            Read::TooLarge(Body { ready, rest })
        } else {
            Read::Whole(self.contents())
        }))
    }

    fn contents(&mut self) -> Contents {
        Contents {
            bytes: self.read.finish(),
            trailers: self.trailers.take(),
        }
    }
}

impl Future for Reading {
    type Output = Result<Read, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_all(cx)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("bytes", &self.read.length())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if !this.ready.bytes.is_empty() {
            let bytes = std::mem::take(&mut this.ready.bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(stream) = &mut this.rest {
            return Pin::new(stream.get_mut()).poll_frame(cx);
        }
        let trailers = this.ready.trailers.take();
        Poll::Ready(trailers.map(Frame::trailers).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.ready.bytes.is_empty()
            && self.ready.trailers.is_none()
            && rest.is_none_or(|rest| rest.lock().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.bytes.len() as u64;
        let Some(rest) = &self.rest else {
            if self.ready.trailers.is_none() {
                return SizeHint::with_exact(ready);
            }
            // Over HTTP/1 a body whose length is said beforehand cannot have trailers.
            let mut hint = SizeHint::new();
            hint.set_lower(ready);
            return hint;
        };
        let rest = rest.lock().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ready));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ready)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl From<Contents> for Body {
    fn from(ready: Contents) -> Self {
        Self { ready, rest: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::from(Contents {
            bytes,
            trailers: None,
        })
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::from(Bytes::from(text))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::from(Bytes::from(text))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes are the user's; only their number is shown.
        let more = if self.rest.is_some() { " and more" } else { "" };
        write!(f, "Body({} bytes{more})", self.ready.bytes.len())
    }
}

/// Pieces of a body: one is kept as it is, more are put together once.
enum Parts {
    One(Bytes),
    Many(BytesMut),
}

impl Parts {
    fn from(first: Bytes) -> Self {
        Self::One(first)
    }

    fn push(&mut self, next: Bytes) {
        match self {
            Self::One(first) if first.is_empty() => *first = next,
            Self::One(first) => {
                let mut many = BytesMut::with_capacity(first.len() + next.len());
                many.extend_from_slice(first);
                many.extend_from_slice(&next);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.extend_from_slice(&next),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn finish(&mut self) -> Bytes {
        match std::mem::replace(self, Self::One(Bytes::new())) {
            Self::One(bytes) => bytes,
            Self::Many(many) => many.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http::HeaderValue;
    use http_body_util::StreamBody;

    use super::*;

    fn pieces(pieces: &[&'static str], trailers: Option<HeaderMap>) -> Body {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::from(*piece)));
        let frames: Vec<Result<_, Infallible>> =
            data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
        Body::stream(StreamBody::new(stream::iter(frames)))
    }

    #[tokio::test]
    async fn a_body_is_read_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = pieces(&["ab", "", "cd"], Some(trailers.clone()));
        let Read::Whole(contents) = body.read(4).await.unwrap() else {
            panic!("it has four bytes");
        };
        assert_eq!(contents.bytes, "abcd");
        assert_eq!(contents.trailers.as_ref(), Some(&trailers));
        // And is sent so again.
        let again = Body::from(contents.clone());
        let collected = again.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "abcd");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_whole_all_the_same() {
        for limit in 0..6 {
            let body = pieces(&["ab", "cd", "ef"], None);
            let Read::TooLarge(body) = body.read(limit).await.unwrap() else {
                panic!("it has six bytes, more than {limit}");
            };
            assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
        }
        let Read::TooLarge(body) = Body::from("abc").read(2).await.unwrap() else {
            panic!("it has three bytes");
        };
        assert_eq!(body.contents().unwrap().bytes, "abc");
    }

    // F6
    #[tokio::test]
    async fn a_body_that_fails_is_an_error() {
        let frames = [Ok(Frame::data(Bytes::from("ab"))), Err("cut")];
        let body = Body::stream(StreamBody::new(stream::iter(frames)));
        let error = body.read(100).await.unwrap_err();
        assert_eq!(error.to_string(), "cut");
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", Body::from("secret")), "Body(6 bytes)");
    }
}
