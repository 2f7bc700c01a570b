//! Asks the service what became of a call in doubt.
//!
//! A GET with the call's key in `Idempotency-Key`, its principal in `Idempotency-Principal` (absent in
//! the global scope) and the token under which it ran in `Idempotency-Fencing-Token`. The answer says
//! in `Idempotency-Outcome`:
//!
//! | outcome | means |
//! | --- | --- |
//! | `applied` | the call took effect; status, headers and body of this answer are its answer from now on |
//! | `not-applied` | it did not, and cannot any more; it runs again |
//! | `unknown` | nobody can say yet |
//!
//! Anything else, 404 and 500 included, is no answer, and the call stays in doubt: a word that
//! somebody in between could say by accident ends no doubt.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use tokio::time::timeout;
use tower::ServiceExt;

use super::config::{CloseDelimited, ProxyLimits, Upstream};
use super::forward::ends_with_its_connection;
use super::{ConfigError, hop, upstream};
use crate::http::{Body, Read, names};
use crate::middleware::server::{Doubt, Reconciled, Reconciliation};

/// What the service says of the call that it is asked about.
pub const OUTCOME: HeaderName = HeaderName::from_static("idempotency-outcome");

/// Whose call it is asked about.
pub const PRINCIPAL: HeaderName = HeaderName::from_static("idempotency-principal");

/// Why the service has not said what became of a call.
#[derive(Debug, thiserror::Error)]
enum Unsaid {
    #[error("the service did not answer")]
    Unanswered,
    #[error("the answer has no outcome that is known: say applied, not-applied or unknown")]
    NoOutcome,
    #[error(
        "the answer has no length and ends with its connection, so that nobody can tell whether it is \
         whole (close-delimited)"
    )]
    EndUnknown,
    #[error("the answer is longer than what is recorded")]
    TooLarge,
    #[error("the principal of the call cannot be said in a header, so the service is not asked")]
    Unspeakable,
}

/// Asks at `url`, over connections as to `service`.
pub(super) fn reconciliation(
    service: &Upstream,
    url: Arc<Uri>,
    limits: &ProxyLimits,
    close_delimited: CloseDelimited,
) -> Result<Reconciliation, ConfigError> {
    let (Some(scheme), Some(authority)) = (url.scheme().cloned(), url.authority().cloned()) else {
        let problem = "say scheme and host, such as http://127.0.0.1:8000/outcome";
        return Err(ConfigError::new("reconcile-url", problem));
    };
    if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
        return Err(ConfigError::new(
            "reconcile-url",
            "only http and https are spoken",
        ));
    }
    let mut asked = service.clone();
    asked.scheme = scheme;
    asked.authority = authority;
    let transport = upstream::transport(&asked, limits)?;
    let limits = *limits;
    Ok(Reconciliation::new(move |doubt: Doubt| {
        let (transport, url) = (transport.clone(), Arc::clone(&url));
        async move {
            let question = question(&url, &doubt)?;
            let asking = async {
                let response = transport.oneshot(question).await;
                let response = response.map_err(|_| Unsaid::Unanswered)?;
                // Of the other words all is said once the head is there.
                let applied = response
                    .headers()
                    .get(OUTCOME)
                    .is_some_and(|said| said == "applied");
                let trusted = close_delimited == CloseDelimited::Trusted;
                if applied && !trusted && ends_with_its_connection(&response) {
                    return Err(Unsaid::EndUnknown);
                }
                let (head, body) = response.into_parts();
                match body.read(limits.answer_bytes_max).await {
                    Ok(Read::Whole(contents)) => Ok(Response::from_parts(head, contents.bytes)),
                    Ok(Read::TooLarge(_)) => Err(Unsaid::TooLarge),
                    Err(_) => Err(Unsaid::Unanswered),
                }
            };
            let answer = timeout(limits.timeout, asking).await;
            outcome(answer.map_err(|_| Unsaid::Unanswered)??)
        }
    }))
}

fn question(url: &Uri, doubt: &Doubt) -> Result<Request<Body>, Unsaid> {
    let mut question = Request::new(Body::default());
    *question.uri_mut() = url.clone();
    let principal = doubt.key.scope().principal_name();
    let principal = principal.map(speakable).transpose()?;
    let headers = question.headers_mut();
    // OK because keys and tokens are such text.
    let key = HeaderValue::from_str(&quoted(doubt.key.key().as_str()));
    let token = HeaderValue::try_from(doubt.token.to_string());
    for (name, value) in [(names::KEY, key), (hop::FENCING_TOKEN, token)] {
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
    if let Some(principal) = principal {
        headers.insert(PRINCIPAL, principal);
    }
    Ok(question)
}

/// A principal as it is, or not at all: left out, or read without its spaces, it would be another one.
fn speakable(principal: &str) -> Result<HeaderValue, Unsaid> {
    if principal.is_empty() || principal.trim() != principal {
        return Err(Unsaid::Unspeakable);
    }
    HeaderValue::from_str(principal).map_err(|_| Unsaid::Unspeakable)
}

/// A structured-field string.
fn quoted(key: &str) -> String {
    let escaped = key.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn outcome(mut answer: Response<Bytes>) -> Result<Reconciled, Unsaid> {
    if answer.headers().get_all(OUTCOME).iter().nth(1).is_some() {
        return Err(Unsaid::NoOutcome);
    }
    let said = answer.headers_mut().remove(OUTCOME);
    let said = said.as_ref().map(HeaderValue::as_bytes);
    match said {
        Some(b"applied") => Ok(Reconciled::Applied(crate::http::answer(answer))),
        Some(b"not-applied") => Ok(Reconciled::NotApplied),
        Some(b"unknown") => Ok(Reconciled::StillUnknown),
        _ => Err(Unsaid::NoOutcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, said: &[&'static str]) -> Response<Bytes> {
        let mut answer = Response::builder().status(code);
        for said in said {
            answer = answer.header(OUTCOME, *said);
        }
        answer.body(Bytes::from("receipt")).unwrap()
    }

    #[test]
    fn only_a_word_for_it_ends_a_doubt() {
        let not_applied = outcome(answer(200, &["not-applied"])).unwrap();
        assert_eq!(not_applied, Reconciled::NotApplied);
        let unknown = outcome(answer(200, &["unknown"])).unwrap();
        assert_eq!(unknown, Reconciled::StillUnknown);
        let applied = outcome(answer(201, &["applied"])).unwrap();
        let expected = Response::builder().status(201).body(Bytes::from("receipt"));
        let expected = crate::http::answer(expected.unwrap());
        assert_eq!(applied, Reconciled::Applied(expected));
        for code in [200, 404, 500] {
            assert!(outcome(answer(code, &[])).is_err());
            assert!(outcome(answer(code, &["no"])).is_err());
        }
        assert!(outcome(answer(200, &["not-applied", "applied"])).is_err());
    }

    #[test]
    fn a_principal_is_said_as_it_is_or_the_service_is_not_asked() {
        for principal in ["ann lee", "j\u{fc}rgen"] {
            assert_eq!(
                speakable(principal).unwrap().as_bytes(),
                principal.as_bytes()
            );
        }
        for other in ["ann ", " ann", "", "a\nb", "a\u{7f}"] {
            assert!(speakable(other).is_err(), "{other:?}");
        }
    }
}
