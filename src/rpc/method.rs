//! What can be called: a name with the types of its argument, reply and fault.

use std::fmt;
use std::marker::PhantomData;

/// A method that both sides agree on.
///
/// The argument `A`, the reply `R` and the fault `F` are any serde types. They travel as bincode,
/// which is not self-describing: a method whose types change needs a new name. Values are nested at
/// most 128 levels deep; deeper ones are written and not read.
///
/// ```
/// use onlyonce::rpc::Method;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Transfer { from: u32, to: u32, amount: u64 }
///
/// #[derive(Serialize, Deserialize)]
/// struct Receipt { entry: u64 }
///
/// #[derive(Serialize, Deserialize)]
/// enum Declined { NoFunds }
///
/// const TRANSFER: Method<Transfer, Receipt, Declined> = Method::new("bank.transfer");
/// assert_eq!(TRANSFER.name(), "bank.transfer");
/// ```
pub struct Method<A, R, F = String> {
    name: &'static str,
    types: PhantomData<fn(A) -> Result<R, F>>,
}

/// How a handler ends without a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure<F> {
    /// A definitive answer that is not the reply: recorded and replayed like any answer.
    Fault(F),
    /// The handler cannot know whether its effect happened (an outside system did not answer).
    /// The key is in doubt.
    InDoubt,
    /// Nothing was executed, and another attempt may fare better. The key is free again, or in doubt
    /// as before where this was a re-run. The text goes to the client.
    NotExecuted(String),
}

// === impl Method ===

impl<A, R, F> Method<A, R, F> {
    /// The method of this name: 1 to 255 bytes, unique on a server.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(
            !name.is_empty() && name.len() <= 255,
            "a method's name has 1 to 255 bytes"
        );
        Self {
            name,
            types: PhantomData,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<A, R, F> Clone for Method<A, R, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R, F> Copy for Method<A, R, F> {}

impl<A, R, F> fmt::Debug for Method<A, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({})", self.name)
    }
}

// === impl Failure ===

impl<F> From<F> for Failure<F> {
    fn from(fault: F) -> Self {
        Self::Fault(fault)
    }
}
