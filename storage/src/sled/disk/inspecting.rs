//! What the disk holds, in numbers.

use std::collections::BTreeMap;

use super::Known;
use crate::commit::bucket::Bucket;
use crate::inspect::BucketStats;

// === impl Known ===

impl Known {
    /// The buckets, oldest first. Settled records are counted by where they lie, and not read.
    pub(super) fn buckets(&self) -> Vec<BucketStats> {
        let mut found: BTreeMap<Bucket, BucketStats> = BTreeMap::new();
        let empty = |bucket: &Bucket| BucketStats {
            start: bucket.start(),
            end: bucket.end(),
            settled: 0,
            settled_bytes: 0,
            answers_bytes: 0,
        };
        for (bucket, settled) in &self.settled {
            let stats = found.entry(*bucket).or_insert_with(|| empty(bucket));
            stats.settled = settled.located.len() as u64;
            stats.settled_bytes = settled.pages.bytes();
        }
        for (bucket, answers) in &self.answers {
            let stats = found.entry(*bucket).or_insert_with(|| empty(bucket));
            stats.answers_bytes = answers.bytes();
        }
        found.into_values().collect()
    }
}
