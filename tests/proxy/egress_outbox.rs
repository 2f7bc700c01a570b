//! An egress whose calls outlive it: killed with -9, and started again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::programs::{Place, Program, curl, egress, egress_at, free_port, proxy};
use super::scripted::{Reply, Scripted};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                    </int></value></param></params></methodCall>";

/// The code that a withdrawal without a key gets.
async fn withdrawn(at: SocketAddr) -> String {
    let url = format!("http://{at}/RPC2");
    let mut arguments = vec!["-o", "/dev/null", "-w", "%{http_code}", "--data-raw", CALL];
    arguments.extend(["-H", "Content-Type: text/xml", &url]);
    curl(&arguments).await
}

/// A figure of a program, of all its labels together.
async fn figure(program: &Program, name: &str) -> BTreeMap<String, u64> {
    let figures = curl(&[&format!("http://{}/metrics", program.admin.unwrap())]).await;
    let lines = figures.lines().filter(|line| line.starts_with(name));
    let split = lines.filter_map(|line| line.rsplit_once(' '));
    split
        .map(|(labels, value)| (labels[name.len()..].to_owned(), value.parse().unwrap()))
        .collect()
}

/// Waits until nothing of earlier runs is left.
async fn driven_on(program: &Program) -> BTreeMap<String, u64> {
    for _ in 0..300 {
        let left = figure(program, "onlyonce_proxy_left_by_earlier_runs").await;
        if left.get("") == Some(&0) {
            return figure(program, "onlyonce_proxy_driven_on_total").await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("calls of earlier runs are left");
}

fn answered(count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("{ended=\"answered\"}".to_owned(), count)])
}

fn outbox(place: &Place) -> String {
    format!("sled:{}", place.path("outbox").display())
}

// E3, B17
#[tokio::test]
async fn what_an_egress_had_taken_when_it_was_killed_is_done_once_after_it_starts_again() {
    let place = Place::new();
    // Nobody is there yet: the calls are taken, and cannot be sent.
    let port = free_port();
    let ingress_at: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let kept = [&kept[..], &["--retries-per-second", "1000"]].concat();
    let first = egress(ingress_at, &kept).await;
    let at = first.at;
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(withdrawn(at))).collect();
    sleep(Duration::from_millis(1500)).await;
    first.kill().await;
    for call in calls {
        assert_eq!(call.await.unwrap(), "000");
    }
    assert!(place.effects().is_empty());

    let bank = place.bank().await;
    let ingress = place
        .ingress_at(&ingress_at.to_string(), bank.at, &[])
        .await;
    let second = egress(ingress.at, &kept).await;
    assert_eq!(driven_on(&second).await, answered(3));
    assert_one_effect_each(&place, 3);
    // And no more of it after another start.
    second.signal("TERM").await;
    let (status, words) = second.ended().await;
    assert_eq!(status.code(), Some(0), "{words}");
    assert_eq!(words.matches("has ended: answered").count(), 3, "{words}");
    let third = egress(ingress.at, &kept).await;
    assert!(driven_on(&third).await.is_empty());
    assert_one_effect_each(&place, 3);
}

// E3, B17
#[tokio::test]
async fn a_call_that_was_under_way_when_its_egress_was_killed_has_one_effect_and_its_end_is_said() {
    let place = Place::new();
    let bank = place.bank_at(0, "1").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let first = egress_at(&listen, ingress.at, &kept).await;
    let at = first.at;
    let call = tokio::spawn(withdrawn(at));
    while place.effects().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    first.kill().await;
    assert_eq!(call.await.unwrap(), "000");
    let second = egress_at(&listen, ingress.at, &kept).await;
    assert_eq!(driven_on(&second).await, answered(1));
    assert_eq!(withdrawn(second.at).await, "200");
    assert_one_effect_each(&place, 2);
}

// H10, E3
#[tokio::test]
async fn who_was_told_how_a_call_ended_has_it_in_hand_and_nothing_of_it_comes_later() {
    let place = Place::new();
    let outbox = outbox(&place);
    let kept = [
        "--store",
        &outbox,
        "--admin",
        "127.0.0.1:0",
        "--attempts-max",
        "2",
    ];
    // Not executed is never executed: nobody is there, and it says so.
    let port = free_port();
    let nobody: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let first = egress(nobody, &kept).await;
    assert_eq!(withdrawn(first.at).await, "503");
    first.kill().await;
    let bank = place.bank().await;
    let ingress = place.ingress_at(&nobody.to_string(), bank.at, &[]).await;
    let second = egress(ingress.at, &kept).await;
    assert!(driven_on(&second).await.is_empty());
    assert!(place.effects().is_empty());
    second.kill().await;

    // What is told as unknown, here because its time was over, is no more driven on.
    let port = free_port();
    let nobody: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let hurried = ["--retries-per-second", "1000", "--timeout", "1s"];
    let first = egress(nobody, &[&kept[..4], &hurried].concat()).await;
    for _ in 0..5 {
        let said = withdrawn(first.at).await;
        assert!(said == "503" || said == "504", "{said}");
    }
    first.kill().await;
    let elsewhere = Place::new();
    let ingress = elsewhere
        .ingress_at(&nobody.to_string(), bank.at, &[])
        .await;
    let second = egress(ingress.at, &kept).await;
    assert!(driven_on(&second).await.is_empty());
    assert!(place.effects().is_empty());
    second.kill().await;

    // In doubt is the other side's word, and the last.
    let service = Scripted::always(Reply::Close).await;
    let doubting = Place::new();
    let ingress = doubting.ingress(service.at, &[]).await;
    let third = egress(ingress.at, &kept).await;
    assert_eq!(withdrawn(third.at).await, "409");
    third.kill().await;
    let fourth = egress(ingress.at, &kept).await;
    assert!(driven_on(&fourth).await.is_empty());
    assert_eq!(service.heard().len(), 1);
}

// A1, C1
#[tokio::test]
async fn an_answer_out_of_the_outbox_is_the_services_and_a_key_of_the_clients_own_stays_one_call() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.3").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let outbox = outbox(&place);
    let egress = egress(ingress.at, &["--store", &outbox]).await;
    let url = format!("http://{}/RPC2", egress.at);
    let asked = |body: &'static str| {
        let url = url.clone();
        tokio::spawn(async move {
            let key = [
                "-H",
                "Idempotency-Key: mine",
                "-H",
                "Content-Type: text/xml",
            ];
            let written = ["-w", "%{http_code}", "--data-raw", body, &url];
            curl(&[&key[..], &written[..]].concat()).await
        })
    };
    let both = [asked(CALL), asked(CALL)];
    for said in both {
        let said = said.await.unwrap();
        assert!(
            said.contains("<int>10</int>") && said.ends_with("200"),
            "{said}"
        );
    }
    let other = asked("<other/>").await.unwrap();
    assert!(other.ends_with("422"), "{other}");
    assert_one_effect_each(&place, 1);
}

fn assert_one_effect_each(place: &Place, count: usize) {
    let effects = place.effects();
    let keys: std::collections::BTreeSet<_> = effects.iter().map(|effect| &effect.key).collect();
    assert_eq!((effects.len(), keys.len()), (count, count), "{effects:?}");
}

// C13: an outbox knows no principals.
#[tokio::test]
async fn two_principals_with_the_same_key_and_bytes_get_each_their_own_answer_through_one_outbox() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.5").await;
    let upstream = format!("http://{}", bank.at);
    let ingress = proxy(&[
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &upstream,
        "--store",
        "memory:",
        "--scope-basic-user-trusted",
    ])
    .await;
    let outbox = outbox(&place);
    let egress = egress(ingress.at, &["--store", &outbox]).await;
    let url = format!("http://{}/RPC2", egress.at);
    // At the same time, and one after the other.
    let withdraw = |principal: &'static str| {
        let url = url.clone();
        tokio::spawn(async move {
            let user = format!("{principal}:x");
            let said = ["-u", &user, "-H", "Idempotency-Key: 1", "-H", TEXT];
            curl(&[&said[..], &["--data-raw", CALL, &url]].concat()).await
        })
    };
    let both = (withdraw("ann"), withdraw("bob"));
    let (ann, bob) = (both.0.await.unwrap(), both.1.await.unwrap());
    assert_ne!(ann, bob);
    assert_eq!(place.effects().len(), 2);
    assert_eq!(withdraw("ann").await.unwrap(), ann);
    assert_eq!(withdraw("bob").await.unwrap(), bob);
    assert_eq!(place.effects().len(), 2);
}

const TEXT: &str = "Content-Type: text/xml";
