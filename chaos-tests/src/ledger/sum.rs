//! The 64 bits that payloads, answers and keys are compared by.
//!
//! Millions of them are taken a second, so that this is not the digest that decisions are drawn from
//! ([`digest`](crate::seed::digest)): two words are taken at a time, with one multiplication. No
//! number of it is kept beyond a run.

/// A number that differs for different bytes, but for one pair in 2^64.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    // The length tells what is padded from what is not. It is spread, so that no short word undoes it.
    let mut state = START ^ (bytes.len() as u64).wrapping_mul(LENGTH);
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let (first, second) = (word(&pair[..8]), word(&pair[8..]));
        state = fold(first ^ state, second ^ SPREAD);
    }
    // What is left is read from both its ends, where they may overlap.
    let (first, second) = match rest.len() {
        8.. => (word(&rest[..8]), word(&rest[rest.len() - 8..])),
        4.. => (half(&rest[..4]), half(&rest[rest.len() - 4..])),
        _ => (
            rest.iter()
                .fold(0, |word, &byte| word << 8 | u64::from(byte)),
            0,
        ),
    };
    fold(first ^ state, second ^ SPREAD)
}

/// Both halves of the product: each bit of the input moves half of the output.
const fn fold(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    product as u64 ^ (product >> 64) as u64
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn half(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u32::from_le_bytes).into()
}

// Any odd numbers with about as many ones as zeros: digits of the square roots of 2, 3 and 5.
const START: u64 = 0x6a09_e667_f3bc_c909;
const SPREAD: u64 = 0xbb67_ae85_84ca_a73b;
const LENGTH: u64 = 0x3c6e_f372_fe94_f82b;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn what_differs_in_one_byte_or_in_length_has_another_sum() {
        let mut sums = BTreeMap::new();
        for length in 0..=70 {
            let bytes = vec![0_u8; length];
            assert_eq!(sums.insert(sum(&bytes), (length, 0, 0)), None);
            for at in 0..length {
                for value in 1..=255 {
                    let mut other = bytes.clone();
                    other[at] = value;
                    let met = sums.insert(sum(&other), (length, at, value));
                    assert_eq!(met, None, "{length}, {at}, {value}");
                }
            }
        }
    }

    #[test]
    fn names_that_count_up_spread_over_both_halves() {
        let sums: Vec<u64> = (0..50_000_u32)
            .map(|call| sum(format!("order-{call:09}").as_bytes()))
            .collect();
        let parts: BTreeSet<u64> = sums.iter().map(|sum| sum >> 54).collect();
        let lower: BTreeSet<u32> = sums.iter().map(|&sum| sum as u32).collect();
        assert_eq!(parts.len(), 1_024);
        assert!(lower.len() > 49_980, "{}", lower.len());
    }
}
