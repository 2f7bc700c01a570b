//! Methods whose effects lie in the server's own store.
#![doc = include_str!("../manual/transactions.md")]

use std::future::Future;

use onlyonce_storage::transaction::{Transaction, TransactionError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::method::Failure;
use super::router::{Caller, Handling};
use super::{Reply, Status, router, value};

/// How a transactional handler ends without a reply: nothing that it wrote takes effect.
///
/// There is no *in doubt* here: what was not committed has not happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undone<F> {
    /// A definitive answer that is not the reply: recorded and replayed like any answer.
    Fault(F),
    /// Nothing was executed, and another attempt may fare better. The text goes to the client.
    NotExecuted(String),
    /// The transaction failed. It runs again where somebody has changed what it had read; otherwise
    /// nothing was executed.
    Transaction(TransactionError),
}

// === impl Undone ===

impl<F> From<TransactionError> for Undone<F> {
    fn from(error: TransactionError) -> Self {
        Self::Transaction(error)
    }
}

/// Decodes the arguments, runs the handler on its transaction, encodes what it came to.
pub(super) fn handle<A, R, F, H, Fut>(
    handler: &H,
    caller: Caller,
    transaction: Option<Transaction>,
    arguments: &[u8],
) -> Handling
where
    A: DeserializeOwned + Send + 'static,
    R: Serialize + Send + Sync + 'static,
    F: Serialize + Send + Sync + 'static,
    H: Fn(Caller, Transaction, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Undone<F>>> + Send + 'static,
{
    let refused = |status, why: String| -> Handling {
        Box::pin(std::future::ready(Reply::refusal(status, why)))
    };
    let Some(transaction) = transaction else {
        return refused(Status::NotExecuted, NO_TRANSACTION.to_owned());
    };
    let arguments = match value::decode::<A>(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refused(Status::ArgumentsMalformed, error.to_string()),
    };
    let running = handler(caller, transaction.clone(), arguments);
    Box::pin(async move {
        let result = match running.await {
            Ok(reply) => Ok(reply),
            Err(Undone::Fault(fault)) => {
                transaction.refuse_writes();
                Err(Failure::Fault(fault))
            }
            Err(Undone::NotExecuted(why)) => Err(Failure::NotExecuted(why)),
            Err(Undone::Transaction(error)) => Err(Failure::NotExecuted(error.to_string())),
        };
        router::answer(&result)
    })
}

const NO_TRANSACTION: &str =
    "the method is transactional, and the server does not stand behind a dedupe layer";
