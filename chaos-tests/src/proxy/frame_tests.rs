//! Each fault against a real server and real sockets, and what is different from a run without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use crate::fault::{Fault, Phase, Place, Subject, What, When};

/// Frames of one byte for the length, one for the call, and one for what is asked.
const FRAMING: Framing = Framing::LengthPrefixed {
    opening: None,
    frames: LengthPrefix {
        offset: 0,
        width: 1,
        endianness: Endianness::Big,
        counts: Counts::Rest,
        frame_bytes_max: 64,
    },
};

fn fault(what: What, when: When) -> Fault {
    Fault::new("it", Place::Wire, what).when(when)
}

/// A server that notes each request and answers with it.
struct Server {
    addr: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<[u8; 3]>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noting = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let asked = Arc::clone(&noting);
                tokio::spawn(async move {
                    let mut frame = [0; 3];
                    while socket.read_exact(&mut frame).await.is_ok() {
                        asked.lock().push(frame);
                        if socket.write_all(&frame).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, asked }
    }

    fn asked(&self) -> Vec<u8> {
        self.asked.lock().iter().map(|frame| frame[1]).collect()
    }
}

/// How one client fares that asks for calls 1 to 3 on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Answer(u8),
    Other,
    Silence,
    Closed,
    Reset,
}

async fn ask(to: std::net::SocketAddr, calls: std::ops::RangeInclusive<u8>) -> Vec<Got> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let mut got = Vec::new();
    for call in calls {
        let frame = [2, call, b'?'];
        if socket.write_all(&frame).await.is_err() {
            got.push(Got::Reset);
            break;
        }
        let mut answer = [0; 3];
        match timeout(Duration::from_millis(300), socket.read_exact(&mut answer)).await {
            Ok(Ok(_)) if answer == frame => got.push(Got::Answer(call)),
            Ok(Ok(_)) => got.push(Got::Other),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                got.push(Got::Closed);
                break;
            }
            Ok(Err(_)) => {
                got.push(Got::Reset);
                break;
            }
            Err(_) => got.push(Got::Silence),
        }
    }
    got
}

/// What the client got, what the server was asked, and how often the fault struck.
async fn run(fault: Fault) -> (Vec<Got>, Vec<u8>, u64) {
    let server = Server::start().await;
    let naming = Naming::by(|frame| Some((u64::from(frame[1]), 1)));
    let proxy = FrameProxy::builder(server.addr, FRAMING)
        .naming(naming)
        .faults([fault])
        .unwrap()
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let got = ask(proxy.addr(), 1..=3).await;
    // A twin comes on a connection of its own.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let struck = proxy.stats().fired["it"].struck;
    proxy.stop().await;
    (got, server.asked(), struck)
}

fn second(phase: Phase) -> When {
    When::phase(phase).call(2)
}

const UNHARMED: [Got; 3] = [Got::Answer(1), Got::Answer(2), Got::Answer(3)];

#[tokio::test]
async fn what_is_not_struck_passes_unharmed() {
    let (got, asked, struck) = run(fault(What::Drop, When::default().call(9))).await;
    assert_eq!((got, asked, struck), (UNHARMED.to_vec(), vec![1, 2, 3], 0));
}

#[tokio::test]
async fn a_dropped_message_is_gone_and_the_others_are_not() {
    let others = [Got::Answer(1), Got::Silence, Got::Answer(3)];
    let (got, asked, struck) = run(fault(What::Drop, second(Phase::RequestSent))).await;
    assert_eq!((got, asked, struck), (others.to_vec(), vec![1, 3], 1));
    let (got, asked, struck) = run(fault(What::Drop, second(Phase::ReplySent))).await;
    assert_eq!((got, asked, struck), (others.to_vec(), vec![1, 2, 3], 1));
}

#[tokio::test]
async fn a_duplicated_request_is_executed_twice_by_who_does_not_dedupe() {
    let twice = What::Duplicate { later_ms: 5 };
    let (got, mut asked, struck) = run(fault(twice, second(Phase::RequestSent))).await;
    asked.sort_unstable();
    assert_eq!(
        (got, asked, struck),
        (UNHARMED.to_vec(), vec![1, 2, 2, 3], 1)
    );
    // A duplicated reply is taken for the next one by who does not look.
    let (got, asked, struck) = run(fault(twice, second(Phase::ReplySent))).await;
    assert_eq!(got, [Got::Answer(1), Got::Answer(2), Got::Other]);
    assert_eq!((asked, struck), (vec![1, 2, 3], 1));
}

#[tokio::test]
async fn a_copy_has_struck_when_it_has_come_and_one_that_never_comes_has_not() {
    let copies = |later_ms| async move {
        let server = Server::start().await;
        let twice = fault(What::Duplicate { later_ms }, second(Phase::RequestSent));
        let proxy = FrameProxy::builder(server.addr, FRAMING)
            .naming(Naming::by(|frame| Some((u64::from(frame[1]), 1))))
            .faults([twice])
            .unwrap()
            .listen("127.0.0.1:0")
            .await
            .unwrap();
        assert_eq!(ask(proxy.addr(), 1..=3).await, UNHARMED);
        (server, proxy)
    };
    let struck = |proxy: &FrameProxy| proxy.stats().fired["it"].struck;
    // It is waited for.
    let (server, proxy) = copies(400).await;
    assert_eq!((struck(&proxy), server.asked()), (0, vec![1, 2, 3]));
    proxy.twins_came().await;
    assert_eq!((struck(&proxy), server.asked()), (1, vec![1, 2, 3, 2]));
    // Nobody waits for so long.
    let (server, proxy) = copies(3_600_000).await;
    let waiting = timeout(Duration::from_millis(50), proxy.twins_came()).await;
    assert!(waiting.is_err());
    assert_eq!((struck(&proxy), server.asked()), (0, vec![1, 2, 3]));
    // There is no server any more when it comes.
    let (_, proxy) = copies(20).await;
    proxy.set_upstream(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    proxy.twins_came().await;
    assert_eq!(struck(&proxy), 0);
}

#[tokio::test]
async fn a_delayed_message_comes_late() {
    let began = Instant::now();
    let delay = What::Delay {
        min_ms: 120,
        max_ms: 140,
    };
    let (got, _, struck) = run(fault(delay, second(Phase::ReplySent))).await;
    assert_eq!((got, struck), (UNHARMED.to_vec(), 1));
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn a_corrupted_message_differs_in_its_content_and_nowhere_else() {
    let (got, asked, struck) = run(fault(What::Corrupt, second(Phase::ReplySent))).await;
    assert_eq!(got, [Got::Answer(1), Got::Other, Got::Answer(3)]);
    assert_eq!((asked, struck), (vec![1, 2, 3], 1));
}

#[tokio::test]
async fn a_truncated_message_ends_early_with_its_connection() {
    let (got, asked, struck) = run(fault(What::Truncate, second(Phase::ReplySent))).await;
    assert_eq!(got, [Got::Answer(1), Got::Closed]);
    assert_eq!((asked, struck), (vec![1, 2], 1));
    let after = When {
        after_bytes: Some(2),
        ..second(Phase::RequestSent)
    };
    let (got, asked, _) = run(fault(What::Truncate, after)).await;
    assert_eq!((got, asked), (vec![Got::Answer(1), Got::Closed], vec![1]));
}

#[tokio::test]
async fn a_reset_and_a_close_are_told_apart() {
    let (got, asked, struck) = run(fault(What::Reset, second(Phase::ReplySent))).await;
    assert_eq!(
        (got, asked, struck),
        (vec![Got::Answer(1), Got::Reset], vec![1, 2], 1)
    );
    let (got, asked, struck) = run(fault(What::Close, second(Phase::ReplySent))).await;
    assert_eq!(
        (got, asked, struck),
        (vec![Got::Answer(1), Got::Closed], vec![1, 2], 1)
    );
}

#[tokio::test]
async fn a_blackhole_stays_silent_until_it_is_calm() {
    let (got, asked, struck) = run(fault(What::Blackhole, second(Phase::RequestSent))).await;
    assert_eq!(got, [Got::Answer(1), Got::Silence, Got::Silence]);
    assert_eq!((asked, struck), (vec![1], 1));
    let server = Server::start().await;
    let proxy = FrameProxy::builder(server.addr, FRAMING)
        .faults([fault(What::Blackhole, When::default())])
        .unwrap()
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    socket.write_all(&[2, 1, b'?']).await.unwrap();
    assert!(
        timeout(Duration::from_millis(50), socket.read_u8())
            .await
            .is_err()
    );
    proxy.calm();
    let error = timeout(Duration::from_secs(5), socket.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ask(proxy.addr(), 1..=3).await, UNHARMED);
}

#[tokio::test]
async fn what_a_partition_holds_back_passes_when_its_window_ends() {
    let began = Instant::now();
    let window = When {
        from_ms: Some(0),
        until_ms: Some(200),
        ..When::default()
    };
    let (got, asked, struck) = run(fault(What::Partition, window)).await;
    assert_eq!((got, asked), (UNHARMED.to_vec(), vec![1, 2, 3]));
    assert!(struck > 0 && began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn fail_twice_then_let_it_through() {
    let server = Server::start().await;
    let twice = When {
        first_attempts: Some(2),
        ..When::phase(Phase::ReplySent)
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let proxy = FrameProxy::builder(server.addr, FRAMING)
        .naming(Naming::keyed(|frame| Some(vec![frame[1]])))
        .faults([fault(What::Reset, twice)])
        .unwrap()
        .on_strike(move |strike| {
            let struck = (strike.fault.name.clone(), strike.subject);
            telling.lock().push(struck);
        })
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    for got in [Got::Reset, Got::Reset, Got::Answer(1)] {
        assert_eq!(ask(proxy.addr(), 1..=1).await, [got]);
    }
    assert_eq!(server.asked(), [1, 1, 1]);
    let told = told.lock();
    let subjects: Vec<_> = told
        .iter()
        .map(|(_, s): &(String, Subject)| (s.call, s.attempt))
        .collect();
    assert_eq!(subjects, [(1, 1), (1, 2)]);
    let fired = proxy.stats().fired["it"];
    assert_eq!((fired.struck, fired.affected), (2, 1));
}

#[tokio::test]
async fn http_is_struck_by_its_idempotency_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let effects = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&effects);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let effects = Arc::clone(&counting);
            tokio::spawn(async move {
                let mut request = vec![0; 1024];
                while matches!(socket.read(&mut request).await, Ok(length) if length > 0) {
                    effects.fetch_add(1, Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    socket.write_all(answer).await.unwrap();
                }
            });
        }
    });
    let key = |request: &[u8]| Some(header(request, "idempotency-key")?.as_bytes().to_vec());
    let proxy = FrameProxy::builder(addr, Framing::Http1)
        .naming(Naming::keyed(key))
        .faults([fault(What::Close, When::phase(Phase::ReplySent).attempt(1))])
        .unwrap()
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let post = async |key: &str| {
        let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\n{key}content-length: 3\r\n\r\npay");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 100];
        socket.read(&mut answer).await.unwrap()
    };
    assert_eq!(post("Idempotency-Key: a\r\n").await, 0);
    assert!(post("Idempotency-Key: a\r\n").await > 0);
    // Without a key it is no call that could be struck.
    assert!(post("").await > 0);
    assert_eq!(effects.load(Ordering::Relaxed), 3);
    let stats = proxy.stats();
    assert_eq!(
        (stats.fired["it"].struck, stats.requests, stats.replies),
        (1, 3, 3)
    );
}

#[tokio::test]
async fn what_is_not_the_protocol_is_reset_and_counted() {
    let server = Server::start().await;
    let proxy = FrameProxy::builder(server.addr, FRAMING)
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    socket.write_all(&[200]).await.unwrap();
    let error = socket.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.stats().unreadable, 1);
}

#[test]
fn what_a_proxy_cannot_do_is_refused_with_the_reason() {
    let reason = |fault: &Fault| FrameProxy::can(fault).unwrap_err().to_string();
    assert!(reason(&fault(What::PacketLoss, When::default())).ends_with("the kernel does"));
    let received = When::phase(Phase::RequestReceived);
    assert!(reason(&fault(What::Drop, received)).ends_with("at no other phase"));
    let after = When {
        after_bytes: Some(1),
        ..When::default()
    };
    assert!(reason(&fault(What::Drop, after)).contains("as a whole"));
    assert!(reason(&Fault::new("it", Place::Disk, What::DiskFull)).ends_with("on the wire"));
}
