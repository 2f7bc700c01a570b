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
        // By hand, since every answer has one: formatting it costs as much as digesting the request.
        let mut text = [0; LENGTH_MAX];
        let mut length = 0;
        let mut put = |byte| {
            text[length] = byte;
            length += 1;
        };
        put(b'"');
        for (place, byte) in self.id.as_bytes().iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                put(b'-');
            }
            put(DIGITS[usize::from(byte >> 4)]);
            put(DIGITS[usize::from(byte & 15)]);
        }
        put(b'"');
        if let Some(now) = self.now {
            NOW.iter().copied().for_each(&mut put);
            let mut digits = [0; NUMBER_LENGTH_MAX];
            let count = decimal(now.as_millis(), &mut digits);
            digits[..count].iter().rev().copied().for_each(&mut put);
        }
        HeaderValue::from_bytes(&text[..length])
            .expect("an identity and a number are visible ASCII")
    }
}

/// The digits of a number, the last one first, and how many there are.
fn decimal(mut number: u64, digits: &mut [u8; NUMBER_LENGTH_MAX]) -> usize {
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = DIGITS[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            return place + 1;
        }
    }
    digits.len()
}

const NOW: &[u8] = b"; now=";

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Of the largest number that there is.
const NUMBER_LENGTH_MAX: usize = 20;

/// An identity in its quotes, the parameter's name, and a number.
const LENGTH_MAX: usize = 38 + NOW.len() + NUMBER_LENGTH_MAX;

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
    fn what_is_said_is_the_identity_as_it_is_displayed_and_the_time_in_digits() {
        let id = StoreId::from_bytes(std::array::from_fn(|place| (place * 17) as u8));
        for millis in [0, 9, 10, 1_763_740_800_000, u64::MAX] {
            let now = Some(Timestamp::from_millis(millis));
            let said = ServingStore { id, now }.header_value();
            assert_eq!(said, format!("\"{id}\"; now={millis}"));
        }
        let said = ServingStore { id, now: None }.header_value();
        assert_eq!(said, format!("\"{id}\""));
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
