//! A server of HTTP/2 that answers and misbehaves as it is told, and a network that loses answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use onlyonce_middleware::http::ServingStore;
use onlyonce_storage::{StoreId, Timestamp};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bank::Receipt;
use crate::kit::framed;

pub type Lines = Vec<(&'static str, String)>;

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// It is answered with these lines, a receipt, and these lines.
    Answer(Lines, Lines),
    /// It is answered with nothing but these lines.
    Only(Lines),
    /// Its stream is reset for this reason.
    Reset(Reason),
    /// The connection ends.
    Close,
    /// Nothing.
    Silent,
    /// Of the next connection: it is told that no stream of it was processed.
    GoAway,
}

#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    script: Arc<Mutex<VecDeque<Act>>>,
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Peer {
    pub async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            seen: Arc::default(),
        };
        let serving = peer.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let peer = serving.clone();
                tokio::spawn(async move {
                    let goes_away = matches!(peer.script.lock().front(), Some(Act::GoAway));
                    if goes_away {
                        peer.script.lock().pop_front();
                        go_away(socket).await;
                    } else {
                        peer.serve(socket).await;
                    }
                });
            }
        });
        peer
    }

    /// Does these things from the next request on.
    pub fn then(&self, script: impl IntoIterator<Item = Act>) {
        *self.script.lock() = script.into_iter().collect();
    }

    /// The metadata of what came, in order.
    pub fn seen(&self) -> Vec<HeaderMap> {
        let seen = self.seen.lock();
        seen.iter().map(|(headers, _)| headers.clone()).collect()
    }

    /// The messages that came, in their frames.
    pub fn messages(&self) -> Vec<Bytes> {
        let seen = self.seen.lock();
        seen.iter().map(|(_, message)| message.clone()).collect()
    }

    async fn serve(&self, socket: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(socket).await else {
            return;
        };
        let (close, mut closed) = tokio::sync::mpsc::channel::<()>(1);
        loop {
            let (request, respond) = tokio::select! {
                _ = closed.recv() => return,
                accepted = connection.accept() => match accepted {
                    Some(Ok(accepted)) => accepted,
                    Some(Err(_)) | None => return,
                },
            };
            tokio::spawn(self.clone().handle(request, respond, close.clone()));
        }
    }

    async fn handle(
        self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
        close: tokio::sync::mpsc::Sender<()>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut message = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
        }
        self.seen.lock().push((head.headers, message.into()));
        let act = self.script.lock().pop_front();
        match act.unwrap_or_else(|| executed(1)) {
            Act::Answer(headers, trailers) => {
                let mut stream = respond.send_response(response(&headers), false).unwrap();
                let receipt = prost::Message::encode_to_vec(&Receipt::default());
                stream.send_data(framed(&receipt).into(), false).unwrap();
                stream.send_trailers(lines(&trailers)).unwrap();
            }
            Act::Only(headers) => {
                respond.send_response(response(&headers), true).unwrap();
            }
            Act::Reset(reason) => respond.send_reset(reason),
            Act::Close => close.send(()).await.unwrap(),
            Act::Silent | Act::GoAway => std::future::pending().await,
        }
    }
}

/// HTTP/2 by hand: settings, and, as soon as a request comes, the word that none was processed.
async fn go_away(mut socket: TcpStream) {
    const HEADERS: u8 = 1;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let nothing_processed = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    socket.write_all(&settings).await.unwrap();
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            socket.write_all(&nothing_processed).await.unwrap();
        }
    }
}

fn response(headers: &Lines) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = lines(headers);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

fn lines(lines: &Lines) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_static(name);
        map.append(name, value.parse().unwrap());
    }
    map
}

/// What a server with the store of that number says of a call.
pub fn said(status: &str, store: u8) -> Lines {
    let store = ServingStore {
        id: StoreId::from_bytes([store; 16]),
        now: Some(Timestamp::from_millis(1_763_740_800_000)),
    };
    let store = store.header_value().to_str().unwrap().to_owned();
    vec![
        ("idempotency-status", status.to_owned()),
        ("idempotency-store", store),
    ]
}

/// A call that was executed, or one of these codes and pushbacks.
pub fn executed(store: u8) -> Act {
    Act::Answer(said("executed", store), ended(0, None))
}

pub fn ended(code: u8, pushback: Option<&str>) -> Lines {
    let mut lines = vec![("grpc-status", code.to_string())];
    lines.extend(pushback.map(|text| ("grpc-retry-pushback-ms", text.to_owned())));
    lines
}

/// A network before a server, which ends a connection instead of passing an answer on, once after each
/// time that it is told so.
#[derive(Clone, Default)]
pub struct Loss(Arc<AtomicBool>);

impl Loss {
    /// Nothing that the server says from now on arrives, until a connection has ended of it.
    pub fn happen(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub async fn before(&self, server: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let loss = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(loss.clone().carry(client, server));
            }
        });
        address
    }

    async fn carry(self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = async {
            tokio::io::copy(&mut from_client, &mut to_server)
                .await
                .map(drop)
        };
        let down = async {
            let mut piece = vec![0; 4096];
            loop {
                let read = from_server.read(&mut piece).await?;
                if read == 0 || self.0.swap(false, Ordering::SeqCst) {
                    return Ok(());
                }
                to_client.write_all(&piece[..read]).await?;
            }
        };
        let _: std::io::Result<()> = tokio::select! {
            ended = up => ended,
            ended = down => ended,
        };
    }
}
