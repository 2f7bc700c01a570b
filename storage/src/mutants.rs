//! Planted bugs, which a simulation must find: how good it is can be measured by nothing else. No
//! part of the public API.
//!
//! Without the feature `mutants` every plant is the constant `false`. With it, a plant is true where
//! its bug is planted on this thread, as one run of a simulation is one thread; or in this process, as
//! a real server has many.

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
    AcknowledgedRunsAgain = "a call that was acknowledged in its session runs again",
    AnswerNotRecorded = "the answer that is recorded is empty",
    AnswerOfAnotherKey = "a replay gives the answer of another key",
    AnswersMixedUp = "the client takes an answer for that of its oldest call",
    BodyReplayedTwice = "the handler is given the body of one attempt twice",
    BoundToNoStore = "attempts do not say which store the first one met",
    ClaimNotDurable = "the handler begins before its claim is durable",
    CommitWithoutCheck = "a transaction commits although what it read has changed",
    DedupeAfterEffect = "the key is looked up when the handler has returned",
    DoubtRetried = "the client takes a doubt for an attempt that was not executed",
    DoubtToldAsNotExecuted = "the server says of a call in doubt that it was not executed",
    EffectApartFromRecord = "what a transaction writes is durable before its record",
    FencingOff = "a token that is too old still settles the record",
    FingerprintNotCompared = "another request under the same key gets the answer of the first",
    FirstSentNotSaid = "no attempt says when its call was first sent",
    ForgottenUntilLost = "an opening forgets up to which time calls are forgotten",
    GivenUpAcknowledged = "a call whose answer the caller never got is acknowledged",
    HandlerTiedToConnection = "the handler is dropped with its caller's connection, and its key freed",
    InDoubtReRun = "a call in doubt runs again",
    InProgressReRun = "a call in progress is given to a second claim",
    KeyInsideRetry = "every attempt has a key of its own",
    LapsedLeaseFreed = "a claim whose owner is gone is given to the next",
    LeaseTooShort = "the store is asked for a lease that is shorter than the owner counts on",
    LostAnswerNotExecuted = "a call whose connection was lost counts as never sent",
    MismatchOverwrites = "another request under the same key takes over its record",
    NoDedupe = "every attempt runs the handler",
    OpenClaimsForgotten = "an opening forgets the claims that were open",
    PanicReleases = "a handler that panics frees its key",
    PoisonForgotten = "a store goes on after a failed sync",
    ReleaseByNonOwner = "a key is freed by whoever asks",
    ReplayRunsHandler = "a duplicate of a completed call runs the handler",
    RowsForgottenOnOpen = "an opening forgets what transactions have written",
    SettledDoubtedOnOpen = "an opening takes the calls that have an answer for calls in doubt",
    SettledForgottenOnOpen = "an opening forgets the calls that were settled",
    SettledOverwritten = "a second answer takes the place of the first",
    StaleNotRefused = "a call that is older than what is remembered runs",
    StoreIdIgnored = "a server takes calls that are bound to another store",
    SweepOfLive = "a sweep removes records that are not past their horizon",
    SyncErrorIgnored = "a failed sync is taken for a good one",
    TokenReused = "all claims of an opening have one token",
    TombstoneOff = "a sweep does not raise the time up to which calls are forgotten",
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutant;

    /// The bug of the whole process, from 1; 0 is none.
    static OF_THE_PROCESS: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread, or in this process.
    #[must_use]
    pub fn is_planted(bug: Mutant) -> bool {
        PLANTED.get() == Some(bug) || OF_THE_PROCESS.load(Ordering::Relaxed) == ordinal(bug)
    }

    /// Plants a bug on all threads of this process, for good: for a server that is started to have it.
    pub fn plant_in_this_process(bug: Mutant) {
        OF_THE_PROCESS.store(ordinal(bug), Ordering::Relaxed);
    }

    fn ordinal(bug: Mutant) -> usize {
        bug as usize + 1
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
pub use self::switch::{Planted, is_planted, plant, plant_in_this_process};
