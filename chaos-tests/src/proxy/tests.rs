//! The proxy on real sockets, in front of a server that answers each frame.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::proxy::{Direction, Fault, FaultKind, Plan, Proxy, Rule, Stats, Step};
use crate::seed::Seed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// What the server saw.
#[derive(Debug, PartialEq)]
enum Seen {
    End,
    Failure(ErrorKind),
    Frame(Vec<u8>),
}

/// A server that answers a length-prefixed frame with the same frame. Dropping it closes
/// everything.
struct Server {
    addr: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    tasks: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let tasks = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(answer_frames(socket, sender.clone()));
            }
        });
        Self { addr, seen, tasks }
    }

    async fn saw(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv())
            .await
            .expect("the server saw nothing")
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn answer_frames(mut socket: TcpStream, seen: mpsc::UnboundedSender<Seen>) {
    loop {
        let end = match read_frame(&mut socket).await {
            Ok(payload) => {
                let answer = frame(&payload);
                seen.send(Seen::Frame(payload)).ok();
                let Err(error) = socket.write_all(&answer).await else {
                    continue;
                };
                Seen::Failure(error.kind())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Seen::End,
            Err(error) => Seen::Failure(error.kind()),
        };
        seen.send(end).ok();
        return;
    }
}

async fn read_frame(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = socket.read_u32().await?;
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    socket.read_exact(&mut payload).await?;
    Ok(payload)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes(), payload].concat()
}

async fn chaos(server: &Server, plan: Plan) -> Proxy {
    Proxy::builder(server.addr)
        .seed(7)
        .plan(plan)
        .listen("127.0.0.1:0")
        .await
        .unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

async fn answer(client: &mut TcpStream) -> Vec<u8> {
    timeout(PATIENCE, read_frame(client))
        .await
        .expect("no answer came")
        .unwrap()
}

/// Everything that arrives until the connection ends, and how it ended.
async fn drain(client: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, async {
        loop {
            match client.read_buf(&mut bytes).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.kind()),
            }
        }
    });
    let end = end.await.expect("the connection never ended");
    (bytes, end)
}

/// How a connection is refused: the reset may come before the client knows that it is connected.
async fn refusal(proxy: &Proxy) -> ErrorKind {
    match TcpStream::connect(proxy.addr()).await {
        Ok(mut client) => drain(&mut client).await.1.unwrap_err(),
        Err(error) => error.kind(),
    }
}

async fn eventually(proxy: &Proxy, holds: impl Fn(&Stats) -> bool) {
    let met = timeout(PATIENCE, async {
        while !holds(&proxy.stats()) {
            tokio::task::yield_now().await;
        }
    });
    met.await
        .unwrap_or_else(|_| panic!("still {:?}", proxy.stats()));
}

/// The connection is open and has nothing to read, now that everything has settled.
fn is_silent(client: &TcpStream) -> bool {
    matches!(client.try_read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test]
async fn without_faults_frames_pass_unharmed_both_ways() {
    let mut server = Server::start().await;
    let proxy = chaos(&server, Plan::none()).await;
    let mut client = connect(&proxy).await;
    let payload = vec![9; 100_000];
    for _ in 0..3 {
        client.write_all(&frame(&payload)).await.unwrap();
        assert_eq!(answer(&mut client).await, payload);
        assert_eq!(server.saw().await, Seen::Frame(payload.clone()));
    }
    client.shutdown().await.unwrap();
    assert_eq!(drain(&mut client).await, (Vec::new(), Ok(())));
    assert_eq!(server.saw().await, Seen::End);
    eventually(&proxy, |stats| stats.live == 0).await;
    let stats = proxy.stats();
    assert_eq!(
        (stats.bytes_to_server, stats.bytes_to_client),
        (300_012, 300_012)
    );
    assert_eq!((stats.connections, stats.bytes_swallowed), (1, 0));
    assert!(stats.fired.is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_lost_after_the_request_went_through() {
    let mut server = Server::start().await;
    let proxy = chaos(&server, Plan::none().rule(Rule::answer_lost(6))).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    eventually(&proxy, |stats| stats.bytes_swallowed == 6).await;
    let mut begun = [0; 6];
    client.read_exact(&mut begun).await.unwrap();
    assert_eq!(begun, frame(b"transfer")[..6]);
    // The connection stays open, and requests go on arriving.
    client.write_all(&frame(b"again")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"again".to_vec()));
    eventually(&proxy, |stats| stats.bytes_swallowed == 15).await;
    assert!(is_silent(&client));
    assert_eq!(proxy.stats().fired(FaultKind::DropRest), 1);
    // Once the client has given up, nothing is left behind.
    drop(client);
    assert_eq!(server.saw().await, Seen::End);
    eventually(&proxy, |stats| stats.live == 0).await;
}

#[tokio::test]
async fn a_lost_answer_also_hides_that_the_server_has_died() {
    let mut server = Server::start().await;
    let proxy = chaos(&server, Plan::none().rule(Rule::answer_lost(0))).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    eventually(&proxy, |stats| stats.bytes_swallowed == 12).await;
    drop(server);
    // Written into the void, until the proxy has met the server's reset.
    while proxy.stats().bytes_swallowed == 12 {
        client.write_all(&frame(b"more")).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(is_silent(&client));
    assert_eq!(proxy.stats().live, 1);
}

#[tokio::test]
async fn a_lost_answer_also_hides_a_reset_of_the_server() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = Plan::none().rule(Rule::answer_lost(0));
    let builder = Proxy::builder(server.local_addr().unwrap()).plan(plan);
    let proxy = builder.listen("127.0.0.1:0").await.unwrap();
    let mut client = connect(&proxy).await;
    let (mut accepted, _) = server.accept().await.unwrap();
    accepted.write_all(b"lost").await.unwrap();
    eventually(&proxy, |stats| stats.bytes_swallowed == 4).await;
    accepted.set_zero_linger().unwrap();
    drop(accepted);
    // What comes later has been seen, so the reset before it has been seen as well.
    let _later = connect(&proxy).await;
    eventually(&proxy, |stats| stats.connections == 2).await;
    server.accept().await.unwrap();
    assert!(is_silent(&client));
    // What the client writes cannot be delivered any more; it is not told either.
    client.write_all(b"more").await.unwrap();
    eventually(&proxy, |stats| stats.bytes_swallowed == 8).await;
    assert!(is_silent(&client));
    assert_eq!(proxy.stats().live, 2);
    drop(client);
    eventually(&proxy, |stats| stats.live == 1).await;
}

#[tokio::test]
async fn a_lost_request_never_reaches_the_server() {
    let mut server = Server::start().await;
    let proxy = chaos(&server, Plan::none().rule(Rule::request_lost(12))).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut client).await, b"transfer");
    client.write_all(&frame(b"lost")).await.unwrap();
    eventually(&proxy, |stats| stats.bytes_swallowed == 8).await;
    assert!(is_silent(&client));
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    assert!(server.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_reset_of_the_answer_cuts_the_frame_at_its_byte_for_both_ends() {
    let mut server = Server::start().await;
    let reset = Rule::new(Direction::ToClient, Fault::Reset).after_bytes(7);
    let proxy = chaos(&server, Plan::none().rule(reset)).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    let (bytes, end) = drain(&mut client).await;
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert_eq!(bytes, frame(b"transfer")[..7]);
    assert_eq!(
        server.saw().await,
        Seen::Failure(ErrorKind::ConnectionReset)
    );
    assert_eq!(proxy.stats().fired(FaultKind::Reset), 1);
}

#[tokio::test]
async fn a_reset_of_the_request_keeps_the_frame_from_the_server() {
    let mut server = Server::start().await;
    let reset = Rule::new(Direction::ToServer, Fault::Reset).after_bytes(7);
    let proxy = chaos(&server, Plan::none().rule(reset)).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(
        drain(&mut client).await,
        (Vec::new(), Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(
        server.saw().await,
        Seen::Failure(ErrorKind::ConnectionReset)
    );
    assert_eq!(proxy.stats().bytes_to_server, 7);
}

#[tokio::test]
async fn a_close_ends_the_answer_mid_frame_in_good_order() {
    let mut server = Server::start().await;
    let close = Rule::new(Direction::ToClient, Fault::Close).after_bytes(7);
    let proxy = chaos(&server, Plan::none().rule(close)).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(
        drain(&mut client).await,
        (frame(b"transfer")[..7].to_vec(), Ok(()))
    );
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    // Only this direction has ended.
    client.write_all(&frame(b"again")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"again".to_vec()));
    assert_eq!(proxy.stats().fired(FaultKind::Close), 1);
}

#[tokio::test]
async fn a_blackhole_closes_nothing_until_it_is_cut() {
    let mut server = Server::start().await;
    let hole = Rule::new(Direction::ToServer, Fault::Blackhole).after_bytes(12);
    let proxy = chaos(&server, Plan::none().rule(hole)).await;
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut client).await, b"transfer");
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    client.write_all(&frame(b"swallowed")).await.unwrap();
    eventually(&proxy, |stats| stats.fired(FaultKind::Blackhole) == 1).await;
    // Not even the end of the stream gets through.
    client.shutdown().await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(is_silent(&client));
    assert!(server.seen.try_recv().is_err());
    assert_eq!(proxy.stats().live, 1);
    proxy.cut();
    assert_eq!(
        drain(&mut client).await,
        (Vec::new(), Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(
        server.saw().await,
        Seen::Failure(ErrorKind::ConnectionReset)
    );
    eventually(&proxy, |stats| stats.live == 0).await;
}

#[tokio::test]
async fn a_delayed_answer_arrives_late_and_unharmed() {
    let server = Server::start().await;
    let base = Duration::from_millis(30);
    let delay = Fault::Delay {
        base,
        jitter: Duration::from_millis(5),
    };
    // It starts in the middle of the only chunk: the rest of that chunk is late already.
    let plan = Plan::none().rule(Rule::new(Direction::ToClient, delay).after_bytes(6));
    let proxy = chaos(&server, plan).await;
    let mut client = connect(&proxy).await;
    let asked_at = Instant::now();
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut client).await, b"transfer");
    assert!(asked_at.elapsed() >= base);
    assert_eq!(proxy.stats().fired(FaultKind::Delay), 1);
}

#[tokio::test]
async fn sliced_frames_arrive_whole_in_the_end() {
    let mut server = Server::start().await;
    let slice = Fault::Slice { bytes_max: 3 };
    let plan = Plan::none()
        .rule(Rule::new(Direction::ToClient, slice))
        .rule(Rule::new(Direction::ToServer, slice));
    let proxy = chaos(&server, plan).await;
    let mut client = connect(&proxy).await;
    let payload: Vec<u8> = (0..=255).collect();
    client.write_all(&frame(&payload)).await.unwrap();
    assert_eq!(answer(&mut client).await, payload);
    assert_eq!(server.saw().await, Seen::Frame(payload));
    assert_eq!(proxy.stats().fired(FaultKind::Slice), 2);
}

#[tokio::test]
async fn what_gets_through_is_the_scripts_however_the_client_writes() {
    let plan = Plan::none().rule(
        Rule::new(Direction::ToServer, Fault::Close)
            .after_bytes_within(0..=300)
            .probability(0.7),
    );
    for write_bytes in [1, 13, 400] {
        let server = Server::start().await;
        let proxy = chaos(&server, plan.clone()).await;
        let (mut before, mut hit) = (0, 0);
        for ordinal in 1..=12 {
            let mut client = connect(&proxy).await;
            let request = frame(&[1; 396]);
            for piece in request.chunks(write_bytes) {
                client.write_all(piece).await.unwrap();
            }
            client.shutdown().await.unwrap();
            drain(&mut client).await.1.unwrap();
            let script = plan.script(Seed::new(7), ordinal);
            let cut_at = script
                .steps(Direction::ToServer)
                .first()
                .map(Step::after_bytes);
            hit += usize::from(cut_at.is_some());
            before += cut_at.unwrap_or(400);
            eventually(&proxy, |stats| stats.bytes_to_server == before).await;
        }
        assert!(
            (1..12).contains(&hit),
            "{hit} of 12 connections hit: the claim is not tested"
        );
    }
}

#[tokio::test]
async fn dropping_the_proxy_ends_its_connections() {
    let mut server = Server::start().await;
    let hole = Rule::new(Direction::ToServer, Fault::Blackhole).nth(2);
    let proxy = chaos(&server, Plan::none().rule(hole)).await;
    let (mut healthy, mut silenced) = (connect(&proxy).await, connect(&proxy).await);
    healthy.write_all(&frame(b"transfer")).await.unwrap();
    answer(&mut healthy).await;
    assert_eq!(server.saw().await, Seen::Frame(b"transfer".to_vec()));
    silenced.write_all(&frame(b"swallowed")).await.unwrap();
    eventually(&proxy, |stats| stats.fired(FaultKind::Blackhole) == 1).await;
    drop(proxy);
    assert!(drain(&mut healthy).await.0.is_empty());
    assert!(drain(&mut silenced).await.0.is_empty());
    assert_eq!(server.saw().await, Seen::End);
}

#[tokio::test]
async fn a_stopped_proxy_has_freed_its_port() {
    let server = Server::start().await;
    let proxy = chaos(&server, Plan::none()).await;
    let (addr, _open) = (proxy.addr(), connect(&proxy).await);
    timeout(PATIENCE, proxy.stop())
        .await
        .expect("the proxy never stopped");
    let refused = TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn clients_of_a_dead_server_are_reset_at_once_and_served_when_it_is_back() {
    let first = Server::start().await;
    let (proxy, dead) = (chaos(&first, Plan::none()).await, first.addr);
    drop(first);
    // The listener closes when the runtime gets to it.
    while TcpStream::connect(dead).await.is_ok() {}
    assert_eq!(refusal(&proxy).await, ErrorKind::ConnectionReset);
    assert_eq!(proxy.stats().upstream_failures, 1);

    let second = Server::start().await;
    proxy.set_upstream(second.addr);
    let mut client = connect(&proxy).await;
    client.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut client).await, b"transfer");
}

#[tokio::test]
async fn a_new_plan_is_for_later_connections() {
    let mut server = Server::start().await;
    let proxy = chaos(&server, Plan::none().rule(Rule::answer_lost(0))).await;
    let mut faulty = connect(&proxy).await;
    eventually(&proxy, |stats| stats.connections == 1).await;
    proxy.set_plan(Plan::none());
    let mut healthy = connect(&proxy).await;
    healthy.write_all(&frame(b"healthy")).await.unwrap();
    assert_eq!(answer(&mut healthy).await, b"healthy");
    assert_eq!(server.saw().await, Seen::Frame(b"healthy".to_vec()));
    faulty.write_all(&frame(b"faulty")).await.unwrap();
    assert_eq!(server.saw().await, Seen::Frame(b"faulty".to_vec()));
    eventually(&proxy, |stats| stats.bytes_swallowed == 10).await;
    assert!(is_silent(&faulty));
}

#[tokio::test]
async fn connections_past_the_bound_are_reset() {
    let server = Server::start().await;
    let builder = Proxy::builder(server.addr).connections_max(1);
    let proxy = builder.listen("127.0.0.1:0").await.unwrap();
    let mut only = connect(&proxy).await;
    assert_eq!(refusal(&proxy).await, ErrorKind::ConnectionReset);
    only.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut only).await, b"transfer");
    let stats = proxy.stats();
    assert_eq!((stats.connections, stats.refused), (1, 1));
    // Its place is free again once it is gone.
    drop(only);
    eventually(&proxy, |stats| stats.live == 0).await;
    let mut next = connect(&proxy).await;
    next.write_all(&frame(b"transfer")).await.unwrap();
    assert_eq!(answer(&mut next).await, b"transfer");
}

/// How long a condition may take before the test says which one.
const PATIENCE: Duration = Duration::from_secs(10);
