//! A server of HTTP/2 that dedupes, and misbehaves as it is told.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use onlyonce_middleware::http::ServingStore;
use onlyonce_storage::{StoreId, Timestamp};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server did wrong with one request that is not `OPTIONS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum H2Fault {
    /// Refuses the stream before it reads the body.
    Refuse,
    /// Goes away before the stream, and says so.
    GoAway,
    /// Goes away with an error.
    GoAwayWithError,
    /// Does what it is asked, and resets the stream.
    ResetDone,
    /// Does what it is asked, and closes the connection.
    CloseDone,
}

#[derive(Clone)]
pub struct H2Peer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<VecDeque<H2Fault>>,
    effects: Mutex<Vec<Vec<u8>>>,
    keys: Mutex<HashSet<String>>,
    trailers: Mutex<Vec<Option<HeaderMap>>>,
}

impl H2Peer {
    pub async fn start(faults: impl IntoIterator<Item = H2Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared::default());
        shared.faults.lock().extend(faults);
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&serving), socket));
            }
        });
        Self { address, shared }
    }

    pub fn effects(&self) -> Vec<Vec<u8>> {
        self.shared.effects.lock().clone()
    }

    pub fn trailers(&self) -> Vec<Option<HeaderMap>> {
        self.shared.trailers.lock().clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn serve(shared: Arc<Shared>, socket: TcpStream) {
    let next = shared.faults.lock().front().copied();
    // Going away is of a connection: written by hand, because h2 tells the truth about streams.
    let code = match next {
        Some(H2Fault::GoAway) => 0,
        Some(H2Fault::GoAwayWithError) => 2,
        _ => return serve_streams(shared, socket).await,
    };
    shared.faults.lock().pop_front();
    go_away(socket, code).await;
}

async fn serve_streams(shared: Arc<Shared>, socket: TcpStream) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let question = request.method() == http::Method::OPTIONS;
        let fault = if question {
            None
        } else {
            shared.faults.lock().pop_front()
        };
        if fault == Some(H2Fault::Refuse) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let shared = Arc::clone(&shared);
        let done = async move {
            if !question {
                shared.act(request).await;
            }
            match fault {
                Some(H2Fault::ResetDone) => {
                    respond.send_reset(h2::Reason::INTERNAL_ERROR);
                    false
                }
                Some(H2Fault::CloseDone) => true,
                _ => {
                    answer(&mut respond);
                    false
                }
            }
        };
        // The connection moves on while the body is read.
        let task = tokio::spawn(done);
        if fault == Some(H2Fault::CloseDone) {
            let close = tokio::select! {
                close = task => close.unwrap(),
                _ = connection.accept() => false,
            };
            if close {
                return;
            }
        }
    }
}

impl Shared {
    async fn act(&self, request: Request<h2::RecvStream>) {
        let key = request.headers().get("idempotency-key").cloned();
        let mut stream = request.into_body();
        let mut body = Vec::new();
        while let Some(Ok(data)) = stream.data().await {
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        let trailers = stream.trailers().await.unwrap();
        self.trailers.lock().push(trailers);
        let key = key
            .map(|key| key.to_str().unwrap().to_owned())
            .unwrap_or_default();
        if self.keys.lock().insert(key) {
            self.effects.lock().push(body);
        }
    }
}

fn answer(respond: &mut h2::server::SendResponse<Bytes>) {
    let store = ServingStore {
        id: StoreId::from_bytes([9; 16]),
        now: Some(Timestamp::from_millis(1_763_740_800_000)),
    };
    let response = Response::builder()
        .header("idempotency-store", store.header_value())
        .header("idempotency-status", "executed");
    let mut stream = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    stream.send_data(Bytes::from("done"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

/// Answers the first request that is not a question with GOAWAY, naming the streams before it.
async fn go_away(mut socket: TcpStream, code: u8) {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    };
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.unwrap();
    socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) * 256 + usize::from(head[2]);
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await.unwrap();
        let headers = head[3] == 1;
        if !headers {
            continue;
        }
        // A question is for 0 streams before it too: it is refused, and asked again.
        let last = [0, 0, 0, 0, 0, 0, 0, code];
        socket.write_all(&frame(7, 0, 0, &last)).await.unwrap();
        let _ = socket.read(&mut [0; 1024]).await;
        return;
    }
}
