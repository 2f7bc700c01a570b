//! Who calls, and with which key.

use std::sync::Arc;

use onlyonce::middleware::client::Stopped;
use onlyonce::middleware::server::DedupeOptions;
use onlyonce::rpc::{
    CallFailure, ChannelOptions, Client, Credential, Known, Request, Server, Serving, Status,
};
use onlyonce::storage::{Scope, Store};
use onlyonce_chaos::proxy::Plan;
use tower::ServiceExt;

use super::shop::{ClientOptions, PAY, Shop, Wish, channel, client, key, network, payment};
use super::stores::on_every_store;

on_every_store![
    // C9
    a_request_without_a_key_is_refused_and_not_executed,
    // C12
    two_tenants_with_one_key_do_not_meet,
    // C12
    one_tenant_cannot_tell_another_s_key_from_a_new_one,
    // C13
    an_unknown_credential_is_refused_at_the_handshake_in_words,
];

async fn a_request_without_a_key_is_refused_and_not_executed(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    // Arguments that the handler would take.
    let request = Request::new(PAY.name(), shop.seen()[0].arguments.clone());
    let reply = channel(serving.local_addr())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(reply.status, Status::KeyMissing);
    assert_eq!((shop.seen().len(), shop.runs(), shop.paid(1)), (2, 1, 1));
}

async fn two_tenants_with_one_key_do_not_meet(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = with_tenants(&shop, store).await;
    let (alice, bob) = (tenant(&serving, "alice"), tenant(&serving, "bob"));
    let pay = payment(1, Wish::Pay);
    let of_alice = alice.call_as(key("order-1"), &PAY, &pay).await.unwrap();
    let of_bob = bob.call_as(key("order-1"), &PAY, &pay).await.unwrap();
    assert_ne!(of_alice, of_bob);
    assert_eq!((shop.paid(1), shop.runs()), (2, 2));
    // A new connection of the same principal is the same scope.
    let again = tenant(&serving, "alice")
        .call_as(key("order-1"), &PAY, &pay)
        .await
        .unwrap();
    assert_eq!((again, shop.runs()), (of_alice, 2));
}

async fn one_tenant_cannot_tell_another_s_key_from_a_new_one(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = with_tenants(&shop, store).await;
    let (alice, bob) = (tenant(&serving, "alice"), tenant(&serving, "bob"));
    let of_alice = alice
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Pay))
        .await
        .unwrap();
    assert_eq!(bob.peek(key("order-1"), &PAY).await.unwrap(), Known::Absent);
    assert_eq!(bob.seal(key("order-1"), &PAY).await.unwrap(), Known::Sealed);
    // Neither does the seal reach the other's key, nor would other arguments be a mismatch.
    let known = alice.peek(key("order-1"), &PAY).await.unwrap();
    assert_eq!(known, Known::Completed(Ok(of_alice)));
    alice
        .call_as(key("order-2"), &PAY, &payment(2, Wish::Pay))
        .await
        .unwrap();
    bob.call_as(key("order-2"), &PAY, &payment(3, Wish::Pay))
        .await
        .unwrap();
    assert_eq!(shop.runs(), 3);
}

async fn an_unknown_credential_is_refused_at_the_handshake_in_words(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = with_tenants(&shop, store).await;
    let proxy = network(&serving, Plan::none()).await;
    for (connections, credential) in [(1, "mallory"), (2, "")] {
        let ended = with_credential(proxy.addr(), credential)
            .call(&PAY, &payment(1, Wish::Pay))
            .await;
        let Err(CallFailure::NotExecuted(failed)) = ended else {
            panic!("executed: {ended:?}");
        };
        assert_eq!(failed.stopped, Stopped::Final);
        assert!(failed.last.contains("bad credential"), "{failed}");
        // It would be refused again, so it is not asked again.
        assert_eq!(proxy.stats().connections, connections);
    }
    assert_eq!((shop.seen().len(), shop.runs()), (0, 0));
}

/// A server that knows alice and bob.
async fn with_tenants(shop: &Shop, store: Arc<dyn Store>) -> Serving {
    let builder = Server::builder().authenticate(|credential| match credential {
        b"alice" => Scope::principal("alice").ok(),
        b"bob" => Scope::principal("bob").ok(),
        _ => None,
    });
    shop.serve_with(builder, store, DedupeOptions::default())
        .await
}

fn tenant(serving: &Serving, name: &'static str) -> Client {
    with_credential(serving.local_addr(), name)
}

fn with_credential(address: std::net::SocketAddr, credential: &'static str) -> Client {
    let mut channel = ChannelOptions::default();
    channel.credential = Credential::new(credential).unwrap();
    let options = ClientOptions {
        channel,
        ..ClientOptions::default()
    };
    options.client(address)
}
