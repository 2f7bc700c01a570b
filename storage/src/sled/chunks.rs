//! Answers in pieces that sled keeps in its log, each with a digest of what it belongs to.
//!
//! ```text
//! key:    digest of the scoped key (32 bytes) | number of the piece, big endian (4 bytes)
//! value:  BLAKE3 of everything it belongs to, first 8 bytes | at most 4,000 bytes of the answer
//! ```

use crate::record::CallRecord;
use crate::{Answer, AnswerFormat, FencingToken, KeyDigest, StoreError};

/// Which answer the pieces make up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) key: KeyDigest,
    pub(super) token: FencingToken,
    pub(super) format: u16,
    pub(super) length: u32,
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

    /// The pieces of an answer, with their keys. An empty answer has one, so that it is there.
    pub(super) fn cut(self, body: &[u8]) -> impl Iterator<Item = ([u8; 36], Vec<u8>)> + '_ {
        (0..self.count()).map(move |number| {
            let from = number as usize * CHUNK_BYTES;
            let piece = &body[from..body.len().min(from + CHUNK_BYTES)];
            let mut value = self.sum(number, piece).to_vec();
            value.extend_from_slice(piece);
            (self.place(number), value)
        })
    }

    /// The keys under which its pieces lie.
    pub(super) fn places(self) -> impl Iterator<Item = [u8; 36]> {
        (0..self.count()).map(move |number| self.place(number))
    }

    /// Puts the answer together. `None` when not even its first piece is there.
    pub(super) fn join<T: AsRef<[u8]>>(
        self,
        mut read: impl FnMut([u8; 36]) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<Answer>, StoreError> {
        // Grows with what is really there: the length in a record is not yet believed.
        let mut body = Vec::new();
        for number in 0..self.count() {
            let Some(value) = read(self.place(number))? else {
                if number == 0 {
                    return Ok(None);
                }
                return Err(StoreError::Corrupt(format!(
                    "piece {number} of its answer is missing"
                )));
            };
            let damaged =
                || StoreError::Corrupt(format!("piece {number} of its answer is damaged"));
            let (sum, piece) = value
                .as_ref()
                .split_first_chunk::<SUM_BYTES>()
                .ok_or_else(damaged)?;
            if *sum != self.sum(number, piece) {
                return Err(damaged());
            }
            body.extend_from_slice(piece);
        }
        if body.len() != self.length as usize {
            return Err(StoreError::Corrupt(format!(
                "its answer has {} bytes and should have {}",
                body.len(),
                self.length
            )));
        }
        Ok(Some(Answer::new(AnswerFormat::new(self.format), body)))
    }

    const fn count(self) -> u32 {
        let pieces = self.length.div_ceil(CHUNK_BYTES as u32);
        if pieces == 0 { 1 } else { pieces }
    }

    fn place(self, number: u32) -> [u8; 36] {
        let mut place = [0; 36];
        place[..32].copy_from_slice(self.key.as_bytes());
        place[32..].copy_from_slice(&number.to_be_bytes());
        place
    }

    fn sum(self, number: u32, piece: &[u8]) -> [u8; SUM_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes());
        hasher.update(&self.token.incarnation().to_le_bytes());
        hasher.update(&self.token.sequence().to_le_bytes());
        hasher.update(&self.format.to_le_bytes());
        hasher.update(&self.length.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(piece);
        let mut sum = [0; SUM_BYTES];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_BYTES]);
        sum
    }
}

const SUM_BYTES: usize = 8;

/// With its digest a piece stays below 4 KiB, above which sled's nodes get too large for its log.
const CHUNK_BYTES: usize = 4_000;
