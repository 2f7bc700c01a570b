//! One of the servers: a process that is killed and paused.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::server::{DedupeOptions, Doubt};
use onlyonce_middleware::stack;
use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use tokio::net::TcpListener;
use tower::Layer;

use super::super::ClusterGuarantee;
use super::super::bank::{Declined, Receipt, Transfer};
use super::super::server::{PATIENCE, TRANSFER, announce, until_parent_is_gone};
use super::bank::{Bank, BankError, Ordered};
use super::database::{Side, bank_schema, store_schema};
use crate::rpc::{
    Caller, Failure, Reconciled, Router, Routes, Server, ServerAdapter, Transaction, Undone,
};

/// What one of several servers is told.
#[derive(Clone)]
pub struct ClusterServerOptions {
    /// The database. It may hold a password.
    pub url: String,
    /// What the schemas of the run begin with.
    pub prefix: String,
    /// What holds for its transfers; `None` without the layer: every request is executed.
    pub guarantee: Option<ClusterGuarantee>,
}

/// Without the address, which may hold a password.
impl fmt::Debug for ClusterServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterServerOptions")
            .field("prefix", &self.prefix)
            .field("guarantee", &self.guarantee)
            .finish_non_exhaustive()
    }
}

/// Serves the bank on a free port of the loopback, which is printed as `listening ADDRESS`, until
/// standard input ends.
///
/// # Errors
///
/// When the store or the port cannot be opened, in words.
pub async fn serve_cluster(
    options: ClusterServerOptions,
) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let bank = |side| Bank::new(&options.url, &bank_schema(&options.prefix, side));
    let Some(guarantee) = options.guarantee else {
        let serving = Server::builder()
            .global_scope()
            .build()?
            .serve(listener, naive(bank(Side::Naive)))?;
        announce(&serving.local_addr().to_string())?;
        until_parent_is_gone().await;
        serving.shutdown(PATIENCE).await;
        return Ok(());
    };
    let store = PostgresOptions::new(&options.url)
        .schema(store_schema(&options.prefix))
        .connections_max(CONNECTIONS_MAX);
    let store = Arc::new(PostgresStore::open(store).await?);
    let routes = match guarantee {
        ClusterGuarantee::Claimed => asked_about(bank(Side::Onlyonce)),
        ClusterGuarantee::Transactional => in_one_commit(bank(Side::Onlyonce)),
    };
    let mut dedupe = DedupeOptions::default();
    dedupe.lease = LEASE;
    let layers = stack::server_with(store, ServerAdapter::new(routes.clone()), dedupe);
    let serving = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()?
        .serve(listener, layers.layer(routes))?;
    announce(&serving.local_addr().to_string())?;
    until_parent_is_gone().await;
    serving.shutdown(PATIENCE).await;
    Ok(())
}

/// Every request moves money.
fn naive(bank: Bank) -> Routes {
    let transfer = |_: Caller, bank: Bank, transfer: Transfer| async move {
        told(bank.transfer(None, &transfer).await)
    };
    Router::new(bank).method(&TRANSFER, transfer).into_routes()
}

/// The bank is given key and token, refuses tokens that are too old, and can be asked about a call.
fn asked_about(bank: Bank) -> Routes {
    let transfer = |caller: Caller, bank: Bank, transfer: Transfer| async move {
        let Some(call) = caller.key.as_ref().zip(caller.execution) else {
            return Err(Failure::NotExecuted("nothing dedupes here".to_owned()));
        };
        told(bank.transfer(Some(call), &transfer).await)
    };
    let what_became_of = |doubt: Doubt, bank: Bank, _: Transfer| async move {
        let found = bank.what_became_of(doubt.key.key(), doubt.token).await?;
        Ok::<_, BankError>(match found {
            Some(receipt) => Reconciled::Applied(Ok(receipt)),
            None => Reconciled::NotApplied,
        })
    };
    Router::new(bank)
        .method_reconciled_and_fenced(&TRANSFER, transfer, what_became_of)
        .into_routes()
}

/// The transfer is part of the call's own transaction. The bank is given neither key nor token: it
/// refuses nobody, and is asked about nothing.
fn in_one_commit(bank: Bank) -> Routes {
    let transfer = move |_: Caller, calls: Transaction, transfer: Transfer| {
        let bank = bank.clone();
        async move {
            match bank.transfer_in(&calls, &transfer).await? {
                Ok(Ordered::Done(receipt)) => Ok(receipt),
                Ok(Ordered::NoFunds) => Err(Undone::Fault(Declined::NoFunds)),
                Ok(Ordered::TooLate) => Err(Undone::NotExecuted("the bank refuses".to_owned())),
                Err(error) => Err(Undone::NotExecuted(error.to_string())),
            }
        }
    };
    Router::new(())
        .method_transactional(&TRANSFER, transfer)
        .into_routes()
}

fn told(ordered: Result<Ordered, BankError>) -> Result<Receipt, Failure<Declined>> {
    match ordered {
        Ok(Ordered::Done(receipt)) => Ok(receipt),
        Ok(Ordered::NoFunds) => Err(Failure::Fault(Declined::NoFunds)),
        // This run did nothing, and never will.
        Ok(Ordered::TooLate) => Err(Failure::NotExecuted(
            "the bank refuses the token".to_owned(),
        )),
        Err(BankError::NotConnected(why)) => Err(Failure::NotExecuted(why)),
        Err(BankError::NoAnswer(_)) => Err(Failure::InDoubt),
    }
}

/// So short that a pause can be longer: in earnest it is 30 s.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// With those of the bank, three servers fit into a database's default of 100.
const CONNECTIONS_MAX: usize = 12;
