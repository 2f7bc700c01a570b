//! Inputs near an input: the systematic part of what a fuzzer tries.

/// Every truncation of `seed`, every flip of one bit, and at every place the lengths that hostile
/// bytes like to claim, written over what is there and put in before it.
pub fn neighbours(seed: &[u8], mut each: impl FnMut(&[u8])) {
    for length in 0..=seed.len() {
        each(&seed[..length]);
    }
    let mut bytes = seed.to_vec();
    for at in 0..seed.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            each(&bytes);
            bytes[at] ^= 1 << bit;
        }
    }
    for at in 0..=seed.len() {
        for claim in CLAIMS {
            let after = (at + claim.len()).min(seed.len());
            each(&[&seed[..at], claim, &seed[after..]].concat());
            each(&[&seed[..at], claim, &seed[at..]].concat());
        }
    }
}

/// Lengths at their extremes: as bincode's varints, and as the 32 bits of a frame. 16 and 48 MiB
/// are just below what the codecs of records and of the wire let a message claim.
const CLAIMS: &[&[u8]] = &[
    b"\x00",
    b"\xfa",
    b"\xfb\xff\xff",
    b"\xfc\x00\x00\x00\x01",
    b"\xfc\x00\x00\x00\x03",
    b"\xfc\x00\x00\x00\x04",
    b"\xfc\xff\xff\xff\xff",
    b"\xfd\x00\x00\x00\x00\x00\x00\x00\x80",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff",
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x04",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
];
