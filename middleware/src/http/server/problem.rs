//! Why there is no answer, as `application/problem+json` (RFC 9457).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::intake::CUT;
use crate::http::{Body, Status, names};
use crate::server::Refusal;

/// The response to a refused request, without the name of the store.
pub(super) fn response(refusal: &Refusal) -> Response<Body> {
    let (code, title) = code_and_title(refusal);
    let problem = refusal.name().replace('_', "-");
    let mut response = problem_of(&problem, code, title, &refusal.to_string());
    let headers = response.headers_mut();
    headers.insert(names::STATUS, status(refusal).header_value());
    if let Some(pause) = retry_after(refusal) {
        advise(headers, pause);
    }
    response
}

/// The response to somebody who may no longer see the answer that is kept.
pub(super) fn not_authorised() -> Response<Body> {
    problem_of(
        "not-authorised",
        StatusCode::FORBIDDEN,
        "answer withheld",
        "the call was made before, and the caller may not see its answer now",
    )
}

fn problem_of(name: &str, code: StatusCode, title: &str, detail: &str) -> Response<Body> {
    let document = json!({
        "type": format!("urn:onlyonce:problem:{name}"),
        "title": title,
        "status": code.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_static("application/problem+json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Whole seconds, rounded up, as the protocol has them, and the exact milliseconds beside.
fn advise(headers: &mut HeaderMap, pause: Duration) {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let seconds = millis.div_ceil(1_000).max(1);
    headers.insert(header::RETRY_AFTER, seconds.into());
    headers.insert(names::RETRY_AFTER_MS, millis.into());
}

const fn code_and_title(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::DeadlinePassed { .. } => (StatusCode::GATEWAY_TIMEOUT, "deadline passed"),
        Refusal::FirstSentAhead => (StatusCode::BAD_REQUEST, "first sent in the future"),
        Refusal::InDoubt(_) => (StatusCode::CONFLICT, "outcome in doubt"),
        Refusal::InProgress { .. } => (StatusCode::CONFLICT, "call in progress"),
        Refusal::KeyMalformed(_) => (StatusCode::BAD_REQUEST, "idempotency key malformed"),
        Refusal::KeyMissing => (StatusCode::BAD_REQUEST, "idempotency key missing"),
        Refusal::Misdirected { .. } => (StatusCode::MISDIRECTED_REQUEST, "another store"),
        Refusal::Mismatch => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency key reused"),
        Refusal::NotRecordable { .. } => (StatusCode::NOT_ACCEPTABLE, "answer not recordable"),
        Refusal::OverQuota { .. } => (StatusCode::TOO_MANY_REQUESTS, "too many calls open"),
        Refusal::ScopeMissing => (StatusCode::FORBIDDEN, "caller unknown"),
        Refusal::SessionExpired => (StatusCode::PRECONDITION_FAILED, "session expired"),
        Refusal::Stale => (StatusCode::PRECONDITION_FAILED, "call stale"),
        Refusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "request too large"),
        Refusal::TooSlow => (StatusCode::REQUEST_TIMEOUT, "request too slow"),
        Refusal::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not able"),
        Refusal::UnknownSession => (StatusCode::PRECONDITION_FAILED, "session unknown"),
        Refusal::Unreadable { .. } => (StatusCode::BAD_REQUEST, "request unreadable"),
        Refusal::WindowFull => (StatusCode::TOO_MANY_REQUESTS, "session window full"),
    }
}

const fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::DeadlinePassed { executing: true } | Refusal::InProgress { .. } => {
            Status::InProgress
        }
        Refusal::InDoubt(_) => Status::InDoubt,
        Refusal::Mismatch => Status::Mismatch,
        Refusal::Stale => Status::Stale,
        _ => Status::NotExecuted,
    }
}

fn retry_after(refusal: &Refusal) -> Option<Duration> {
    match refusal {
        // What the network has cut comes whole the next time. The client's own pause will do.
        Refusal::Unreadable { reason } if reason == CUT => Some(Duration::ZERO),
        Refusal::InProgress { retry_after }
        | Refusal::OverQuota { retry_after }
        | Refusal::Unavailable { retry_after, .. } => Some(*retry_after),
        Refusal::WindowFull => Some(WINDOW_PAUSE),
        _ => None,
    }
}

/// A session goes on when its slowest call has ended: about a call's time.
const WINDOW_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_in_whole_seconds_rounded_up_and_exact_beside() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let refused = response(&Refusal::InProgress {
                retry_after: Duration::from_millis(millis),
            });
            assert_eq!(refused.headers()[header::RETRY_AFTER], seconds);
            let exact = &refused.headers()[names::RETRY_AFTER_MS];
            assert_eq!(exact, &millis.to_string());
        }
        let stale = response(&Refusal::Stale);
        assert!(!stale.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(Status::of(stale.headers()), Some(Status::Stale));
    }
}
