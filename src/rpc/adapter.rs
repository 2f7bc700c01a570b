//! How the tower layers speak the native protocol.

use std::convert::Infallible;
use std::time::Duration;

use super::{
    Connecting, HandshakeError, Incoming, NotSent, RefusalCode, Reply, Request, Routes, Stamp,
    Status, TransportError, Verb, journaled, state,
};
use bytes::Bytes;
use onlyonce_middleware::client::{
    self, Advice, Call, Cost, Executed, Keyed, Pushback, Ticket, Verdict,
};
use onlyonce_middleware::server::{
    self, AbandonedCall, Admission, Execution, Guarantee, Intent, Outcome, Question, Recording,
    Refusal, Served, Steps,
};
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    Answer, AnswerFormat, Fingerprint, FingerprintAlgorithm, Fingerprints, KeyState, ScopedKey,
    planted,
};

/// Adapts the client layers to the native protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientAdapter;

/// Adapts the server layers to the native protocol, for the methods of one server.
#[derive(Clone, Debug)]
pub struct ServerAdapter {
    routes: Routes,
}

// === impl ClientAdapter ===

impl client::Adapter<Request> for ClientAdapter {
    type Response = Reply;
    type Error = TransportError;

    fn ticket(&self, request: &Request) -> Option<Ticket> {
        request.ticket.clone()
    }

    fn stamp(&self, keyed: Keyed<Request>) -> Request {
        let (attempt, deadline) = (keyed.attempt(), keyed.deadline());
        let (request, call) = keyed.into_parts();
        let stamp = Stamp::new(call, attempt).deadline(deadline);
        request.stamp(stamp)
    }

    fn try_clone(&self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }

    fn classify(&self, _: &Call, result: Result<&Reply, &TransportError>) -> Verdict {
        match result {
            Ok(reply) => classify_reply(reply),
            Err(error) if is_final(error) => Verdict::Refuse(error.executed()),
            Err(error) => Verdict::Retry(Advice {
                executed: error.executed(),
                pushback: Pushback::Silent,
                cost: Cost::Attempt,
            }),
        }
    }
}

/// What each status means for the call. `retry_after` is a floor.
fn classify_reply(reply: &Reply) -> Verdict {
    let hint = |otherwise| reply.retry_after.map_or(otherwise, Pushback::After);
    let retry = |executed, pushback, cost| {
        Verdict::Retry(Advice {
            executed,
            pushback,
            cost,
        })
    };
    match reply.status {
        Status::Executed
        | Status::ExecutedUnrecorded
        | Status::Replayed
        | Status::Attached
        | Status::Unprotected
        | Status::State => Verdict::Accept,
        Status::InDoubt | Status::InDoubtAnswered if planted!(DoubtRetried) => {
            retry(Executed::NotThisAttempt, Pushback::Silent, Cost::Attempt)
        }
        Status::InDoubt | Status::InDoubtAnswered => Verdict::InDoubt,
        Status::InProgress => retry(Executed::Unknown, hint(Pushback::Silent), Cost::OnlyTime),
        Status::DeadlineInProgress => {
            retry(Executed::Unknown, hint(Pushback::Silent), Cost::Attempt)
        }
        Status::OverQuota | Status::Unavailable | Status::WindowFull => retry(
            Executed::NotThisAttempt,
            hint(Pushback::Overloaded),
            Cost::Attempt,
        ),
        // The channel goes on in another session after the last two, and the call in none.
        Status::NotExecuted
        | Status::NotExecutedAnswered
        | Status::DeadlineNotExecuted
        | Status::SessionExpired
        | Status::UnknownSession => retry(
            Executed::NotThisAttempt,
            hint(Pushback::Silent),
            Cost::Attempt,
        ),
        // Every attempt would meet the same answer, which is too large.
        Status::AnswerTooLarge => Verdict::Refuse(Executed::Unknown),
        // Not "never", also where the key belongs to another request: that may be in progress and
        // end without an effect, and an earlier attempt of this one arrive when the key is free.
        Status::Mismatch
        | Status::Stale
        | Status::Misdirected
        | Status::KeyMissing
        | Status::KeyMalformed
        | Status::FirstSentAhead
        | Status::TooLarge
        | Status::UnknownMethod
        | Status::ArgumentsMalformed => Verdict::Refuse(Executed::NotThisAttempt),
    }
}

/// Whether another attempt would fail in the same way.
const fn is_final(error: &TransportError) -> bool {
    match error {
        TransportError::Connect {
            source: Connecting::Handshake(error),
            ..
        } => matches!(
            error,
            HandshakeError::Version { .. }
                | HandshakeError::WrongPeer { .. }
                | HandshakeError::Refused {
                    code: RefusalCode::BadCredential,
                    ..
                }
                | HandshakeError::Refused {
                    code: RefusalCode::Version,
                    ..
                }
        ),
        TransportError::NotSent(
            NotSent::MethodLength { .. }
            | NotSent::NotNoted(_)
            | NotSent::PeerDoesNotDedupe
            | NotSent::TooLarge { .. },
        ) => true,
        _ => false,
    }
}

/// What is kept of a reply: all that a replay must have.
fn recorded(reply: &Reply) -> Answer {
    let Some(after) = reply.retry_after else {
        return Answer::new(ANSWER, reply.body.clone());
    };
    let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let mut body = millis.to_le_bytes().to_vec();
    body.extend_from_slice(&reply.body);
    Answer::new(ANSWER_ADVISED, body)
}

/// The advice and the body of a reply that was kept; `None` of what this version does not know.
fn replayed(answer: &Answer) -> Option<(Option<Duration>, Bytes)> {
    match answer.format() {
        ANSWER => Some((None, answer.body().clone())),
        ANSWER_ADVISED => {
            let (millis, _) = answer.body().split_first_chunk::<8>()?;
            let after = Duration::from_millis(u64::from_le_bytes(*millis));
            Some((Some(after), answer.body().slice(8..)))
        }
        _ => None,
    }
}

/// The body of a reply that was kept.
pub(super) fn body_of(answer: &Answer) -> Bytes {
    replayed(answer).map_or_else(|| answer.body().clone(), |(_, body)| body)
}

// === impl ServerAdapter ===

impl ServerAdapter {
    /// For the methods in `routes`.
    #[must_use]
    pub const fn new(routes: Routes) -> Self {
        Self { routes }
    }

    fn intent(&self, key: ScopedKey, incoming: &Incoming) -> Intent {
        let fingerprint = Fingerprint::builder(FINGERPRINT)
            .field("method", incoming.method.as_bytes())
            .field("arguments", &incoming.arguments)
            .finish();
        let mut intent = Intent::new(key, Fingerprints::new(fingerprint));
        intent.deadline = incoming.deadline;
        intent.first_sent = incoming.first_sent;
        intent.store = incoming.store;
        intent.session = incoming.session;
        intent.in_doubt = self.routes.in_doubt(&incoming.method, &incoming.arguments);
        intent.guarantee = self.routes.guarantee(&incoming.method);
        if intent.guarantee == Guarantee::Journaled {
            intent.stored_request = Some(journaled::stored(incoming));
        }
        intent.goes_on_from = incoming.goes_on_from;
        // Nobody else makes further attempts soon of a call that its server goes on with.
        intent.caller_retries = incoming.goes_on_from.is_none();
        intent
    }
}

impl server::Adapter for ServerAdapter {
    type Request = Incoming;
    type Response = Reply;
    type Error = Infallible;

    async fn admit(&self, incoming: Incoming) -> Admission<Incoming> {
        let guarantee = self.routes.guarantee(&incoming.method);
        if incoming.goes_on_from.is_some() && guarantee != Guarantee::Journaled {
            return Admission::Refused(Refusal::Unavailable {
                reason: "the call's method is not journaled here".to_owned(),
                retry_after: Duration::ZERO,
            });
        }
        if incoming.verb == Verb::Call && !self.routes.has_effects(&incoming.method) {
            return Admission::Unprotected(incoming);
        }
        let key = match &incoming.key {
            None => return Admission::Refused(Refusal::KeyMissing),
            Some(Err(error)) => return Admission::Refused(Refusal::KeyMalformed(*error)),
            Some(Ok(key)) => key.clone(),
        };
        // The transport admits names of 1 to 255 bytes only.
        let Ok(scope) = incoming.scope.operation(&incoming.method) else {
            return Admission::Refused(Refusal::ScopeMissing);
        };
        let key = ScopedKey::new(scope, key);
        let question = match incoming.verb {
            Verb::Call => None,
            Verb::Peek => Some(Question::Peek),
            Verb::Seal => Some(Question::Seal),
        };
        if let Some(question) = question {
            return Admission::Ask {
                question,
                key,
                first_sent: incoming.first_sent,
                deadline: incoming.deadline,
            };
        }
        Admission::Protected(self.intent(key, &incoming), incoming)
    }

    fn executing(&self, mut incoming: Incoming, execution: Execution) -> Incoming {
        incoming.execution = Some(execution);
        incoming
    }

    fn transacting(
        &self,
        incoming: &Incoming,
        execution: Execution,
        transaction: &Transaction,
    ) -> Option<Incoming> {
        let mut incoming = incoming.again();
        incoming.execution = Some(execution);
        incoming.transaction = Some(transaction.clone());
        Some(incoming)
    }

    fn journaling(
        &self,
        mut incoming: Incoming,
        execution: Execution,
        steps: &Steps,
    ) -> Option<Incoming> {
        incoming.execution = Some(execution);
        incoming.steps = Some(steps.clone());
        Some(incoming)
    }

    fn revive(&self, call: &AbandonedCall) -> Option<(Intent, Incoming)> {
        let incoming = journaled::revived(call)?;
        let intent = self.intent(call.key.clone(), &incoming);
        (intent.guarantee == Guarantee::Journaled).then_some((intent, incoming))
    }

    async fn record(&self, result: Result<Reply, Infallible>) -> Recording<Reply> {
        let Ok(reply) = result;
        let answer = || recorded(&reply);
        // A service may pass on what another server replied. Only a status that says that nothing
        // was executed frees the key: freed for any other, the next attempt would run again what
        // may have had its effect.
        let outcome = match reply.status {
            // Executed, by whomever, and this is the answer. Whether it was recorded there matters
            // no more once it is recorded here.
            Status::Attached
            | Status::Executed
            | Status::ExecutedUnrecorded
            | Status::Replayed
            | Status::Unprotected => Outcome::Record(answer()),
            Status::InDoubtAnswered => Outcome::InDoubt(Some(answer())),
            Status::AnswerTooLarge
            | Status::DeadlineInProgress
            | Status::InDoubt
            | Status::InProgress
            // The state of some key is no word about this call.
            | Status::State => Outcome::InDoubt(None),
            Status::ArgumentsMalformed
            | Status::DeadlineNotExecuted
            | Status::FirstSentAhead
            | Status::KeyMalformed
            | Status::KeyMissing
            | Status::Misdirected
            | Status::Mismatch
            | Status::NotExecuted
            | Status::NotExecutedAnswered
            | Status::OverQuota
            // Refused, whatever became of earlier attempts: this claim was given because nothing
            // is known of any.
            | Status::SessionExpired
            | Status::Stale
            | Status::TooLarge
            | Status::Unavailable
            | Status::UnknownMethod
            | Status::UnknownSession
            | Status::WindowFull => Outcome::NotExecuted,
        };
        Recording {
            outcome,
            response: Some(reply),
        }
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Reply, Refusal> {
        let Some((retry_after, body)) = replayed(answer) else {
            return Err(Refusal::Unavailable {
                reason: format!(
                    "the answer was recorded in format {} by another protocol",
                    answer.format().number()
                ),
                retry_after: Duration::from_secs(1),
            });
        };
        Ok(Reply::new(status(served), body).retry_after(retry_after))
    }

    fn mark(&self, reply: Reply, served: Served) -> Reply {
        match reply.status {
            Status::Attached
            | Status::Executed
            | Status::ExecutedUnrecorded
            | Status::Replayed
            | Status::Unprotected => Reply {
                status: status(served),
                ..reply
            },
            // What is no answer for good keeps its name.
            _ => reply,
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        let text = refusal.to_string();
        let (status, retry_after) = match refusal {
            Refusal::DeadlinePassed { executing: true } => (Status::DeadlineInProgress, None),
            Refusal::DeadlinePassed { executing: false } => (Status::DeadlineNotExecuted, None),
            Refusal::FirstSentAhead => (Status::FirstSentAhead, None),
            Refusal::InDoubt(_) if planted!(DoubtToldAsNotExecuted) => (Status::NotExecuted, None),
            Refusal::InDoubt(_) => (Status::InDoubt, None),
            Refusal::InProgress { retry_after } => (Status::InProgress, Some(*retry_after)),
            Refusal::KeyMalformed(_) => (Status::KeyMalformed, None),
            Refusal::KeyMissing | Refusal::ScopeMissing => (Status::KeyMissing, None),
            Refusal::Mismatch => (Status::Mismatch, None),
            Refusal::Misdirected { .. } => (Status::Misdirected, None),
            Refusal::OverQuota { retry_after } => (Status::OverQuota, Some(*retry_after)),
            Refusal::SessionExpired => (Status::SessionExpired, None),
            Refusal::Stale => (Status::Stale, None),
            Refusal::TooLarge { .. } => (Status::TooLarge, None),
            Refusal::Unavailable { retry_after, .. } => (Status::Unavailable, Some(*retry_after)),
            Refusal::UnknownSession => (Status::UnknownSession, None),
            Refusal::WindowFull => (Status::WindowFull, None),
            // A refusal that this version does not know executes nothing either.
            _ => (Status::NotExecuted, None),
        };
        Reply::refusal(status, text).retry_after(retry_after)
    }

    fn tell(&self, key_state: &KeyState) -> Reply {
        Reply::new(Status::State, state::encode(key_state))
    }
}

const fn status(served: Served) -> Status {
    match served {
        Served::Attached => Status::Attached,
        Served::ExecutedUnrecorded => Status::ExecutedUnrecorded,
        Served::InDoubt => Status::InDoubtAnswered,
        Served::NotExecuted => Status::NotExecutedAnswered,
        Served::Replayed => Status::Replayed,
        Served::Unprotected => Status::Unprotected,
        _ => Status::Executed,
    }
}

/// Method and arguments, as they came over the wire.
const FINGERPRINT: FingerprintAlgorithm = FingerprintAlgorithm::new(1);

/// The tagged bytes that a handler answered with.
pub(super) const ANSWER: AnswerFormat = AnswerFormat::new(1);

/// A reply that says when asking again is of use: the milliseconds (8 bytes, little endian), and its
/// body.
const ANSWER_ADVISED: AnswerFormat = AnswerFormat::new(2);
