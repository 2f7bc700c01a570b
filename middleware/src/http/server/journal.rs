//! What is kept of a journaled call's request, and the request that is made of it again.
//!
//! Kept is what tells requests apart (method, address, `Content-Type`, `Content-Encoding`, the headers
//! that the route's author compares, body and trailers), and what the author lists beside that. So no
//! credential is, unless it is listed or stands in the address or the body.
//!
//! What is made of it again has to be told apart from others as the call's first request was: what was
//! damaged, or swapped, is not executed.

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::{Comparison, Scope, ScopeError, ScopedKey};

use super::fingerprint::{FingerprintRules, tells_apart};
use super::rules::Rules;
use super::said::ByServer;
use super::stored::{NotStored, Stored};
use crate::http::{Contents, key, names};
use crate::server::Guarantee;

/// What the author of a route says of the requests that are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct JournalRules {
    /// Whose requests they are, so that no other service takes them for its own.
    service: Box<str>,
    /// More headers that are kept.
    headers: Vec<HeaderName>,
}

/// Why a call that stands still is not gone on with here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRevived {
    /// It is gone on with elsewhere, or was.
    #[error("it is another service's")]
    Elsewhere,
    #[error("what is kept of its request cannot be read: {0}")]
    Unreadable(NotStored),
    #[error("what is kept of its request is not what it was claimed with")]
    OtherRequest,
}

// === impl JournalRules ===

impl JournalRules {
    /// # Errors
    ///
    /// When `service` is empty or longer than 255 bytes.
    pub(super) fn name(&mut self, service: &str) -> Result<(), ScopeError> {
        // It has the bounds of an operation's name.
        Scope::global().operation(service)?;
        self.service = service.into();
        Ok(())
    }

    pub(super) fn keep_headers(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        self.headers.extend(names);
    }

    /// The bytes that are kept of a request; `None` where a part of it is too long.
    pub(super) fn stored(
        &self,
        compared: &FingerprintRules,
        request: &Parts,
        sent_to: &Uri,
        contents: &Contents,
    ) -> Option<Bytes> {
        let address = address(&request.uri);
        let sent_to_address = self::address(sent_to);
        let stored = Stored {
            service: self.service.clone(),
            method: request.method.clone(),
            sent_to: (sent_to_address != address).then_some(sent_to_address),
            address,
            headers: self.kept(compared, &request.headers, sent_to),
            contents: Contents {
                bytes: contents.bytes.clone(),
                trailers: contents.trailers.as_ref().map(compared_trailers),
            },
        };
        stored.encode()
    }

    fn kept(&self, compared: &FingerprintRules, headers: &HeaderMap, sent_to: &Uri) -> HeaderMap {
        let mut kept = HeaderMap::new();
        for name in ALWAYS.iter().chain(compared.headers()).chain(&self.headers) {
            // Two lists may have the same name.
            if kept.contains_key(name) {
                continue;
            }
            // Of two that say different hosts the address counts.
            if name == header::HOST
                && let Some(host) = host(sent_to)
            {
                kept.insert(name, host);
                continue;
            }
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        kept
    }
}

/// The request of a call that stands still, as the first one's head and body, with what a layer outside
/// would have put there.
///
/// # Errors
///
/// Why it is not to be executed here.
pub(super) fn revived(
    rules: &Rules,
    call: &AbandonedCall,
) -> Result<(Parts, Contents), NotRevived> {
    let elsewhere = rules.guarantee != Guarantee::Journaled
        || (rules.operation.is_some()
            && rules.operation.as_deref() != call.key.scope().operation_name());
    if elsewhere {
        return Err(NotRevived::Elsewhere);
    }
    let stored = match Stored::decode(&call.request) {
        Ok(stored) if stored.service == rules.journal.service => stored,
        Ok(_) | Err(NotStored::OtherProtocol) => return Err(NotRevived::Elsewhere),
        Err(unreadable) => return Err(NotRevived::Unreadable(unreadable)),
    };
    let sent_to = stored.sent_to.unwrap_or_else(|| stored.address.clone());
    let sent_to = Uri::from(sent_to);
    let mut request = Request::new(());
    *request.method_mut() = stored.method;
    *request.uri_mut() = Uri::from(stored.address);
    *request.headers_mut() = stored.headers;
    let (mut parts, ()) = request.into_parts();
    let fingerprints = rules.fingerprint.of(&parts, &sent_to, &stored.contents);
    let same = fingerprints.compare(&call.fingerprint) == Comparison::Same;
    if !same || parts.method.is_safe() {
        return Err(NotRevived::OtherRequest);
    }
    let key = key::header_value(call.key.key());
    parts.headers.insert(names::KEY, key);
    parts.extensions.insert(ByServer);
    parts.extensions.insert(scope_outside(rules, &call.key));
    #[cfg(feature = "axum")]
    parts
        .extensions
        .insert(::axum::extract::OriginalUri(sent_to));
    Ok((parts, stored.contents))
}

/// The scope of a call as it was found in its request, before it was narrowed here.
pub(super) fn scope_outside(rules: &Rules, key: &ScopedKey) -> Scope {
    match rules.operation {
        Some(_) => key.scope().of_principal(),
        None => key.scope().clone(),
    }
}

/// Path and query. Host and scheme are the server's own.
fn address(uri: &Uri) -> PathAndQuery {
    let address = uri.path_and_query().cloned();
    address.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// Name and port of the host, without what may stand before them.
fn host(uri: &Uri) -> Option<HeaderValue> {
    let authority = uri.authority()?;
    let host = match authority.port() {
        Some(port) => format!("{}:{port}", authority.host()),
        None => authority.host().to_owned(),
    };
    HeaderValue::try_from(host).ok()
}

fn compared_trailers(trailers: &HeaderMap) -> HeaderMap {
    let kept = trailers.iter().filter(|(name, _)| tells_apart(name));
    let mut lines = HeaderMap::new();
    for (name, value) in kept {
        lines.append(name, value.clone());
    }
    lines
}

/// How to read the body.
const ALWAYS: [HeaderName; 2] = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
