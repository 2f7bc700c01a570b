//! The names of the header fields.

use http::HeaderName;

/// How many attempts the client has begun of the call, from 1. On requests.
pub const ATTEMPT: HeaderName = HeaderName::from_static("idempotency-attempt");

/// The milliseconds that are left until the call's deadline, when the attempt is sent. On requests.
pub const DEADLINE_MS: HeaderName = HeaderName::from_static("idempotency-deadline-ms");

/// When the call was first sent, in milliseconds on the clock of the server's store; the same on
/// every attempt. On requests.
pub const FIRST_SENT: HeaderName = HeaderName::from_static("idempotency-first-sent");

/// The idempotency key. On requests.
pub const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `true` on answers that come from the record or from the execution of another attempt.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The milliseconds after which asking again is of use; beside `Retry-After`, which has seconds only.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Session, place in it, and first unanswered place: three numbers. On requests.
pub const SESSION: HeaderName = HeaderName::from_static("idempotency-session");

/// How the caller got its answer: see [`Status`](super::Status). On responses.
pub const STATUS: HeaderName = HeaderName::from_static("idempotency-status");

/// On responses the identity of the server's store, with its clock's time; on requests the identity
/// of the store that the first attempt met. See [`ServingStore`](super::ServingStore).
pub const STORE: HeaderName = HeaderName::from_static("idempotency-store");
