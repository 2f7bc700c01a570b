//! A row a call, and a row an effect.

use super::report::Figures;

/// A row that is not there.
pub(super) const NONE: u32 = u32::MAX;

/// A time that never came.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Call {
    pub(super) payload: u64,
    pub(super) invoked_us: u64,
    /// When the client first had a definitive answer.
    pub(super) settled_us: u64,
    /// When the client has asked for the last time, as far as it shows: when it began, came back, or
    /// went on after an ending.
    pub(super) asked_us: u64,
    /// The first definitive answer.
    pub(super) definitive: u64,
    /// The last one of its effects; they are a chain.
    pub(super) effect: u32,
    pub(super) attempts: u32,
    /// The last one of its denials; they are a chain.
    pub(super) denial: u32,
    pub(super) flags: u16,
}

/// An ending that says of a call that nobody knows, or that it was not executed.
#[derive(Debug)]
pub(super) struct Denial {
    /// Since when what it says of the key can have been asked at the earliest; the beginning of time where
    /// it says nothing of the key.
    pub(super) asked_us: u64,
    pub(super) ended_us: u64,
    /// Whether the same call had been given a recorded answer before.
    pub(super) answered: bool,
    /// The denial of the same call before it.
    pub(super) next: u32,
}

#[derive(Debug)]
pub(super) struct Effect {
    pub(super) payload: u64,
    pub(super) answer: u64,
    pub(super) index: u64,
    /// When it was committed; [`NEVER`] where that is not known.
    committed_us: u64,
    /// The effect of the same call before it.
    pub(super) next: u32,
    pub(super) call: u32,
}

// === impl Call ===

impl Call {
    pub(super) const ANSWERED: u16 = 1;
    pub(super) const DECLINED: u16 = 1 << 1;
    pub(super) const REFUSED: u16 = 1 << 2;
    pub(super) const IN_DOUBT: u16 = 1 << 3;
    pub(super) const UNKNOWN: u16 = 1 << 4;
    /// Two of its definitive answers differ.
    pub(super) const DIVERGED: u16 = 1 << 5;
    /// The first definitive answer is a refusal for good.
    pub(super) const DECLINED_FIRST: u16 = 1 << 6;
    /// The client gave up while faults were still striking, and nothing was heard of it since.
    pub(super) const GAVE_UP: u16 = 1 << 7;
    /// Other calls have its key.
    pub(super) const TWIN: u16 = 1 << 8;
    /// It is the first one of them.
    pub(super) const FIRST: u16 = 1 << 9;
    /// The answer that its client is about to be told was not recorded.
    pub(super) const UNRECORDED: u16 = 1 << 10;
    /// Its first definitive answer was not recorded.
    pub(super) const UNRECORDED_FIRST: u16 = 1 << 11;
    /// The client gave up when it had been told that the store that knew of the call is gone, and did not come
    /// back. (A request of before may still leave.)
    pub(super) const NOBODY_LEFT: u16 = 1 << 12;
    /// It was told so.
    pub(super) const TOLD_OF_OTHER_STORE: u16 = 1 << 13;

    pub(super) const fn new(payload: u64, invoked_us: u64) -> Self {
        Self {
            payload,
            invoked_us,
            settled_us: NEVER,
            asked_us: invoked_us,
            definitive: 0,
            effect: NONE,
            attempts: 0,
            denial: NONE,
            flags: 0,
        }
    }

    pub(super) const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// The first definitive answer: whether it promises an effect, and its digest.
    pub(super) fn definitive(&self) -> Option<(bool, u64)> {
        self.has(Self::ANSWERED | Self::DECLINED)
            .then(|| (!self.has(Self::DECLINED_FIRST), self.definitive))
    }

    /// The client has handed an attempt to the wire.
    pub(super) fn sent(&mut self, attempt: u32) {
        if attempt > self.attempts {
            self.attempts = attempt;
            // Something was heard of the client: if it had given up, it has not.
            self.flags &= !Self::GAVE_UP;
        }
    }

    /// The client asks again, and waits for nothing that it had asked before.
    pub(super) const fn came_back(&mut self, at_us: u64) {
        self.flags &= !(Self::GAVE_UP | Self::NOBODY_LEFT);
        self.asked_us = at_us;
    }

    /// The client was told that nobody is left who knows.
    pub(super) const fn told_of_other_store(&mut self) {
        self.flags |= Self::TOLD_OF_OTHER_STORE;
    }

    /// Counts a call once, by the most that its client got to know.
    pub(super) fn count(&self, figures: &mut Figures) {
        figures.attempts += u64::from(self.attempts);
        let counter = if self.has(Self::ANSWERED) {
            &mut figures.answered
        } else if self.has(Self::DECLINED) {
            &mut figures.declined
        } else if self.has(Self::REFUSED) {
            &mut figures.refused
        } else if self.has(Self::IN_DOUBT) {
            &mut figures.in_doubt
        } else if self.has(Self::UNKNOWN) {
            &mut figures.unknown
        } else {
            &mut figures.open
        };
        *counter += 1;
    }
}

// === impl Effect ===

impl Effect {
    /// An effect of nobody's, until [`Rows::effect`](super::rows::Rows::effect) knows better.
    pub(super) fn new(payload: u64, answer: u64, index: u64, at_us: Option<u64>) -> Self {
        Self {
            payload,
            answer,
            index,
            committed_us: at_us.unwrap_or(NEVER),
            next: NONE,
            call: NONE,
        }
    }

    /// When it was committed, if that is known.
    pub(super) fn at_us(&self) -> Option<u64> {
        (self.committed_us != NEVER).then_some(self.committed_us)
    }

    /// The call that it belongs to.
    pub(super) fn call(&self) -> Option<u32> {
        (self.call != NONE).then_some(self.call)
    }
}
