//! The example of the README: it compiles, it holds, and it is the one that stands there.
#![cfg(feature = "sled")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce::middleware::stack;
use onlyonce::rpc::{Client, Method, Router, Server, ServerAdapter};
use onlyonce::storage::{IdempotencyKey, SledOptions, SledStore, Store};
use tower::Layer;

const SHIP: Method<u64, u32> = Method::new("orders.ship");

#[rustfmt::skip] // As narrow as the README shows it.
#[tokio::test]
async fn a_retry_of_the_readmes_example_ships_nothing_again() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?; // In earnest: a folder that stays.
    let store = Arc::new(SledStore::open_async(folder.path(), SledOptions::new()).await?);
    let shipped = Arc::new(AtomicU32::new(0));
    let routes = Router::new(shipped.clone())
        .method(&SHIP, |_caller, shipped: Arc<AtomicU32>, _order| async move {
            Ok(shipped.fetch_add(1, Ordering::SeqCst) + 1)
        })
        .into_routes();
    let service = stack::server(store.clone(), ServerAdapter::new(routes.clone())).layer(routes);
    let (id, clock) = (store.id(), store.clone());
    let server = Server::builder().global_scope().store(id, move || clock.now()).build()?;
    let serving = server.serve(tokio::net::TcpListener::bind("127.0.0.1:0").await?, service)?;

    let client = Client::new(serving.local_addr().to_string());
    let key = IdempotencyKey::derived("ship", b"order-4711");
    let first = client.call_as(key.clone(), &SHIP, &4711).await?;
    let again = client.call_as(key, &SHIP, &4711).await?; // A retry, from anywhere, at any time.
    assert_eq!((first, again, shipped.load(Ordering::SeqCst)), (1, 1, 1));
    Ok(())
}

#[test]
fn the_readme_shows_the_example_that_is_tested_here() {
    let readme = include_str!("../README.md");
    let example = readme.split("```rust\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let tested = include_str!("readme.rs");
    for line in example.lines() {
        let is_frame = line.starts_with("#[tokio::main]") || line.starts_with("async fn main()");
        assert!(is_frame || tested.contains(line), "not tested: {line}");
    }
}
