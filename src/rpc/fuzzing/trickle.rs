//! A peer in memory that sends its bytes in small steps and is always there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes, a few at a time.
pub(super) struct Trickle<'a> {
    bytes: &'a [u8],
    step: usize,
}

// === impl Trickle ===

impl<'a> Trickle<'a> {
    pub(super) fn new(bytes: &'a [u8], step: usize) -> Self {
        let step = step.max(1);
        Self { bytes, step }
    }
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.step.min(self.bytes.len()).min(into.remaining());
        let (now, later) = self.bytes.split_at(count);
        into.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

/// What comes of a future that reads from a [`Trickle`], which never waits.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the bytes are there")
}
