//! Which headers of an answer are kept.

use http::{HeaderMap, HeaderName, header};

/// The headers of an answer that a duplicate gets too.
///
/// Not kept is what belongs to one connection (RFC 9110, section 7.6.1), what is made anew for each
/// response (`Date`, `Content-Length`), what this layer itself says, and `denied`: credentials.
pub(crate) fn kept(headers: &HeaderMap, denied: &[HeaderName]) -> HeaderMap {
    let named = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let ours = text.starts_with("idempotency-") || text == "idempotent-replayed";
        let gone = PER_RESPONSE.contains(name) || named.contains(name) || denied.contains(name);
        if !ours && !gone {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// As [`kept`], for an answer that is kept without its body: nothing that says how to read one.
pub(crate) fn kept_without_body(headers: &HeaderMap, denied: &[HeaderName]) -> HeaderMap {
    let mut kept = kept(headers, denied);
    for name in [
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
    ] {
        kept.remove(name);
    }
    kept
}

/// Credentials for the one who got the first answer.
pub(crate) const CREDENTIALS: [HeaderName; 6] = [
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
];

/// Of one connection, or of one response.
const PER_RESPONSE: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    // F2
    #[test]
    fn what_is_kept_is_what_the_answer_says_and_nothing_of_its_way() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("date", "Mon"),
            ("content-length", "4"),
            ("set-cookie", "session=1"),
            ("www-authenticate", "Basic"),
            ("idempotency-status", "executed"),
            ("idempotent-replayed", "true"),
            ("retry-after", "5"),
            ("link", "</a>"),
            ("link", "</b>"),
            ("content-type", "text/plain"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut expected = HeaderMap::new();
        for (name, value) in [
            ("retry-after", "5"),
            ("link", "</a>"),
            ("link", "</b>"),
            ("content-type", "text/plain"),
        ] {
            expected.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(kept(&headers, &CREDENTIALS), expected);
        // What is denied is the author's to say.
        assert!(kept(&headers, &[]).contains_key("set-cookie"));
    }
}
