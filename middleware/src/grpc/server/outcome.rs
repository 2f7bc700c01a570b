//! What a handler's answer means for the key. Pure.

use http::HeaderMap;
use http::response::Parts;

use super::declaration::NeverEntered;
use crate::grpc::Code;
use crate::http::server::outcome::Meaning;
use crate::http::{Contents, Definitive, NotExecuted, Status, names};

/// What a complete answer means; without `contents` it is too large to be kept, and only what the
/// handler declared speaks.
///
/// A handler mostly hands on the status of a server that it called (`?`) as its own. So a code frees
/// the key only where the method's author said that it means so here, whoever it comes from. That
/// another server of ours did not execute *its* call says nothing of what this handler did before.
pub(super) fn meaning(answer: &Parts, contents: Option<&Contents>, releases: &[Code]) -> Meaning {
    if answer.extensions.get::<Definitive>().is_some() {
        return Meaning::Final;
    }
    if answer.extensions.get::<NotExecuted>().is_some() {
        return Meaning::NotExecuted;
    }
    if hands_on_a_doubt(&answer.headers) {
        return Meaning::InDoubt;
    }
    let code = contents.and_then(|contents| Code::ending(&answer.headers, contents));
    let never_entered = answer.extensions.get::<NeverEntered>().is_some();
    match code {
        // A success is somebody's, also where its handler forgot to enter.
        Some(code) if never_entered && code != Code::Ok => Meaning::NotExecuted,
        Some(code) if releases.contains(&code) => Meaning::NotExecuted,
        Some(
            Code::Ok
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unimplemented,
        ) => Meaning::Final,
        Some(
            Code::Aborted
            | Code::Cancelled
            | Code::DataLoss
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::Unavailable
            | Code::Unknown,
        )
        | None => Meaning::InDoubt,
    }
}

/// Whether a transaction whose handler answered so applies nothing: anything but a success.
pub(super) fn applies_nothing(answer: &Parts, contents: Option<&Contents>) -> bool {
    // Of an answer that is too large nothing is committed anyway.
    contents.and_then(|contents| Code::ending(&answer.headers, contents)) != Some(Code::Ok)
}

/// Whether it is the word of another server of ours that does not know, or is not done.
fn hands_on_a_doubt(headers: &HeaderMap) -> bool {
    let said = Status::of(headers);
    headers.contains_key(names::STATUS)
        && matches!(said, None | Some(Status::InDoubt | Status::InProgress))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, Response};

    use super::*;
    use crate::grpc::names as grpc;

    fn answer(code: Option<Code>) -> (Parts, Contents) {
        let (parts, ()) = Response::new(()).into_parts();
        let mut trailers = HeaderMap::new();
        if let Some(code) = code {
            trailers.insert(grpc::STATUS, HeaderValue::from(u16::from(code.number())));
        }
        let contents = Contents {
            bytes: Bytes::from_static(b"message"),
            trailers: Some(trailers),
        };
        (parts, contents)
    }

    // D1, D2, D3, D4
    #[test]
    fn every_code_is_final_or_in_doubt_and_free_only_where_that_is_said() {
        for code in Code::ALL {
            let (parts, contents) = answer(Some(code));
            let expected = match code.number() {
                0 | 3 | 5 | 6 | 7 | 9 | 11 | 12 => Meaning::Final,
                _ => Meaning::InDoubt,
            };
            assert_eq!(meaning(&parts, Some(&contents), &[]), expected, "{code:?}");
            let released = meaning(&parts, Some(&contents), &[code]);
            assert_eq!(released, Meaning::NotExecuted, "{code:?}");
        }
        let (parts, contents) = answer(None);
        let silent = meaning(&parts, Some(&contents), &Code::ALL);
        assert_eq!(silent, Meaning::InDoubt);
        assert_eq!(meaning(&parts, None, &Code::ALL), Meaning::InDoubt);
    }

    #[test]
    fn a_handlers_word_counts_before_its_code() {
        let (mut parts, contents) = answer(Some(Code::Internal));
        parts.extensions.insert(NotExecuted);
        let said = |parts: &Parts| meaning(parts, Some(&contents), &[Code::Internal]);
        assert_eq!(said(&parts), Meaning::NotExecuted);
        parts.extensions.insert(Definitive);
        assert_eq!(said(&parts), Meaning::Final);
    }

    #[test]
    fn a_run_that_was_never_entered_frees_the_key_unless_it_succeeded() {
        for code in Code::ALL {
            let (mut parts, contents) = answer(Some(code));
            parts.extensions.insert(NeverEntered);
            let expected = match code {
                Code::Ok => Meaning::Final,
                _ => Meaning::NotExecuted,
            };
            assert_eq!(meaning(&parts, Some(&contents), &[]), expected, "{code:?}");
            // Nobody knows whether it is a success.
            assert_eq!(meaning(&parts, None, &[]), Meaning::InDoubt, "{code:?}");
            parts.extensions.insert(Definitive);
            assert_eq!(meaning(&parts, Some(&contents), &[]), Meaning::Final);
        }
        let (mut parts, contents) = answer(None);
        parts.extensions.insert(NeverEntered);
        assert_eq!(meaning(&parts, Some(&contents), &[]), Meaning::InDoubt);
    }

    #[test]
    fn another_servers_word_never_frees_the_key() {
        for status in Status::ALL {
            for code in Code::ALL {
                let (mut parts, contents) = answer(Some(code));
                let without = meaning(&parts, Some(&contents), &[]);
                parts.headers.insert(names::STATUS, status.header_value());
                let with = meaning(&parts, Some(&contents), &[]);
                assert_ne!(with, Meaning::NotExecuted, "{status:?} {code:?}");
                let doubtful = matches!(status, Status::InDoubt | Status::InProgress);
                let expected = if doubtful { Meaning::InDoubt } else { without };
                assert_eq!(with, expected, "{status:?} {code:?}");
            }
        }
    }

    #[test]
    fn a_transaction_applies_something_only_with_a_success() {
        for code in Code::ALL {
            let (parts, contents) = answer(Some(code));
            let nothing = applies_nothing(&parts, Some(&contents));
            assert_eq!(nothing, code != Code::Ok, "{code:?}");
        }
        let (parts, _) = answer(Some(Code::Ok));
        assert!(applies_nothing(&parts, None));
    }
}
