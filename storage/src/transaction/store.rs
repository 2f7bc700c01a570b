//! The contract of a store that keeps effects beside records.

use std::future::Future;
use std::pin::Pin;

use super::{CommitError, Row, RowRange, Transaction, Work};
use crate::{Answer, Claim, ClaimOutcome, ClaimRequest, Store, StoreFuture};

/// What a commit comes to, later.
pub type CommitFuture<'a> = Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + 'a>>;

/// A [`Store`] whose tables handlers may write to, together with the record of their call.
///
/// # Contract
///
/// - A claim that [`begin`](Self::begin) gives is like any other while it lasts: no other claim of
///   its key is given by either way of asking, it can be renewed, a peek says *in progress*. But a
///   crash, a lapse and its drop leave the key as if it had never been claimed, instead of in doubt.
///   Nothing is durable before the commit.
/// - [`commit`](Self::commit) is one step: everything that was read is still so, then everything
///   that was written and the completed record become durable together. Otherwise nothing happens.
/// - So transactions that commit come out as if they had run one after the other, in the order of
///   their commits.
///
/// Backends prove it by running the suite `conformance_transactions!`.
///
/// # Cancellation
///
/// Dropping a commit's future leaves open whether it is made: all of it, or nothing.
pub trait TransactionalStore: Store {
    /// Asks for the right to execute, like [`claim`](Store::claim), and writes nothing.
    ///
    /// A doubt that another guarantee has left under the key is told like any other, and never run
    /// again: [`rerun_of`](ClaimRequest::rerun_of) has no meaning here.
    fn begin(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome>;

    /// A transaction for one run under `claim`, with nothing read and nothing written.
    fn start(&self, claim: &Claim) -> Transaction;

    /// Applies what a run has written, with the call's answer, if what it has read is still so.
    fn commit(&self, claim: Claim, work: Work, answer: Answer) -> CommitFuture<'_>;

    /// Rows as they are durable, for whoever reads outside of a transaction. At most
    /// [`RANGE_ROWS_MAX`](super::RANGE_ROWS_MAX), whatever the range says.
    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>>;
}
