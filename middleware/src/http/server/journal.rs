//! What is kept of a journaled call's request, and the request that is made of it again.
//!
//! Kept is what tells requests apart (over HTTP method, address, `Content-Type`, `Content-Encoding`, the
//! headers that the route's author compares, body and trailers), and what the author lists beside that.
//! So no credential is, unless it is listed or stands in the address or the body.
//!
//! What is made of it again has to be told apart from others as the call's first request was: what was
//! damaged, or swapped, is not executed.

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::{Comparison, Scope, ScopeError, ScopedKey};

use super::fingerprint::tells_apart;
use super::rules::Rules;
use super::said::ByServer;
use super::stored::{NotStored, Protocol, Stored};
use crate::http::{Contents, key, names};
use crate::server::{Guarantee, Refusal};

/// What the author of a route says of the requests that are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct JournalRules {
    /// Whose requests they are, so that no other service takes them for its own.
    service: Box<str>,
    /// More headers that are kept.
    headers: Vec<HeaderName>,
}

/// What is made of what was kept.
#[derive(Debug)]
pub(crate) struct Revived {
    pub(crate) parts: Parts,
    /// As the client sent it.
    pub(crate) sent_to: Uri,
    pub(crate) contents: Contents,
}

/// Why a call that stands still is not gone on with here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRevived {
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
    pub(crate) fn name(&mut self, service: &str) -> Result<(), ScopeError> {
        // It has the bounds of an operation's name.
        Scope::global().operation(service)?;
        self.service = service.into();
        Ok(())
    }

    pub(crate) fn keep_headers(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        self.headers.extend(names);
    }

    /// The bytes that are kept of a request: these headers of it, and those that were listed.
    ///
    /// # Errors
    ///
    /// The refusal to give instead, where a part of it is too long.
    pub(crate) fn kept<'a>(
        &'a self,
        protocol: Protocol,
        request: (&Parts, &Contents),
        sent_to: &Uri,
        names: impl Iterator<Item = &'a HeaderName>,
    ) -> Result<Bytes, Refusal> {
        let (parts, contents) = request;
        let address = address(&parts.uri);
        let as_sent = self::address(sent_to);
        let names = names.chain(&self.headers);
        let stored = Stored {
            service: self.service.clone(),
            method: parts.method.clone(),
            sent_to: (as_sent != address).then_some(as_sent),
            address,
            headers: kept_headers(&parts.headers, sent_to, names),
            contents: Contents {
                bytes: contents.bytes.clone(),
                trailers: contents.trailers.as_ref().map(compared_trailers),
            },
        };
        stored.encode(protocol).ok_or_else(|| Refusal::Unreadable {
            reason: TOO_LONG.to_owned(),
        })
    }

    /// What was kept of a call's request, as a request that nobody asks with. Whether it is the call's
    /// is for the adapter to tell.
    ///
    /// # Errors
    ///
    /// Why it is not to be executed here.
    pub(crate) fn revived(
        &self,
        protocol: Protocol,
        call: &AbandonedCall,
    ) -> Result<Revived, NotRevived> {
        let stored = match Stored::decode(protocol, &call.request) {
            Ok(stored) if stored.service == self.service => stored,
            Ok(_) | Err(NotStored::OtherProtocol) => return Err(NotRevived::Elsewhere),
            Err(unreadable) => return Err(NotRevived::Unreadable(unreadable)),
        };
        let sent_to = stored.sent_to.unwrap_or_else(|| stored.address.clone());
        let mut request = Request::new(());
        *request.method_mut() = stored.method;
        *request.uri_mut() = Uri::from(stored.address);
        *request.headers_mut() = stored.headers;
        let key = key::header_value(call.key.key());
        request.headers_mut().insert(names::KEY, key);
        request.extensions_mut().insert(ByServer);
        Ok(Revived {
            parts: request.into_parts().0,
            sent_to: Uri::from(sent_to),
            contents: stored.contents,
        })
    }
}

/// The request of a call that stands still, with what a layer outside would have put there.
///
/// # Errors
///
/// Why it is not to be executed here.
pub(super) fn revived(rules: &Rules, call: &AbandonedCall) -> Result<Revived, NotRevived> {
    let operation = rules.operation.as_deref();
    let other_operation = operation.is_some() && operation != call.key.scope().operation_name();
    if rules.guarantee != Guarantee::Journaled || other_operation {
        return Err(NotRevived::Elsewhere);
    }
    let mut revived = rules.journal.revived(Protocol::Http, call)?;
    let Revived {
        parts,
        sent_to,
        contents,
    } = &mut revived;
    let fingerprints = rules.fingerprint.of(parts, sent_to, contents);
    let same = fingerprints.compare(&call.fingerprint) == Comparison::Same;
    if !same || parts.method.is_safe() {
        return Err(NotRevived::OtherRequest);
    }
    parts.extensions.insert(scope_outside(rules, &call.key));
    #[cfg(feature = "axum")]
    parts
        .extensions
        .insert(::axum::extract::OriginalUri(sent_to.clone()));
    Ok(revived)
}

/// The scope of a call as it was found in its request, before it was narrowed here.
pub(super) fn scope_outside(rules: &Rules, key: &ScopedKey) -> Scope {
    match rules.operation {
        Some(_) => key.scope().of_principal(),
        None => key.scope().clone(),
    }
}

/// Says why a call that stands still is not gone on with, where that is not another service's task.
pub(crate) fn say_why(call: &AbandonedCall, why: NotRevived) {
    if why != NotRevived::Elsewhere {
        let token = call.token;
        tracing::warn!(target: "onlyonce", %token, %why, "a call that stands still is not gone on with");
    }
}

fn kept_headers<'a>(
    headers: &HeaderMap,
    sent_to: &Uri,
    names: impl Iterator<Item = &'a HeaderName>,
) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in names {
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
pub(super) const ALWAYS: [HeaderName; 2] = [header::CONTENT_TYPE, header::CONTENT_ENCODING];

const TOO_LONG: &str =
    "the request's method or body is longer than what can be kept of a journaled call";
