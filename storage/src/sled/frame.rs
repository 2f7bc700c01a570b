//! Frames: what is written to pages.
//!
//! ```text
//! +------+---------------+-------------------------------------------------------+
//! | kind | length        | body                                                  |
//! | u8   | u32           |                                                       |
//! +------+---------------+-------------------------------------------------------+
//!   1 answer               BLAKE3 of what it belongs to and itself (8) | bytes
//!   4 settled              key digest (32) | record
//! ```
//!
//! Records are in the crate's codec, with a checksum of their own.

use std::io;

use super::page::{PageFile, Position, Reader};
use crate::record::CallRecord;
use crate::{Answer, AnswerFormat, FencingToken, KeyDigest, StoreError};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Settled,
}

/// Which answer a frame holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) key: KeyDigest,
    pub(super) token: FencingToken,
    pub(super) format: u16,
    pub(super) length: u32,
}

/// A frame as an opening finds it.
pub(super) struct Found<'a> {
    pub(super) kind: Kind,
    pub(super) at: Position,
    pub(super) body: &'a [u8],
}

// === impl Kind ===

impl Kind {
    /// The bytes before a body of this length.
    pub(super) fn head(self, length: usize) -> Result<[u8; HEAD_BYTES], String> {
        let length = u32::try_from(length).map_err(|_| "a frame has less than 4 GiB")?;
        let mut head = [0; HEAD_BYTES];
        head[0] = self.number();
        head[1..].copy_from_slice(&length.to_le_bytes());
        Ok(head)
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Answer => 1,
            Self::Settled => 4,
        }
    }

    pub(super) fn of(head: &[u8]) -> Result<(Self, usize), String> {
        let (Some(kind), Some(length)) = (head.first(), head.get(1..HEAD_BYTES)) else {
            return Err("a frame's head is cut off".to_owned());
        };
        let kind = match kind {
            1 => Self::Answer,
            4 => Self::Settled,
            other => return Err(format!("frame kind {other} is unknown")),
        };
        let length = length
            .try_into()
            .map(u32::from_le_bytes)
            .unwrap_or_default();
        Ok((kind, length as usize))
    }

    /// Reads the head of a frame that must be of this kind; answers its length.
    pub(super) fn expect(self, reader: &mut Reader<'_>) -> Result<usize, StoreError> {
        let (kind, length) = Self::of(&reader.take(HEAD_BYTES)?).map_err(StoreError::Corrupt)?;
        if kind != self {
            return Err(StoreError::Corrupt(format!(
                "a frame is {kind:?} where one should be {self:?}"
            )));
        }
        Ok(length)
    }
}

// === impl Whole ===

impl Whole {
    /// An answer that is to be kept. `None` when it is longer than any that can be.
    pub(super) fn of(key: KeyDigest, call: &CallRecord, answer: &Answer) -> Option<Self> {
        Some(Self {
            key,
            token: call.token,
            format: answer.format().number(),
            length: u32::try_from(answer.body().len()).ok()?,
        })
    }

    /// Reads its frame. `None` when what is there is another answer, or damaged.
    pub(super) fn read(self, reader: &mut Reader<'_>) -> Result<Option<Answer>, StoreError> {
        let length = Kind::Answer.expect(reader)?;
        if length != SUM_BYTES + self.length as usize {
            return Ok(None);
        }
        Ok(self.checked(reader.take(length)?.into_owned()))
    }

    /// The answer in these bytes, a checksum before it. `None` when it is another, or damaged.
    pub(super) fn checked(self, bytes: Vec<u8>) -> Option<Answer> {
        if bytes.len() != SUM_BYTES + self.length as usize {
            return None;
        }
        let mut bytes = bytes::Bytes::from(bytes);
        let sum = bytes.split_to(SUM_BYTES);
        (*sum == self.sum(&bytes)).then(|| Answer::new(AnswerFormat::new(self.format), bytes))
    }

    pub(super) fn sum(self, body: &[u8]) -> [u8; SUM_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes());
        hasher.update(&self.token.incarnation().to_le_bytes());
        hasher.update(&self.token.sequence().to_le_bytes());
        hasher.update(&self.format.to_le_bytes());
        hasher.update(&self.length.to_le_bytes());
        hasher.update(body);
        let mut sum = [0; SUM_BYTES];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_BYTES]);
        sum
    }
}

/// Reads every frame on the first `pages` of a file, in order. A page that is missing or damaged is
/// an error: nobody knows whose records were on it.
pub(super) fn scan(
    file: &PageFile,
    pages: u32,
    mut found: impl FnMut(Found<'_>) -> Result<(), String>,
) -> io::Result<()> {
    let mut run = Run::default();
    file.read_all(pages, |number, content| {
        run.read(number, content, &mut found)
    })?;
    if !run.rest.is_empty() {
        let text = format!("{}: a frame is cut off at its end", file.name());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(())
}

/// Frames that go on over the ends of pages.
#[derive(Default)]
struct Run {
    /// What was read and is not a whole frame yet, and where it began.
    rest: Vec<u8>,
    rest_at: Option<Position>,
}

// === impl Run ===

impl Run {
    /// Reads on in the next page.
    fn read(
        &mut self,
        page: u32,
        content: &[u8],
        found: &mut impl FnMut(Found<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let carried = self.rest.len();
        let joined = carried > 0;
        if joined {
            self.rest.extend_from_slice(content);
        }
        let run = if joined { &self.rest[..] } else { content };
        // Where a place in the run is on this page; what was carried over begins before it.
        let place = |at: usize| Position {
            page,
            offset: (at - carried) as u16,
        };
        let mut read = 0;
        while let Some(head) = run.get(read..read + HEAD_BYTES) {
            let (kind, length) = Kind::of(head)?;
            let begin = read + HEAD_BYTES;
            let Some(body) = run.get(begin..begin.saturating_add(length)) else {
                break;
            };
            let at = match self.rest_at {
                Some(at) if joined && read == 0 => at,
                _ => place(read),
            };
            found(Found { kind, at, body })?;
            read = begin + length;
        }
        if read > 0 || !joined {
            self.rest_at = (read < run.len()).then(|| place(read));
        }
        if joined {
            self.rest.drain(..read);
        } else {
            self.rest.extend_from_slice(&content[read..]);
        }
        Ok(())
    }
}

pub(super) const HEAD_BYTES: usize = 5;
pub(super) const SUM_BYTES: usize = 8;
