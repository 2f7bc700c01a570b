//! Bodies and connections that end when nothing comes any more.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::{Body, BoxError};

/// A body that fails once its time is over.
pub(super) struct Timed {
    body: Body,
    /// Starts anew with each frame; where it is none, `sleep` is the end of all.
    idle: Option<Duration>,
    sleep: Pin<Box<Sleep>>,
}

/// A body of which nobody can tell whether it came to its end, and which therefore fails there.
pub(super) struct Unended {
    body: Timed,
}

/// A body ended with its connection.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body has no length and ended with its connection")]
pub(super) struct EndUnknown;

/// A body took too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body took too long")]
pub(super) struct BodyTooSlow;

/// A connection that fails where its client neither says what it speaks nor takes what it is told.
pub(super) struct Attended<I> {
    io: I,
    timeout: Duration,
    /// How many bytes of the preface of HTTP/2 have come; none once it is known what is spoken.
    matched: Option<usize>,
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
}

// === impl Timed ===

impl Timed {
    /// Fails where no frame comes for `idle`.
    pub(super) fn idle(body: Body, idle: Duration) -> Self {
        Self {
            body,
            idle: Some(idle),
            sleep: Box::pin(sleep_until(far(idle))),
        }
    }

    /// Fails where it has not ended by then.
    pub(super) fn until(body: Body, until: Instant) -> Self {
        Self {
            body,
            idle: None,
            sleep: Box::pin(sleep_until(until)),
        }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // What has come wins over the timer.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(idle) = this.idle {
                this.sleep.as_mut().reset(far(idle));
            }
            return Poll::Ready(frame);
        }
        ready!(this.sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyTooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Unended ===

impl Unended {
    pub(super) const fn new(body: Timed) -> Self {
        Self { body }
    }
}

impl http_body::Body for Unended {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.get_mut().body).poll_frame(cx));
        Poll::Ready(Some(frame.unwrap_or_else(|| Err(EndUnknown.into()))))
    }
}

// === impl Attended ===

impl<I> Attended<I> {
    /// Waits for `timeout`: for a client that has just come until it is known which protocol it
    /// speaks, which nobody else bounds, and for one that takes no more of an answer.
    pub(super) fn new(io: I, timeout: Duration) -> Self {
        Self {
            io,
            timeout,
            matched: Some(0),
            reading: Box::pin(sleep_until(far(timeout))),
            writing: None,
        }
    }

    fn look_at(&mut self, new: &[u8]) {
        let Some(matched) = self.matched else { return };
        let rest = &PREFACE[matched..];
        let length = new.len().min(rest.len());
        let all = new[..length] == rest[..length];
        self.matched = (all && length < rest.len()).then_some(matched + length);
    }

    /// Fails where the client takes nothing for too long.
    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let timeout = self.timeout;
        let writing = self
            .writing
            .get_or_insert_with(|| Box::pin(sleep_until(far(timeout))));
        ready!(writing.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Attended<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, buffer) {
            this.look_at(&buffer.filled()[before..]);
            return Poll::Ready(read);
        }
        if this.matched.is_none() {
            return Poll::Pending;
        }
        ready!(this.reading.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Attended<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.waited(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.waited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.waited(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        this.waited(cx, shut)
    }
}

fn far(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or(now + Duration::from_secs(86_400))
}

/// RFC 9113, section 3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_say_what_it_speaks_is_left() {
        for said in [&b""[..], b"P", b"PRI * HTT"] {
            let (mut far, near) = tokio::io::duplex(64);
            far.write_all(said).await.unwrap();
            let mut near = Attended::new(near, Duration::from_secs(5));
            let error = near.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_said_what_it_speaks_may_be_silent() {
        for said in [&b"GET"[..], b"POST", PREFACE] {
            let (mut far, near) = tokio::io::duplex(64);
            let mut near = Attended::new(near, Duration::from_secs(5));
            for byte in said {
                far.write_all(&[*byte]).await.unwrap();
                near.read_u8().await.unwrap();
            }
            let silent = tokio::time::timeout(Duration::from_secs(60), near.read_u8()).await;
            assert!(silent.is_err(), "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_left() {
        let (_far, near) = tokio::io::duplex(8);
        let mut near = Attended::new(near, Duration::from_secs(5));
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_which_nothing_comes_any_more_fails() {
        let never = || {
            let frames = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
            Body::stream(http_body_util::StreamBody::new(frames))
        };
        let idle = Timed::idle(never(), Duration::from_secs(1));
        assert!(idle.collect().await.is_err());
        let until = Instant::now() + Duration::from_secs(1);
        assert!(Timed::until(never(), until).collect().await.is_err());
    }
}
