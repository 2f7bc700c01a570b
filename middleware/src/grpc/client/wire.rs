//! Says in gRPC's words what the layers above have said in those of HTTP.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use tower_service::Service;

use crate::grpc::{names as grpc, timeout};
use crate::http::client::TransportError;
use crate::http::{Body, names};

/// Stands right around the transport.
#[derive(Clone, Debug)]
pub(super) struct Wire<T> {
    transport: T,
}

// === impl Wire ===

impl<T> Wire<T> {
    pub(super) const fn new(transport: T) -> Self {
        Self { transport }
    }
}

impl<T> Service<Request<Body>> for Wire<T>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>,
{
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = T::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.transport.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        translate(request.headers_mut());
        self.transport.call(request)
    }
}

fn translate(headers: &mut HeaderMap) {
    headers.remove(grpc::PREVIOUS_ATTEMPTS);
    let number = |value: Option<&HeaderValue>| value?.to_str().ok()?.parse::<u64>().ok();
    if let Some(attempt @ 2..) = number(headers.get(names::ATTEMPT)) {
        headers.insert(grpc::PREVIOUS_ATTEMPTS, HeaderValue::from(attempt - 1));
    }
    if let Some(left) = number(headers.remove(names::DEADLINE_MS).as_ref()) {
        let left = timeout::header_value(Duration::from_millis(left));
        headers.insert(grpc::TIMEOUT, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_and_what_was_tried_is_said_in_grpcs_words() {
        for (attempt, previous) in [("1", None), ("2", Some("1")), ("7", Some("6"))] {
            let mut headers = HeaderMap::new();
            // What the caller put there is not the call's.
            headers.insert(grpc::PREVIOUS_ATTEMPTS, HeaderValue::from_static("40"));
            headers.insert(names::ATTEMPT, HeaderValue::from_static(attempt));
            headers.insert(names::DEADLINE_MS, HeaderValue::from_static("1500"));
            translate(&mut headers);
            let said = headers.get(grpc::PREVIOUS_ATTEMPTS);
            assert_eq!(said.map(|said| said.to_str().unwrap()), previous);
            assert_eq!(headers[grpc::TIMEOUT], "1500m");
            assert!(!headers.contains_key(names::DEADLINE_MS));
        }
    }
}
