//! Where an HTTP/1 message ends.

use super::framing::Unreadable;

/// The length of the request that begins here, once that is known.
pub(super) fn request_bytes(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    let Some((head, head_bytes)) = head(bytes)? else {
        return Ok(None);
    };
    match head.body()? {
        Body::Chunked => chunked(bytes, head_bytes),
        Body::Length(length) => whole(head_bytes, length),
        Body::Unsaid => Ok(Some(head_bytes)),
    }
}

/// The length of the response that begins here, once that is known.
pub(super) fn response_bytes(bytes: &[u8], bodiless: bool) -> Result<Option<usize>, Unreadable> {
    let Some((head, head_bytes)) = head(bytes)? else {
        return Ok(None);
    };
    if !head.first.starts_with("HTTP/1.") {
        return Err(Unreadable::Malformed);
    }
    let status = head.first.get(9..12).unwrap_or_default();
    if status == "101" {
        return Err(Unreadable::Malformed);
    }
    if bodiless || status.starts_with('1') || status == "204" || status == "304" {
        return Ok(Some(head_bytes));
    }
    match head.body()? {
        Body::Chunked => chunked(bytes, head_bytes),
        Body::Length(length) => whole(head_bytes, length),
        // It ends with its connection, and so is never cut off here.
        Body::Unsaid if bytes.len() > MESSAGE_BYTES_MAX => Err(Unreadable::TooLong),
        Body::Unsaid => Ok(None),
    }
}

/// The length of the head that begins here, with the empty line behind it.
pub(super) fn head_bytes(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

/// Whether an interim response: the real one follows.
pub(super) fn is_interim(response: &[u8]) -> bool {
    response.get(9) == Some(&b'1')
}

/// Whether the response to this request has no body.
pub(super) fn asks_for_head(request: &[u8]) -> bool {
    request.starts_with(b"HEAD ")
}

/// The first header of this name (in lower case).
#[must_use]
pub fn header<'a>(message: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(&message[..head_bytes(message)?]).ok()?;
    fields(head).find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
}

struct Head<'a> {
    first: &'a str,
    all: &'a str,
}

enum Body {
    Chunked,
    Length(usize),
    Unsaid,
}

impl Head<'_> {
    fn body(&self) -> Result<Body, Unreadable> {
        let mut body = Body::Unsaid;
        for (name, value) in fields(self.all) {
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return match value.eq_ignore_ascii_case("chunked") {
                    true => Ok(Body::Chunked),
                    false => Err(Unreadable::Malformed),
                };
            }
            if name.eq_ignore_ascii_case("content-length") {
                body = Body::Length(value.parse().map_err(|_| Unreadable::Malformed)?);
            }
        }
        Ok(body)
    }
}

fn head(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, Unreadable> {
    let Some(length) = head_bytes(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]) else {
        return match bytes.len() >= HEAD_BYTES_MAX {
            true => Err(Unreadable::TooLong),
            false => Ok(None),
        };
    };
    let all = std::str::from_utf8(&bytes[..length]).map_err(|_| Unreadable::Malformed)?;
    let first = all.lines().next().unwrap_or_default();
    if !first.contains("HTTP/1.") {
        return Err(Unreadable::Malformed);
    }
    Ok(Some((Head { first, all }, length)))
}

fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = head.lines().skip(1);
    lines.filter_map(|line| {
        line.split_once(':')
            .map(|(name, value)| (name, value.trim()))
    })
}

fn whole(head_bytes: usize, body_bytes: usize) -> Result<Option<usize>, Unreadable> {
    let whole = head_bytes.checked_add(body_bytes);
    match whole.filter(|whole| *whole <= MESSAGE_BYTES_MAX) {
        Some(whole) => Ok(Some(whole)),
        None => Err(Unreadable::TooLong),
    }
}

fn chunked(bytes: &[u8], from: usize) -> Result<Option<usize>, Unreadable> {
    let mut at = from;
    loop {
        if at > MESSAGE_BYTES_MAX {
            return Err(Unreadable::TooLong);
        }
        let Some(rest) = bytes.get(at..) else {
            return Ok(None);
        };
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return match rest.len() > CHUNK_LINE_BYTES_MAX {
                true => Err(Unreadable::TooLong),
                false => Ok(None),
            };
        };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| Unreadable::Malformed)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Unreadable::Malformed)?;
        if size > MESSAGE_BYTES_MAX {
            return Err(Unreadable::TooLong);
        }
        at += end + 2;
        if size > 0 {
            at += size + 2;
            continue;
        }
        // The last chunk: trailers, or none, and an empty line.
        let Some(trailers) = bytes.get(at..) else {
            return Ok(None);
        };
        if trailers.starts_with(b"\r\n") {
            return Ok(Some(at + 2));
        }
        return match head_bytes(trailers) {
            Some(length) => Ok(Some(at + length)),
            None if trailers.len() > HEAD_BYTES_MAX => Err(Unreadable::TooLong),
            None => Ok(None),
        };
    }
}

/// As much as most servers take.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A size and what may stand behind it.
const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// A message is held until its end is known: this much a connection and direction.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Known to end there once all is there, not known before or the same.
    fn ends(message: &str, request: bool) {
        let bytes = message.as_bytes();
        let length = |bytes: &[u8]| match request {
            true => request_bytes(bytes),
            false => response_bytes(bytes, false),
        };
        for cut in 0..=bytes.len() {
            let known = length(&bytes[..cut]).unwrap();
            assert!(
                known.is_none_or(|known| known == bytes.len()),
                "{cut}: {known:?}"
            );
        }
        let behind = [bytes, b"HTTP/1.1 GET POST"].concat();
        assert_eq!(length(&behind), Ok(Some(bytes.len())), "{message:?}");
    }

    #[test]
    fn a_message_ends_where_its_head_or_its_chunks_say() {
        ends("GET / HTTP/1.1\r\nhost: a\r\n\r\n", true);
        ends("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", true);
        let chunks = "4\r\nbody\r\n3;x=y\r\nend\r\n0\r\n";
        ends(
            &format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunks}\r\n"),
            true,
        );
        ends(
            &format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}sum: 1\r\n\r\n"),
            false,
        );
        ends("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", false);
        ends("HTTP/1.1 100 Continue\r\n\r\n", false);
        ends("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false);
    }

    #[test]
    fn what_has_no_end_or_no_sense_is_not_guessed() {
        let close = b"HTTP/1.1 200 OK\r\n\r\nuntil the end";
        assert_eq!(response_bytes(close, false), Ok(None));
        assert_eq!(
            response_bytes(b"HTTP/1.1 200 OK\r\n\r\n", true),
            Ok(Some(19))
        );
        for malformed in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert_eq!(request_bytes(malformed), Err(Unreadable::Malformed));
        }
        assert_eq!(
            request_bytes(&[b'a'; HEAD_BYTES_MAX]),
            Err(Unreadable::TooLong)
        );
        let long = b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n";
        assert_eq!(request_bytes(long), Err(Unreadable::TooLong));
    }

    #[test]
    fn a_header_is_found_whatever_its_case() {
        let request = b"POST / HTTP/1.1\r\nIdempotency-Key:  a-1 \r\n\r\nidempotency-key: no";
        assert_eq!(header(request, "idempotency-key"), Some("a-1"));
        assert_eq!(header(request, "key"), None);
    }
}
