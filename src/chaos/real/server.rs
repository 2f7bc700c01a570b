//! The server's process: the bank, behind our layers or naked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Fault, Phase, What};
use onlyonce_chaos::scenario::Mode;
use onlyonce_middleware::stack;
use onlyonce_storage::{SledOptions, SledStore};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tower::{Layer, Service};

use super::books::{Books, Durability};
use super::commits::{self, Commits};
use super::order::{Asked, Declined, ORDER, Receipt};
use super::strikes::Strikes;
use super::tables;

use crate::rpc::{Caller, Failure, Incoming, Reply, Router, Routes, Server, ServerAdapter, value};

/// What the server's process is told.
#[derive(Clone, Debug)]
pub struct ChaosServerOptions {
    /// Where books and store are.
    pub folder: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it does about duplicates.
    pub mode: Mode,
    /// What its faults are decided by.
    pub seed: u64,
    /// When the run began, in microseconds of the clock that all processes of a machine share (that of
    /// `CLOCK_MONOTONIC`).
    pub began_us: u64,
    /// All faults of the scenario; those of the server that are about a phase are its own to do.
    pub faults: Vec<Fault>,
}

/// Serves until standard input ends, so that it never outlives who started it. Says
/// `listening ADDRESS` on standard output, and `strike ...` when a fault strikes; a line on standard
/// input ends the faults.
///
/// # Errors
///
/// When books, store or port cannot be opened, in words.
pub async fn run(options: ChaosServerOptions) -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "mutants")]
    plant()?;
    let listener = TcpListener::bind(options.listen).await?;
    let strikes = Arc::new(Strikes::new(
        Seed::new(options.seed),
        options.faults.clone(),
        Duration::from_micros(commits::now_us().saturating_sub(options.began_us)),
    ));
    let commits = Commits::open(&options.folder, options.began_us)?;
    let calm = Arc::clone(&strikes);
    let durability = match loses(options.mode, &options.faults) {
        true => Durability::Unsynced,
        false => Durability::Synced,
    };
    if options.mode == Mode::Naive {
        let routes = routes(
            Books::open(&options.folder, durability)?,
            &strikes,
            &commits,
        );
        let server = Server::builder().global_scope().build()?;
        announce(listener.local_addr()?)?;
        let serving = server.serve(
            listener,
            Phases {
                inner: routes,
                strikes,
            },
        )?;
        until_parent_is_gone(&calm).await;
        serving.shutdown(PATIENCE).await;
        return Ok(());
    }
    let routes = match options.mode {
        Mode::Transactional => {
            let handle =
                move |caller, tables, asked| tables::order(caller, tables, asked, commits.clone());
            Router::new(())
                .method_transactional(&ORDER, handle)
                .into_routes()
        }
        Mode::Claimed | Mode::Naive => {
            let books = Books::open(&options.folder, durability)?;
            routes(books, &strikes, &commits)
        }
    };
    let store = SledStore::open_async(options.folder.join("store"), SledOptions::new()).await?;
    let store = Arc::new(store);
    let layers = stack::server(store.clone(), ServerAdapter::new(routes.clone()));
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()?;
    let inner = layers.layer(routes);
    announce(listener.local_addr()?)?;
    let serving = server.serve(listener, Phases { inner, strikes })?;
    until_parent_is_gone(&calm).await;
    serving.shutdown(PATIENCE).await;
    store.close().await?;
    Ok(())
}

/// Plants the bug that the environment names, so that it is known what a run finds.
#[cfg(feature = "mutants")]
fn plant() -> Result<(), String> {
    use onlyonce_storage::mutants::{Mutant, plant_in_this_process};
    let Ok(name) = std::env::var(PLANT) else {
        return Ok(());
    };
    let named = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    let bug = named.ok_or_else(|| format!("{PLANT}: no bug `{name}`"))?;
    plant_in_this_process(*bug);
    Ok(())
}

/// The variable that names it.
#[cfg(feature = "mutants")]
const PLANT: &str = "ONLYONCE_PLANT";

/// Whether a service that does nothing about duplicates answers before it syncs: where power is cut, so
/// that something is seen to be lost where nobody takes care.
pub(in super::super) fn loses(mode: Mode, faults: &[Fault]) -> bool {
    let cut = |fault: &Fault| fault.what == What::PowerCut;
    mode == Mode::Naive && faults.iter().any(cut)
}

fn routes(books: Books, strikes: &Arc<Strikes>, commits: &Commits) -> Routes {
    let (strikes, commits) = (Arc::clone(strikes), commits.clone());
    let handle = move |caller: Caller, books: Books, asked: Asked| {
        order_in(caller, books, asked, Arc::clone(&strikes), commits.clone())
    };
    Router::new(books).method(&ORDER, handle).into_routes()
}

async fn order_in(
    caller: Caller,
    books: Books,
    asked: Asked,
    strikes: Arc<Strikes>,
    commits: Commits,
) -> Result<Receipt, Failure<Declined>> {
    let (call, attempt) = (asked.call, asked.attempt_or(caller.attempt));
    match books.order(asked).await {
        Some(Ok(receipt)) => {
            commits.note(receipt.entry);
            strikes.at(call, attempt, Phase::EffectDurable);
            Ok(receipt)
        }
        Some(Err(declined)) => Err(Failure::Fault(declined)),
        None => Err(Failure::InDoubt),
    }
}

/// Strikes before and after everything that the server does about an attempt.
#[derive(Clone)]
struct Phases<S> {
    inner: S,
    strikes: Arc<Strikes>,
}

impl<S> Service<Incoming> for Phases<S>
where
    S: Service<Incoming, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Reply, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Incoming) -> Self::Future {
        let asked = value::decode::<Asked>(&request.arguments)
            .map(|asked| (asked.call, asked.attempt_or(request.attempt)));
        let strikes = Arc::clone(&self.strikes);
        let unasked = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, unasked);
        Box::pin(async move {
            let Ok((call, attempt)) = asked else {
                return ready.call(request).await;
            };
            strikes.at(call, attempt, Phase::RequestReceived);
            let answer = ready.call(request).await;
            strikes.at(call, attempt, Phase::ReplySent);
            answer
        })
    }
}

/// Before anything is served: the first call may be the one that this process dies of.
fn announce(address: SocketAddr) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {address}")?;
    out.flush()
}

/// Until standard input ends. A line there ends the faults, which is confirmed by `calm`.
async fn until_parent_is_gone(strikes: &Strikes) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        strikes.end();
    }
}

/// What is under way may end; more than any call here takes.
const PATIENCE: Duration = Duration::from_secs(2);
