//! Frames: a length, and that many bytes.
//!
//! ```text
//! +----------------+----------------------+
//! | length, u32 LE | payload              |
//! | 4 bytes        | 1 to max bytes       |
//! +----------------+----------------------+
//! ```
//!
//! The length is checked as soon as it is there, before anything of the payload is buffered.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::ProtocolError;
use super::codec::FRAME_BYTES_CEILING;

/// A frame to be written. Its tail is the caller's own bytes: arguments and answers are not
/// copied until they go to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The length, and the payload up to the tail.
    pub(super) head: Vec<u8>,
    /// The rest of the payload.
    pub(super) tail: Bytes,
}

/// Reads frames. Dropping the future of [`next`](Self::next) loses nothing.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    payload_bytes_max: usize,
    /// How many bytes came in: the sign of life that a dropped attempt looks for.
    received: Arc<AtomicU64>,
}

/// Frames that are written together. Small ones are copied side by side, so that many calls cost
/// one write; the tail of a large one is written from where it is.
#[derive(Debug, Default)]
pub(super) struct Batch {
    small: Vec<u8>,
    large: Bytes,
}

/// Why there is no frame.
#[derive(Debug)]
pub(super) enum FrameError {
    Io(io::Error),
    Protocol(ProtocolError),
}

// === impl Frame ===

impl Frame {
    /// The frame whose payload is `head`, whose first four bytes are left free for the length,
    /// and `tail`.
    pub(super) fn new(mut head: Vec<u8>, tail: Bytes) -> Self {
        let length = head.len() - LENGTH_BYTES + tail.len();
        // OK because payloads are far below 4 GiB: each is checked against the peer's limit, which
        // is at most `FRAME_BYTES_CEILING`; one that saturates here fails that check.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        head[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Self { head, tail }
    }

    /// How long the payload is, in bytes.
    pub(super) fn payload_bytes(&self) -> usize {
        self.head.len() - LENGTH_BYTES + self.tail.len()
    }

    /// How long the whole frame is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

// === impl FrameReader ===

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from what the handshake has left in `buffer`, then from `io`.
    pub(super) fn new(io: R, buffer: BytesMut, payload_bytes_max: usize) -> Self {
        Self {
            io,
            buffer,
            payload_bytes_max,
            received: Arc::default(),
        }
    }

    /// How many whole frames came in since the handshake. It is shared: it counts on.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// The next payload; `None` when the peer has ended the connection between two frames.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(payload) = self.buffered()? {
                return Ok(Some(payload));
            }
            let missing = match self.length()? {
                None => READ_BYTES,
                Some(length) => LENGTH_BYTES + length - self.buffer.len(),
            };
            // In steps, each a few times as large as what is there: a peer that announces much and
            // sends little gets little memory, and a large frame is moved once or twice.
            let step = (self.buffer.len() * GROWTH).max(READ_BYTES);
            self.buffer.reserve(missing.min(step));
            let count = self
                .io
                .read_buf(&mut self.buffer)
                .await
                .map_err(FrameError::Io)?;
            if count == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(ProtocolError::Truncated.into()),
                };
            }
        }
    }

    /// The next payload, if all of it is there already.
    pub(super) fn buffered(&mut self) -> Result<Option<Bytes>, ProtocolError> {
        match self.length()? {
            Some(length) if self.buffer.len() >= LENGTH_BYTES + length => {
                self.buffer.advance(LENGTH_BYTES);
                self.received.fetch_add(1, Ordering::AcqRel);
                Ok(Some(self.buffer.split_to(length).freeze()))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Reads what is left and throws it away, until the peer ends the connection or has sent more
    /// than a peer that is told to go has reason to.
    pub(super) async fn discard(&mut self) {
        drain(&mut self.io).await;
    }

    fn length(&self) -> Result<Option<usize>, ProtocolError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            return Err(ProtocolError::FrameEmpty);
        }
        if length > self.payload_bytes_max {
            return Err(ProtocolError::FrameTooLong {
                length,
                max: self.payload_bytes_max,
            });
        }
        Ok(Some(length))
    }
}

// === impl Batch ===

impl Batch {
    /// Whether another frame fits. The first one always does.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.small.len() < BATCH_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty()
    }

    /// Adds a frame. Only for a batch that has room.
    pub(super) fn push(&mut self, frame: Frame) {
        self.small.extend_from_slice(&frame.head);
        if frame.tail.len() <= COPIED_BYTES_MAX {
            self.small.extend_from_slice(&frame.tail);
        } else {
            self.large = frame.tail;
        }
    }

    /// Writes everything and empties the batch. `wrote` is told of every byte that `io` took, as
    /// soon as it did. Fails when `io` takes nothing for as long as `patience`.
    pub(super) async fn write_to(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        patience: Option<Duration>,
        mut wrote: impl FnMut(usize),
    ) -> io::Result<()> {
        let mut bytes = Buf::chain(&self.small[..], &self.large[..]);
        while bytes.has_remaining() {
            // What is copied and what is not leave with one call of the system.
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = bytes.chunks_vectored(&mut slices);
            let writing = io.write_vectored(&slices[..filled]);
            let count = match patience {
                None => writing.await?,
                Some(patience) => timeout(patience, writing).await??,
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes.advance(count);
            wrote(count);
        }
        self.small.clear();
        self.large = Bytes::new();
        Ok(())
    }
}

impl From<ProtocolError> for FrameError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// Reads and throws away. A socket that is closed with unread bytes resets the connection, and
/// the reset may overtake what was written last; so whoever has the last word listens on.
pub(super) async fn drain(io: &mut (impl AsyncRead + Unpin)) {
    let mut sink = [0; 1024];
    let mut left = DRAIN_BYTES_MAX;
    while let Ok(count @ 1..) = io.read(&mut sink).await {
        left = left.saturating_sub(count);
        if left == 0 {
            return;
        }
    }
}

/// Lets all tasks run first that are ready to: what they have to say leaves with the same call of the
/// system. It waits for nothing else.
pub(super) async fn after_others() {
    let mut is_first = true;
    poll_fn(|cx| match std::mem::take(&mut is_first) {
        true => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

/// What an option for the largest frame comes to.
pub(super) fn payload_bytes_max(option: usize) -> usize {
    option.clamp(FRAME_BYTES_FLOOR, FRAME_BYTES_CEILING)
}

/// The length in front of a payload.
pub(super) const LENGTH_BYTES: usize = 4;

/// The names of a call and the text of a refusal always fit.
const FRAME_BYTES_FLOOR: usize = 4 * 1024;

/// One read: large enough for many small frames, small enough for a thousand connections.
const READ_BYTES: usize = 16 * 1024;

/// So many times what has come is made room for, of a frame that is larger than one read.
const GROWTH: usize = 4;

/// One write: enough frames to make its cost small, little enough to keep it short.
const BATCH_BYTES: usize = 64 * 1024;

/// Copying this much costs less than another write.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// More than any request head; a peer that sends on and on is cut off.
const DRAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    async fn read(bytes: &[u8], max: usize) -> (Result<Option<Bytes>, FrameError>, usize) {
        let (mut theirs, ours) = duplex(64);
        let bytes = bytes.to_vec();
        let writer = async move { theirs.write_all(&bytes).await };
        let mut reader = FrameReader::new(ours, BytesMut::new(), max);
        let (_, frame) = tokio::join!(writer, reader.next());
        let buffered = reader.buffer.capacity();
        (frame, buffered)
    }

    #[tokio::test]
    async fn a_frame_comes_out_as_it_went_in() {
        let frame = Frame::new(vec![0, 0, 0, 0, 7], Bytes::from_static(b"abc"));
        assert_eq!(frame.head, [4, 0, 0, 0, 7].as_slice());
        let bytes = [&frame.head[..], &frame.tail[..]].concat();
        assert_eq!(bytes.len(), frame.bytes());
        assert!(matches!(read(&bytes, 4).await.0, Ok(Some(payload)) if payload == "\u{7}abc"));
    }

    #[tokio::test]
    async fn every_truncation_is_said() {
        let bytes = [4, 0, 0, 0, 7, b'a', b'b', b'c'];
        assert!(matches!(read(&[], 4).await.0, Ok(None)));
        for length in 1..bytes.len() {
            let (result, _) = read(&bytes[..length], 4).await;
            assert!(
                matches!(result, Err(FrameError::Protocol(ProtocolError::Truncated))),
                "{length}"
            );
        }
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_buffered() {
        for length in [5_u32, 1 << 20, u32::MAX] {
            let (result, buffered) = read(&length.to_le_bytes(), 4).await;
            let Err(FrameError::Protocol(error)) = result else {
                panic!("{length} was taken");
            };
            assert_eq!(
                error,
                ProtocolError::FrameTooLong {
                    length: length as usize,
                    max: 4
                }
            );
            assert!(buffered <= READ_BYTES);
        }
    }

    #[tokio::test]
    async fn a_peer_that_announces_much_and_sends_little_gets_little_memory() {
        let (result, buffered) = read(&(32_u32 << 20).to_le_bytes(), 64 << 20).await;
        assert!(matches!(
            result,
            Err(FrameError::Protocol(ProtocolError::Truncated))
        ));
        assert!(buffered <= 4 * READ_BYTES, "{buffered}");
    }

    #[tokio::test]
    async fn an_empty_frame_is_refused() {
        assert!(matches!(
            read(&[0, 0, 0, 0], 4).await.0,
            Err(FrameError::Protocol(ProtocolError::FrameEmpty))
        ));
    }

    #[tokio::test]
    async fn a_reader_that_is_interrupted_loses_nothing() {
        let (mut theirs, ours) = duplex(64);
        let mut reader = FrameReader::new(ours, BytesMut::new(), 64);
        for byte in [2, 0, 0, 0, b'o'] {
            theirs.write_all(&[byte]).await.unwrap();
            tokio::select! {
                biased;
                _ = reader.next() => panic!("no frame is there yet"),
                () = std::future::ready(()) => {}
            }
        }
        theirs.write_all(b"k").await.unwrap();
        assert!(matches!(reader.next().await, Ok(Some(payload)) if payload == "ok"));
    }
}
