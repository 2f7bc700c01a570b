//! Clients that take their answers late, or not at all.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::programs::{Place, Program, curl, egress, proxy};
use super::scripted::{Reply, Scripted};

async fn ingress(upstream: SocketAddr, more: &[&str]) -> Program {
    let upstream = format!("http://{upstream}");
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", &upstream];
    arguments.extend(["--store", "memory:", "--global-scope"]);
    arguments.extend(more);
    proxy(&arguments).await
}

#[tokio::test]
async fn a_client_that_closes_its_half_after_the_request_gets_its_answer_through_the_pair() {
    let place = Place::new();
    let bank = place.bank_at(0, "0.5").await;
    let ingress = place.ingress(bank.at, &[]).await;
    let egress = egress(ingress.at, &[]).await;
    let body = "<methodCall><methodName>withdraw</methodName><params><param><value><int>10\
                </int></value></param></params></methodCall>";
    for (at, key) in [(ingress.at, "Idempotency-Key: half\r\n"), (egress.at, "")] {
        let request = format!(
            "POST /RPC2 HTTP/1.1\r\nHost: bank\r\nContent-Type: text/xml\r\n{key}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_string(&mut answer));
        read.await.expect("in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
        assert!(answer.contains("<methodResponse>"), "{answer}");
    }
    assert_eq!(place.effects().len(), 2);
}

/// What the frames of HTTP/2 that come until the connection ends are of, where a client lets all of an
/// answer wait and goes on to answer pings; and after how long it ended.
async fn frames_of_a_client_that_takes_nothing(at: SocketAddr) -> (Vec<u8>, Duration) {
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut asked = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is nothing.
    asked.extend([0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    // GET / of http://bank, in one frame.
    let head = [&[0x82, 0x86, 0x84, 0x41, 4][..], b"bank"].concat();
    asked.extend([0, 0, u8::try_from(head.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    asked.extend(head);
    stream.write_all(&asked).await.unwrap();
    let began = Instant::now();
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return (kinds, began.elapsed());
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let (kind, acknowledged) = (head[3], head[4] & 1 == 1);
        kinds.push(kind);
        if !acknowledged && (kind == SETTINGS || kind == PING) {
            let payload = if kind == PING { payload } else { Vec::new() };
            let length = u8::try_from(payload.len()).unwrap();
            let head = [0, 0, length, kind, 1, 0, 0, 0, 0];
            let answer = [&head[..], &payload].concat();
            let _ = stream.write_all(&answer).await;
        }
    }
}

#[tokio::test]
async fn a_client_of_http_2_that_lets_its_answer_wait_is_left() {
    for length in [1_000, 100_000] {
        let service = Scripted::always(Reply::ok(&"x".repeat(length))).await;
        let ingress = ingress(service.at, &["--client-timeout", "1s"]).await;
        let taking = frames_of_a_client_that_takes_nothing(ingress.at);
        let taken = timeout(Duration::from_secs(15), taking).await;
        let (kinds, after) = taken.expect("the connection is ended");
        assert!(kinds.contains(&1), "{kinds:?}");
        assert!(!kinds.contains(&0), "{kinds:?}");
        assert!(after >= Duration::from_secs(1), "{after:?}");
    }
}

/// Asks for an endless answer, and takes its first bytes.
async fn reader(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = b"GET /endless HTTP/1.1\r\nHost: bank\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut heard = [0; 16];
    stream.read_exact(&mut heard).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"));
    stream
}

#[tokio::test]
async fn an_answer_that_still_streams_counts_for_the_bound_on_requests() {
    let service = Scripted::always(Reply::Trickle).await;
    let ingress = ingress(service.at, &["--requests-max", "2"]).await;
    let one = reader(ingress.at).await;
    let two = reader(ingress.at).await;
    let code = || async {
        let url = format!("http://{}/", ingress.at);
        curl(&["-o", "/dev/null", "-m", "1", "-w", "%{http_code}", &url]).await
    };
    assert_eq!(code().await, "503");
    drop((one, two));
    for _ in 0..100 {
        if code().await == "200" {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody reads any more, and the places are not free");
}

#[tokio::test]
async fn an_answer_that_still_streams_when_the_time_to_drain_is_over_is_left_over() {
    let service = Scripted::always(Reply::Trickle).await;
    let ingress = ingress(service.at, &["--drain", "300ms"]).await;
    let _reader = reader(ingress.at).await;
    ingress.signal("TERM").await;
    let (status, words) = ingress.ended().await;
    assert_eq!(status.code(), Some(3), "{words}");
    assert!(words.contains("left over: 1 requests"), "{words}");
}
