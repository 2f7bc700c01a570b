//! An egress whose calls outlive it: killed with -9, and started again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::in_between::STORE;
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
pub(crate) async fn driven_on(program: &Program) -> BTreeMap<String, u64> {
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

pub(crate) fn outbox(place: &Place) -> String {
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

    // Nor what was not sent because its time was over: told as not executed, or as unknown where an
    // attempt was under way just then.
    let port = free_port();
    let nobody: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let hurried = ["--retries-per-second", "1000", "--timeout", "1s"];
    let hurried = [&kept[..4], &hurried].concat();
    let first = egress(nobody, &hurried).await;
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

    // What is told as unknown, here because its time was over after it was sent, is no more driven on:
    // its client has the key.
    let service = Scripted::always(Reply::Silence).await;
    let silent = Place::new();
    let ingress = silent.ingress(service.at, &[]).await;
    let first = egress(ingress.at, &hurried).await;
    assert_eq!(withdrawn(first.at).await, "504");
    first.kill().await;
    let second = egress(ingress.at, &kept).await;
    assert!(driven_on(&second).await.is_empty());
    assert_eq!(service.heard().len(), 1);
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

/// What of a withdrawal with these headers is on disk when its egress is killed, sent or not, is
/// answered, or ends otherwise: see the words of the log of the next run.
async fn ended_after_a_kill(
    place: &Place,
    headers: &[&str],
    more: &[&str],
    after: Duration,
) -> (BTreeMap<String, u64>, String) {
    let port = free_port();
    let ingress_at: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let outbox = outbox(place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let kept = [&kept[..], &["--retries-per-second", "1000"], more].concat();
    let first = egress(ingress_at, &kept).await;
    let url = format!("http://{}/RPC2", first.at);
    let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
    let call = tokio::spawn(async move {
        let said = headers.iter().flat_map(|header| ["-H", header]);
        let mut arguments: Vec<&str> = said.collect();
        arguments.extend(["-H", TEXT, "--data-raw", CALL, &url]);
        curl(&arguments).await
    });
    sleep(Duration::from_millis(1000)).await;
    first.kill().await;
    assert_eq!(call.await.unwrap(), "");
    sleep(after).await;
    let bank = place.bank().await;
    let ingress = place
        .ingress_at(&ingress_at.to_string(), bank.at, &[])
        .await;
    let second = egress(ingress.at, &kept).await;
    let ended = driven_on(&second).await;
    second.signal("TERM").await;
    let (status, words) = second.ended().await;
    assert_eq!(status.code(), Some(0), "{words}");
    (ended, words)
}

// C13, E3: as a guest it would be another call.
#[tokio::test]
async fn a_call_whose_credentials_were_not_kept_is_never_made_without_them() {
    let refused = BTreeMap::from([("{ended=\"refused\"}".to_owned(), 1)]);
    let named = ["--outbox-leave-out", "x-session, x-seal"];
    for (header, more) in [
        ("Authorization: Bearer ann", &[][..]),
        ("Cookie: session=ann", &[][..]),
        ("X-Session: ann", &named[..]),
    ] {
        let place = Place::new();
        let (ended, words) = ended_after_a_kill(&place, &[header], more, Duration::ZERO).await;
        assert_eq!(ended, refused, "{header}: {words}");
        assert!(words.contains("credentials were not kept"), "{words}");
        assert!(place.effects().is_empty(), "{header}");
    }
    // A word of the client's own does not make it whole.
    let place = Place::new();
    let forged = ["Authorization: Bearer ann", "Onlyonce-Kept-Whole: 1"];
    let (ended, words) = ended_after_a_kill(&place, &forged, &[], Duration::ZERO).await;
    assert_eq!(ended, refused, "{words}");
    // What has none is made.
    let place = Place::new();
    let (ended, _) = ended_after_a_kill(&place, &["X-Session: ann"], &[], Duration::ZERO).await;
    assert_eq!(ended, answered(1));
    assert_one_effect_each(&place, 1);
}

// C13: sent, and not answered when its egress was killed.
#[tokio::test]
async fn a_call_with_credentials_that_was_sent_ends_as_unknown_and_is_sent_once() {
    let service = Scripted::always(Reply::Silence).await;
    let place = Place::new();
    let ingress = place.ingress(service.at, &[]).await;
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let first = egress(ingress.at, &kept).await;
    let url = format!("http://{}/RPC2", first.at);
    let call = tokio::spawn(async move {
        let said = ["-H", "Authorization: Bearer ann", "-d", "x", &url];
        curl(&said).await
    });
    while service.heard().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    first.kill().await;
    assert_eq!(call.await.unwrap(), "");
    let heard = service.heard();
    assert!(!heard[0].contains("onlyonce-kept-whole"), "{heard:?}");
    let second = egress(ingress.at, &kept).await;
    let unknown = BTreeMap::from([("{ended=\"unknown\"}".to_owned(), 1)]);
    assert_eq!(driven_on(&second).await, unknown);
    assert_eq!(service.heard().len(), 1);
}

// E3: a payment of last month is not made today.
#[tokio::test]
async fn a_call_that_was_never_sent_is_not_made_by_a_later_run_once_it_is_too_old() {
    let place = Place::new();
    let bound = ["--outbox-unsent-max", "1s"];
    let late = Duration::from_millis(1500);
    let (ended, words) = ended_after_a_kill(&place, &[], &bound, late).await;
    let refused = BTreeMap::from([("{ended=\"refused\"}".to_owned(), 1)]);
    assert_eq!(ended, refused, "{words}");
    assert!(words.contains("too old"), "{words}");
    assert!(place.effects().is_empty());
}

// B13: another store will never know it.
#[tokio::test]
async fn a_call_that_was_sent_to_a_store_that_is_gone_ends_as_unknown() {
    let service = Scripted::always(Reply::Silence).await;
    let place = Place::new();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let ingress = place.ingress_at(&listen, service.at, &[]).await;
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let first = egress(ingress.at, &kept).await;
    let at = first.at;
    let call = tokio::spawn(withdrawn(at));
    while service.heard().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    first.kill().await;
    assert_eq!(call.await.unwrap(), "000");
    ingress.kill().await;
    let elsewhere = Place::new();
    let bank = elsewhere.bank().await;
    let ingress = elsewhere.ingress_at(&listen, bank.at, &[]).await;
    let second = egress(ingress.at, &kept).await;
    let unknown = BTreeMap::from([("{ended=\"unknown\"}".to_owned(), 1)]);
    assert_eq!(driven_on(&second).await, unknown);
    assert!(elsewhere.effects().is_empty());
}

// H10: the other side has the answer, and somebody in between is in the way for now.
#[tokio::test]
async fn a_call_that_somebody_in_between_refuses_is_driven_on_until_the_other_side_answers() {
    let posts = AtomicUsize::new(0);
    let between = Scripted::start(move |_, request| {
        if request.starts_with("OPTIONS") {
            return Reply::with("204 No Content", STORE, "");
        }
        match posts.fetch_add(1, Ordering::AcqRel) {
            0 => Reply::Silence,
            1 => Reply::with("403 Forbidden", "", "who are you?"),
            _ => {
                let words = format!("{STORE}Idempotency-Status: replayed\r\n");
                Reply::with("200 OK", &words, "paid")
            }
        }
    })
    .await;
    let place = Place::new();
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let first = egress(between.at, &kept).await;
    let at = first.at;
    let call = tokio::spawn(withdrawn(at));
    while !between
        .heard()
        .iter()
        .any(|heard| heard.starts_with("POST"))
    {
        sleep(Duration::from_millis(10)).await;
    }
    first.kill().await;
    assert_eq!(call.await.unwrap(), "000");
    let second = egress(between.at, &kept).await;
    assert_eq!(driven_on(&second).await, answered(1));
}

// F4
#[tokio::test]
async fn an_answer_that_is_too_large_to_be_kept_is_delivered_and_its_call_leaves_the_outbox() {
    // With its head it is more than is kept, and by itself.
    for size in [(1 << 20) - 10, 1 << 20, 3 << 20] {
        let service = Scripted::always(Reply::ok(&"x".repeat(size))).await;
        let place = Place::new();
        let ingress = place.ingress(service.at, &[]).await;
        let outbox = outbox(&place);
        let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
        let first = egress(ingress.at, &kept).await;
        let url = format!("http://{}/pay", first.at);
        let written = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}"];
        let said = curl(&[&written[..], &["-d", "x", &url]].concat()).await;
        assert_eq!(said, format!("200 {size}"));
        first.kill().await;
        let second = egress(ingress.at, &kept).await;
        assert!(driven_on(&second).await.is_empty(), "{size}");
        assert_eq!(service.heard().len(), 1);
    }
}

// H10: nobody takes what is left for ended.
#[tokio::test]
async fn an_egress_that_is_drained_says_what_its_outbox_still_has() {
    let place = Place::new();
    let port = free_port();
    let nobody: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let kept = [&kept[..], &["--retries-per-second", "1000"]].concat();
    let first = egress(nobody, &kept).await;
    let at = first.at;
    let call = tokio::spawn(withdrawn(at));
    sleep(Duration::from_millis(1000)).await;
    first.kill().await;
    assert_eq!(call.await.unwrap(), "000");
    let second = egress(nobody, &[&kept[..], &["--timeout", "1s"]].concat()).await;
    // It is driven on, and said to stay.
    sleep(Duration::from_millis(2000)).await;
    second.signal("TERM").await;
    let (status, words) = second.ended().await;
    assert_eq!(status.code(), Some(3), "{words}");
    assert!(words.contains("1 calls in the outbox"), "{words}");
    assert!(words.contains("stays, and is driven on"), "{words}");
}
