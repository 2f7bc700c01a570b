//! Frames: what is written to pages.
//!
//! ```text
//! +------+---------------+-------------------------------------------------------+
//! | kind | length        | body                                                  |
//! | u8   | u32           |                                                       |
//! +------+---------------+-------------------------------------------------------+
//!   1 answer               BLAKE3 of what it belongs to and itself (8) | bytes
//!   2 open                 key digest (32) | token (8 + 8) | record
//!   3 closed               key digest (32) | token (8 + 8)
//!   4 settled              key digest (32) | record
//! ```
//!
//! `open` says what is in progress or in doubt. `closed` says that it no longer is, where no
//! `settled` says so. Records are in the crate's codec, with a checksum of their own.

use super::cause::Cause;
use super::page::{PageHead, Position, Reader};
use crate::record::CallRecord;
use crate::{Answer, AnswerFormat, FencingToken, KeyDigest, StoreError};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Open,
    Closed,
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
    /// The group that wrote it.
    pub(super) group: u64,
    pub(super) body: &'a [u8],
}

/// How far the pages of a tree go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    /// The number of the next page.
    pub(super) next: u32,
    /// The last group that is known to be whole.
    pub(super) group: u64,
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
            Self::Open => 2,
            Self::Closed => 3,
            Self::Settled => 4,
        }
    }

    pub(super) fn of(head: &[u8]) -> Result<(Self, usize), String> {
        let (Some(kind), Some(length)) = (head.first(), head.get(1..HEAD_BYTES)) else {
            return Err("a frame's head is cut off".to_owned());
        };
        let kind = match kind {
            1 => Self::Answer,
            2 => Self::Open,
            3 => Self::Closed,
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
        let bytes = reader.take(length)?.into_owned();
        let mut bytes = bytes::Bytes::from(bytes);
        let sum = bytes.split_to(SUM_BYTES);
        if *sum != self.sum(&bytes) {
            return Ok(None);
        }
        Ok(Some(Answer::new(AnswerFormat::new(self.format), bytes)))
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

/// Reads every frame of a tree, in order. A page that is missing or damaged is an error: nobody
/// knows whose records were on it. Holds one page in memory, and of a frame over several pages what
/// it has read of it.
pub(super) fn scan<Key: AsRef<[u8]>, Value: AsRef<[u8]>>(
    tree: impl IntoIterator<Item = Result<(Key, Value), ::sled::Error>>,
    mut found: impl FnMut(Found<'_>) -> Result<(), Cause>,
) -> Result<Extent, Cause> {
    let mut extent = Extent::default();
    // What of a run has been read and is not a whole frame yet, and where it began.
    let mut rest: Vec<u8> = Vec::new();
    let mut rest_at = Position { page: 0, offset: 0 };
    let mut run_ended = true;
    for row in tree {
        let at_next = |error| Cause::from(error).at(format_args!("page {}", extent.next));
        let (key, value) = row.map_err(at_next)?;
        let number = <[u8; 4]>::try_from(key.as_ref()).map(u32::from_be_bytes);
        if !number.is_ok_and(|number| number == extent.next) {
            return Err(format!("page {} is missing", extent.next).into());
        }
        let number = extent.next;
        let at_page = |damage: String| Cause::from(damage).at(format_args!("page {number}"));
        let (head, content) = PageHead::check(number, value.as_ref()).map_err(at_page)?;
        extent.next = number
            .checked_add(1)
            .ok_or_else(|| at_page("it is beyond the last".to_owned()))?;
        if head.ends_group {
            extent.group = extent.group.max(head.group);
        }
        if run_ended && !head.begins {
            return Err(at_page("no run begins before it".to_owned()));
        }
        run_ended = head.ends_group;
        if head.begins {
            // What the run before lacks was never acknowledged: its writer crashed.
            rest.clear();
        }
        let joined = !rest.is_empty();
        if joined {
            rest.extend_from_slice(content);
        }
        let run = if joined { &rest[..] } else { content };
        let mut read = 0;
        while let Some(head_bytes) = run.get(read..read + HEAD_BYTES) {
            let (kind, length) = Kind::of(head_bytes).map_err(at_page)?;
            let begin = read + HEAD_BYTES;
            // What is not there yet may be on the next page: the length is not believed before.
            let Some(end) = begin.checked_add(length) else {
                return Err(at_page(format!("a frame claims {length} bytes")));
            };
            let Some(body) = run.get(begin..end) else {
                break;
            };
            // Only what is joined can have begun on an earlier page.
            let at = if joined && read == 0 {
                rest_at
            } else {
                Position {
                    page: number,
                    offset: (content.len() - (run.len() - read)) as u16,
                }
            };
            found(Found {
                kind,
                at,
                group: head.group,
                body,
            })
            .map_err(|cause| cause.at(format_args!("page {number}")))?;
            read = end;
        }
        if !(joined && read == 0) {
            rest_at = Position {
                page: number,
                offset: (content.len() - (run.len() - read)) as u16,
            };
        }
        if joined {
            rest.drain(..read);
        } else {
            rest.extend_from_slice(&content[read..]);
        }
        if head.ends_group && !rest.is_empty() {
            return Err(at_page("a frame of a whole group is cut off".to_owned()));
        }
    }
    Ok(extent)
}

pub(super) const HEAD_BYTES: usize = 5;
const SUM_BYTES: usize = 8;
