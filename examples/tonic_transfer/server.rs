//! A bank whose transfers take effect at most once per key.

use std::collections::HashMap;
use std::sync::Arc;

use onlyonce::grpc::DedupeLayer;
use onlyonce::storage::{Scope, Store};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::bank::{Bank, BankServer, Receipt, TRANSFER, Transfer};

/// Balances, and how many transfers were made.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<(u64, HashMap<String, u64>)>>);

impl Bank for Books {
    async fn transfer(&self, request: Request<Transfer>) -> Result<Response<Receipt>, Status> {
        let Transfer { to, cents } = request.into_inner();
        if cents == 0 {
            // A refusal for good: whoever asks again is told the same.
            return Err(Status::invalid_argument("nothing to transfer"));
        }
        let mut books = self.0.lock();
        books.0 += 1;
        let number = books.0;
        let balance = books.1.entry(to).or_default();
        *balance += cents;
        let balance = *balance;
        Ok(Response::new(Receipt { number, balance }))
    }
}

impl Books {
    /// How many transfers were made.
    #[must_use]
    pub fn transfers(&self) -> u64 {
        self.0.lock().0
    }
}

/// Serves `books` on `listener`.
///
/// # Errors
///
/// When the server cannot go on.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    books: Books,
) -> Result<(), tonic::transport::Error> {
    // In earnest the scope is the principal that a layer of authentication found.
    let dedupe = DedupeLayer::new(store, Scope::global()).protect(TRANSFER);
    Server::builder()
        .layer(dedupe)
        .add_service(BankServer(books))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
}
