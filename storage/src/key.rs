//! What names a call: its idempotency key, and the scope in which that key is unique.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use uuid::Uuid;

/// The client's name for one intent: 1 to 255 visible ASCII characters.
///
/// A key is data. It is never printed by `Debug` (only a short digest of it is), never spliced
/// into a path or a statement, and compared as bytes. Cloning is cheap.
///
/// ```
/// use onlyonce_storage::IdempotencyKey;
///
/// let key = IdempotencyKey::parse("order-4711")?;
/// assert_eq!(key.as_str(), "order-4711");
/// assert!(IdempotencyKey::parse("two words").is_err());
/// assert!(!format!("{key:?}").contains("4711"));
/// # Ok::<(), onlyonce_storage::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

/// The namespace in which a key is unique: a principal and, usually, an operation.
///
/// There is no default scope. A shared one must be asked for by name with [`Scope::global`], so
/// that two tenants with the same key never meet by accident. The principal is *who* calls, never
/// a credential that is refreshed: a new session of the same principal is the same scope.
///
/// ```
/// use onlyonce_storage::Scope;
///
/// let alice = Scope::principal("alice")?.operation("transfer")?;
/// assert_ne!(alice, Scope::principal("bob")?.operation("transfer")?);
/// assert_ne!(alice, Scope::global().operation("transfer")?);
/// # Ok::<(), onlyonce_storage::ScopeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    principal: Option<Arc<str>>,
    operation: Option<Arc<str>>,
}

/// A key together with its scope: what a store looks up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopedKey {
    scope: Scope,
    key: IdempotencyKey,
    digest: KeyDigest,
}

/// The BLAKE3 digest of a [`ScopedKey`], over length-prefixed fields. Stores index by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

/// The BLAKE3 digest of a [`Scope`] alone. Quotas count by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeDigest([u8; 32]);

/// How guessable a key may be. The default takes any key that parses.
///
/// The bits are estimated as Shannon entropy of the key's characters times its length: a random
/// UUID in text has about 120, `order-4711` about 30, `aaaa` none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyPolicy {
    entropy_bits_min: f64,
}

/// Why a text is no idempotency key. The key itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is empty.
    #[error("idempotency key is empty; send 1 to {KEY_BYTES_MAX} visible ASCII characters")]
    Empty,
    /// The key can be guessed more easily than the [`KeyPolicy`] allows.
    #[error("idempotency key is too easy to guess; send a random one, such as a UUID")]
    Guessable,
    /// The text begins or ends as a quoted string and is none.
    #[error("idempotency key is neither one quoted string nor one word without quotes")]
    Quoting,
    /// There is more than one.
    #[error("more than one idempotency key; send one line with one key")]
    Several,
    /// The text is longer than 255 bytes.
    #[error("idempotency key has {length} bytes, at most {KEY_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it was, in bytes.
        length: usize,
    },
    /// A byte is not visible ASCII (`!` to `~`).
    #[error("idempotency key has a byte at position {position} that is not visible ASCII")]
    Unprintable {
        /// Position of the first such byte, from 0.
        position: usize,
    },
}

/// Why a text cannot be part of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// The text is empty; a missing principal is refused, never a shared bucket.
    #[error("scope part is empty; say `Scope::global()` when one scope for all is meant")]
    Empty,
    /// The text is longer than 255 bytes.
    #[error("scope part has {length} bytes, at most {SCOPE_PART_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it was, in bytes.
        length: usize,
    },
}

// === impl IdempotencyKey ===

impl IdempotencyKey {
    /// A new key that nobody else has: a UUIDv7 in text.
    #[must_use]
    pub fn unique() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The key that `text` is.
    ///
    /// # Errors
    ///
    /// When `text` is empty, longer than 255 bytes, or has a byte that is not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { length: text.len() });
        }
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(KeyError::Unprintable { position });
        }
        Ok(Self(text.into()))
    }

    /// The key of a business identifier: the same identifier in the same namespace always gives
    /// the same key, so a client that lost its memory still names the same intent.
    #[must_use]
    pub fn derived(namespace: &str, business_id: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("onlyonce derived idempotency key v1");
        absorb(&mut hasher, namespace.as_bytes());
        absorb(&mut hasher, business_id);
        Self(hasher.finalize().to_hex().as_str().into())
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = blake3::hash(self.0.as_bytes()).to_hex();
        write!(f, "IdempotencyKey(#{})", &digest.as_str()[..8])
    }
}

// === impl Scope ===

impl Scope {
    /// One scope for every caller. Say it only where callers trust each other with their keys.
    #[must_use]
    pub const fn global() -> Self {
        Self {
            principal: None,
            operation: None,
        }
    }

    /// The scope of one principal (tenant, account, user).
    ///
    /// # Errors
    ///
    /// When `principal` is empty or longer than 255 bytes.
    pub fn principal(principal: &str) -> Result<Self, ScopeError> {
        Ok(Self {
            principal: Some(scope_part(principal)?),
            operation: None,
        })
    }

    /// This scope narrowed to one operation: the same key may then be used once for each.
    ///
    /// # Errors
    ///
    /// When `operation` is empty or longer than 255 bytes.
    pub fn operation(&self, operation: &str) -> Result<Self, ScopeError> {
        Ok(Self {
            principal: self.principal.clone(),
            operation: Some(scope_part(operation)?),
        })
    }

    /// The principal, or `None` for the global scope.
    #[must_use]
    pub fn principal_name(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The operation, when the scope is narrowed to one.
    #[must_use]
    pub fn operation_name(&self) -> Option<&str> {
        self.operation.as_deref()
    }

    /// The scope of the same principal, of no operation.
    #[must_use]
    pub fn of_principal(&self) -> Self {
        Self {
            principal: self.principal.clone(),
            operation: None,
        }
    }

    /// The digest by which quotas count.
    #[must_use]
    pub fn digest(&self) -> ScopeDigest {
        let mut hasher = SCOPE_DIGEST.clone();
        self.absorb_into(&mut hasher);
        ScopeDigest(*hasher.finalize().as_bytes())
    }

    fn absorb_into(&self, hasher: &mut blake3::Hasher) {
        absorb_optional(hasher, self.principal.as_deref());
        absorb_optional(hasher, self.operation.as_deref());
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Principals are people; only the operation, which the server's own code names, is shown.
        f.debug_struct("Scope")
            .field("digest", &self.digest())
            .field("operation", &self.operation)
            .finish()
    }
}

// === impl ScopedKey ===

impl ScopedKey {
    /// `key` in `scope`.
    #[must_use]
    pub fn new(scope: Scope, key: IdempotencyKey) -> Self {
        let mut hasher = KEY_DIGEST.clone();
        scope.absorb_into(&mut hasher);
        absorb(&mut hasher, key.as_str().as_bytes());
        let digest = KeyDigest(*hasher.finalize().as_bytes());
        Self { scope, key, digest }
    }

    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// The digest by which stores index.
    #[must_use]
    pub const fn digest(&self) -> KeyDigest {
        self.digest
    }
}

// === impl ScopeDigest ===

impl ScopeDigest {
    /// A digest read back from where a store put it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

// === impl KeyDigest ===

impl KeyDigest {
    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest read back from where a store put it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A part of a digest is as evenly spread as the whole.
        let [first, ..] = self.0.as_chunks::<8>().0 else {
            return;
        };
        state.write_u64(u64::from_le_bytes(*first));
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest(#{})", short_hex(&self.0))
    }
}

impl fmt::Debug for ScopeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeDigest(#{})", short_hex(&self.0))
    }
}

// === impl KeyPolicy ===

impl KeyPolicy {
    /// Refuses keys whose estimated entropy is below `bits`.
    #[must_use]
    pub const fn entropy_bits_min(bits: f64) -> Self {
        Self {
            entropy_bits_min: bits,
        }
    }

    /// Whether `key` is hard enough to guess.
    ///
    /// # Errors
    ///
    /// [`KeyError::Guessable`] when it is not.
    pub fn check(&self, key: &IdempotencyKey) -> Result<(), KeyError> {
        if self.entropy_bits_min > 0.0 && entropy_bits(key.as_str()) < self.entropy_bits_min {
            return Err(KeyError::Guessable);
        }
        Ok(())
    }
}

/// Keyed once: that costs as much as a digest.
static KEY_DIGEST: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("onlyonce scoped key v1"));
static SCOPE_DIGEST: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("onlyonce scope v1"));

fn scope_part(text: &str) -> Result<Arc<str>, ScopeError> {
    if text.is_empty() {
        return Err(ScopeError::Empty);
    }
    if text.len() > SCOPE_PART_BYTES_MAX {
        return Err(ScopeError::TooLong { length: text.len() });
    }
    Ok(text.into())
}

/// Length before content: `("ab", "c")` and `("a", "bc")` must not digest alike.
fn absorb(hasher: &mut blake3::Hasher, field: &[u8]) {
    hasher.update(&(field.len() as u64).to_le_bytes());
    hasher.update(field);
}

fn absorb_optional(hasher: &mut blake3::Hasher, field: Option<&str>) {
    match field {
        None => {
            hasher.update(&[0]);
        }
        Some(field) => {
            hasher.update(&[1]);
            absorb(hasher, field.as_bytes());
        }
    }
}

fn entropy_bits(text: &str) -> f64 {
    let mut counts = [0_u32; 128];
    for byte in text.bytes() {
        counts[usize::from(byte & 0x7f)] += 1;
    }
    let length = text.len() as f64;
    let per_character: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / length;
            -share * share.log2()
        })
        .sum();
    per_character * length
}

fn short_hex(bytes: &[u8; 32]) -> String {
    bytes[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The draft `Idempotency-Key`-07 leaves the limit to the server; 255 is what Stripe and most others take.
pub const KEY_BYTES_MAX: usize = 255;

/// Names of tenants and operations; longer ones are somebody's mistake.
pub const SCOPE_PART_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_1_to_255_visible_ascii_characters() {
        assert!(IdempotencyKey::parse(&"x".repeat(255)).is_ok());
        assert_eq!(IdempotencyKey::parse(""), Err(KeyError::Empty));
        assert_eq!(
            IdempotencyKey::parse(&"x".repeat(256)),
            Err(KeyError::TooLong { length: 256 })
        );
        for (text, position) in [("a b", 1), ("a\n", 1), ("\u{7f}", 0), ("kéy", 1)] {
            assert_eq!(
                IdempotencyKey::parse(text),
                Err(KeyError::Unprintable { position })
            );
        }
    }

    #[test]
    fn fields_of_a_scoped_key_cannot_run_into_each_other() {
        let key = |text| IdempotencyKey::parse(text).unwrap();
        let ab = Scope::principal("ab").unwrap();
        let a = Scope::principal("a").unwrap();
        assert_ne!(
            ScopedKey::new(ab.clone(), key("c")).digest(),
            ScopedKey::new(a.clone(), key("bc")).digest()
        );
        assert_ne!(
            ab.operation("c").unwrap().digest(),
            a.operation("bc").unwrap().digest()
        );
        assert_ne!(
            Scope::global().operation("a").unwrap().digest(),
            Scope::principal("a").unwrap().digest()
        );
    }

    #[test]
    fn two_tenants_with_the_same_key_have_different_records() {
        let key = IdempotencyKey::unique();
        let alice = ScopedKey::new(Scope::principal("alice").unwrap(), key.clone());
        let bob = ScopedKey::new(Scope::principal("bob").unwrap(), key);
        assert_ne!(alice.digest(), bob.digest());
    }

    #[test]
    fn an_empty_principal_is_refused_not_shared() {
        assert_eq!(Scope::principal(""), Err(ScopeError::Empty));
    }

    #[test]
    fn low_entropy_keys_are_refused_when_the_policy_is_on() {
        let policy = KeyPolicy::entropy_bits_min(64.0);
        for text in ["1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "order-4711"] {
            let key = IdempotencyKey::parse(text).unwrap();
            assert_eq!(policy.check(&key), Err(KeyError::Guessable), "{text}");
            assert_eq!(KeyPolicy::default().check(&key), Ok(()));
        }
        assert_eq!(policy.check(&IdempotencyKey::unique()), Ok(()));
    }

    #[test]
    fn a_derived_key_is_the_same_each_time_and_parses() {
        let key = IdempotencyKey::derived("invoices", b"2026-0001");
        assert_eq!(key, IdempotencyKey::derived("invoices", b"2026-0001"));
        assert_ne!(key, IdempotencyKey::derived("invoice", b"s2026-0001"));
        assert!(IdempotencyKey::parse(key.as_str()).is_ok());
    }

    #[test]
    fn debug_output_shows_neither_key_nor_principal() {
        let key = ScopedKey::new(
            Scope::principal("alice@example.org").unwrap(),
            IdempotencyKey::parse("secret-key").unwrap(),
        );
        let shown = format!("{key:?}");
        assert!(
            !shown.contains("secret-key") && !shown.contains("alice"),
            "{shown}"
        );
    }
}
