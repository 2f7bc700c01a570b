//! `Idempotency-Key`: a structured-field string (RFC 8941, section 3.3.3) or a bare word.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use onlyonce_storage::{IdempotencyKey, KeyError};

use super::names;

/// The key in `headers`, if there is one. `"abc"` and `abc` are the same key.
///
/// # Errors
///
/// When there is more than one, on lines of their own or on one, or when it is no key.
pub fn read(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, KeyError> {
    let mut values = headers.get_all(names::KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(KeyError::Several);
    }
    let text = value.as_bytes().trim_ascii();
    if let Some(position) = text.iter().position(|byte| !byte.is_ascii_graphic()) {
        return Err(KeyError::Unprintable { position });
    }
    let text = std::str::from_utf8(text).expect("visible ASCII is UTF-8");
    let key = if text.starts_with('"') {
        unquote(text)?
    } else if text.contains(',') {
        return Err(KeyError::Several);
    } else if text.contains('"') {
        return Err(KeyError::Quoting);
    } else {
        Cow::Borrowed(text)
    };
    IdempotencyKey::parse(&key).map(Some)
}

/// The header's value for `key`: a structured-field string.
pub(crate) fn header_value(key: &IdempotencyKey) -> HeaderValue {
    let mut text = String::with_capacity(key.as_str().len() + 2);
    text.push('"');
    for character in key.as_str().chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    HeaderValue::try_from(text).expect("keys are visible ASCII")
}

fn unquote(text: &str) -> Result<Cow<'_, str>, KeyError> {
    let mut key = String::new();
    let mut characters = text.char_indices().skip(1);
    loop {
        match characters.next() {
            // Parameters are none of ours, and whether they belong to the key is not to be guessed.
            Some((at, '"')) => {
                let rest = &text[at + 1..];
                return match rest.as_bytes().first() {
                    None => Ok(Cow::Owned(key)),
                    Some(b',') => Err(KeyError::Several),
                    Some(_) => Err(KeyError::Quoting),
                };
            }
            Some((_, '\\')) => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => key.push(escaped),
                _ => return Err(KeyError::Quoting),
            },
            Some((_, character)) => key.push(character),
            None => return Err(KeyError::Quoting),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(names::KEY, value);
        }
        headers
    }

    fn read_one(line: &str) -> Result<Option<IdempotencyKey>, KeyError> {
        read(&headers(&[line]))
    }

    // C11
    #[test]
    fn a_quoted_key_and_a_bare_one_are_the_same() {
        let abc = Ok(Some(IdempotencyKey::parse("abc").unwrap()));
        assert_eq!(read_one("abc"), abc);
        assert_eq!(read_one("\"abc\""), abc);
        assert_eq!(read_one("  \"abc\" "), abc);
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }

    // C10
    #[test]
    fn two_keys_are_refused_on_two_lines_and_on_one() {
        assert_eq!(read(&headers(&["a", "b"])), Err(KeyError::Several));
        assert_eq!(read(&headers(&["a", "a"])), Err(KeyError::Several));
        assert_eq!(read_one("a,b"), Err(KeyError::Several));
        assert_eq!(read_one("\"a\",\"b\""), Err(KeyError::Several));
        // As proxies join them: the space is what is refused.
        assert!(read_one("\"a\", \"b\"").is_err());
        assert!(read_one("a, b").is_err());
    }

    // C11
    #[test]
    fn what_is_no_key_is_refused() {
        let long = "k".repeat(256);
        for line in [
            "",
            "\"\"",
            "\"a",
            "a\"",
            "\"a\\\"",
            "\"a\\n\"",
            "\"a\"b",
            "\"a\";v=1",
            "two words",
            "\"two words\"",
            "k\u{fc}",
            &long,
            &format!("\"{long}\""),
        ] {
            assert!(read_one(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_was_written(text in "[!-~]{1,255}") {
            let key = IdempotencyKey::parse(&text).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(names::KEY, header_value(&key));
            prop_assert_eq!(read(&headers), Ok(Some(key)));
        }
    }
}
