//! Goes on with the journaled calls that stand still in a server's store.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use onlyonce_middleware::server::Executions;
use tower::ServiceExt;
use tower_service::Service;

use super::serving::{Shared, until_draining};
use crate::rpc::{Incoming, Reply, journaled};

/// Goes on with them now and every ten seconds or so, until the server shuts down: each as if it had
/// been called, through the whole of the service.
pub(super) async fn go_on_with_abandoned<S>(mut shared: Shared<S>)
where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let executions = shared.server.executions.as_ref();
    let Some(finisher) = executions.and_then(Executions::finisher) else {
        return;
    };
    let service = shared.service.clone();
    let going_on = finisher.keep_on(move |call| {
        let incoming = journaled::revived(&call)?;
        let service = service.clone();
        Some(async move {
            // What a panic of the service leaves of the call is the store's to tell.
            let reply = AssertUnwindSafe(async { service.oneshot(incoming).await });
            let _ = reply.catch_unwind().await;
        })
    });
    tokio::select! {
        biased;
        () = until_draining(&mut shared.phase) => {}
        () = going_on => {}
    }
}
