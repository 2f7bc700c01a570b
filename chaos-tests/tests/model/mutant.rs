//! What can be broken in the world, to see that the properties have teeth. Nothing of this is in
//! the product: each is a switch of the model.

/// One thing that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A claim is noted, but a crash takes it.
    ClaimNotDurable,
    /// A key in doubt is given to the next claim.
    DoubtIsAbsent,
    /// The store does not compare tokens.
    FencingOff,
    /// An owner that is fenced tells its own answer, without looking at what the record says.
    FencedAnswerTold,
    /// Records are forgotten at the horizon, and not that they are.
    ForgottenWithoutNote,
    /// Nobody notices that a lease has lapsed.
    LeasesNeverLapse,
    None,
    /// A handler that failed half-way frees the key.
    PanicReleases,
    /// A seal wins over a call in progress.
    SealTakesWhatIsInProgress,
    /// A server does not look at the store that a call is bound to.
    StoreIdentityOff,
    /// Servers answer before the store has synced.
    ToldBeforeDurable,
    /// Nothing outlives the answer.
    TombstoneOff,
}
