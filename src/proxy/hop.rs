//! What belongs to one connection and does not go on to the next. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http::names;

/// The number of the claim under which a protected request runs, towards the upstream: see
/// [`FencingToken`](crate::storage::FencingToken).
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("idempotency-fencing-token");

/// Why the head of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("header connection names {0}, which goes from end to end")]
    NotOfThisHop(&'static str),
    /// RFC 9112, section 3.2.
    #[error("the request names its host in more than one line")]
    TwoHosts,
}

/// Whether the request has one host at most, and `Connection` names only what may stay behind.
///
/// Of two hosts this proxy could take the one and the upstream the other.
///
/// A stranger could have the proxy take away by it what the upstream, or this proxy itself, goes by:
/// the key, the credential, the header that names the `principal`.
pub(super) fn check(headers: &HeaderMap, principal: Option<&HeaderName>) -> Result<(), Unfit> {
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Unfit::TwoHosts);
    }
    for name in named(headers) {
        if principal.is_some_and(|principal| principal.as_str().eq_ignore_ascii_case(name)) {
            return Err(Unfit::NotOfThisHop("the header of the principal"));
        }
        for (kept, words) in END_TO_END {
            let whole = name.eq_ignore_ascii_case(kept);
            let prefix = kept.ends_with('-')
                && name
                    .get(..kept.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(kept));
            if whole || prefix {
                return Err(Unfit::NotOfThisHop(words));
            }
        }
    }
    Ok(())
}

/// Takes away what belongs to the connection that the message came by (RFC 9110, section 7.6.1).
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named(headers)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
}

/// Takes away what a request says of its call to this proxy and to nobody behind it, and what only
/// this proxy may say: all words of the kind but the key. Also where they are spelled with `_`, which
/// CGI, WSGI and PHP take for `-`.
pub(super) fn strip_words(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| {
        let spelled = name.as_str().replace('_', "-");
        spelled.starts_with("idempotency-") && **name != names::KEY
    };
    let words: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in words {
        headers.remove(name);
    }
}

/// Takes away what is spelled like the header of the `principal` for CGI, WSGI and PHP, which take `_`
/// for `-`, and is not it.
pub(super) fn strip_look_alikes(headers: &mut HeaderMap, principal: &HeaderName) {
    let spelled = |name: &HeaderName| name.as_str().replace('_', "-");
    let wanted = spelled(principal);
    let alike = |name: &&HeaderName| *name != principal && spelled(name) == wanted;
    let alike: Vec<HeaderName> = headers.keys().filter(alike).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
}

/// Takes away what an answer says of a call: a service that knows nothing of this proxy says it of
/// calls of its own, or by accident.
pub(super) fn strip_answer_words(headers: &mut HeaderMap) {
    for name in [names::REPLAYED, names::STATUS, names::STORE] {
        headers.remove(name);
    }
}

/// Says that the message went through here (RFC 9110, section 7.6.3).
pub(super) fn add_via(headers: &mut HeaderMap, version: http::Version) {
    let via = match version {
        http::Version::HTTP_2 => "2 onlyonce",
        http::Version::HTTP_10 => "1.0 onlyonce",
        _ => "1.1 onlyonce",
    };
    headers.append(header::VIA, HeaderValue::from_static(via));
}

fn named(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .map(str::trim)
}

const OF_A_CONNECTION: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A name, or the start of one, and how it is called.
const END_TO_END: [(&str, &str); 8] = [
    ("authorization", "authorization"),
    ("content-", "a content- header"),
    ("cookie", "cookie"),
    ("forwarded", "forwarded"),
    ("host", "host"),
    ("idempotency-", "an idempotency- header"),
    ("via", "via"),
    ("x-", "an x- header"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn of_the_words_of_a_call_only_its_key_goes_on_however_they_are_spelled() {
        let mut said = headers(&[
            ("idempotency-key", "k"),
            ("idempotency_key", "other"),
            ("idempotency-principal", "bob"),
            ("idempotency_fencing_token", "9999.9"),
            ("idempotency-first-sent", "1"),
            ("x-idempotency-key", "k"),
        ]);
        strip_words(&mut said);
        let kept = headers(&[("idempotency-key", "k"), ("x-idempotency-key", "k")]);
        assert_eq!(said, kept);
    }

    // C13
    #[test]
    fn what_is_spelled_like_the_header_of_the_principal_does_not_go_on() {
        let lines = [
            ("x-tenant", "ann"),
            ("x_tenant", "bob"),
            ("x-tenants", "all"),
        ];
        let mut said = headers(&lines);
        strip_look_alikes(&mut said, &HeaderName::from_static("x-tenant"));
        assert_eq!(said, headers(&[lines[0], lines[2]]));
        let mut said = headers(&lines);
        strip_look_alikes(&mut said, &HeaderName::from_static("x_tenant"));
        assert_eq!(said, headers(&[lines[1], lines[2]]));
    }

    #[test]
    fn what_belongs_to_a_connection_does_not_go_on() {
        let mut said = headers(&[
            ("connection", "close, Local-Thing"),
            ("local-thing", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eA=="),
            ("authorization", "Basic eA=="),
            ("accept", "text/xml"),
        ]);
        strip(&mut said);
        let kept = headers(&[("authorization", "Basic eA=="), ("accept", "text/xml")]);
        assert_eq!(said, kept);
    }

    #[test]
    fn nobody_has_the_proxy_take_a_key_or_a_principal_away() {
        for name in [
            "Idempotency-Key",
            "close, idempotency-key",
            "AUTHORIZATION",
            "content-length",
            "X-Tenant",
            "host",
        ] {
            let value = HeaderValue::from_str(name).unwrap();
            let mut said = HeaderMap::new();
            said.append(header::CONNECTION, value);
            assert!(check(&said, None).is_err(), "{name}");
        }
        for value in ["close", "keep-alive, te", "Upgrade, HTTP2-Settings", ""] {
            assert_eq!(check(&headers(&[("connection", value)]), None), Ok(()));
        }
        let hosts = headers(&[("host", "a"), ("host", "a")]);
        assert_eq!(check(&hosts, None), Err(Unfit::TwoHosts));
        assert_eq!(check(&headers(&[("host", "a")]), None), Ok(()));
        let tenant = HeaderName::from_static("tenant");
        let said = headers(&[("connection", "close, Tenant")]);
        assert!(check(&said, Some(&tenant)).is_err());
    }
}
