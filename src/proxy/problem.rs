//! What the proxy itself answers, as `application/problem+json` (RFC 9457).

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::http::{Body, Status, names};

/// A problem of this name, of which nothing is said yet as to whether it was executed.
pub(super) fn problem(code: StatusCode, name: &str, detail: &str) -> Response<Body> {
    let document = json!({
        "type": format!("urn:onlyonce:problem:{name}"),
        "title": name.replace('-', " "),
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

/// A problem before anything was executed.
pub(super) fn not_executed(code: StatusCode, name: &str, detail: &str) -> Response<Body> {
    let mut response = problem(code, name, detail);
    let status = Status::NotExecuted.header_value();
    response.headers_mut().insert(names::STATUS, status);
    response
}

/// Says when to come back.
pub(super) fn after(mut response: Response<Body>, pause: Duration) -> Response<Body> {
    let seconds = HeaderValue::from(pause.as_secs().max(1));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}
