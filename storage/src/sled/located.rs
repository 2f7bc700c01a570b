//! Where the settled records of a bucket lie, in memory.
//!
//! Sixteen bytes and a little for every record that is remembered, so that a first call, which
//! finds nothing, asks no disk, and a replay reads the one page that it needs.

use hashbrown::HashTable;

use super::page::Position;
use crate::KeyDigest;

/// The places of many records, by key.
#[derive(Debug)]
pub(super) struct Located {
    // Many tables, so that none takes long to grow.
    shards: Vec<HashTable<Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A part of the digest. Two keys may share it: whoever looks up compares what it finds.
    tag: u64,
    at: Position,
}

// === impl Located ===

impl Located {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
        }
    }

    pub(super) fn insert(&mut self, key: KeyDigest, at: Position) {
        let (shard, tag) = place(key);
        self.shards[shard].insert_unique(tag, Entry { tag, at }, |entry| entry.tag);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Where the record of this key may be: nearly always one place or none.
    pub(super) fn candidates(&self, key: KeyDigest) -> impl Iterator<Item = Position> {
        let (shard, tag) = place(key);
        self.shards[shard]
            .iter_hash(tag)
            .filter(move |entry| entry.tag == tag)
            .map(|entry| entry.at)
    }
}

fn place(key: KeyDigest) -> (usize, u64) {
    let bytes = key.as_bytes();
    let mut tag = [0; 8];
    tag.copy_from_slice(&bytes[..8]);
    (usize::from(bytes[8]) % SHARDS, u64::from_le_bytes(tag))
}

const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_the_same_tag_are_both_candidates_and_others_are_none() {
        let digest = |at: usize| {
            let mut bytes = [7; 32];
            bytes[at] ^= 1;
            KeyDigest::from_bytes(bytes)
        };
        let place = |page| Position { page, offset: 3 };
        let mut located = Located::new();
        located.insert(digest(31), place(1));
        located.insert(digest(30), place(2));
        // Another shard, and another tag.
        located.insert(digest(8), place(3));
        located.insert(digest(7), place(4));
        let candidates = |at| {
            let mut pages: Vec<_> = located.candidates(digest(at)).map(|at| at.page).collect();
            pages.sort_unstable();
            pages
        };
        assert_eq!(candidates(31), [1, 2]);
        assert_eq!(candidates(30), [1, 2]);
        assert_eq!(candidates(29), [1, 2], "whoever looks up compares");
        assert_eq!(candidates(8), [3]);
        assert_eq!(candidates(7), [4]);
        assert_eq!(candidates(6), [0; 0]);
    }
}
