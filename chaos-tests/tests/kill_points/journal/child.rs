//! The server's process: this test binary, run again.

use std::path::{Path, PathBuf};

use onlyonce::admin::AdminSocket;
use onlyonce::middleware::server::DedupeOptions;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    Caller, Client, Interrupted, Method, Router, Server, ServerAdapter, StepRun, Steps,
    UnfinishedStep, answered,
};
use onlyonce::storage::IdempotencyKey;
use tokio::net::TcpListener;
use tower::Layer;

use super::bank::CHARGE;
use crate::child::{self, FOLDER, PATIENCE, say, say_passed, until_parent_says_stop};
use crate::orders::{Declined, Order, Receipt};
use crate::till::Till;

pub const ORDER: Method<Order, Receipt, Declined> = Method::new("shop.order");

/// Where the bank listens.
pub const BANK: &str = "ONLYONCE_KILL_POINTS_BANK";

/// Which key the bank is given: that of the step, unless this is set.
pub const OWN_KEYS: &str = "ONLYONCE_KILL_POINTS_OWN_KEYS";

/// The first charge of an operation from here on is never answered.
pub const STUMBLES_FROM: u64 = 1_000_000;

/// Of an operation from here on that is true of the thanks, and not of the charge.
pub const THANKS_STUMBLE_FROM: u64 = 2_000_000;

#[derive(Clone)]
struct Desk {
    bank: Client,
    till: Till,
    folder: PathBuf,
    own_keys: bool,
}

/// Does nothing when it is run as a test.
#[test]
fn serves_journaled_calls_until_it_is_killed_when_it_is_the_child() {
    let (Ok(folder), Ok(bank)) = (std::env::var(FOLDER), std::env::var(BANK)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(PathBuf::from(folder), &bank));
}

async fn live(folder: PathBuf, bank: &str) {
    let store = child::open(&folder).await;
    say_passed("opened");
    let desk = Desk {
        bank: Client::new(bank),
        till: Till::open(&folder),
        folder: folder.clone(),
        own_keys: std::env::var(OWN_KEYS).is_ok(),
    };
    let routes = Router::new(desk)
        .method_journaled(&ORDER, order)
        .into_routes();
    let mut options = DedupeOptions::default();
    options.lease = child::LEASE;
    let layers = stack::server_with(store.clone(), ServerAdapter::new(routes.clone()), options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    let serving = server.serve(listener, layers.layer(routes)).unwrap();
    let socket = AdminSocket::serve(store.clone(), folder.join("store")).unwrap();
    say(&format!("listening {}", serving.local_addr()));
    until_parent_says_stop().await;
    socket.close().await;
    serving.shutdown(PATIENCE).await;
    store.close().await.unwrap();
    say_passed("ended");
}

async fn order(
    _: Caller,
    steps: Steps,
    desk: Desk,
    order: Order,
) -> Result<Receipt, Interrupted<Declined>> {
    let charge = async |run: StepRun| {
        if stumbles_at(order) == Some("charge") && is_first(&desk.folder, order) {
            return Err(not_asked());
        }
        let key = match desk.own_keys {
            true => IdempotencyKey::unique(),
            false => run.key,
        };
        answered(desk.bank.call_as(key, &CHARGE, &order).await)
    };
    let charged = steps.run_keyed("charge", charge).await?;
    charged.map_err(Interrupted::Fault)?;
    let receipt: Receipt = steps
        .run_once("ship", async |_| Ok(desk.till.pay(order.operation).await))
        .await?;
    let thank = async |run: StepRun| {
        if stumbles_at(order) == Some("thank") && is_first(&desk.folder, order) {
            return Err(not_asked());
        }
        // Another operation of the bank's, that is.
        let thanks = Order {
            operation: thanks_of(order.operation),
        };
        answered(desk.bank.call_as(run.key, &CHARGE, &thanks).await)
    };
    let thanked = steps.run_keyed("thank", thank).await?;
    thanked.map_err(Interrupted::Fault)?;
    Ok(receipt)
}

/// The step that has no result at first.
const fn stumbles_at(order: Order) -> Option<&'static str> {
    match order.operation {
        ..STUMBLES_FROM => None,
        STUMBLES_FROM..THANKS_STUMBLE_FROM => Some("charge"),
        _ => Some("thank"),
    }
}

fn not_asked() -> UnfinishedStep {
    UnfinishedStep::Unknown("the bank was not asked".to_owned())
}

/// What the bank is asked for in the last step.
pub const fn thanks_of(operation: u64) -> u64 {
    u64::MAX - operation
}

/// Whether nobody has asked this before, in whatever life.
fn is_first(folder: &Path, order: Order) -> bool {
    let stumbled = folder.join(format!("stumbled-{}", order.operation));
    std::fs::File::create_new(stumbled).is_ok()
}
