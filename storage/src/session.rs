//! Sessions: what lets a store forget a call as soon as its caller has the answer.
//!
//! A client whose keys nobody else knows numbers its calls. With each it says below which number
//! every call has been answered to its caller. The store keeps that number, durably, so it can
//! forget those calls at once: a late duplicate of one of them is recognised by its number, is
//! stale, and is never executed.
//!
//! So what is kept of a session is bounded by what is in flight: at most [`SESSION_WINDOW`] calls.
//! A key that is used in a session must not be used outside of it, nor under another number: when
//! it was acknowledged, nothing is left to recognise it by.

/// What a client asks about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionRequest {
    /// Every call of the session below this number was answered to its caller.
    Acknowledge {
        /// The session.
        session: u64,
        /// The number.
        first_unanswered: u64,
    },
    /// A new one.
    Open,
    /// Go on with this one.
    Resume {
        /// The session.
        session: u64,
    },
}

/// What a store answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// It was not used for too long. Its calls are remembered like any other.
    Expired,
    /// It is there.
    Live {
        /// The session: above 0, and never given twice by one store.
        session: u64,
        /// Calls below this number are stale.
        first_unanswered: u64,
    },
    /// The scope, or the store, has as many sessions as it may have. Nothing was opened: calls
    /// without a session go on as before.
    TooMany {
        /// As many as that.
        limit: usize,
    },
    /// This store, for this principal, never gave such a session.
    Unknown,
    /// This store has no sessions.
    Unsupported,
}

/// How many numbers lie between the first unanswered call of a session and the newest that is
/// executed: four times the calls that a connection has in flight by default, so that one slow call
/// does not hold up the others for long. A part of the protocol: both sides count with it.
pub const SESSION_WINDOW: u64 = 1_024;
