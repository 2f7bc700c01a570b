//! `Idempotency-Status`: how a caller got its answer.

use http::{HeaderMap, HeaderValue};

use super::names;

/// What `Idempotency-Status` says. Clients read it before the status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// From the execution that another attempt began.
    Attached,
    /// The handler ran, and its answer is recorded.
    Executed,
    /// The handler ran, but its answer is not recorded: the key is in doubt.
    ExecutedUnrecorded,
    /// Nobody knows whether the effect happened.
    InDoubt,
    /// The call is being executed.
    InProgress,
    /// The key was first used with another request.
    Mismatch,
    /// This attempt was not executed.
    NotExecuted,
    /// From the record.
    Replayed,
    /// Older than what the server remembers, acknowledged, or sealed. Not executed, and never will be.
    Stale,
    /// Requests like this one may be executed any number of times.
    Unprotected,
}

// === impl Status ===

impl Status {
    /// Every status.
    pub const ALL: [Self; 10] = [
        Self::Attached,
        Self::Executed,
        Self::ExecutedUnrecorded,
        Self::InDoubt,
        Self::InProgress,
        Self::Mismatch,
        Self::NotExecuted,
        Self::Replayed,
        Self::Stale,
        Self::Unprotected,
    ];

    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Executed => "executed",
            Self::ExecutedUnrecorded => "executed; unrecorded",
            Self::InDoubt => "in-doubt",
            Self::InProgress => "in-progress",
            Self::Mismatch => "mismatch",
            Self::NotExecuted => "not-executed",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Unprotected => "unprotected",
        }
    }

    /// The header's value.
    #[must_use]
    pub const fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }

    /// What the header says; `None` where there is none, more than one, or one that is not known.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(names::STATUS).iter();
        let (value, more) = (values.next()?, values.next());
        if more.is_some() {
            return None;
        }
        let value = value.to_str().ok()?;
        let same = |status: &Self| {
            let (known, said) = (status.as_str().split(';'), value.split(';'));
            known.map(str::trim).eq(said.map(str::trim))
        };
        Self::ALL.into_iter().find(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_read_as_it_was_written() {
        for status in Status::ALL {
            let mut headers = HeaderMap::new();
            headers.insert(names::STATUS, status.header_value());
            assert_eq!(Status::of(&headers), Some(status));
        }
    }

    #[test]
    fn what_is_not_known_or_said_twice_is_no_status() {
        let mut headers = HeaderMap::new();
        assert_eq!(Status::of(&headers), None);
        headers.append(names::STATUS, HeaderValue::from_static("perhaps"));
        assert_eq!(Status::of(&headers), None);
        headers.insert(names::STATUS, Status::Executed.header_value());
        headers.append(names::STATUS, Status::InDoubt.header_value());
        assert_eq!(Status::of(&headers), None);
        headers.insert(
            names::STATUS,
            HeaderValue::from_static("executed;unrecorded"),
        );
        assert_eq!(Status::of(&headers), Some(Status::ExecutedUnrecorded));
    }
}
