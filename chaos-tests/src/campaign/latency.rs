//! How long calls took, in buckets that are an eighth of their value wide.

/// A histogram of durations in microseconds. Its memory does not depend on what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

// === impl Latencies ===

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, micros: u64) {
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += other;
        }
        self.count += other.count;
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What this share of them does not exceed, to an eighth of the value; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count);
        let mut below = 0;
        let at = self.buckets.iter().position(|&in_bucket| {
            below += in_bucket;
            below >= rank
        });
        at.map(upper)
    }

    /// The buckets that are not empty: what they reach up to, and how many are in them.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.buckets.iter().enumerate();
        all.filter(|&(_, &count)| count > 0)
            .map(|(at, &count)| (upper(at), count))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

/// Exact up to 8, then eight buckets for each doubling.
fn bucket(micros: u64) -> usize {
    if micros < EIGHTH {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2());
    let within = (micros >> (doubling - 3)) & (EIGHTH - 1);
    ((doubling - 2) * EIGHTH + within) as usize
}

/// The greatest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EIGHTH {
        return bucket;
    }
    let (doubling, within) = (bucket / EIGHTH + 2, bucket % EIGHTH);
    let width = 1_u64 << (doubling - 3);
    (1_u64 << doubling) - 1 + (within + 1).saturating_mul(width)
}

const EIGHTH: u64 = 8;

/// For all of 64 bits.
const BUCKETS: usize = 62 * 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_reaches_up_to_it_and_an_eighth_beyond_at_most() {
        for shift in 0..63 {
            for add in [0, 1, 3, 7] {
                let micros = (1_u64 << shift) + add;
                let reaches = upper(bucket(micros));
                assert!(reaches >= micros, "{micros} {reaches}");
                assert!(reaches - micros <= micros / 8, "{micros} {reaches}");
            }
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        for micros in 1..=1_000 {
            latencies.add(micros);
        }
        let median = latencies.quantile(0.5).unwrap();
        assert!((500..=563).contains(&median), "{median}");
        assert!(latencies.quantile(1.0).unwrap() >= 1_000);
        assert_eq!(latencies.quantile(0.0), Some(1));
    }
}
