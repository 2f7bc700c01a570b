//! Servers that are processes: started from this very binary, as a test that does nothing otherwise.

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use onlyonce_middleware::server::DedupeOptions;
use onlyonce_middleware::{grpc, http};
use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::{Scope, Store};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tonic::transport::Server as TonicServer;
use tonic::transport::server::TcpIncoming;

use crate::bank::{BankServer, Receipt, TRANSFER, Transfer};
use crate::front::Front;
use crate::postgres_rig;

const PROTOCOL: &str = "ONLYONCE_SHARED_STORE_PROTOCOL";
const NAME: &str = "ONLYONCE_SHARED_STORE_NAME";
const URL: &str = "ONLYONCE_SHARED_STORE_URL";
const SCHEMA: &str = "ONLYONCE_SHARED_STORE_SCHEMA";
const SAID: &str = "said: ";

/// Longer than a server needs to renew it, and short for a test.
const LEASE: Duration = Duration::from_millis(1_500);

/// Asks the handler to have its effect, and never to answer.
pub const HANG: &str = "hang";

/// A server that is a process.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: std::net::SocketAddr,
}

/// Two servers on one store, and what stands in front of them.
pub struct Pair {
    pub one: Process,
    pub two: Process,
    pub front: Front,
}

impl Pair {
    /// `None` where PostgreSQL is not installed.
    pub async fn start(protocol: &str) -> Option<Self> {
        // It waits for programs that it starts.
        let server = tokio::task::spawn_blocking(postgres_rig::shared);
        let server = server.await.unwrap()?;
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let start = |name| Process::start(protocol, name, server.url(), &schema);
        let (one, two) = (start("one").await, start("two").await);
        let front = Front::of([one.address, two.address]).await;
        Some(Self { one, two, front })
    }

    /// What both did, by the words that they were given.
    pub async fn effects(self) -> [Vec<String>; 2] {
        [self.one.effects().await, self.two.effects().await]
    }
}

impl Process {
    async fn start(protocol: &str, name: &str, url: String, schema: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "servers::serves_when_it_is_the_child"])
            .arg("--nocapture")
            .env(PROTOCOL, protocol)
            .env(NAME, name)
            .env(URL, url)
            .env(SCHEMA, schema)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = said(&mut lines).await.expect("it serves");
        Self {
            child,
            lines,
            address: address.parse().unwrap(),
        }
    }

    /// Waits until it had an effect; the words that it was given.
    pub async fn had_an_effect(&mut self) -> String {
        said(&mut self.lines).await.expect("it goes on")
    }

    /// As `kill -9`.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    async fn effects(mut self) -> Vec<String> {
        self.kill().await;
        let mut effects = Vec::new();
        while let Some(effect) = said(&mut self.lines).await {
            effects.push(effect);
        }
        effects
    }
}

async fn said(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    loop {
        let line = timeout(Duration::from_secs(60), lines.next_line());
        let line = line.await.expect("it says something").unwrap()?;
        if let Some((_, said)) = line.split_once(SAID) {
            return Some(said.to_owned());
        }
    }
}

/// Does nothing when it is run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_when_it_is_the_child() {
    let Ok(protocol) = std::env::var(PROTOCOL) else {
        return;
    };
    let told = |name: &str| std::env::var(name).unwrap();
    let name: &'static str = told(NAME).leak();
    let options = PostgresOptions::new(told(URL)).schema(told(SCHEMA));
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(options).await.unwrap());
    let mut options = DedupeOptions::default();
    options.lease = LEASE;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{SAID}{}", listener.local_addr().unwrap());
    if protocol == "grpc" {
        let layer = grpc::DedupeLayer::with_options(store, Scope::global(), options);
        let bank = BankServer::new(move |request: tonic::Request<Transfer>| async move {
            let text = pay(name, &request.get_ref().to).await;
            Ok(tonic::Response::new(Receipt { number: 1, text }))
        });
        let router = TonicServer::builder()
            .layer(layer.protect(TRANSFER))
            .add_service(bank);
        let serving = router.serve_with_incoming(TcpIncoming::from(listener));
        return serving.await.unwrap();
    }
    let layer = http::DedupeLayer::with_options(store, Scope::global(), options);
    let pay = post(async move |whom: String| pay(name, &whom).await);
    let router = Router::new().route("/pay", pay.layer::<_, Infallible>(layer));
    axum::serve(listener, router).await.unwrap();
}

/// The effect is told to the test; the answer comes later, so that there is time to lose it.
async fn pay(name: &str, whom: &str) -> String {
    println!("{SAID}{whom}");
    if whom == HANG {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    format!("{whom} paid by {name}")
}
