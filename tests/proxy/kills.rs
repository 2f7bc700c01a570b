//! Ingress, egress and service killed with -9, in turn, under load.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use onlyonce::storage::outbox::{OutboxEntry, OutboxStore as _};
use onlyonce::storage::{OutboxOptions, Scope, SledOutbox};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::programs::{Place, Program, curl, egress, egress_at, free_port, python};

/// Withdraws 1 so many times, one after another, and says of each what it heard: an answer, or not.
/// Every call is made once: what is not answered is not made again.
const CLIENT: &str = "
import http.client, sys, time
body = b'<methodCall><methodName>withdraw</methodName><params><param><value><int>1</int></value></param></params></methodCall>'
for _ in range(int(sys.argv[2])):
    try:
        connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
        connection.request('POST', '/RPC2', body, {'Content-Type': 'text/xml'})
        answer = connection.getresponse()
        words = answer.read()
        fault = b'<fault>' in words
        print(answer.status, answer.getheader('Idempotency-Status'), 'fault' if fault else 'total', flush=True)
    except (OSError, http.client.HTTPException) as error:
        print('unanswered', type(error).__name__, flush=True)
        time.sleep(0.05)
    finally:
        connection.close()
";

fn client(at: &str, calls: u32) -> Child {
    let mut client = Command::new(python());
    client
        .args(["-c", CLIENT, at, &calls.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    client.spawn().unwrap()
}

/// How often each thing was heard.
async fn heard(clients: Vec<Child>) -> BTreeMap<String, u64> {
    let mut heard = BTreeMap::new();
    for client in clients {
        let output = timeout(Duration::from_secs(120), client.wait_with_output());
        let output = output.await.expect("the clients end").unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            *heard.entry(line.to_owned()).or_default() += 1;
        }
    }
    heard
}

/// No key has two effects, and every answer has one.
fn assert_kept(place: &Place, heard: &BTreeMap<String, u64>) {
    let mut keys = BTreeMap::<String, u64>::new();
    for effect in place.effects() {
        *keys.entry(effect.key).or_default() += 1;
    }
    let twice: Vec<_> = keys.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?} of {heard:?}");
    for said in heard.keys() {
        let known = [
            "200 ",
            "409 in-doubt",
            "503 not-executed",
            "504 None",
            "unanswered",
        ];
        assert!(known.iter().any(|known| said.starts_with(known)), "{said}");
    }
    let executed = answered(heard);
    let effects = keys.len() as u64;
    assert!(executed <= effects, "{executed} answers, {effects} effects");
    // Not executed is said of nothing that was.
    let not_executed: u64 = heard
        .iter()
        .filter(|(said, _)| said.contains("not-executed"))
        .map(|(_, count)| count)
        .sum();
    let all: u64 = heard.values().sum();
    assert!(
        effects <= all - not_executed,
        "{heard:?}, {effects} effects"
    );
}

/// How many were told what was taken: by the first answer, by its record, or by waiting for it.
fn answered(heard: &BTreeMap<String, u64>) -> u64 {
    let told = |said: &str| said.starts_with("200 ") && said.ends_with(" total");
    let told = heard.iter().filter(|(said, _)| told(said));
    told.map(|(_, count)| count).sum()
}

/// What `onlyonce records` says of the store of this place.
async fn records(place: &Place, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onlyonce"));
    let store = place.store();
    command
        .arg("records")
        .args(arguments)
        .args(["--json", "--store", &store])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(30), command.output());
    let output = output.await.expect("in time").unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"))
}

/// Every key has ended, as the store says: with an answer, or in doubt. What had an effect has one of
/// both, and there are as many answers as were told, or more.
async fn assert_all_ended(place: &Place, heard: &BTreeMap<String, u64>) {
    let mut waited = 0;
    let in_doubt: BTreeSet<String> = loop {
        let page = records(place, &["list", "--limit", "1000"]).await;
        let open = page["records"].as_array().unwrap();
        if open.iter().all(|record| record["state"] == "in-doubt") {
            let key = |record: &Value| record["key"].as_str().unwrap().to_owned();
            break open.iter().map(key).collect();
        }
        waited += 1;
        assert!(waited < 100, "{page}");
        sleep(Duration::from_millis(100)).await;
    };
    let mut completed = 0;
    for effect in place.effects() {
        let key = effect.key.trim_matches('"');
        if in_doubt.contains(key) {
            continue;
        }
        let shown = records(place, &["show", "--global", "--key", key]).await;
        assert_eq!(shown["state"], "completed", "{shown}");
        completed += 1;
    }
    let answered = answered(heard);
    assert!(completed >= answered, "{completed} of {heard:?}");
}

const CLIENTS: u32 = 4;
const CALLS: u32 = 30;

fn clients(at: std::net::SocketAddr) -> Vec<Child> {
    let client = |_| client(&at.to_string(), CALLS);
    (0..CLIENTS).map(client).collect()
}

const PATIENT: [&str; 4] = ["--retries-per-second", "1000", "--attempt-timeout", "1s"];

// B17, B21
#[tokio::test]
async fn an_ingress_that_is_killed_under_load_repeats_no_effect() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.005").await;
    let listen = format!("127.0.0.1:{}", free_port());
    let mut ingress = place.ingress_at(&listen, bank.at, &[]).await;
    let egress = egress(ingress.at, &PATIENT).await;
    let clients = clients(egress.at);
    for _ in 0..3 {
        sleep(Duration::from_millis(250)).await;
        ingress.kill().await;
        ingress = place.ingress_at(&listen, bank.at, &[]).await;
    }
    let heard = heard(clients).await;
    assert_kept(&place, &heard);
    // What was under way at a kill is in doubt or answered; all the others are answered.
    let answered = answered(&heard);
    assert!(answered >= 80, "{heard:?}");
    let unanswered = heard.keys().any(|said| said.starts_with("unanswered"));
    assert!(!unanswered, "{heard:?}");
    assert_all_ended(&place, &heard).await;
    drop(ingress);
}

#[tokio::test]
async fn a_service_that_is_killed_under_load_repeats_no_effect() {
    let place = Place::new();
    let port = free_port();
    let mut bank: Program = place.bank_at(port, "0.005").await;
    let ingress = place.ingress(bank.at, &["--admin", "127.0.0.1:0"]).await;
    let egress = egress(ingress.at, &PATIENT).await;
    let clients = clients(egress.at);
    for _ in 0..3 {
        sleep(Duration::from_millis(250)).await;
        bank.kill().await;
        bank = place.bank_at(port, "0.005").await;
    }
    let heard = heard(clients).await;
    assert_kept(&place, &heard);
    let answered = answered(&heard);
    assert!(answered >= 80, "{heard:?}");
    let unanswered = heard.keys().any(|said| said.starts_with("unanswered"));
    assert!(!unanswered, "{heard:?}");
    // Nothing is left in progress: every key has ended, or is in doubt.
    let url = format!("http://{}/metrics", ingress.admin.unwrap());
    let figures = curl(&[&url]).await;
    assert!(figures.contains("onlyonce_server_in_flight 0"), "{figures}");
    assert_all_ended(&place, &heard).await;
    drop(bank);
}

#[tokio::test]
async fn an_egress_that_is_killed_under_load_repeats_no_effect() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.005").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let mut egress = egress_at(&listen, ingress.at, &PATIENT).await;
    let clients = clients(egress.at);
    for _ in 0..3 {
        sleep(Duration::from_millis(250)).await;
        egress.kill().await;
        egress = egress_at(&listen, ingress.at, &PATIENT).await;
    }
    let heard = heard(clients).await;
    assert_kept(&place, &heard);
    let answered = answered(&heard);
    assert!(answered >= 20, "{heard:?}");
    assert_all_ended(&place, &heard).await;
    drop(egress);
}

/// The keys of the calls in the outbox of an egress that was killed.
async fn taken_by(outbox: &Path) -> Vec<String> {
    let opened = SledOutbox::open_async(outbox, Scope::global(), OutboxOptions::new()).await;
    let opened = opened.unwrap();
    let calls = opened.list().await.unwrap();
    opened.close().await.unwrap();
    let key = |call: &OutboxEntry| call.key.as_str().to_owned();
    calls.iter().map(key).collect()
}

// B17: with an outbox, what the killed egress had taken is done all the same.
#[tokio::test]
async fn an_egress_with_an_outbox_that_is_killed_under_load_repeats_no_effect_and_loses_no_call() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.005").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let outbox = format!("sled:{}", place.path("outbox").display());
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let kept = [&kept[..], &PATIENT].concat();
    let mut taken = BTreeSet::new();
    let mut egress = egress_at(&listen, ingress.at, &kept).await;
    let clients = clients(egress.at);
    for _ in 0..3 {
        sleep(Duration::from_millis(250)).await;
        egress.kill().await;
        taken.extend(taken_by(&place.path("outbox")).await);
        egress = egress_at(&listen, ingress.at, &kept).await;
    }
    assert!(!taken.is_empty(), "nothing was under way at any kill");
    let heard = heard(clients).await;
    assert_kept(&place, &heard);
    let url = format!("http://{}/metrics", egress.admin.unwrap());
    for _ in 0..200 {
        let figures = curl(&[&url]).await;
        if figures.contains("onlyonce_proxy_left_by_earlier_runs 0") {
            assert!(!figures.contains("ended=\"unknown\""), "{figures}");
            assert_all_ended(&place, &heard).await;
            let effects = place.effects().into_iter();
            let done: BTreeSet<_> = effects
                .map(|effect| effect.key.trim_matches('"').to_owned())
                .collect();
            let lost: Vec<_> = taken.difference(&done).collect();
            assert!(lost.is_empty(), "{lost:?} of {}: {heard:?}", taken.len());
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("calls of earlier runs are left: {heard:?}");
}
