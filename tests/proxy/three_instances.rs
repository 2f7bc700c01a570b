//! Three proxies on one database, killed and stopped in turn, while duplicates of each call come to all
//! of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::postgres_rig;
use super::programs::{Place, Program, curl, free_port, proxy};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>1</int>\
                    </value></param></params></methodCall>";

/// What somebody heard: status and marker, and the body.
type Heard = (String, String);

async fn withdraw(at: SocketAddr, key: String) -> Heard {
    let (url, key) = (
        format!("http://{at}/RPC2"),
        format!("Idempotency-Key: {key}"),
    );
    let said = curl(&[
        "-w",
        "\n%{http_code} %header{idempotency-status}",
        "--data-raw",
        CALL,
        "-H",
        &key,
        "-H",
        "Content-Type: text/xml",
        &url,
    ])
    .await;
    let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
    (status.to_owned(), body.to_owned())
}

async fn instance(port: u16, bank: &Program, store: &str) -> Program {
    let listen = format!("127.0.0.1:{port}");
    let upstream = format!("http://{}", bank.at);
    let arguments = ["--listen", &listen, "--upstream", &upstream, "--migrate"];
    proxy(&[&arguments[..], &["--store", store, "--global-scope"]].concat()).await
}

// A2, B2, B10, B22
#[tokio::test]
async fn three_proxies_on_one_database_repeat_no_effect_while_they_are_killed_and_stopped() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    let place = Place::new();
    let bank = place.bank_at(0, "0.02").await;
    let store = server.url();
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let mut instances = Vec::new();
    for port in &ports {
        instances.push(instance(*port, &bank, &store).await);
    }
    let addresses: Vec<SocketAddr> = instances.iter().map(|instance| instance.at).collect();

    // A worker makes each call three times at once, at all instances.
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let addresses = addresses.clone();
        workers.spawn(async move {
            let mut heard: Vec<(String, Heard)> = Vec::new();
            for call in 0..CALLS {
                let key = format!("three-{worker}-{call}");
                let mut duplicates = JoinSet::new();
                for at in &addresses {
                    duplicates.spawn(withdraw(*at, key.clone()));
                }
                let all = duplicates.join_all().await;
                heard.extend(all.into_iter().map(|said| (key.clone(), said)));
            }
            heard
        });
    }
    for (round, port) in ports.iter().enumerate() {
        sleep(Duration::from_millis(400)).await;
        instances.remove(0).kill().await;
        sleep(Duration::from_millis(100)).await;
        instances.push(instance(*port, &bank, &store).await);
        // Another one stands still for a while, with what it has begun.
        let frozen = &instances[round % 2];
        frozen.signal("STOP").await;
        sleep(Duration::from_millis(600)).await;
        frozen.signal("CONT").await;
    }
    let mut heard: Vec<(String, Heard)> = workers.join_all().await.concat();

    // A duplicate of every call at every instance, until each has an end.
    let give_up_at = Instant::now() + Duration::from_secs(60);
    for (number, key) in keys().enumerate() {
        loop {
            let said = withdraw(addresses[number % 3], key.clone()).await;
            let is_open = said.0.starts_with("409 in-progress") || said.0.starts_with("503 ");
            heard.push((key.clone(), said));
            if !is_open {
                break;
            }
            assert!(Instant::now() < give_up_at, "{key} is in progress for ever");
            sleep(Duration::from_millis(200)).await;
        }
    }

    let mut effects = BTreeMap::<String, u64>::new();
    for effect in place.effects() {
        *effects.entry(effect.key).or_default() += 1;
    }
    let twice: Vec<_> = effects.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let mut counted = BTreeMap::<String, u64>::new();
    let mut answers = BTreeMap::<String, String>::new();
    for (key, (status, body)) in heard {
        *counted.entry(status.clone()).or_default() += 1;
        let known = ["200 ", "409 in-doubt", "409 in-progress", "503 ", "000"];
        assert!(
            known.iter().any(|known| status.starts_with(known)),
            "{status}: {body}"
        );
        if status.starts_with("200 ") {
            assert!(
                effects.contains_key(&key),
                "an answer without an effect: {key}"
            );
            let first = answers.entry(key).or_insert_with(|| body.clone());
            assert_eq!(*first, body, "two answers to one call");
        }
    }
    // What a kill has met is in doubt; all others are answered.
    let (calls, met) = (keys().count(), 3 * WORKERS as usize);
    assert!(answers.len() + met >= calls, "{counted:?}");
    let elsewhere = |status: &str| counted.keys().any(|said| said.starts_with(status));
    assert!(
        elsewhere("200 replayed") || elsewhere("200 attached"),
        "{counted:?}"
    );
}

fn keys() -> impl Iterator<Item = String> {
    let calls = (0..WORKERS).flat_map(|worker| (0..CALLS).map(move |call| (worker, call)));
    calls.map(|(worker, call)| format!("three-{worker}-{call}"))
}

const WORKERS: u32 = 4;
const CALLS: u32 = 20;
