//! What bounds the calls of an egress with an outbox: how many, for how long, and on which disk.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::sleep;

use super::egress_outbox::{driven_on, outbox};
use super::programs::{Place, Program, curl, egress};
use super::scripted::{Reply, Scripted};

const CALL: &str = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                    </int></value></param></params></methodCall>";

const WRITTEN: &str = "%{http_code} %header{idempotency-status}";

/// A withdrawal whose client waits no longer than so many seconds.
async fn withdrawn(at: SocketAddr, seconds: &str) -> String {
    let url = format!("http://{at}/RPC2");
    let patience = ["--http2-prior-knowledge", "-m", seconds];
    let call = ["-H", "Content-Type: text/xml", "--data-raw", CALL, &url];
    let written = ["-o", "/dev/null", "-w", WRITTEN];
    curl(&[&patience[..], &written, &call].concat()).await
}

// B17
#[tokio::test]
async fn an_egress_that_is_drained_ends_the_calls_whose_clients_have_gone() {
    let place = Place::new();
    let bank = place.bank_at(0, "2").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let outbox = outbox(&place);
    let kept = ["--store", &outbox, "--admin", "127.0.0.1:0"];
    let first = egress(ingress.at, &kept).await;
    assert_eq!(withdrawn(first.at, "1").await, "000 ");
    first.signal("TERM").await;
    let (status, words) = first.ended().await;
    assert_eq!(status.code(), Some(0), "{words}");
    assert!(words.contains("nothing was left over"), "{words}");
    assert_eq!(place.effects().len(), 1);
    // Nor is its end said again.
    let second = egress(ingress.at, &kept).await;
    assert!(driven_on(&second).await.is_empty());
    assert_eq!(place.effects().len(), 1);
}

#[tokio::test]
async fn a_call_of_an_outbox_whose_client_has_gone_counts_until_it_has_ended() {
    let place = Place::new();
    let bank = place.bank_at(0, "4").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let outbox = outbox(&place);
    let bounds = ["--store", &outbox, "--requests-max", "1"];
    let egress = egress(ingress.at, &bounds).await;
    assert_eq!(withdrawn(egress.at, "1").await, "000 ");
    assert_eq!(withdrawn(egress.at, "1").await, "503 not-executed");
    while place.effects().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..100 {
        let said = withdrawn(egress.at, "20").await;
        if said != "503 not-executed" {
            assert!(said.starts_with("200"), "{said}");
            assert_eq!(place.effects().len(), 2);
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the call has ended, and its place is not free");
}

/// An egress no file of which may grow beyond so many KiB.
async fn egress_on_a_small_disk(ingress: SocketAddr, outbox: &str, kib: u32) -> Program {
    let limited = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    let upstream = format!("http://{ingress}");
    let mut command = Command::new("bash");
    command
        .args(["-c", &limited, env!("CARGO_BIN_EXE_onlyonce"), "proxy"])
        .args(["--mode", "egress", "--listen", "127.0.0.1:0"])
        .args(["--upstream", &upstream, "--store", outbox])
        .args(["--admin", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Program::start(&mut command, true).await
}

// G6: what was never written is not sent, and nobody is told that it may have been.
#[tokio::test]
async fn an_egress_whose_outbox_has_failed_is_not_ready_and_executes_nothing() {
    let place = Place::new();
    let service = Scripted::always(Reply::ok("paid")).await;
    let ingress = place.ingress(service.at, &[]).await;
    let egress = egress_on_a_small_disk(ingress.at, &outbox(&place), 4_096).await;
    let ready = format!("http://{}/readyz", egress.admin.unwrap());
    assert_eq!(curl(&[&ready]).await, "ready\n");
    let body = place.path("body");
    std::fs::write(&body, "x".repeat(500_000)).unwrap();
    let body = format!("@{}", body.display());
    let url = format!("http://{}/pay", egress.at);
    let paid = async || {
        let call = ["--data-binary", &body, &url];
        curl(&[&["-o", "/dev/null", "-w", WRITTEN], &call[..]].concat()).await
    };
    let mut told = Vec::new();
    while told
        .last()
        .is_none_or(|said: &String| said != "503 not-executed")
    {
        assert!(told.len() < 60, "the disk takes everything: {told:?}");
        told.push(paid().await);
    }
    // One at most may have been written when the disk failed.
    let odd = told.iter().filter(|said| said.starts_with("504")).count();
    assert!(odd <= 1, "{told:?}");
    let executed = service.heard().len();
    for _ in 0..3 {
        assert_eq!(paid().await, "503 not-executed");
    }
    assert_eq!(service.heard().len(), executed);
    let said = curl(&[&ready]).await;
    assert!(said.contains("the outbox does not keep calls"), "{said}");
}
