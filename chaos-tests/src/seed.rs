//! The one source of randomness.
//!
//! A decision is a hash of what it is about, not the next number of a generator: [`Seed::draw`]
//! takes the ordinals that name the decision (which fault, which connection, which attempt). So a
//! fault or a thread that is added draws for itself and reshuffles nobody else, and a run that is
//! shrunk keeps the decisions that are left.
//!
//! ```
//! use onlyonce_chaos::Seed;
//!
//! let seed = Seed::new(7);
//! let first = seed.draw(&[1, 2]);
//! let _another_fault = seed.draw(&[9, 2]);
//! assert_eq!(seed.draw(&[1, 2]), first);
//! ```

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a whole run is derived from: the same seed makes the same decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seed(u64);

/// One decision: 64 uniformly distributed bits, and ways to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Draw(u64);

// === impl Seed ===

impl Seed {
    /// A seed of any value; neighbouring values give unrelated decisions.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number to print, with which the run can be repeated.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The decision that these ordinals name. Their order and their number matter.
    #[must_use]
    pub fn draw(self, ordinals: &[u64]) -> Draw {
        Draw(fold(self.0, ordinals.iter().copied(), ordinals.len()))
    }

    /// The seed of a part of the run, independent of every other part.
    #[must_use]
    pub fn derive(self, ordinals: &[u64]) -> Self {
        Self(self.draw(ordinals).0)
    }
}

impl From<u64> for Seed {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Draw ===

impl Draw {
    /// All 64 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A fraction from 0 (included) to 1 (excluded).
    #[must_use]
    pub fn unit(self) -> f64 {
        // 53 bits are what the fraction of an `f64` holds: more would round up to 1.
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens: never at 0 or not-a-number, always at 1.
    ///
    /// What happens at one probability happens at every higher one.
    #[must_use]
    pub fn happens(self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number of the range, both ends included. An empty range gives its start.
    #[must_use]
    pub fn within(self, range: RangeInclusive<u64>) -> u64 {
        let (start, end) = range.into_inner();
        let Some(width) = end.checked_sub(start) else {
            return start;
        };
        let steps = (u128::from(self.0) * (u128::from(width) + 1)) >> 64;
        // The product's upper half is at most `width`, so that neither step can overflow.
        start + steps as u64
    }

    /// A duration of up to `max`, in whole nanoseconds, both ends included.
    #[must_use]
    pub fn duration(self, max: Duration) -> Duration {
        let nanos_max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.within(0..=nanos_max))
    }
}

/// A number for any bytes, such as a key, that may go into [`Seed::draw`].
///
/// It spreads; it is not cryptographic, and must not decide who may do what.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    // The length tells "a" from "a\0".
    fold(0, words, bytes.len())
}

fn fold(start: u64, ordinals: impl Iterator<Item = u64>, count: usize) -> u64 {
    ordinals.fold(mix(start ^ mix(count as u64)), |state, ordinal| {
        mix(state ^ mix(ordinal))
    })
}

/// The step of SplitMix64: every bit of the input moves every bit of the output.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_depends_on_the_seed_and_on_each_ordinal_in_its_place() {
        let draw = Seed::new(1).draw(&[1, 2]);
        assert_eq!(draw, Seed::new(1).draw(&[1, 2]));
        for other in [
            Seed::new(2).draw(&[1, 2]),
            Seed::new(1).draw(&[2, 1]),
            Seed::new(1).draw(&[1, 2, 0]),
            Seed::new(1).draw(&[1]),
        ] {
            assert_ne!(draw, other);
        }
    }

    #[test]
    fn the_numbers_never_change_so_that_a_printed_seed_stays_good() {
        // SplitMix64 from 0 gives this as its first number.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(Seed::new(1).draw(&[2, 3]).bits(), GOLDEN_DRAW);
        assert_eq!(digest(b"key"), GOLDEN_DIGEST);
    }

    #[test]
    fn a_range_is_covered_with_both_ends_and_never_left() {
        let mut seen = [false; 4];
        for ordinal in 0..200 {
            let drawn = Seed::new(5).draw(&[ordinal]).within(10..=13);
            seen[usize::try_from(drawn - 10).unwrap()] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(Draw(u64::MAX).within(0..=u64::MAX), u64::MAX);
        assert_eq!(Draw(u64::MAX).within(5..=5), 5);
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "the claim is about an empty range"
        )]
        let empty = Draw(u64::MAX).within(9..=3);
        assert_eq!(empty, 9);
    }

    #[test]
    fn a_probability_is_kept_and_its_ends_are_certain() {
        let happened = (0..10_000)
            .filter(|&ordinal| Seed::new(3).draw(&[ordinal]).happens(0.2))
            .count();
        assert!(
            (1_800..2_200).contains(&happened),
            "{happened} of 10000 at 0.2"
        );
        assert!(Draw(u64::MAX).happens(1.0));
        assert!(!Draw(0).happens(0.0));
        assert!(!Draw(0).happens(f64::NAN));
    }

    #[test]
    fn a_digest_tells_padding_from_content() {
        assert_ne!(digest(b"a"), digest(b"a\0"));
        assert_ne!(digest(b""), digest(b"\0"));
    }

    const GOLDEN_DRAW: u64 = 8_558_521_130_255_326_427;
    const GOLDEN_DIGEST: u64 = 7_035_340_013_245_620_897;
}
