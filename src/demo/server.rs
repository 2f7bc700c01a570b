//! The bank as a server: the process that is killed.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::stack;
use onlyonce_storage::{SledOptions, SledStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower::Layer;

use super::bank::{Bank, Declined, Receipt, Transfer};
use super::tables;
use crate::rpc::{Failure, Method, Router, Server, ServerAdapter};

/// The one method of the bank.
pub(super) const TRANSFER: Method<Transfer, Receipt, Declined> = Method::new("bank.transfer");

/// What a server of the demo is told.
#[derive(Clone, Debug)]
pub struct DemoServerOptions {
    /// Where the bank's books and the store are.
    pub folder: PathBuf,
    /// Without the layer: every request is executed.
    pub naive: bool,
}

/// Serves the bank on a free port of the loopback, which is printed as `listening ADDRESS`, until
/// standard input ends: so it never outlives the process that started it.
///
/// # Errors
///
/// When the bank, the store or the port cannot be opened, in words.
pub async fn serve(options: DemoServerOptions) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    if options.naive {
        let bank = Bank::open(&options.folder.join("bank"), ACCOUNTS, OPENING)?;
        let routes = Router::new(bank)
            .method(&TRANSFER, |_, bank: Bank, transfer: Transfer| async move {
                match bank.transfer(transfer).await {
                    Some(Ok(receipt)) => Ok(receipt),
                    Some(Err(declined)) => Err(Failure::Fault(declined)),
                    None => Err(Failure::InDoubt),
                }
            })
            .into_routes();
        let serving = Server::builder()
            .global_scope()
            .build()?
            .serve(listener, routes)?;
        announce(&serving.local_addr().to_string())?;
        until_parent_is_gone().await;
        serving.shutdown(PATIENCE).await;
        return Ok(());
    }
    let routes = Router::new(())
        .method_transactional(&TRANSFER, tables::transfer)
        .into_routes();
    let store = SledStore::open_async(options.folder.join("store"), SledOptions::new()).await?;
    let store = Arc::new(store);
    // The bank works without; a path may be too long for a socket.
    #[cfg(unix)]
    let admin = crate::admin::AdminSocket::serve(store.clone(), options.folder.join("store"));
    #[cfg(unix)]
    if let Err(error) = &admin {
        tracing::warn!(%error, "operators cannot ask this server");
    }
    let layers = stack::server(store.clone(), ServerAdapter::new(routes.clone()));
    let serving = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()?
        .serve(listener, layers.layer(routes))?;
    announce(&serving.local_addr().to_string())?;
    until_parent_is_gone().await;
    serving.shutdown(PATIENCE).await;
    #[cfg(unix)]
    drop(admin);
    store.close().await?;
    Ok(())
}

pub(super) fn announce(address: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {address}")?;
    out.flush()
}

pub(super) async fn until_parent_is_gone() {
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while matches!(input.read(&mut nothing).await, Ok(length) if length > 0) {}
}

/// Many enough that transfers rarely meet, few enough that a wrong balance shows.
pub(super) const ACCOUNTS: u32 = 64;

/// What each account begins with: so much that most transfers are covered, and some are not.
pub(super) const OPENING: i64 = 1_500;

pub(super) const PATIENCE: Duration = Duration::from_secs(5);
