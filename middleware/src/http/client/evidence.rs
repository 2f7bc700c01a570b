//! What an error of hyper's proves. Walks the sources; no error is judged by its text.

use std::error::Error;

/// Whether the request provably was not processed.
///
/// It was not where no connection was made, where hyper still has the request in its hands, and
/// where an HTTP/2 peer says so: `REFUSED_STREAM`, or `GOAWAY` with a lower stream (RFC 9113, 8.7). A
/// connection that ends without a whole answer proves nothing, however early it does: the peer may
/// have acted before it was gone.
pub(crate) fn not_processed(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<::hyper_util::client::legacy::Error>()
            && error.is_connect()
        {
            return true;
        }
        // hyper says so of requests that were queued when their connection ended.
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_canceled()
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return refused(error);
        }
        next = error.source();
    }
    false
}

fn refused(error: &h2::Error) -> bool {
    let reason = error.reason();
    // h2 gives a peer's GOAWAY only to streams above the last one that the peer names. One that
    // speaks of an error may come from a peer that has lost count.
    let going_away = error.is_go_away() && reason == Some(h2::Reason::NO_ERROR);
    let reset = error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (going_away || reset)
}
