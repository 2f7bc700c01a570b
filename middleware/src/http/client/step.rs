//! What a step of a journaled handler says of a call that it has made.

use http::Response;

use super::TransportError;
use crate::client::{CallError, Outcome};
use crate::http::Body;
use crate::server::Unfinished;

/// A step whose call has no answer has no result: `?` says why.
///
/// ```
/// use bytes::Bytes;
/// use http::Request;
/// use onlyonce_middleware::http::{Body, client::Client};
/// use onlyonce_middleware::server::{StepError, Steps, Unfinished};
///
/// async fn charge(steps: &Steps, bank: &Client) -> Result<Bytes, StepError> {
///     let charge = steps.run_keyed("charge", async |run| {
///         let mut request = Request::new(Body::from("10 EUR"));
///         *request.uri_mut() = http::Uri::from_static("http://bank.example/charges");
///         *request.method_mut() = http::Method::POST;
///         request.extensions_mut().insert(run.key);
///         let answer = bank.send(request).await?;
///         Ok(Bytes::from(answer.status().as_str().to_owned()))
///     });
///     charge.await
/// }
/// # let _ = charge;
/// ```
impl From<CallError<Response<Body>, TransportError>> for Unfinished {
    fn from(error: CallError<Response<Body>, TransportError>) -> Self {
        // Without the transport's error, in whose text the address may stand.
        let (outcome, stopped) = (error.outcome, error.stopped);
        let why = format!("{outcome} after {} attempts: {stopped}", error.attempts);
        match outcome {
            Outcome::NotExecuted => Self::NotExecuted(why),
            Outcome::InDoubt | Outcome::Unknown => Self::Unknown(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use onlyonce_storage::IdempotencyKey;

    use super::*;
    use crate::client::{Last, Stopped, Ticket};

    #[test]
    fn only_a_call_that_was_turned_away_each_time_is_a_step_that_was_not_executed() {
        for (outcome, not_executed) in [
            (Outcome::NotExecuted, true),
            (Outcome::InDoubt, false),
            (Outcome::Unknown, false),
        ] {
            let error = CallError {
                outcome,
                ticket: Ticket::never_sent(IdempotencyKey::parse("s3cret").unwrap()),
                attempts: 3,
                stopped: Stopped::Attempts,
                last: Last::Error(TransportError::unknown("http://s3cret.example/")),
            };
            let said = Unfinished::from(error);
            let (Unfinished::NotExecuted(why) | Unfinished::Unknown(why)) = &said;
            assert!(!why.contains("s3cret"), "{why}");
            assert_eq!(matches!(said, Unfinished::NotExecuted(_)), not_executed);
        }
    }
}
