//! What of a handler's answer is recorded, and what is told of it: the same over HTTP and gRPC.

use http::response::Parts;
use http::{HeaderMap, HeaderName, Request, Response};
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{Answer, AnswerFormat};

use super::answer::Recorded;
use super::fidelity::{kept, kept_without_body};
use super::handler::{Failure, Kept};
use super::outcome::Meaning;
use crate::http::{Body, Contents, names, try_clone_request};
use crate::server::{Execution, Outcome, Recording, Steps};

/// The answer that a run came to, and what there is of it; `None` where it failed without, or its body
/// was cut.
pub(crate) fn answered(result: Result<Response<Body>, Failure>) -> Option<(Parts, Body, Kept)> {
    let (mut parts, body) = result.ok()?.into_parts();
    match parts.extensions.remove().unwrap_or(Kept::NotWhole) {
        Kept::Cut => None,
        kept => Some((parts, body, kept)),
    }
}

/// What is recorded of a run that came to no answer, before or after its effect.
pub(crate) const fn nothing() -> Recording<Response<Body>> {
    Recording {
        outcome: Outcome::InDoubt(None),
        response: None,
    }
}

/// What becomes of a call whose answer means this; `answer` makes its bytes, if it can be kept.
pub(crate) fn outcome(meaning: Meaning, answer: impl FnOnce() -> Option<Answer>) -> Outcome {
    match meaning {
        Meaning::Final => answer().map_or(Outcome::Unrecorded, Outcome::Record),
        Meaning::InDoubt => {
            answer().map_or(Outcome::Unrecorded, |answer| Outcome::InDoubt(Some(answer)))
        }
        Meaning::Nothing => Outcome::InDoubt(None),
        Meaning::NotExecuted => Outcome::NotExecuted,
    }
}

/// The bytes of an answer, of its head alone where there are no `contents`; `None` where they are more
/// than `bytes_max`.
pub(crate) fn encode(
    format: AnswerFormat,
    parts: &Parts,
    contents: Option<&Contents>,
    withheld: &[HeaderName],
    bytes_max: usize,
) -> Option<Answer> {
    let recorded = Recorded {
        status: parts.status,
        headers: match contents {
            Some(_) => kept(&parts.headers, withheld),
            None => kept_without_body(&parts.headers, withheld),
        },
        contents: contents.map_or_else(Contents::default, |contents| Contents {
            bytes: contents.bytes.clone(),
            trailers: contents
                .trailers
                .as_ref()
                .map(|lines| kept(lines, withheld)),
        }),
    };
    let bytes = recorded.encode()?;
    (bytes.len() <= bytes_max).then(|| Answer::new(format, bytes))
}

/// Says of an answer that is withheld what became of the call, as the `kept` one does: told as not
/// executed, its client would make it anew.
pub(crate) fn say_as_kept(headers: &mut HeaderMap, kept: &HeaderMap) {
    for name in [names::STATUS, names::REPLAYED] {
        if let Some(value) = kept.get(&name) {
            headers.insert(name, value.clone());
        }
    }
}

/// The request of one run in a transaction; `None` where it cannot be had again.
pub(crate) fn in_transaction(
    request: &Request<Body>,
    execution: Execution,
    transaction: &Transaction,
) -> Option<Request<Body>> {
    let mut again = try_clone_request(request)?;
    again.extensions_mut().insert(execution);
    again.extensions_mut().insert(transaction.clone());
    Some(again)
}

/// The request of one run of a journaled handler.
pub(crate) fn with_steps(
    mut request: Request<Body>,
    execution: Execution,
    steps: &Steps,
) -> Request<Body> {
    request.extensions_mut().insert(execution);
    request.extensions_mut().insert(steps.clone());
    request
}
