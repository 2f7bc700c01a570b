//! What a handler can say of its answer, as an extension of the response; and what it is told of its
//! request.

/// Nothing was executed: the key is free again, and the answer is not recorded.
///
/// Say it only where the handler has had no effect and nothing that it set going still can. The next
/// attempt with the key runs the handler again.
///
/// ```
/// use onlyonce_middleware::http::NotExecuted;
///
/// let mut response = http::Response::new("out of paper");
/// *response.status_mut() = http::StatusCode::CONFLICT;
/// response.extensions_mut().insert(NotExecuted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotExecuted;

/// This is the call's answer for good, whatever its status: it is recorded, and a 5xx with it leaves
/// no doubt. Said beside [`NotExecuted`], this one counts: it frees no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definitive;

/// Nobody asks: the server itself goes on with a journaled call that stood still. Among the extensions
/// of its request.
///
/// Such a request is made of what was kept of the first one: its method, address and body, the
/// headers that were [kept](super::DedupeLayer::journaled_headers), its key, and its
/// [`Scope`](onlyonce_storage::Scope). Nothing else that layers outside had put there is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByServer;
