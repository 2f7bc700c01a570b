//! The store's real records, and the small shape in which a state keeps them.
//!
//! A real record has an `Arc` for its key, a digest and the bytes of an answer: none is hashed
//! cheaply, and all are the same throughout a run. What is left out on purpose: why and since when
//! a call is in doubt, which decides nothing.

use std::sync::LazyLock;

use bytes::Bytes;
use onlyonce_storage::record::{AnswerKept, CallRecord, Record, State};
use onlyonce_storage::{
    Answer, AnswerFormat, AttemptId, DoubtReason, FencingToken, Fingerprint, FingerprintAlgorithm,
    IdempotencyKey, Lease, Scope, ScopedKey, Timestamp,
};

use crate::state::{Body, Value};

/// A record of the one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    Call {
        token: FencingToken,
        body: Body,
        claimed_at: Timestamp,
        first_sent: Option<Timestamp>,
        state: RowState,
    },
    Sealed {
        at: Timestamp,
    },
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowState {
    Completed {
        at: Timestamp,
        until: Timestamp,
        /// `None` when only the tombstone is left.
        value: Option<Value>,
    },
    InDoubt {
        value: Option<Value>,
    },
    InProgress {
        until: Timestamp,
    },
}

// === impl Row ===

impl Row {
    /// The real record.
    pub fn record(&self) -> Record {
        let (token, body, claimed_at, first_sent, state) = match self {
            Self::Sealed { at } => return Record::Sealed { at: *at },
            Self::Call {
                token,
                body,
                claimed_at,
                first_sent,
                state,
            } => (*token, *body, *claimed_at, *first_sent, state),
        };
        let state = match state {
            RowState::Completed { at, until, value } => State::Completed {
                // Who resolved a call decides nothing.
                resolved_by: None,
                at: *at,
                answer_until: *until,
                answer: value.map_or(AnswerKept::Gone, |value| AnswerKept::Here(answer(value))),
            },
            RowState::InDoubt { value } => State::InDoubt {
                since: claimed_at,
                reason: DoubtReason::OwnerGone,
                answer: value.map(|value| AnswerKept::Here(answer(value))),
            },
            RowState::InProgress { until } => State::InProgress {
                lease: Lease::until(*until),
            },
        };
        Record::Call(CallRecord {
            journal: None,
            key: key().clone(),
            fingerprint: fingerprint(body),
            token,
            attempt: AttemptId::from_bytes([0; 16]),
            claimed_at,
            first_sent,
            session: None,
            retention: None,
            state,
        })
    }

    /// The shape of a real record.
    pub fn of(record: &Record) -> Self {
        let call = match record {
            Record::Sealed { at } => return Self::Sealed { at: *at },
            Record::Call(call) => call,
        };
        let state = match &call.state {
            State::Completed {
                at,
                answer_until,
                answer,
                ..
            } => RowState::Completed {
                at: *at,
                until: *answer_until,
                value: kept(answer),
            },
            State::InDoubt { answer, .. } => RowState::InDoubt {
                value: answer.as_ref().and_then(kept),
            },
            State::InProgress { lease } => RowState::InProgress {
                until: lease.expires_at(),
            },
        };
        Self::Call {
            token: call.token,
            body: body(&call.fingerprint),
            claimed_at: call.claimed_at,
            first_sent: call.first_sent,
            state,
        }
    }

    pub const fn token(&self) -> Option<FencingToken> {
        match self {
            Self::Call { token, .. } => Some(*token),
            Self::Sealed { .. } => None,
        }
    }
}

/// The one key.
pub fn key() -> &'static ScopedKey {
    static KEY: LazyLock<ScopedKey> = LazyLock::new(|| {
        let key = IdempotencyKey::parse("the-one-key").unwrap();
        ScopedKey::new(Scope::global(), key)
    });
    &KEY
}

/// What a request with this body digests to.
pub fn fingerprint(body: Body) -> Fingerprint {
    Fingerprint::from_parts(FingerprintAlgorithm::new(1), [body; 32])
}

fn body(fingerprint: &Fingerprint) -> Body {
    fingerprint.digest()[0]
}

/// The bytes of an answer.
pub fn answer(value: Value) -> Answer {
    let bytes = Bytes::copy_from_slice(&[value.body, value.of]);
    Answer::new(AnswerFormat::new(1), bytes)
}

/// What the bytes of an answer say.
pub fn value(answer: &Answer) -> Value {
    let bytes = answer.body();
    Value {
        body: bytes[0],
        of: bytes[1],
    }
}

fn kept(answer: &AnswerKept) -> Option<Value> {
    match answer {
        AnswerKept::Here(answer) => Some(value(answer)),
        AnswerKept::Beside { .. } | AnswerKept::Gone => None,
    }
}
