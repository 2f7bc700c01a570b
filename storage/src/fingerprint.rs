//! The digest of the request that first used a key.
//!
//! A duplicate is answered from the record only when its fingerprint equals the one stored there.
//! A fingerprint names the algorithm that made it, so that a server which learns a new way to
//! digest requests can still compare with the records of the old way: it computes both.

use std::fmt;
use std::sync::LazyLock;

/// Which fields go into a fingerprint, and how: the number is stored beside the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FingerprintAlgorithm(u16);

/// A digest of a request, with the algorithm that made it.
///
/// Credentials and volatile metadata never enter it.
///
/// ```
/// use onlyonce_storage::{Fingerprint, FingerprintAlgorithm};
///
/// let make = |amount: &[u8]| {
///     Fingerprint::builder(FingerprintAlgorithm::new(1))
///         .field("method", b"transfer")
///         .field("body", amount)
///         .finish()
/// };
/// assert_eq!(make(b"100"), make(b"100"));
/// assert_ne!(make(b"100"), make(b"1000"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    algorithm: FingerprintAlgorithm,
    digest: [u8; 32],
}

/// The fingerprints of one request: the current one, and those of earlier algorithms that records
/// may still hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    current: Fingerprint,
    earlier: Vec<Fingerprint>,
}

/// What comparing a request with a record said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The record was made by an algorithm of which this request has no fingerprint.
    Incomparable,
    /// It is another request.
    Mismatch,
    /// It is the same request.
    Same,
}

/// Collects the fields of a request, each framed by its length, so that `("ab", "c")` and
/// `("a", "bc")` differ.
pub struct FingerprintBuilder {
    algorithm: FingerprintAlgorithm,
    /// What is not digested yet: small pieces are digested faster together.
    pending: Vec<u8>,
    /// What is digested already, where there was much of it.
    digested: Option<Box<blake3::Hasher>>,
}

// === impl FingerprintAlgorithm ===

impl FingerprintAlgorithm {
    /// The algorithm with this number. An adapter owns its numbers and never reuses one.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Starts a fingerprint of the given algorithm (BLAKE3 over length-prefixed fields).
    #[must_use]
    pub fn builder(algorithm: FingerprintAlgorithm) -> FingerprintBuilder {
        let mut pending = Vec::with_capacity(MOSTLY_ENOUGH);
        pending.extend_from_slice(&algorithm.0.to_le_bytes());
        FingerprintBuilder {
            algorithm,
            pending,
            digested: None,
        }
    }

    /// A fingerprint read back from a record.
    #[must_use]
    pub const fn from_parts(algorithm: FingerprintAlgorithm, digest: [u8; 32]) -> Self {
        Self { algorithm, digest }
    }

    /// The algorithm that made it.
    #[must_use]
    pub const fn algorithm(&self) -> FingerprintAlgorithm {
        self.algorithm
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.digest;
        write!(
            f,
            "Fingerprint(v{}, #{a:02x}{b:02x}{c:02x}{d:02x})",
            self.algorithm.0
        )
    }
}

// === impl Fingerprints ===

impl Fingerprints {
    /// The fingerprint of a request whose algorithm never changed.
    #[must_use]
    pub const fn new(current: Fingerprint) -> Self {
        Self {
            current,
            earlier: Vec::new(),
        }
    }

    /// Adds what an earlier algorithm makes of the same request.
    #[must_use]
    pub fn or_earlier(mut self, earlier: Fingerprint) -> Self {
        self.earlier.push(earlier);
        self
    }

    /// The fingerprint that a new record gets.
    #[must_use]
    pub const fn current(&self) -> Fingerprint {
        self.current
    }

    /// Compares with the fingerprint in a record.
    #[must_use]
    pub fn compare(&self, stored: &Fingerprint) -> Comparison {
        let candidates = std::iter::once(&self.current).chain(&self.earlier);
        match candidates
            .into_iter()
            .find(|own| own.algorithm == stored.algorithm)
        {
            None => Comparison::Incomparable,
            Some(own) if own == stored => Comparison::Same,
            Some(_) => Comparison::Mismatch,
        }
    }
}

// === impl FingerprintBuilder ===

impl FingerprintBuilder {
    /// Adds a named field. The order of fields matters.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Self {
        self.add(name, value);
        self
    }

    /// The same, of a builder that stays where it is.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.pending
                .extend_from_slice(&(part.len() as u64).to_le_bytes());
            if self.pending.len() + part.len() > PENDING_MAX {
                // What is large is not copied.
                self.digest_pending().update(part);
            } else {
                self.pending.extend_from_slice(part);
            }
        }
    }

    /// The fingerprint of the fields so far.
    #[must_use]
    pub fn finish(mut self) -> Fingerprint {
        let digest = match &self.digested {
            None => FINGERPRINT.clone().update(&self.pending).finalize(),
            Some(_) => self.digest_pending().finalize(),
        };
        Fingerprint {
            algorithm: self.algorithm,
            digest: *digest.as_bytes(),
        }
    }

    fn digest_pending(&mut self) -> &mut blake3::Hasher {
        let hasher = self
            .digested
            .get_or_insert_with(|| Box::new(FINGERPRINT.clone()));
        hasher.update(&self.pending);
        self.pending.clear();
        hasher
    }
}

impl fmt::Debug for FingerprintBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields are the request's.
        f.debug_struct("FingerprintBuilder")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The head of a request, and a small body.
const MOSTLY_ENOUGH: usize = 384;

/// As much as BLAKE3 digests at once: copying more saves nothing.
const PENDING_MAX: usize = 1_024;

/// Its own context is digested once.
static FINGERPRINT: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("onlyonce request fingerprint v1"));

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(number: u16) -> FingerprintBuilder {
        Fingerprint::builder(FingerprintAlgorithm::new(number))
    }

    #[test]
    fn it_is_the_digest_of_all_fields_in_a_row_however_large_they_are() {
        for lengths in [[0, 3, 0], [5, 900, 200], [2_000, 1, 1], [1, 1_000, 5_000]] {
            let mut whole = blake3::Hasher::new_derive_key("onlyonce request fingerprint v1");
            whole.update(&7_u16.to_le_bytes());
            let mut print = builder(7);
            for (place, length) in lengths.into_iter().enumerate() {
                let (name, value) = (format!("field {place}"), vec![place as u8; length]);
                for part in [name.as_bytes(), &value] {
                    whole.update(&(part.len() as u64).to_le_bytes());
                    whole.update(part);
                }
                print.add(&name, &value);
            }
            let print = print.finish();
            assert_eq!(print.digest(), whole.finalize().as_bytes(), "{lengths:?}");
        }
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        assert_ne!(
            builder(1).field("a", b"bc").finish(),
            builder(1).field("ab", b"c").finish()
        );
        assert_ne!(
            builder(1).field("x", b"ab").field("y", b"c").finish(),
            builder(1).field("x", b"a").field("y", b"bc").finish()
        );
    }

    #[test]
    fn a_new_algorithm_still_matches_records_of_the_old_one() {
        let old = builder(1).field("body", b"{ \"a\": 1 }").finish();
        let new = builder(2).field("body", b"{\"a\":1}").finish();
        let request = Fingerprints::new(new).or_earlier(old);
        assert_eq!(request.compare(&old), Comparison::Same);
        assert_eq!(request.compare(&new), Comparison::Same);
        let other = builder(1).field("body", b"other").finish();
        assert_eq!(request.compare(&other), Comparison::Mismatch);
    }

    #[test]
    fn a_record_of_an_unknown_algorithm_is_incomparable_never_a_match() {
        let request = Fingerprints::new(builder(1).finish());
        assert_eq!(
            request.compare(&builder(9).finish()),
            Comparison::Incomparable
        );
    }

    // C21
    #[test]
    fn the_digest_is_the_cryptographic_one_of_256_bits() {
        // Golden bytes: a change of the digest makes every stored record a false mismatch.
        let golden = builder(1).field("body", b"x").finish();
        let hex: String = golden
            .digest()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "2288b81ca604dcb9950f307fa31bbdf06cd81be8fdd0f35530a0b97588a1c864"
        );
    }
}
