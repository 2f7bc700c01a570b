//! What a handler's answer means for the key. Pure.

use http::StatusCode;
use http::response::Parts;

use super::said::{Definitive, NotExecuted};
use crate::http::{Status, names};

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The call's answer from now on.
    Final,
    /// It leaves open whether the effect happened, and is kept for duplicates.
    InDoubt,
    /// It says only that somebody else does not know, or is not done.
    Nothing,
    /// Nothing was executed.
    NotExecuted,
}

/// What a complete answer means.
///
/// A service may pass on what another server of ours answered. Only a status that says that nothing
/// was executed frees the key: freed for any other, the next attempt would run again what may have
/// had its effect.
pub(super) fn meaning(answer: &Parts, releases_503: bool) -> Meaning {
    if answer.extensions.get::<Definitive>().is_some() {
        return Meaning::Final;
    }
    if answer.extensions.get::<NotExecuted>().is_some() {
        return Meaning::NotExecuted;
    }
    if !answer.headers.contains_key(names::STATUS) {
        return of_status_code(answer.status, releases_503);
    }
    match Status::of(&answer.headers) {
        // Executed, by whomever, and this is the answer. Whether it was recorded there matters no
        // more once it is recorded here.
        Some(
            Status::Attached | Status::Executed | Status::ExecutedUnrecorded | Status::Replayed,
        ) => Meaning::Final,
        // A conflict is a refusal. Anything else is the answer that was kept there.
        Some(Status::InDoubt) if answer.status == StatusCode::CONFLICT => Meaning::Nothing,
        Some(Status::InDoubt) => Meaning::InDoubt,
        Some(Status::InProgress) => Meaning::Nothing,
        Some(Status::Mismatch | Status::NotExecuted | Status::Stale) => Meaning::NotExecuted,
        Some(Status::Unprotected) => of_status_code(answer.status, releases_503),
        // It says something that this version does not know.
        None => Meaning::InDoubt,
    }
}

/// Whether nothing may be applied of a transaction whose handler answered so: a refusal for good.
pub(super) fn applies_nothing(answer: &Parts) -> bool {
    answer.status.is_client_error() || answer.status.is_server_error()
}

fn of_status_code(code: StatusCode, releases_503: bool) -> Meaning {
    match code {
        StatusCode::UNAUTHORIZED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => Meaning::NotExecuted,
        StatusCode::SERVICE_UNAVAILABLE if releases_503 => Meaning::NotExecuted,
        // The request was there in time, so it is a layer inside that says so, and has dropped the
        // handler wherever that was.
        StatusCode::REQUEST_TIMEOUT => Meaning::InDoubt,
        code if code.as_u16() < 500 => Meaning::Final,
        _ => Meaning::InDoubt,
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn answer(code: u16) -> Parts {
        let response = Response::builder().status(code).body(()).unwrap();
        response.into_parts().0
    }

    // D1, D2, D3, D4
    #[test]
    fn an_answer_is_final_below_500_and_free_where_nothing_can_have_happened() {
        for code in 100..1000 {
            let expected = match code {
                401 | 407 | 421 | 425 | 429 => Meaning::NotExecuted,
                408 | 500.. => Meaning::InDoubt,
                _ => Meaning::Final,
            };
            assert_eq!(meaning(&answer(code), false), expected, "{code}");
        }
        assert_eq!(meaning(&answer(503), true), Meaning::NotExecuted);
        assert_eq!(meaning(&answer(500), true), Meaning::InDoubt);
    }

    #[test]
    fn a_handlers_word_counts_before_its_code() {
        let mut free = answer(409);
        free.extensions.insert(NotExecuted);
        assert_eq!(meaning(&free, false), Meaning::NotExecuted);
        let mut final_ = answer(500);
        final_.extensions.insert(Definitive);
        assert_eq!(meaning(&final_, false), Meaning::Final);
        final_.extensions.insert(NotExecuted);
        assert_eq!(meaning(&final_, false), Meaning::Final);
    }

    #[test]
    fn an_upstreams_word_frees_the_key_only_where_nothing_was_executed() {
        let said = |code, status: &'static str| {
            let mut answer = answer(code);
            let value = http::HeaderValue::from_static(status);
            answer.headers.insert(names::STATUS, value);
            meaning(&answer, false)
        };
        for status in Status::ALL {
            let expected = match status {
                Status::InDoubt | Status::InProgress => Meaning::Nothing,
                Status::Mismatch | Status::NotExecuted | Status::Stale => Meaning::NotExecuted,
                _ => Meaning::Final,
            };
            assert_eq!(said(409, status.as_str()), expected, "{status:?}");
        }
        assert_eq!(said(500, "in-doubt"), Meaning::InDoubt);
        assert_eq!(said(500, "executed"), Meaning::Final);
        assert_eq!(said(500, "unprotected"), Meaning::InDoubt);
        assert_eq!(said(200, "perhaps"), Meaning::InDoubt);
    }
}
