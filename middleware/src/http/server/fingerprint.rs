//! What a request is told apart by.
//!
//! Method, path and query as they came, `Content-Type`, `Content-Encoding`, the headers that the
//! route's author chose, body and trailers. Whatever changes from one attempt to the next (dates,
//! traces, the name of the client) is not in it, nor is any credential.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Uri, header};
use onlyonce_storage::{Fingerprint, FingerprintAlgorithm, FingerprintBuilder, Fingerprints};

use super::canonical::canonical;
use crate::http::Contents;

/// How the requests of a route are told apart.
#[derive(Clone, Debug, Default)]
pub(super) struct FingerprintRules {
    /// More headers that tell requests apart, in the order of their names.
    headers: Vec<HeaderName>,
    json: Json,
    host: Host,
}

/// Whether the host that a request is for tells it apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Host {
    Compared,
    #[default]
    Ignored,
}

/// How bodies of JSON are compared.
#[derive(Clone, Copy, Debug, Default)]
enum Json {
    Canonical,
    #[default]
    Raw,
}

// === impl FingerprintRules ===

impl FingerprintRules {
    /// Compares this header too.
    ///
    /// # Panics
    ///
    /// When it is a credential, or changes from one attempt to the next.
    pub(super) fn compare_header(&mut self, name: HeaderName) {
        assert!(
            !NEVER.contains(&name) && !name.as_str().starts_with("idempotency-"),
            "header {name} is a credential or changes with every attempt"
        );
        if let Err(place) = self.headers.binary_search_by(|other| compare(other, &name)) {
            self.headers.insert(place, name);
        }
    }

    pub(super) fn compare_json_as_canonical(&mut self) {
        self.json = Json::Canonical;
    }

    pub(super) fn compare_host(&mut self) {
        self.host = Host::Compared;
    }

    /// The headers that tell requests apart beside those that always do.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let host = (self.host == Host::Compared).then_some(&header::HOST);
        self.headers.iter().chain(host)
    }

    /// The fingerprints of a request for `uri`, as its client sent it.
    pub(super) fn of(&self, request: &Parts, uri: &Uri, contents: &Contents) -> Fingerprints {
        let fingerprint = |json, host| self.one(json, host, request, uri, contents);
        // Calls of before an option was chosen have those without it.
        match (self.json, self.host) {
            (Json::Raw, Host::Ignored) => Fingerprints::new(fingerprint(Json::Raw, Host::Ignored)),
            (Json::Canonical, Host::Ignored) => {
                Fingerprints::new(fingerprint(Json::Canonical, Host::Ignored))
                    .or_earlier(fingerprint(Json::Raw, Host::Ignored))
            }
            (Json::Raw, Host::Compared) => {
                Fingerprints::new(fingerprint(Json::Raw, Host::Compared))
                    .or_earlier(fingerprint(Json::Raw, Host::Ignored))
            }
            (Json::Canonical, Host::Compared) => {
                Fingerprints::new(fingerprint(Json::Canonical, Host::Compared))
                    .or_earlier(fingerprint(Json::Raw, Host::Compared))
                    .or_earlier(fingerprint(Json::Canonical, Host::Ignored))
                    .or_earlier(fingerprint(Json::Raw, Host::Ignored))
            }
        }
    }

    fn one(
        &self,
        json: Json,
        host: Host,
        request: &Parts,
        uri: &Uri,
        contents: &Contents,
    ) -> Fingerprint {
        let algorithm = match (json, host) {
            (Json::Raw, Host::Ignored) => RAW,
            (Json::Canonical, Host::Ignored) => CANONICAL,
            (Json::Raw, Host::Compared) => RAW_OF_HOST,
            (Json::Canonical, Host::Compared) => CANONICAL_OF_HOST,
        };
        let body = contents.bytes.as_ref();
        let mut whole = self.head(algorithm, request, uri);
        if host == Host::Compared {
            whole.add("host", host_name(request, uri).as_bytes());
        }
        let said = match json {
            Json::Canonical if is_json(&request.headers) => canonical(body),
            _ => None,
        };
        match said {
            Some(said) => whole.add("json", &said),
            None => whole.add("body", body),
        }
        add_trailers(&mut whole, contents);
        whole.finish()
    }

    fn head(
        &self,
        algorithm: FingerprintAlgorithm,
        request: &Parts,
        uri: &Uri,
    ) -> FingerprintBuilder {
        let mut builder = Fingerprint::builder(algorithm);
        builder.add("method", request.method.as_str().as_bytes());
        builder.add("path", uri.path().as_bytes());
        if let Some(query) = uri.query() {
            builder.add("query", query.as_bytes());
        }
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
            for value in request.headers.get_all(&name) {
                builder.add(name.as_str(), value.as_bytes());
            }
        }
        for name in &self.headers {
            // Apart from the fields of above, one of which may have its name.
            builder.add("header", name.as_str().as_bytes());
            for value in request.headers.get_all(name) {
                builder.add("", value.as_bytes());
            }
            if name == header::HOST
                && !request.headers.contains_key(name)
                && let Some(authority) = uri.authority()
            {
                // Over HTTP/2 it stands there.
                builder.add("", authority.as_str().as_bytes());
            }
        }
        builder
    }
}

/// The name of the host, in small letters and without its port: by another port one comes to the
/// same server, or to another one that shares its store.
fn host_name(request: &Parts, uri: &Uri) -> String {
    // Of two that say different hosts the address counts (RFC 9112, section 3.2.2).
    let authority = uri.authority().map(Authority::as_str);
    let header = || request.headers.get(header::HOST)?.to_str().ok();
    let said = authority.or_else(header).unwrap_or_default();
    let name = match said.parse::<Authority>() {
        Ok(authority) => authority.host().to_ascii_lowercase(),
        Err(_) => said.to_ascii_lowercase(),
    };
    // `a.example.` is the same name.
    name.strip_suffix('.').map_or(name.clone(), str::to_owned)
}

fn add_trailers(builder: &mut FingerprintBuilder, contents: &Contents) {
    let Some(trailers) = &contents.trailers else {
        return;
    };
    let mut names: Vec<_> = trailers.keys().filter(|name| tells_apart(name)).collect();
    names.sort_unstable_by(|one, other| compare(one, other));
    for name in names {
        builder.add("trailer", name.as_str().as_bytes());
        for value in trailers.get_all(name) {
            builder.add("", value.as_bytes());
        }
    }
}

/// Whether a trailer of this name tells requests apart: no credential does, nor what differs between
/// attempts of one call.
pub(super) fn tells_apart(name: &HeaderName) -> bool {
    !NEVER.contains(name)
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let encoded = headers.contains_key(header::CONTENT_ENCODING);
    let Some(content_type) = content_type.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    !encoded && (essence == "application/json" || essence.ends_with("+json"))
}

fn compare(one: &HeaderName, other: &HeaderName) -> std::cmp::Ordering {
    one.as_str().cmp(other.as_str())
}

/// The bytes of the body as they came. Numbers of algorithms are never used again.
const RAW: FingerprintAlgorithm = FingerprintAlgorithm::new(2);

/// What the body says, where it is JSON.
const CANONICAL: FingerprintAlgorithm = FingerprintAlgorithm::new(3);

/// As these two, with the host. Number 4 is gRPC's.
const RAW_OF_HOST: FingerprintAlgorithm = FingerprintAlgorithm::new(5);
const CANONICAL_OF_HOST: FingerprintAlgorithm = FingerprintAlgorithm::new(6);

/// Credentials, and what differs between attempts of one call.
const NEVER: [HeaderName; 14] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CONNECTION,
    header::COOKIE,
    header::DATE,
    header::FORWARDED,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VIA,
];

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use onlyonce_storage::Comparison;

    use super::*;

    fn parts(uri: &str, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn of(rules: &FingerprintRules, parts: &Parts, body: &'static str) -> Fingerprints {
        let contents = Contents {
            bytes: Bytes::from_static(body.as_bytes()),
            trailers: None,
        };
        rules.of(parts, &parts.uri, &contents)
    }

    fn same(one: &Fingerprints, other: &Fingerprints) -> bool {
        other.compare(&one.current()) == Comparison::Same
    }

    // C2
    #[test]
    fn path_query_type_and_body_tell_requests_apart() {
        let rules = FingerprintRules::default();
        let json = [("content-type", "application/json")];
        let first = of(&rules, &parts("/pay?to=a", &json), "1");
        for (parts, body) in [
            (parts("/pay?to=b", &json), "1"),
            (parts("/pay", &json), "1"),
            (parts("/pay/to=a", &json), "1"),
            (parts("/pay?to=a", &[]), "1"),
            (parts("/pay?to=a", &json), "2"),
        ] {
            assert!(!same(&first, &of(&rules, &parts, body)));
        }
        let mut put = parts("/pay?to=a", &json);
        put.method = http::Method::PUT;
        assert!(!same(&first, &of(&rules, &put, "1")));
    }

    // C16
    #[test]
    fn credentials_and_volatile_headers_do_not_tell_requests_apart() {
        let rules = FingerprintRules::default();
        let first = of(&rules, &parts("/", &[("authorization", "Bearer one")]), "1");
        let again = [
            ("authorization", "Bearer two"),
            ("date", "Mon"),
            ("traceparent", "00-1"),
            ("user-agent", "other"),
            ("idempotency-attempt", "2"),
        ];
        assert!(same(&first, &of(&rules, &parts("/", &again), "1")));
    }

    #[test]
    fn chosen_headers_tell_requests_apart() {
        let mut rules = FingerprintRules::default();
        rules.compare_header(HeaderName::from_static("x-tenant"));
        rules.compare_header(HeaderName::from_static("x-api"));
        rules.compare_header(HeaderName::from_static("x-tenant"));
        let first = of(&rules, &parts("/", &[("x-tenant", "a")]), "");
        assert!(same(
            &first,
            &of(&rules, &parts("/", &[("x-tenant", "a")]), "")
        ));
        for headers in [
            [("x-tenant", "b"), ("x-tenant", "b")],
            [("x-tenant", "a"), ("x-tenant", "a")],
            [("x-tenant", "a"), ("x-api", "")],
        ] {
            assert!(!same(&first, &of(&rules, &parts("/", &headers), "")));
        }
    }

    #[test]
    fn a_chosen_header_is_no_part_of_the_address_whatever_its_name() {
        for name in ["query", "body", "trailer", "json"] {
            let mut rules = FingerprintRules::default();
            rules.compare_header(HeaderName::from_static(name));
            let in_address = of(&rules, &parts("/?a", &[]), "");
            let in_header = of(&rules, &parts("/", &[(name, "a")]), "");
            assert!(!same(&in_address, &in_header), "{name}");
            let in_body = of(&rules, &parts("/", &[]), "a");
            assert!(!same(&in_body, &in_header), "{name}");
        }
    }

    // C2: over HTTP/2 the host is in the address, and there is no such header.
    #[test]
    fn the_host_tells_requests_apart_where_it_was_chosen_over_http_1_and_2() {
        let mut rules = FingerprintRules::default();
        rules.compare_header(header::HOST);
        let first = of(&rules, &parts("http://a.example/pay", &[]), "");
        let other = of(&rules, &parts("http://b.example/pay", &[]), "");
        assert!(!same(&first, &other));
        let over_1 = of(&rules, &parts("/pay", &[("host", "a.example")]), "");
        assert!(same(&first, &over_1));
    }

    // C2, C19: the name counts, over either version; the port and its spelling do not, and records
    // of before are known by what was compared then.
    #[test]
    fn hosts_are_told_apart_by_their_names_and_records_of_before_are_still_known() {
        let before = FingerprintRules::default();
        let mut rules = before.clone();
        rules.compare_host();
        let host = |host: &str| parts("/pay", &[("host", host)]);
        let first = of(&rules, &host("a.example"), "1");
        assert!(!same(&first, &of(&rules, &host("b.example"), "1")));
        assert!(!same(&first, &of(&rules, &parts("/pay", &[]), "1")));
        assert!(!same(&first, &of(&rules, &host("a.example"), "2")));
        for again in ["A.Example", "a.example:8080", "a.example."] {
            assert!(same(&first, &of(&rules, &host(again), "1")), "{again}");
        }
        let over_2 = of(&rules, &parts("http://a.example:81/pay", &[]), "1");
        assert!(same(&first, &over_2));
        let address = |host: &str| of(&rules, &parts("/pay", &[("host", host)]), "1");
        assert!(same(&address("[::1]:80"), &address("[::1]:81")));
        assert!(!same(&address("[::1]"), &address("[::2]")));

        let mut canonical = rules.clone();
        canonical.compare_json_as_canonical();
        let mut canonical_before = before.clone();
        canonical_before.compare_json_as_canonical();
        let json = |host| {
            let kind = ("content-type", "application/json");
            parts("/pay", &[kind, ("host", host)])
        };
        let record = of(&before, &json("a.example"), "[1]");
        assert!(same(&record, &of(&rules, &json("a.example"), "[1]")));
        for now in [&before, &canonical_before, &rules, &canonical] {
            let record = of(now, &json("a.example"), "[1]");
            let again = of(&canonical, &json("a.example"), "[1]");
            assert!(same(&record, &again));
        }
        let record = of(&canonical, &json("a.example"), "[1]");
        assert!(same(&record, &of(&canonical, &json("a.example"), "[ 1 ]")));
        assert!(!same(&record, &of(&canonical, &json("b.example"), "[1]")));
    }

    #[test]
    fn a_credential_cannot_be_chosen() {
        for name in NEVER {
            let choosing = || FingerprintRules::default().compare_header(name);
            assert!(std::panic::catch_unwind(choosing).is_err());
        }
    }

    // C3, C19
    #[test]
    fn canonical_json_compares_what_is_said_and_still_knows_raw_records() {
        let raw = FingerprintRules::default();
        let mut canonical = raw.clone();
        canonical.compare_json_as_canonical();
        let json = parts("/", &[("content-type", "application/json; charset=utf-8")]);
        let first = of(&canonical, &json, r#"{"a":1,"b":2}"#);
        assert!(same(&first, &of(&canonical, &json, r#"{ "b":2, "a":1 }"#)));
        assert!(!same(&first, &of(&canonical, &json, r#"{"a":1,"b":3}"#)));
        // A record of before.
        let before = of(&raw, &json, r#"{"a":1,"b":2}"#);
        assert!(same(&before, &of(&canonical, &json, r#"{"a":1,"b":2}"#)));
        // What is not JSON is another request, not one that cannot be compared.
        let text = parts("/", &[("content-type", "text/plain")]);
        let other = of(&canonical, &text, "a");
        assert_eq!(other.compare(&first.current()), Comparison::Mismatch);
        let broken = of(&canonical, &json, "{");
        assert_eq!(broken.compare(&first.current()), Comparison::Mismatch);
    }
}
