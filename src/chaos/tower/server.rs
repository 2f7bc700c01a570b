//! The server's side: our layers around a bank that executes whatever reaches it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_chaos::history::{Happened, Seen};
use onlyonce_chaos::scenario::Mode;
use onlyonce_chaos::workload::{Books, Order, Plan, Reply as Outcome};
use parking_lot::Mutex;
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service};

use super::Run;
use crate::middleware::stack;
use crate::rpc::{
    Caller, Failure, Incoming, Method, Reply, Request, Router, Routes, ServerAdapter,
};
use crate::storage::{MemoryStore, Scope, Store, StoreId};

/// The one method of the bank: an order as bytes, what it came to as bytes.
pub(super) const ORDER: Method<Vec<u8>, Vec<u8>, Vec<u8>> = Method::new("bank.order");

/// Takes what the wire brings.
#[derive(Clone)]
pub(super) struct Server {
    service: BoxCloneSyncService<Incoming, Reply, Infallible>,
    bank: Bank,
    /// What a client gets to know by shaking hands: that the server dedupes, and by which store.
    pub(super) store: Option<StoreId>,
}

#[derive(Clone)]
struct Bank {
    run: Run,
    /// Which call first asked for this, by key and payload.
    calls: Arc<BTreeMap<(String, Vec<u8>), u64>>,
    books: Arc<Mutex<(Books, u64)>>,
}

// === impl Server ===

impl Server {
    pub(super) fn new(run: Run, plan: &Plan, mode: Mode) -> Self {
        let mut calls = BTreeMap::new();
        for call in &plan.calls {
            let asked = (call.key.clone(), call.payload.clone());
            calls.entry(asked).or_insert(call.call);
        }
        let bank = Bank {
            run,
            calls: Arc::new(calls),
            books: Arc::new(Mutex::new((Books::new(plan.opening.clone()), 0))),
        };
        let routes: Routes = Router::new(bank.clone())
            .method(&ORDER, execute)
            .into_routes();
        if mode == Mode::Naive {
            let service = BoxCloneSyncService::new(routes);
            return Self {
                service,
                bank,
                store: None,
            };
        }
        let store = Arc::new(MemoryStore::new());
        let store_id = Some(store.id());
        let layers = stack::server(store, ServerAdapter::new(routes.clone()));
        Self {
            service: BoxCloneSyncService::new(layers.layer(routes)),
            bank,
            store: store_id,
        }
    }

    pub(super) fn accounts(&self) -> BTreeMap<String, i64> {
        self.bank.books.lock().0.accounts().clone()
    }
}

impl Service<Request> for Server {
    type Response = Reply;
    type Error = Infallible;
    type Future = <BoxCloneSyncService<Incoming, Reply, Infallible> as Service<Incoming>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.service
            .call(Incoming::in_process(request, Scope::global()))
    }
}

async fn execute(_: Caller, bank: Bank, payload: Vec<u8>) -> Result<Vec<u8>, Failure<Vec<u8>>> {
    let order = Order::parse(&payload).map_err(|error| Failure::NotExecuted(error.to_string()))?;
    // As long as work takes: others come while it is done.
    sleep(Duration::from_millis(2)).await;
    let key = order.reference.clone();
    let call = bank
        .calls
        .get(&(key.clone(), payload.clone()))
        .copied()
        .unwrap_or(0);
    let mut books = bank.books.lock();
    let (books, commits) = &mut *books;
    match books.apply(&order) {
        Outcome::Applied { answer, legs } => {
            *commits += 1;
            bank.run.note(
                call,
                0,
                Happened::Effect {
                    index: *commits,
                    key,
                    payload,
                    answer: answer.clone(),
                    legs,
                    seen: Seen::AtCommit,
                },
            );
            Ok(answer)
        }
        Outcome::Declined { answer } => Err(Failure::Fault(answer)),
    }
}
