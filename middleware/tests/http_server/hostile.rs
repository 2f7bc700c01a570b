//! Input that is wrong, large, slow or cut off: bounded memory, a clear status, no hang.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tower_http::decompression::RequestDecompressionLayer;

use crate::client::{post, read_reply, send_bytes};
use crate::fingerprints::TEN_IN_GZIP;
use crate::kit::{Ledger, counting, layer, paying, serve};

#[tokio::test]
async fn a_request_with_two_lengths_is_one_request_at_most() {
    let (server, ledger) = paying(layer()).await;
    let smuggled = "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: smuggled\r\ncontent-length: 0\r\n\r\n";
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n".to_owned(),
        format!(
            "transfer-encoding: chunked\r\ncontent-length: {}\r\n",
            5 + smuggled.len()
        ),
        "content-length: 5\r\ncontent-length: 6\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
    ] {
        let head =
            "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: two\r\nconnection: close\r\n";
        let bytes = format!("{head}{lengths}\r\n0\r\n\r\n{smuggled}");
        let before = ledger.effects();
        let reply = send_bytes(server, bytes.as_bytes()).await;
        assert!(ledger.effects() <= before + 1, "{lengths}");
        if let Some(reply) = reply {
            assert!(
                [200, 400, 422].contains(&reply.code),
                "{lengths}: {}",
                reply.code
            );
        }
    }
    // What stood behind it was never a request.
    assert_eq!(
        post("/pay", "").key("smuggled").send(server).await.said(),
        "executed"
    );
}

#[tokio::test]
async fn absurd_heads_are_refused_and_the_server_goes_on() {
    let (server, ledger) = paying(layer()).await;
    let many = (0..1_000).fold(post("/pay", "").key("k"), |request, number| {
        request.header(&format!("x-{number}"), "1")
    });
    let long = post("/pay", "")
        .key("k")
        .header("x-long", &"x".repeat(1 << 20));
    for request in [many, long] {
        let refused = send_bytes(server, &request.bytes()).await;
        assert!(refused.is_none_or(|reply| reply.code == 431 || reply.code == 400));
    }
    assert_eq!(ledger.effects(), 0);
    assert_eq!(
        post("/pay", "").key("k").send(server).await.said(),
        "executed"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_anything_is_executed() {
    let (server, ledger) = paying(layer().body_bytes_max(1_000)).await;
    let largest = post("/pay", "x".repeat(1_000))
        .key("largest")
        .send(server)
        .await;
    assert_eq!(largest.code, 200);
    let announced = post("/pay", "x".repeat(1_001)).key("k").send(server).await;
    assert_eq!((announced.code, announced.said()), (413, "not-executed"));
    assert_eq!(announced.problem(), "too-large");
    // Its length is not known beforehand.
    let head = "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600)).repeat(2);
    let chunked = send_bytes(server, format!("{head}{chunks}").as_bytes())
        .await
        .unwrap();
    assert_eq!((chunked.code, chunked.said()), (413, "not-executed"));
    assert_eq!(ledger.effects(), 1);
    assert_eq!(
        post("/pay", "x").key("k").send(server).await.said(),
        "executed"
    );
}

#[tokio::test]
async fn a_body_that_is_announced_as_enormous_is_refused_before_it_comes() {
    let (server, ledger) = paying(layer()).await;
    let mut socket = TcpStream::connect(server).await.unwrap();
    let head = "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ncontent-length: 1000000000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut code = [0; 12];
    let read = socket.read_exact(&mut code);
    timeout(Duration::from_secs(5), read)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&code, b"HTTP/1.1 413");
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn a_refused_client_is_heard_out_for_a_little_and_one_that_waits_is_answered_at_once() {
    let (server, ledger) = paying(layer()).await;
    let head = "POST /pay HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 4\r\n";
    for (more, waits, told_before) in [
        // The answer comes once all was said.
        ("", 100, false),
        ("expect: 100-continue\r\n", 100, true),
        // It never comes: nobody waits for long.
        ("", 5_000, true),
    ] {
        let mut socket = TcpStream::connect(server).await.unwrap();
        let head = format!("{head}{more}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut code = [0; 12];
        let read = timeout(Duration::from_millis(waits), socket.read_exact(&mut code));
        assert_eq!(read.await.is_ok(), told_before, "{more}");
        if !told_before {
            socket.write_all(b"body").await.unwrap();
            socket.read_exact(&mut code).await.unwrap();
        }
        assert_eq!(&code, b"HTTP/1.1 400");
    }
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn a_body_that_trickles_has_one_limit_for_all_its_bytes() {
    let (server, ledger) = paying(layer().body_timeout(Duration::from_millis(300))).await;
    let mut socket = TcpStream::connect(server).await.unwrap();
    let head = "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let (mut reading, mut writing) = socket.into_split();
    let trickle = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut code = [0; 12];
    let read = reading.read_exact(&mut code);
    timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    trickle.abort();
    assert_eq!(&code, b"HTTP/1.1 408");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn a_deadline_that_passes_before_the_body_is_there_is_504_and_nothing_is_executed() {
    let (server, ledger) = paying(layer()).await;
    let mut socket = TcpStream::connect(server).await.unwrap();
    let head = "POST /pay HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\nidempotency-deadline-ms: 100\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhalf";
    socket.write_all(head.as_bytes()).await.unwrap();
    let reply = read_reply(&mut socket).await.unwrap();
    assert_eq!((reply.code, reply.said()), (504, "not-executed"));
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn gzip_that_is_cut_off_is_400_and_a_bomb_is_413() {
    let ledger = Ledger::default();
    let route = counting(&ledger)
        .layer::<_, Infallible>(layer())
        .layer(RequestDecompressionLayer::new());
    let server = serve(Router::new().route("/pay", route)).await;
    let packed = |bytes: &[u8]| {
        post("/pay", bytes)
            .key("k")
            .header("content-encoding", "gzip")
    };
    for end in [1, 9, 12, TEN_IN_GZIP.len() - 1] {
        let refused = packed(&TEN_IN_GZIP[..end]).send(server).await;
        assert_eq!(
            (refused.code, refused.said()),
            (400, "not-executed"),
            "{end}"
        );
        assert_eq!(refused.problem(), "unreadable");
    }
    let bomb = packed(&bomb()).send(server).await;
    assert_eq!((bomb.code, bomb.said()), (413, "not-executed"));
    assert_eq!(ledger.effects(), 0);
    assert_eq!(packed(TEN_IN_GZIP).send(server).await.text(), "ten #1");
}

/// 2 MiB and a byte of zeros in gzip: stored blocks would not do, so each block says "one byte,
/// then 258 times the one before" in the fixed code.
fn bomb() -> Vec<u8> {
    let mut bits = BitWriter::default();
    let mut length = 1_u32;
    bits.push(0b011, 3); // The last block, in the fixed code.
    bits.push_code(0x30, 8); // A zero.
    while length <= 2 << 20 {
        bits.push_code(0b1100_0101, 8); // Length 258.
        bits.push_code(0, 5); // Distance 1.
        length += 258;
    }
    bits.push_code(0, 7); // The end.
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    // The checksum is never reached.
    [&head[..], &bits.finish(), &[0; 4], &length.to_le_bytes()].concat()
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    bits: u32,
    count: u32,
}

impl BitWriter {
    fn push(&mut self, bits: u32, count: u32) {
        for at in 0..count {
            self.bits |= ((bits >> at) & 1) << self.count;
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.bits as u8);
                (self.bits, self.count) = (0, 0);
            }
        }
    }

    /// Codes come with their first bit first.
    fn push_code(&mut self, code: u32, count: u32) {
        for at in (0..count).rev() {
            self.push((code >> at) & 1, 1);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.bits as u8);
        }
        self.bytes
    }
}

/// Whatever bytes follow a request line, the server answers or closes, and goes on.
#[tokio::test]
async fn garbage_is_answered_or_closed_and_executes_nothing() {
    let (server, ledger) = paying(layer()).await;
    let seed = 4711;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut bytes = post("/pay", "body").key("k").bytes();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bytes.len() - 4);
            bytes[at] = random.u8(..);
        }
        // Without the key's header as it was, nothing was asked for under it.
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let read = socket.read_to_end(&mut rest);
        // OK because a reset is a way to close.
        let _ = timeout(Duration::from_secs(10), read)
            .await
            .expect("the server closes");
    }
    let before = ledger.effects();
    post("/pay", "body").key("afterwards").send(server).await;
    assert_eq!(ledger.effects(), before + 1);
}
