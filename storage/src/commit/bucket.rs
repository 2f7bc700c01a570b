//! Stretches of time whose records are forgotten together.

use std::time::Duration;

use crate::record::Record;
use crate::{RetentionOptions, Timestamp, transition};

/// The settled records of one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket {
    // Field order is the order of time.
    start: Timestamp,
    end: Timestamp,
}

// === impl Bucket ===

impl Bucket {
    /// How long a bucket lasts: a day, or an eighth of the horizon where that is longer, so that
    /// the settled records of a store lie in at most ten buckets whatever its horizon is (eight
    /// that fill the horizon, the one that is filled and the one that is next to go).
    pub(crate) fn width(retention: &RetentionOptions) -> Duration {
        DAY.max(retention.horizon / 8)
    }

    /// The bucket of a settled record: the one that holds the latest time at which a duplicate of
    /// it can say that it was first sent. Whoever drops the bucket has therefore forgotten nothing
    /// after [`end`](Self::end). `None` for a record that must not be forgotten.
    pub(crate) fn of(record: &Record, width: Duration) -> Option<Self> {
        transition::forgotten_with(record).map(|time| Self::at(time, width))
    }

    /// The bucket that holds this time.
    pub(crate) fn at(time: Timestamp, width: Duration) -> Self {
        let time = time.as_millis();
        let width = u64::try_from(width.as_millis()).unwrap_or(u64::MAX).max(1);
        let start = time - time % width;
        Self::between(
            Timestamp::from_millis(start),
            Timestamp::from_millis(start.saturating_add(width)),
        )
    }

    pub(crate) const fn between(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end }
    }

    pub(crate) const fn start(self) -> Timestamp {
        self.start
    }

    /// The first moment that is no longer in it.
    pub(crate) const fn end(self) -> Timestamp {
        self.end
    }

    pub(crate) fn contains(self, time: Timestamp) -> bool {
        self.start <= time && time < self.end
    }

    /// The same with another name.
    pub(crate) fn again(self) -> Self {
        Self::between(
            self.start,
            Timestamp::from_millis(self.end.as_millis().saturating_add(1)),
        )
    }

    /// Whether everything in it is older than `kept`.
    pub(crate) fn is_past(self, kept: Duration, now: Timestamp) -> bool {
        self.end.plus(kept) <= now
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn settled_records_lie_in_at_most_ten_buckets_whatever_the_horizon_is() {
        for days in [0, 1, 7, 8, 9, 30, 365] {
            let horizon = DAY * days;
            let retention = RetentionOptions::new(Duration::ZERO, horizon).unwrap();
            let width = Bucket::width(&retention);
            for hours in 0..100 {
                let now = Timestamp::from_millis(1_700_000_000_000)
                    .plus(Duration::from_secs(3_600) * hours * (days + 1));
                // Whatever was settled since the last sweep could have left something.
                let step = (width / 4).as_secs();
                let kept = (0..80)
                    .map(|steps| now.minus(Duration::from_secs(step) * steps))
                    .filter_map(|at| Bucket::of(&Record::Sealed { at }, width))
                    .filter(|bucket| !bucket.is_past(horizon, now));
                let count = kept.collect::<BTreeSet<_>>().len();
                assert!(count <= 10, "{days} days: {count} buckets");
            }
        }
    }

    #[test]
    fn a_record_is_in_a_bucket_that_ends_after_every_duplicate_was_first_sent() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let bucket = Bucket::of(&Record::Sealed { at }, DAY).unwrap();
        assert!(bucket.contains(at.plus(transition::CLOCK_DIFFERENCE_MAX)));
        assert!(!bucket.is_past(DAY, at.plus(DAY)));
    }
}
