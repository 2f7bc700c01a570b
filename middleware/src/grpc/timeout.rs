//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::names;

/// It is there, and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata grpc-timeout cannot be read, or stands there twice")]
pub(crate) struct Unreadable;

/// How much time the caller gives the call, if it says.
///
/// # Errors
///
/// When it cannot be read: a call whose deadline is not known is another call.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Duration>, Unreadable> {
    let mut values = headers.get_all(names::TIMEOUT).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.and_then(parse).map(Some).ok_or(Unreadable)
}

/// The header's value for `left`: milliseconds, or a larger unit where eight digits are too few for
/// them. Rounded down, so that nobody waits longer than the caller does.
pub(crate) fn header_value(left: Duration) -> HeaderValue {
    let seconds = left.as_secs();
    let (number, unit) = if left.as_millis() <= u128::from(NUMBER_MAX) {
        (u64::try_from(left.as_millis()).unwrap_or(NUMBER_MAX), 'm')
    } else if seconds <= NUMBER_MAX {
        (seconds, 'S')
    } else {
        ((seconds / 3_600).min(NUMBER_MAX), 'H')
    };
    HeaderValue::try_from(format!("{number}{unit}")).expect("digits and a letter")
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let eight = (1..=8).contains(&digits.len());
    if !eight || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Eight digits.
const NUMBER_MAX: u64 = 99_999_999;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(texts: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for text in texts {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            headers.append(names::TIMEOUT, value);
        }
        headers
    }

    #[test]
    fn every_unit_is_read() {
        for (text, duration) in [
            ("2H", Duration::from_secs(7_200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(read(&headers(&[text])), Ok(Some(duration)), "{text}");
        }
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_ignored() {
        for text in [
            "",
            "S",
            "1",
            "123456789m",
            "-1S",
            "+1S",
            "1.5S",
            "1s",
            "1\u{fc}",
        ] {
            assert_eq!(read(&headers(&[text])), Err(Unreadable), "{text}");
        }
        assert_eq!(read(&headers(&["1S", "1S"])), Err(Unreadable));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_no_longer_than_it_is(
            seconds in 0_u64..1 << 40,
            nanos in 0_u32..1_000_000_000,
        ) {
            let left = Duration::new(seconds, nanos);
            let mut headers = HeaderMap::new();
            headers.insert(names::TIMEOUT, header_value(left));
            let read = read(&headers).unwrap().unwrap();
            prop_assert!(read <= left);
            prop_assert!(left - read < Duration::from_millis(1) || seconds > 99_000);
        }
    }
}
