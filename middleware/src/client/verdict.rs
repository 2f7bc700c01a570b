//! What one attempt's result means for the call.

use std::time::Duration;

/// What to make of the result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the call's answer, whatever it says.
    Accept,
    /// The peer says that the outcome is unknown. Never retried.
    InDoubt,
    /// It is a refusal that another attempt would meet again. Never retried.
    Refuse(Executed),
    /// Another attempt may fare better.
    Retry(Advice),
}

/// What a result without an answer proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// No attempt with these bytes was or will be executed (for example: the key was settled with
    /// another request; one that is still in progress may yet leave it free). It says nothing of what
    /// was sent before this call began: that may have been other bytes.
    Never,
    /// This attempt was not executed; nothing is said of earlier ones.
    NotThisAttempt,
    /// This attempt may have been executed.
    Unknown,
}

/// How to go on after an attempt that may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What the result proves.
    pub executed: Executed,
    /// What the peer asked for.
    pub pushback: Pushback,
    /// What the next attempt costs.
    pub cost: Cost,
}

/// What the peer said about when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this has passed.
    After(Duration),
    /// Nothing.
    Silent,
    /// Not at all, or something that cannot be read.
    Stop,
    /// It has too much to do, but did not say for how long.
    Overloaded,
}

/// What an attempt costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// One of the call's attempts, and one retry of the budget.
    Attempt,
    /// Nothing but the deadline: the call is being executed, and only its answer is waited for.
    OnlyTime,
}

impl Verdict {
    /// Retry, after an attempt that was provably not executed.
    pub const RETRY_NOT_EXECUTED: Self = Self::Retry(Advice {
        executed: Executed::NotThisAttempt,
        pushback: Pushback::Silent,
        cost: Cost::Attempt,
    });

    /// Retry, after an attempt that may have been executed.
    pub const RETRY_UNKNOWN: Self = Self::Retry(Advice {
        executed: Executed::Unknown,
        pushback: Pushback::Silent,
        cost: Cost::Attempt,
    });
}
