//! Where a message ends in a stream of bytes. Pure: bytes in, frames out.

use bytes::{Buf, Bytes, BytesMut};

use super::http1;

/// How a stream is cut into frames: the messages that faults are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// HTTP/1: requests and responses, with their bodies. Up to 16 MiB each. A client that waits for
    /// `100 Continue` waits until it sends its body anyway; after an upgrade nothing is understood.
    Http1,
    /// Each frame says how long it is.
    LengthPrefixed {
        /// The first frame of each direction, where it is another one: a handshake. Faults leave it
        /// alone.
        opening: Option<LengthPrefix>,
        /// All others.
        frames: LengthPrefix,
    },
}

/// Where a frame says how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: who describes a protocol writes all of it.
pub struct LengthPrefix {
    /// At which byte of the frame the length stands.
    pub offset: usize,
    /// In how many bytes, 1 to 8. Others are taken for the nearest of these.
    pub width: usize,
    /// Which of them comes first.
    pub endianness: Endianness,
    /// From where it counts.
    pub counts: Counts,
    /// The longest frame in bytes, all of it. A longer one ends its connection.
    pub frame_bytes_max: usize,
}

/// The order of a number's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: there are two.
pub enum Endianness {
    /// The highest byte first.
    Big,
    /// The lowest byte first.
    Little,
}

/// What a length is the length of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: other lengths are other protocols.
pub enum Counts {
    /// What follows the length.
    Rest,
    /// The whole frame.
    Whole,
}

/// Why a stream cannot be cut any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not what was said, or in a way that is not understood.
    Malformed,
    /// A frame is longer than the bound.
    TooLong,
}

/// One direction's frames.
#[derive(Debug)]
pub(super) struct Splitter {
    framing: Framing,
    from: From,
    opened: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Client,
    Server,
}

/// One piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What comes before the frames: never struck.
    Opening(Bytes),
    Frame(Bytes),
}

// === impl Framing ===

impl Framing {
    /// The protocol of `onlyonce::rpc`.
    #[must_use]
    pub const fn onlyonce() -> Self {
        Self::LengthPrefixed {
            opening: Some(length_at(10, 16 * 1024)),
            frames: length_at(0, 64 * 1024 * 1024 + 4),
        }
    }
}

const fn length_at(offset: usize, frame_bytes_max: usize) -> LengthPrefix {
    LengthPrefix {
        offset,
        width: 4,
        endianness: Endianness::Little,
        counts: Counts::Rest,
        frame_bytes_max,
    }
}

// === impl LengthPrefix ===

impl LengthPrefix {
    /// How many bytes come before what faults may change: all up to the length and it.
    const fn head(&self) -> usize {
        self.offset + self.width()
    }

    const fn width(&self) -> usize {
        match self.width {
            0 => 1,
            1..=8 => self.width,
            _ => 8,
        }
    }

    /// The length of the whole frame that begins here, once its length is there.
    fn frame_bytes(&self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let Some(said) = bytes.get(self.offset..self.head()) else {
            return Ok(None);
        };
        let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
        let said = match self.endianness {
            Endianness::Big => said.iter().fold(0, fold),
            Endianness::Little => said.iter().rev().fold(0, fold),
        };
        let said = usize::try_from(said).map_err(|_| Unreadable::TooLong)?;
        let whole = match self.counts {
            Counts::Rest => said.checked_add(self.head()).ok_or(Unreadable::TooLong)?,
            Counts::Whole if said < self.head() => return Err(Unreadable::Malformed),
            Counts::Whole => said,
        };
        match whole > self.frame_bytes_max {
            true => Err(Unreadable::TooLong),
            false => Ok(Some(whole)),
        }
    }
}

// === impl Splitter ===

impl Splitter {
    pub(super) const fn new(framing: Framing, from: From) -> Self {
        Self {
            framing,
            from,
            opened: false,
        }
    }

    /// The next piece, once all of it is in the buffer; it is taken from there.
    ///
    /// `bodiless` says that a response, if this is one, has no body whatever it says of one.
    pub(super) fn next(
        &mut self,
        buffer: &mut BytesMut,
        bodiless: bool,
    ) -> Result<Option<Piece>, Unreadable> {
        let (length, opens) = match self.framing {
            Framing::Http1 => {
                let length = match self.from {
                    From::Client => http1::request_bytes(buffer)?,
                    From::Server => http1::response_bytes(buffer, bodiless)?,
                };
                (length, false)
            }
            Framing::LengthPrefixed {
                opening: Some(opening),
                ..
            } if !self.opened => (opening.frame_bytes(buffer)?, true),
            Framing::LengthPrefixed { frames, .. } => (frames.frame_bytes(buffer)?, false),
        };
        let Some(length) = length.filter(|length| buffer.remaining() >= *length) else {
            return Ok(None);
        };
        self.opened = true;
        let bytes = buffer.split_to(length).freeze();
        Ok(Some(match opens {
            true => Piece::Opening(bytes),
            false => Piece::Frame(bytes),
        }))
    }

    /// From which byte of a frame on its content may be changed without moving its end.
    pub(super) fn content(&self, frame: &[u8]) -> usize {
        match self.framing {
            Framing::Http1 => http1::head_bytes(frame).unwrap_or(0),
            Framing::LengthPrefixed { frames, .. } => frames.head(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(framing: Framing, from: From, bytes: &[u8], chunk: usize) -> Vec<Piece> {
        let mut splitter = Splitter::new(framing, from);
        let (mut buffer, mut pieces) = (BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            buffer.extend_from_slice(chunk);
            while let Some(piece) = splitter.next(&mut buffer, false).unwrap() {
                pieces.push(piece);
            }
        }
        assert!(buffer.is_empty());
        pieces
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_chunked() {
        let frames = LengthPrefix {
            offset: 1,
            width: 2,
            endianness: Endianness::Big,
            counts: Counts::Rest,
            frame_bytes_max: 100,
        };
        let framing = Framing::LengthPrefixed {
            opening: None,
            frames,
        };
        let bytes = b"x\0\x03abcx\0\0x\0\x01z";
        for chunk in 1..=bytes.len() {
            let pieces = split(framing, From::Client, bytes, chunk);
            let expected = [&b"x\0\x03abc"[..], b"x\0\0", b"x\0\x01z"];
            let expected = expected.map(|frame| Piece::Frame(Bytes::from_static(frame)));
            assert_eq!(pieces, expected);
        }
    }

    #[test]
    fn an_opening_is_told_from_the_frames_behind_it() {
        let opening = b"\x89ONCE\r\n\x1a\x01\x00\x02\x00\x00\x00hi";
        let bytes = [&opening[..], b"\x01\0\0\0\x02"].concat();
        let pieces = split(Framing::onlyonce(), From::Server, &bytes, 3);
        assert_eq!(
            pieces,
            [
                Piece::Opening(Bytes::from_static(opening)),
                Piece::Frame(Bytes::from_static(b"\x01\0\0\0\x02"))
            ]
        );
    }

    #[test]
    fn a_frame_over_the_bound_is_refused_before_it_is_there() {
        let whole = |counts, said: u8| {
            let prefix = LengthPrefix {
                offset: 0,
                width: 1,
                endianness: Endianness::Little,
                counts,
                frame_bytes_max: 10,
            };
            prefix.frame_bytes(&[said])
        };
        assert_eq!(whole(Counts::Rest, 9), Ok(Some(10)));
        assert_eq!(whole(Counts::Rest, 10), Err(Unreadable::TooLong));
        assert_eq!(whole(Counts::Whole, 10), Ok(Some(10)));
        assert_eq!(whole(Counts::Whole, 0), Err(Unreadable::Malformed));
        let wide = LengthPrefix {
            offset: 0,
            width: 8,
            endianness: Endianness::Big,
            counts: Counts::Rest,
            frame_bytes_max: usize::MAX,
        };
        assert_eq!(wide.frame_bytes(&[0xff; 8]), Err(Unreadable::TooLong));
    }
}
