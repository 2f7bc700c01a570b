//! Lets the effect of a call happen at most once per key.
//!
//! The first attempt of a call claims its key in the [`Store`](onlyonce_storage::Store), runs the
//! handler, records the answer durably and only then answers. Every other attempt is answered from
//! the execution in progress or from the record, never by the handler.
//!
//! # What it does not do
//!
//! It looks up nothing before it claims: looking, executing and then storing lets two concurrent
//! attempts both execute. It does not go on without its store: a store that cannot be reached
//! refuses the call before the handler runs. It does not free a key because a handler failed: a
//! panic, an error without an answer or a lost lease leaves the call in doubt, and says so.
//!
//! # When something fails
//!
//! | what | the key | the caller | later attempts |
//! | --- | --- | --- | --- |
//! | the store cannot claim | as it was | not executed, ask again | the same, or executed |
//! | the handler answers, says "not executed", or says nothing that settles it | completed, free, in doubt | that | replayed, executed, in doubt |
//! | the handler panics | in doubt | in doubt | in doubt |
//! | the handler's caller goes away or its deadline passes | as if it had stayed | in progress | wait, then get the answer |
//! | renewing the lease fails | in doubt; the handler is dropped before the lease ends | in doubt | in doubt |
//! | the process is frozen past the lease | in doubt; the handler is not polled again | in doubt | in doubt |
//! | the answer cannot be recorded, or the store does not say so before the lease ends | in doubt, or completed after all | the answer, marked unrecorded | in doubt, or replayed |
//! | the process dies | in doubt | a lost connection | in doubt |
//! | an owner comes back after somebody else has ended its doubt | untouched: its token is too old | what became of its own run | what was recorded |
//!
//! # In doubt
//!
//! What is done about a call in doubt when a duplicate comes is the choice of the handler's author:
//! [`InDoubtPolicy`]. Refusing is the default; a hook may ask the outside world
//! ([`Reconciliation`]); a handler that is declared safe runs again. The doubt ends by
//! compare-and-set on its token, so that of any number of hooks, operators and owners who come back
//! one has the last word. A re-run is claimed from the doubt itself: its key is never free between.
//! What a re-run says of itself ("not executed") does not free it either, since it says nothing of
//! the run before.
//!
//! # Transactions
//!
//! A call whose [`Intent`](crate::server::Intent) says [`Guarantee::Transactional`] is never in doubt
//! by what happens here: its claim is held in the store's memory, its handler works on a transaction,
//! and effect and answer are committed together. What goes wrong before that has applied nothing, and
//! the key is free. See [`onlyonce_storage::transaction`].
//!
//! [`Guarantee::Transactional`]: crate::server::Guarantee::Transactional
//!
//! # Journals
//!
//! A call whose intent says [`Guarantee::Journaled`] keeps its request and the results of its steps
//! beside its claim. A run that ends half-way leaves it standing still: whoever asks again goes on with
//! it behind its last finished step, and so does the server itself, where it was told to
//! ([`Dedupe::finish_abandoned`], [`Finisher`]). It is in doubt only where a step that must not be
//! repeated was cut off, or its handler says so. See [`Steps`](crate::server::Steps).
//!
//! | what | the key | the caller | later attempts |
//! | --- | --- | --- | --- |
//! | a step has no result, whatever the handler answers | stands still | in progress | go on |
//! | a step that must not be repeated is cut off, or does not know | in doubt | in doubt | in doubt, until somebody says what became of the step |
//! | it was begun longer ago than [`DedupeOptions::go_on_within`] | in doubt once an attempt comes | in doubt | in doubt, until somebody ends the call |
//! | the handler panics outside of such a step | stands still | in doubt | go on |
//! | the lease is lost, or the process dies, outside of such a step | stands still | in progress, or a lost connection | go on |
//! | the handler says "not executed" after a step | stands still | in progress | go on |
//!
//! [`Guarantee::Journaled`]: crate::server::Guarantee::Journaled
//!
//! # Place in the order
//!
//! Inside authentication (which gives the scope) and load shedding (what that refuses must not be
//! recorded), outside everything that has effects. A timeout belongs outside it: inside, it would
//! cut an effect half-way, which is recorded as in doubt.
//!
//! # Cancellation
//!
//! Dropping a response future leaves the execution running to its end. One that has not begun,
//! because the handler has no room or another process executes the call, is given up: nothing was
//! executed. A runtime that shuts down leaves what was running in doubt; [`Executions::idle`] says
//! when nothing is.
//!
//! The task that awaits the response future drives the execution. When the future is dropped, or the
//! call's deadline has passed, the execution goes on in a task that is spawned for it on the runtime
//! on which it began. So whoever holds the future without polling it holds up the execution, and
//! after a lease leaves it in doubt; and what a handler finds in task-locals that were set outside of
//! this layer it finds only while its caller is there: hand it over in the request.

mod begin;
mod driven;
mod executions;
mod finishing;
mod flight;
mod in_doubt;
mod journaled;
mod layer;
mod options;
mod owner;
mod patience;
mod reconcile;
mod runs;
mod scheduled;
#[cfg(test)]
mod schedules;
mod service;
mod settle;
mod transact;

pub use self::executions::Executions;
pub use self::finishing::{Finisher, Passed};
pub use self::in_doubt::{Doubt, Execution, InDoubtPolicy, Reconciled, Reconciliation};
pub use self::layer::DedupeLayer;
pub use self::options::{DedupeOptions, Wait};
#[cfg(feature = "http")]
pub(crate) use self::patience::by;
pub(crate) use self::patience::far;
pub use self::service::{Dedupe, ResponseFuture};
