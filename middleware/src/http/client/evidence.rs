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
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // hyper says so of requests that were queued when their connection ended.
            if error.is_canceled() {
                return true;
            }
            // The request's own body failed, on the way. What that met is of another connection.
            if error.is_user() {
                return false;
            }
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

#[cfg(test)]
mod tests {
    use ::hyper_util::rt::TokioIo;

    use super::*;
    use crate::http::Body;

    // P25
    #[tokio::test]
    async fn a_request_that_its_connection_never_took_was_not_processed() {
        let (near, _far) = tokio::io::duplex(1024);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(near));
        let (mut sender, connection) = handshake.await.unwrap();
        drop(connection);
        let error = sender.send_request(http::Request::new(Body::default()));
        assert!(not_processed(&error.await.unwrap_err()));
    }

    // P25, P26
    #[tokio::test]
    async fn a_request_that_was_written_and_not_answered_may_have_been_processed() {
        let (near, mut far) = tokio::io::duplex(1024);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(near));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let answer = tokio::spawn(sender.send_request(http::Request::new(Body::default())));
        tokio::io::AsyncReadExt::read(&mut far, &mut [0; 64])
            .await
            .unwrap();
        drop(far);
        let error = answer.await.unwrap().unwrap_err();
        assert!(error.is_incomplete_message());
        assert!(!not_processed(&error));
        // Also where others have put it into errors of theirs.
        assert!(!not_processed(&std::io::Error::other(error)));
    }
}
