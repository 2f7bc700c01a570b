//! What an answer means for the call. Pure, but that it binds the call to the answer's store.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};

use crate::client::{Call, Cost, Executed, Pushback, Verdict};
use crate::grpc::code::ending_lines;
use crate::grpc::{Code, names};
use crate::http::client::Dialect;
use crate::http::client::classify::{may_be_answered_elsewhere, of_another_store, retry};
use crate::http::{Body, ServingStore, Status, names as call_names};

/// What the client stack of HTTP does not know of gRPC's answers.
pub(super) const DIALECT: Dialect = Dialect {
    from_between,
    misdirected: |response| {
        let headers = response.headers();
        Status::of(headers) == Some(Status::NotExecuted)
            && Code::in_lines(headers) == Some(Code::FailedPrecondition)
            && asked(headers) == Asked::Stop
    },
};

/// What an answer means for the call.
pub(super) fn classify(call: &Call, response: &Response<Body>) -> Verdict {
    let headers = response.headers();
    let status = Status::of(headers);
    let bound = call.store().is_some();
    // What a method without protection says of a store is said of other methods.
    let store = ServingStore::of(headers).filter(|_| status != Some(Status::Unprotected));
    let elsewhere = store.is_some_and(|store| call.bind(store.id) != store.id);
    if elsewhere {
        return of_another_store(status);
    }
    let ending = Ending::of(response);
    match status {
        Some(Status::Unprotected) => match of_ending(&ending) {
            Verdict::Retry(advice) => Verdict::Refuse(advice.executed),
            verdict => verdict,
        },
        Some(status) => of_status(status, &ending, bound),
        // It says something that this version does not know, and that counts before the code.
        None if headers.contains_key(call_names::STATUS) => match of_ending(&ending) {
            Verdict::Refuse(_) => Verdict::Refuse(Executed::Unknown),
            verdict => verdict,
        },
        None => match of_ending(&ending) {
            Verdict::Accept if may_be_answered_elsewhere(call) => {
                Verdict::Refuse(Executed::Unknown)
            }
            verdict => verdict,
        },
    }
}

/// Whether what stands in between says such things: proxies and meshes, of peers that they cannot reach
/// or spare. Whatever else comes without a word about the call is from a server that has no layer.
fn from_between(response: &Response<Body>) -> bool {
    match Ending::of(response).how {
        How::Code(code) => matches!(
            code,
            Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable
        ),
        How::Cut => true,
        How::Unread => false,
    }
}

/// How an answer ends.
#[derive(Clone, Copy, Debug)]
struct Ending {
    how: How,
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Code(Code),
    /// It is cut off before it says how.
    Cut,
    /// It is larger than what is read within an attempt.
    Unread,
}

/// When the peer wants to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    After(Duration),
    Nothing,
    /// Not at all; or it says something that cannot be read.
    Stop,
}

// === impl Ending ===

impl Ending {
    fn of(response: &Response<Body>) -> Self {
        let headers = response.headers();
        let Some(contents) = response.body().contents() else {
            let how = How::Unread;
            let asked = asked(headers);
            return Self { how, asked };
        };
        let asked = ending_lines(headers, contents).map_or(Asked::Nothing, asked);
        let how = match Code::ending(headers, contents) {
            Some(code) => How::Code(code),
            None => match of_http(response.status()) {
                Some(code) => How::Code(code),
                None => How::Cut,
            },
        };
        Self { how, asked }
    }

    fn pushback(&self, otherwise: Pushback) -> Pushback {
        match self.asked {
            Asked::After(pause) => Pushback::After(pause),
            Asked::Nothing => otherwise,
            Asked::Stop => Pushback::Stop,
        }
    }
}

fn asked(lines: &HeaderMap) -> Asked {
    let mut values = lines.get_all(names::PUSHBACK_MS).iter();
    let Some(value) = values.next() else {
        return Asked::Nothing;
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    // `parse` would take a sign.
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let millis = digits.and_then(|digits| digits.parse().ok());
    millis.map_or(Asked::Stop, |millis| {
        Asked::After(Duration::from_millis(millis))
    })
}

/// What gRPC makes of an answer that is none of its own; `None` of one that could be.
fn of_http(status: StatusCode) -> Option<Code> {
    Some(match status.as_u16() {
        200 => return None,
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    })
}

fn of_status(status: Status, ending: &Ending, bound: bool) -> Verdict {
    match status {
        Status::Attached | Status::Executed | Status::ExecutedUnrecorded | Status::Replayed => {
            Verdict::Accept
        }
        Status::InDoubt => Verdict::InDoubt,
        Status::InProgress => {
            let cost = if ending.how == How::Code(Code::Aborted) {
                Cost::OnlyTime
            } else {
                Cost::Attempt
            };
            retry(Executed::Unknown, ending.pushback(Pushback::Silent), cost)
        }
        // The key belongs to another request now. That one may come to nothing and leave the key to
        // an earlier attempt of this one that is still on its way.
        Status::Mismatch => Verdict::Refuse(Executed::NotThisAttempt),
        Status::NotExecuted => of_not_executed(ending, bound),
        Status::Stale => Verdict::Refuse(Executed::NotThisAttempt),
        // Has no table of its own.
        Status::Unprotected => Verdict::Refuse(Executed::Unknown),
    }
}

fn of_not_executed(ending: &Ending, bound: bool) -> Verdict {
    let again = |otherwise| {
        let pushback = ending.pushback(otherwise);
        retry(Executed::NotThisAttempt, pushback, Cost::Attempt)
    };
    match (ending.how, ending.asked) {
        // The store that was known is there no more, and the call met no other: it goes on with the
        // one that this answer names.
        (How::Code(Code::FailedPrecondition), Asked::Stop) if !bound => {
            retry(Executed::NotThisAttempt, Pushback::Silent, Cost::Attempt)
        }
        (_, Asked::Stop) => Verdict::Refuse(Executed::NotThisAttempt),
        (How::Code(Code::ResourceExhausted | Code::Unavailable), _) => again(Pushback::Overloaded),
        (
            How::Code(
                Code::Aborted
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Internal
                | Code::Unknown,
            )
            | How::Cut,
            _,
        ) => again(Pushback::Silent),
        _ => Verdict::Refuse(Executed::NotThisAttempt),
    }
}

fn of_ending(ending: &Ending) -> Verdict {
    let again = |otherwise| {
        let pushback = ending.pushback(otherwise);
        retry(Executed::Unknown, pushback, Cost::Attempt)
    };
    let code = match ending.how {
        How::Code(code) => code,
        How::Cut => return again(Pushback::Silent),
        How::Unread => return Verdict::Accept,
    };
    match code {
        Code::Ok | Code::NotFound | Code::OutOfRange => Verdict::Accept,
        Code::ResourceExhausted | Code::Unavailable => again(Pushback::Overloaded),
        // Also what a server's own timeout says, and what gRPC makes of a connection that ends.
        Code::Cancelled | Code::DeadlineExceeded => again(Pushback::Silent),
        // Also what somebody in between says, or another layer that dedupes.
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Verdict::Refuse(Executed::NotThisAttempt),
        Code::Aborted | Code::DataLoss | Code::Internal | Code::Unknown => {
            Verdict::Refuse(Executed::Unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use onlyonce_storage::{IdempotencyKey, StoreId};

    use super::*;
    use crate::client::{Advice, Ticket};
    use crate::http::{Contents, names as call};

    const PUSHBACK: &str = "grpc-retry-pushback-ms";

    fn lines(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    /// An answer with a message and these trailers.
    fn answered(
        headers: &[(&'static str, &str)],
        trailers: &[(&'static str, &str)],
    ) -> Response<Body> {
        let mut response = Response::new(Body::from(Contents {
            bytes: b"\0\0\0\0\0"[..].into(),
            trailers: Some(lines(trailers)),
        }));
        *response.headers_mut() = lines(headers);
        response
    }

    fn verdict(response: &Response<Body>) -> Verdict {
        let key = IdempotencyKey::parse("k").unwrap();
        classify(&Call::new(Ticket::never_sent(key)), response)
    }

    fn pushback(response: &Response<Body>) -> Option<Pushback> {
        match verdict(response) {
            Verdict::Retry(Advice { pushback, .. }) => Some(pushback),
            _ => None,
        }
    }

    // P24
    #[test]
    fn a_code_in_the_trailers_is_what_the_answer_means() {
        for code in Code::ALL {
            let number = code.number().to_string();
            let response = answered(&[], &[("grpc-status", &number)]);
            let name = match verdict(&response) {
                Verdict::Accept => "answer",
                Verdict::Refuse(Executed::NotThisAttempt) => "refused",
                Verdict::Refuse(_) => "unknown",
                Verdict::Retry(Advice {
                    executed: Executed::Unknown,
                    ..
                }) => "again",
                Verdict::Retry(_) | Verdict::InDoubt => "something else",
            };
            let expected = match code.number() {
                0 | 5 | 11 => "answer",
                1 | 4 | 8 | 14 => "again",
                3 | 6 | 7 | 9 | 12 | 16 => "refused",
                _ => "unknown",
            };
            assert_eq!(name, expected, "{code:?}");
        }
    }

    // P7
    #[test]
    fn a_pushback_that_is_negative_or_cannot_be_read_stops_the_call() {
        let unavailable = |pushback: &[&str]| {
            let mut trailers = vec![("grpc-status", "14")];
            trailers.extend(pushback.iter().map(|text| (PUSHBACK, *text)));
            answered(&[], &trailers)
        };
        for text in ["-1", "abc", "", "+5", "1.5", "99999999999999999999999"] {
            let stopped = pushback(&unavailable(&[text]));
            assert_eq!(stopped, Some(Pushback::Stop), "{text}");
        }
        assert_eq!(pushback(&unavailable(&["5", "5"])), Some(Pushback::Stop));
        let after = Some(Pushback::After(Duration::from_millis(250)));
        assert_eq!(pushback(&unavailable(&["250"])), after);
        assert_eq!(pushback(&unavailable(&[])), Some(Pushback::Overloaded));
    }

    #[test]
    fn the_status_is_read_before_the_code() {
        let said = |status: &str, trailers: &[(&'static str, &str)]| {
            verdict(&answered(&[("idempotency-status", status)], trailers))
        };
        for code in Code::ALL {
            let number = code.number().to_string();
            for status in ["executed", "executed; unrecorded", "replayed", "attached"] {
                let taken = said(status, &[("grpc-status", &number)]);
                assert_eq!(taken, Verdict::Accept, "{status} {code:?}");
            }
            let doubtful = said("in-doubt", &[("grpc-status", &number)]);
            assert_eq!(doubtful, Verdict::InDoubt, "{code:?}");
        }
        let busy = said("in-progress", &[("grpc-status", "10"), (PUSHBACK, "40")]);
        let after = Pushback::After(Duration::from_millis(40));
        assert_eq!(busy, retry(Executed::Unknown, after, Cost::OnlyTime));
        let mismatch = said("mismatch", &[("grpc-status", "3"), (PUSHBACK, "-1")]);
        assert_eq!(mismatch, Verdict::Refuse(Executed::NotThisAttempt));
        let too_large = said("not-executed", &[("grpc-status", "8"), (PUSHBACK, "-1")]);
        assert_eq!(too_large, Verdict::Refuse(Executed::NotThisAttempt));
        let full = said("not-executed", &[("grpc-status", "8"), (PUSHBACK, "40")]);
        assert_eq!(full, retry(Executed::NotThisAttempt, after, Cost::Attempt));
        // A method that is not protected may have been executed, and may be again.
        let unprotected = said("unprotected", &[("grpc-status", "14")]);
        assert_eq!(unprotected, Verdict::Refuse(Executed::Unknown));
    }

    #[test]
    fn what_is_not_grpc_is_read_as_grpc_has_it_and_what_is_cut_is_no_answer() {
        let mut response = Response::new(Body::default());
        assert_eq!(verdict(&response), Verdict::RETRY_UNKNOWN);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        assert_eq!(pushback(&response), Some(Pushback::Overloaded));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let refused = Verdict::Refuse(Executed::NotThisAttempt);
        assert_eq!(verdict(&response), refused);
    }

    #[test]
    fn an_answer_of_another_store_proves_nothing_of_the_first_one() {
        let key = IdempotencyKey::parse("k").unwrap();
        let bound = Ticket::new(key).store(StoreId::from_bytes([1; 16]));
        let mut response = answered(
            &[("idempotency-status", "replayed")],
            &[("grpc-status", "0")],
        );
        let other = ServingStore {
            id: StoreId::from_bytes([2; 16]),
            now: None,
        };
        response
            .headers_mut()
            .insert(call::STORE, other.header_value());
        let verdict = classify(&Call::new(bound), &response);
        assert_eq!(verdict, Verdict::Refuse(Executed::Unknown));
    }
}
