//! What a reply says became of the call.

use std::fmt;

/// What became of a call, or why it has no answer.
///
/// Each has a number on the wire that never changes and is never used again for another one. A
/// status that this version does not know is a protocol error, never taken for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The answer is larger than the connection carries. The call was or may have been executed.
    AnswerTooLarge,
    /// The method exists, but its arguments cannot be decoded. Not executed.
    ArgumentsMalformed,
    /// The answer, from the execution that another attempt began.
    Attached,
    /// The deadline passed while the handler runs; it runs on.
    DeadlineInProgress,
    /// The deadline passed first. This attempt was not executed.
    DeadlineNotExecuted,
    /// The answer: the handler ran, and the answer is recorded.
    Executed,
    /// The answer: the handler ran, but the answer could not be recorded. The key is in doubt.
    ExecutedUnrecorded,
    /// The client says that it first sent the call further in the future than clocks may differ.
    FirstSentAhead,
    /// Nobody knows whether the effect happened, and no answer is kept.
    InDoubt,
    /// The answer that was kept of a call in doubt.
    InDoubtAnswered,
    /// Somebody is executing the call, and its answer did not come in time.
    InProgress,
    /// What was sent as a key is none.
    KeyMalformed,
    /// The method needs a key, and none was sent.
    KeyMissing,
    /// The call is bound to another store than this server's. This attempt was not executed.
    Misdirected,
    /// The key was first used with another request.
    Mismatch,
    /// This attempt was not executed; the body is a text that says why.
    NotExecuted,
    /// The handler's answer, which says that nothing was executed.
    NotExecutedAnswered,
    /// The scope has as many calls in progress or in doubt as it may have. Not executed.
    OverQuota,
    /// The answer, from the record.
    Replayed,
    /// The call's session was not used for too long, and nothing is known of its key. This attempt
    /// was not executed.
    SessionExpired,
    /// The call is older than what the server remembers, acknowledged in its session, or sealed. This attempt was not executed and
    /// none will be; an earlier one may have been.
    Stale,
    /// The answer to [`Verb::Peek`](super::Verb::Peek) and [`Verb::Seal`](super::Verb::Seal).
    State,
    /// The arguments are larger than the server takes. Not executed.
    TooLarge,
    /// The store or the server is not able. This attempt was not executed.
    Unavailable,
    /// No such method. Not executed.
    UnknownMethod,
    /// The call's session was never given to its principal. This attempt was not executed.
    UnknownSession,
    /// The answer of a method that is not protected.
    Unprotected,
    /// The call is too far ahead of the first unanswered one of its session. This attempt was not
    /// executed.
    WindowFull,
}

impl Status {
    /// Every status, in the order of the names.
    pub const ALL: &'static [Self] = &[
        Self::AnswerTooLarge,
        Self::ArgumentsMalformed,
        Self::Attached,
        Self::DeadlineInProgress,
        Self::DeadlineNotExecuted,
        Self::Executed,
        Self::ExecutedUnrecorded,
        Self::FirstSentAhead,
        Self::InDoubt,
        Self::InDoubtAnswered,
        Self::InProgress,
        Self::KeyMalformed,
        Self::KeyMissing,
        Self::Misdirected,
        Self::Mismatch,
        Self::NotExecuted,
        Self::NotExecutedAnswered,
        Self::OverQuota,
        Self::Replayed,
        Self::SessionExpired,
        Self::Stale,
        Self::State,
        Self::TooLarge,
        Self::Unavailable,
        Self::UnknownMethod,
        Self::UnknownSession,
        Self::Unprotected,
        Self::WindowFull,
    ];

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Executed => 1,
            Self::ExecutedUnrecorded => 2,
            Self::Replayed => 3,
            Self::Attached => 4,
            Self::Unprotected => 5,
            Self::InDoubtAnswered => 6,
            Self::NotExecutedAnswered => 7,
            Self::State => 8,
            Self::InProgress => 16,
            Self::InDoubt => 17,
            Self::Mismatch => 18,
            Self::Stale => 19,
            Self::Misdirected => 20,
            Self::NotExecuted => 21,
            Self::KeyMissing => 22,
            Self::KeyMalformed => 23,
            Self::FirstSentAhead => 24,
            Self::TooLarge => 25,
            Self::OverQuota => 26,
            Self::Unavailable => 27,
            Self::DeadlineNotExecuted => 28,
            Self::DeadlineInProgress => 29,
            Self::UnknownMethod => 30,
            Self::ArgumentsMalformed => 31,
            Self::AnswerTooLarge => 32,
            Self::SessionExpired => 33,
            Self::UnknownSession => 34,
            Self::WindowFull => 35,
        }
    }

    /// The status with this number, if this version knows one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|status| status.number() == number)
    }

    /// Whether it says that the request itself is wrong, and another one would do better.
    pub(super) const fn is_wrong_request(self) -> bool {
        matches!(
            self,
            Self::ArgumentsMalformed
                | Self::FirstSentAhead
                | Self::KeyMalformed
                | Self::KeyMissing
                | Self::Mismatch
                | Self::TooLarge
                | Self::UnknownMethod
        )
    }

    /// Whether the reply's body is an answer that a handler gave, not a text for humans.
    #[must_use]
    pub const fn carries_answer(self) -> bool {
        matches!(
            self,
            Self::Attached
                | Self::Executed
                | Self::ExecutedUnrecorded
                | Self::InDoubtAnswered
                | Self::NotExecutedAnswered
                | Self::Replayed
                | Self::Unprotected
        )
    }

    /// The word for metrics, and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AnswerTooLarge => "answer-too-large",
            Self::ArgumentsMalformed => "arguments-malformed",
            Self::Attached => "attached",
            Self::DeadlineInProgress => "deadline-in-progress",
            Self::DeadlineNotExecuted => "deadline-not-executed",
            Self::Executed => "executed",
            Self::ExecutedUnrecorded => "executed-unrecorded",
            Self::FirstSentAhead => "first-sent-ahead",
            Self::InDoubt => "in-doubt",
            Self::InDoubtAnswered => "in-doubt-answered",
            Self::InProgress => "in-progress",
            Self::KeyMalformed => "key-malformed",
            Self::KeyMissing => "key-missing",
            Self::Misdirected => "misdirected",
            Self::Mismatch => "mismatch",
            Self::NotExecuted => "not-executed",
            Self::NotExecutedAnswered => "not-executed-answered",
            Self::OverQuota => "over-quota",
            Self::Replayed => "replayed",
            Self::SessionExpired => "session-expired",
            Self::Stale => "stale",
            Self::State => "state",
            Self::TooLarge => "too-large",
            Self::Unavailable => "unavailable",
            Self::UnknownMethod => "unknown-method",
            Self::UnknownSession => "unknown-session",
            Self::Unprotected => "unprotected",
            Self::WindowFull => "window-full",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_number_of_its_own() {
        for status in Status::ALL {
            assert_eq!(Status::from_number(status.number()), Some(*status));
        }
        assert_eq!(Status::ALL.len(), 28);
        assert_eq!(Status::from_number(0), None);
        assert_eq!(Status::from_number(255), None);
    }

    #[test]
    fn numbers_never_change() {
        let mut numbers: Vec<_> = Status::ALL
            .iter()
            .map(|status| (status.number(), status.name()))
            .collect();
        numbers.sort_unstable();
        assert_eq!(
            numbers,
            [
                (1, "executed"),
                (2, "executed-unrecorded"),
                (3, "replayed"),
                (4, "attached"),
                (5, "unprotected"),
                (6, "in-doubt-answered"),
                (7, "not-executed-answered"),
                (8, "state"),
                (16, "in-progress"),
                (17, "in-doubt"),
                (18, "mismatch"),
                (19, "stale"),
                (20, "misdirected"),
                (21, "not-executed"),
                (22, "key-missing"),
                (23, "key-malformed"),
                (24, "first-sent-ahead"),
                (25, "too-large"),
                (26, "over-quota"),
                (27, "unavailable"),
                (28, "deadline-not-executed"),
                (29, "deadline-in-progress"),
                (30, "unknown-method"),
                (31, "arguments-malformed"),
                (32, "answer-too-large"),
                (33, "session-expired"),
                (34, "unknown-session"),
                (35, "window-full"),
            ]
        );
    }
}
