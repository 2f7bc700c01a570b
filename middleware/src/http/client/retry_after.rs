//! `Retry-After`: for how long the peer does not want to be asked. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use onlyonce_storage::Clock;

use crate::http::names;

/// What the peer asked for, if it did so in words that can be read.
///
/// Milliseconds come first: they are ours, and exact. A date is compared with the date of the
/// answer itself, so that it does not matter whose clock is wrong; `clock` is asked only where the
/// answer has none. A date that is past asks for nothing.
pub(super) fn read(headers: &HeaderMap, clock: &dyn Clock) -> Option<Duration> {
    if let Some(millis) = number(headers, &names::RETRY_AFTER_MS) {
        return Some(Duration::from_millis(millis));
    }
    if let Some(seconds) = number(headers, &RETRY_AFTER) {
        return Some(Duration::from_secs(seconds));
    }
    let at = date(headers, &RETRY_AFTER)?;
    let now = date(headers, &DATE)
        .unwrap_or_else(|| UNIX_EPOCH + Duration::from_millis(clock.now().as_millis()));
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    // `parse` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // More seconds than there is room for are as many as there is room for.
    digits.then(|| text.parse().unwrap_or(u64::MAX / 1000))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use onlyonce_storage::{ManualClock, Timestamp};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn read_at(now: u64, lines: &[(&'static str, &str)]) -> Option<Duration> {
        let clock = ManualClock::new(Timestamp::from_millis(now));
        read(&headers(lines), &clock)
    }

    // P7
    #[test]
    fn it_is_read_as_seconds_as_milliseconds_and_as_a_date() {
        let seconds = |lines| read_at(0, lines);
        assert_eq!(
            seconds(&[("retry-after", "3")]),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            seconds(&[("retry-after", "1"), ("retry-after-ms", "40")]),
            Some(Duration::from_millis(40))
        );
        // 784,111,777 s after the epoch; the local clock is a year behind, and is not asked.
        assert_eq!(
            seconds(&[
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")
            ]),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            read_at(
                784_111_770_000,
                &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]
            ),
            Some(Duration::from_secs(7))
        );
    }

    // P7
    #[test]
    fn a_date_that_is_past_asks_for_nothing() {
        let past = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(read_at(1_800_000_000_000, &past), Some(Duration::ZERO));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        for text in ["", "soon", "-1", "+1", "1.5", "Sun, 99 Nov 1994"] {
            assert_eq!(read_at(0, &[("retry-after", text)]), None, "{text}");
        }
        let huge = read_at(0, &[("retry-after", "99999999999999999999999")]);
        assert!(huge.unwrap() > Duration::from_secs(1 << 40));
    }
}
