//! Who calls.

use http::request::Parts;
use onlyonce_storage::Scope;

/// Says in whose scope the key of a request is unique.
///
/// The scope is the principal that the server's own code has authenticated, never what a request says
/// of itself: whoever can choose it can use up another's keys. It stays the same when the principal's
/// credential is refreshed. A request without a scope is refused with 403: nobody shares a scope by
/// accident.
///
/// [`Scope`] itself says that it is always the same one; a closure looks at the request; and
/// [`from_extension`] takes the one that a layer outside put there.
pub trait ScopeOf: Send + Sync + 'static {
    /// The scope of this request; `None` where its caller is nobody. It is asked once a request,
    /// before the body is read, and must not block.
    fn scope_of(&self, request: &Parts) -> Option<Scope>;
}

impl ScopeOf for Scope {
    fn scope_of(&self, _: &Parts) -> Option<Scope> {
        Some(self.clone())
    }
}

impl<F> ScopeOf for F
where
    F: Fn(&Parts) -> Option<Scope> + Send + Sync + 'static,
{
    fn scope_of(&self, request: &Parts) -> Option<Scope> {
        self(request)
    }
}

/// The [`Scope`] among the extensions of the request: a layer of authentication puts it there, and
/// stands outside of the dedupe layer.
#[must_use]
pub fn from_extension() -> impl ScopeOf + Clone {
    |request: &Parts| request.extensions.get::<Scope>().cloned()
}
