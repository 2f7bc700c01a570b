//! Planted bugs, which a simulation must find: how good it is can be measured by nothing else. No
//! part of the public API.
//!
//! Without the feature `mutants` every plant is the constant `false`. With it, a plant is true where
//! its bug is planted on this thread: one run of a simulation is one thread.

/// Whether a bug is planted here and now. Written `if onlyonce_storage::planted!(NoDedupe) { .. }`.
#[cfg(feature = "mutants")]
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::mutants::is_planted($crate::mutants::Mutant::$bug)
    };
}

/// See the other definition, for the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {{
        const _: $crate::mutants::Mutant = $crate::mutants::Mutant::$bug;
        false
    }};
}

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $(#[doc = $text] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What is wrong, in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The name in the code.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

mutants! {
    AcknowledgedBeforeSync = "a completion is acknowledged before its sync",
    AnswerNotRecorded = "the answer that is recorded is empty",
    AnswerOfAnotherKey = "a replay gives the answer of the key that was completed last",
    AnswersMixedUp = "the client takes the answer of whichever call is the oldest",
    BoundToNoStore = "the client does not say which store its first attempt met",
    ClaimNotDurable = "the handler begins before its claim is durable",
    CommitWithoutCheck = "a transaction commits although what it read has changed",
    DedupeAfterEffect = "the handler runs first, and then the key is claimed",
    DoubtRetried = "the client takes a doubt for a failure that may be tried again",
    DoubtToldAsNotExecuted = "a call in doubt is told to be not executed",
    EffectApartFromRecord = "what a transaction writes goes to the disk without its record",
    FencingOff = "a token that is too old still settles the record",
    FingerprintNotCompared = "another request under the same key gets the answer of the first",
    FirstSentRefreshed = "every attempt says that the call is first sent now",
    HandlerTiedToConnection = "the handler is dropped with its caller's connection, and its key freed",
    InDoubtReRun = "a call in doubt runs again",
    IncarnationNotRaised = "an opening uses the incarnation of the one before",
    InProgressReRun = "a call in progress is given a second claim",
    KeyInsideRetry = "every attempt has a key of its own",
    LapsedLeaseFreed = "a lease that has lapsed frees its key",
    LostAnswerNotExecuted = "a call that was written and whose connection was lost counts as not sent",
    MismatchOverwrites = "another request under the same key takes over its record",
    MiscountedRelease = "a key is freed when its answer could not be recorded",
    NoDedupe = "every attempt runs the handler",
    OpenClaimsForgotten = "an opening forgets the claims that were open",
    PanicReleases = "a handler that panics frees its key",
    ReplayRunsHandler = "a replay runs the handler for its answer",
    RetriesAfterDecline = "a definitive refusal is tried again under another key",
    SettledForgottenOnOpen = "an opening forgets the calls that were settled",
    StaleNotRefused = "a call that is older than what is remembered runs",
    StoreIdIgnored = "a server takes calls that are bound to another store",
    SweepOfLive = "a sweep removes records that are not past their horizon",
    SyncErrorIgnored = "a failed sync is taken for a good one",
    TokenReused = "a token is given twice",
    TombstoneOff = "a sweep does not raise the time up to which calls are forgotten",
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread.
    #[must_use]
    pub fn is_planted(bug: Mutant) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// A bug on this thread, until it is dropped.
    #[derive(Debug)]
    #[must_use = "it is planted until this is dropped"]
    pub struct Planted(Option<Mutant>);

    /// Plants a bug on this thread.
    pub fn plant(bug: Option<Mutant>) -> Planted {
        Planted(PLANTED.replace(bug))
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(self.0);
        }
    }
}

#[cfg(feature = "mutants")]
pub use self::switch::{Planted, is_planted, plant};
