//! What a request says of its call in its headers.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use onlyonce_storage::{Fingerprints, ScopedKey, SessionCall, StoreId, Timestamp};
use tokio::time::Instant;

use crate::http::{ServingStore, names};
use crate::server::{Intent, Refusal};

/// What a request says of its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) attempt: Option<NonZeroU32>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) first_sent: Option<Timestamp>,
    pub(crate) session: Option<SessionCall>,
    pub(crate) store: Option<StoreId>,
}

/// What the head of a protected request says.
pub(crate) struct Asked {
    pub(crate) key: ScopedKey,
    pub(crate) deadline: Option<Instant>,
    pub(crate) words: Words,
}

// === impl Asked ===

impl Asked {
    /// The call that a request with these fingerprints makes.
    pub(crate) fn into_intent(self, fingerprints: Fingerprints) -> Intent {
        let mut intent = Intent::new(self.key, fingerprints);
        intent.deadline = self.deadline;
        intent.first_sent = self.words.first_sent;
        intent.store = self.words.store;
        intent.session = self.words.session;
        intent
    }
}

// === impl Words ===

impl Words {
    /// Reads them in a request that came at `now`.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read: it is refused and never ignored, since a call without it
    /// would be another call.
    pub(crate) fn read(headers: &HeaderMap, now: Instant) -> Result<Self, Refusal> {
        // Most clients say nothing but the key: one look finds that out.
        let says = |name: &HeaderName| name.as_str().starts_with(OURS) && *name != names::KEY;
        if !headers.keys().any(says) {
            return Ok(Self::default());
        }
        let left = number(headers, &names::DEADLINE_MS)?.map(Duration::from_millis);
        let session = match text(headers, &names::SESSION)? {
            None => None,
            Some(text) => Some(session(text).ok_or_else(|| unreadable(&names::SESSION))?),
        };
        let store = match text(headers, &names::STORE)? {
            None => None,
            Some(_) => {
                let said = ServingStore::of(headers);
                Some(said.ok_or_else(|| unreadable(&names::STORE))?.id)
            }
        };
        Ok(Self {
            attempt: number(headers, &names::ATTEMPT)?,
            // One beyond all time is none.
            deadline: left.and_then(|left| now.checked_add(left)),
            first_sent: number(headers, &names::FIRST_SENT)?.map(Timestamp::from_millis),
            session,
            store,
        })
    }
}

/// Session, place in it, first unanswered place, which is at most that: `7, 12, 10`.
fn session(text: &str) -> Option<SessionCall> {
    let mut numbers = text.split(',').map(|number| digits(number.trim()));
    let session = SessionCall {
        session: numbers.next()??,
        sequence: numbers.next()??,
        first_unanswered: numbers.next()??,
    };
    let whole = numbers.next().is_none() && session.first_unanswered <= session.sequence;
    whole.then_some(session)
}

fn number<N: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Result<Option<N>, Refusal> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let number = digits(text).ok_or_else(|| unreadable(name))?;
    Ok(Some(number))
}

/// Digits and nothing else: `+1` is a number to Rust and not to the protocol.
fn digits<N: FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim_matches([' ', '\t']))),
        _ => Err(unreadable(name)),
    }
}

fn unreadable(name: &HeaderName) -> Refusal {
    Refusal::Unreadable {
        reason: format!("header {name} cannot be read, or stands there twice"),
    }
}

/// How the names begin of all that is read here.
const OURS: &str = "idempotency-";

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(name, value);
        }
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_read() {
        let now = Instant::now();
        let store = StoreId::from_bytes([7; 16]);
        let said = headers(&[
            (names::ATTEMPT, "3"),
            (names::DEADLINE_MS, "1500"),
            (names::FIRST_SENT, "1763740800000"),
            (names::SESSION, "7, 12,10"),
            (names::STORE, &format!("\"{store}\"")),
        ]);
        let words = Words {
            attempt: NonZeroU32::new(3),
            deadline: Some(now + Duration::from_millis(1_500)),
            first_sent: Some(Timestamp::from_millis(1_763_740_800_000)),
            session: Some(SessionCall {
                session: 7,
                sequence: 12,
                first_unanswered: 10,
            }),
            store: Some(store),
        };
        assert_eq!(Words::read(&said, now), Ok(words));
        assert_eq!(Words::read(&HeaderMap::new(), now), Ok(Words::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_beyond_all_time_is_none_and_zero_is_now() {
        let now = Instant::now();
        let deadline = |text| Words::read(&headers(&[(names::DEADLINE_MS, text)]), now);
        assert_eq!(deadline("0").unwrap().deadline, Some(now));
        let far = deadline("18446744073709551615").unwrap().deadline;
        assert!(far.is_none_or(|far| far > now + Duration::from_secs(1 << 32)));
        assert!(deadline("18446744073709551616").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_refused_by_the_name_of_its_header() {
        let now = Instant::now();
        for (name, wrong) in [
            (
                names::ATTEMPT,
                &["", "0", "-1", "+1", "1.0", "x", "4294967296"][..],
            ),
            (
                names::DEADLINE_MS,
                &["", "-1", "+1", "1e3", "1 2", "\u{fc}"],
            ),
            (names::FIRST_SENT, &["", "now", "-5"]),
            (
                names::SESSION,
                &["", "1", "1,2", "1,2,2,4", "1,2,x", "1,,2", "1,2,3"],
            ),
            (names::STORE, &["", "x", "\"\""]),
        ] {
            for text in wrong {
                let refused = Words::read(&headers(&[(name.clone(), text)]), now).unwrap_err();
                assert!(
                    refused.to_string().contains(name.as_str()),
                    "{name}: {text}"
                );
            }
            let twice = headers(&[(name.clone(), "1"), (name.clone(), "1")]);
            assert!(Words::read(&twice, now).is_err(), "{name} twice");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\u{e4}]{0,40}", which in 0_usize..5) {
            let name = [
                names::ATTEMPT,
                names::DEADLINE_MS,
                names::FIRST_SENT,
                names::SESSION,
                names::STORE,
            ][which].clone();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _here = runtime.enter();
            let _ = Words::read(&headers(&[(name, &text)]), Instant::now());
        }
    }
}
