//! `Idempotency-Store`: which store a server dedupes against, and what time it is there.

use http::{HeaderMap, HeaderValue};
use onlyonce_storage::{StoreId, Timestamp};

use super::names;

/// What a server says of its store, on every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingStore {
    /// Its identity.
    pub id: StoreId,
    /// Its clock's time when the answer was made; `None` where only the identity is said, as on
    /// requests.
    pub now: Option<Timestamp>,
}

// === impl ServingStore ===

impl ServingStore {
    /// What the header says; `None` where there is none, more than one, or one that cannot be read.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(names::STORE).iter();
        let (value, more) = (values.next()?, values.next());
        if more.is_some() {
            return None;
        }
        let mut parts = value.to_str().ok()?.split(';').map(str::trim);
        let id = StoreId::parse(parts.next()?.trim_matches('"'))?;
        let now = parts.find_map(|parameter| parameter.strip_prefix("now="));
        let now = now.and_then(|millis| millis.parse().ok());
        let now = now.map(Timestamp::from_millis);
        Some(Self { id, now })
    }

    /// The header's value: `"8e03978e-..."; now=1763740800000`.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        let text = match self.now {
            Some(now) => format!("\"{}\"; now={}", self.id, now.as_millis()),
            None => format!("\"{}\"", self.id),
        };
        HeaderValue::try_from(text).expect("an identity and a number are visible ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_store_is_read_as_it_was_written() {
        for now in [None, Some(Timestamp::from_millis(1_763_740_800_000))] {
            let id = StoreId::from_bytes([7; 16]);
            let said = ServingStore { id, now };
            let mut headers = HeaderMap::new();
            headers.insert(names::STORE, said.header_value());
            assert_eq!(ServingStore::of(&headers), Some(said));
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_store() {
        let id = StoreId::from_bytes([7; 16]).to_string();
        for text in ["", "x", "\"\"", &id[1..], &id.replace('-', "")] {
            let mut headers = HeaderMap::new();
            headers.insert(names::STORE, HeaderValue::try_from(text).unwrap());
            assert_eq!(ServingStore::of(&headers), None, "{text}");
        }
    }
}
