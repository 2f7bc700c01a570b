//! A server of HTTP/1.1 that dedupes, or does not, and misbehaves as it is told.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use onlyonce_middleware::client::{Backoff, BackoffOptions, RetryBudget};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{Client, Hyper, Stack, hyper, reqwest, stack};
use onlyonce_storage::StoreId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server did wrong with one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Closes the connection before it reads the body.
    CloseAtHead,
    /// Closes the connection after so many bytes of the request.
    CloseAfter(usize),
    /// Answers so before it reads the body, and closes.
    AnswerAtHead(&'static str),
    /// Reads the request, does nothing, and closes.
    CloseUndone,
    /// Does what it is asked, and closes without an answer.
    CloseDone,
    /// Does what it is asked, and closes after so many bytes of the answer.
    Cut(usize),
    /// Does what it is asked, and goes silent.
    Silent,
    /// Answers so, and does nothing.
    Say(String),
    /// Nothing.
    None,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// The lines after the last chunk.
    pub trailers: Vec<String>,
}

#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// The store it names; none if it does not dedupe.
    store: Mutex<Option<StoreId>>,
    answers_options: bool,
    /// Where it sends everybody.
    redirects_to: Mutex<Option<String>>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    effects: Mutex<Vec<Vec<u8>>>,
    records: Mutex<HashMap<String, Vec<u8>>>,
}

impl Peer {
    /// Dedupes by the store of that number.
    pub async fn deduping(store: u8) -> Self {
        Self::start(Some(StoreId::from_bytes([store; 16])), true).await
    }

    /// Knows nothing of keys.
    pub async fn plain() -> Self {
        Self::start(None, true).await
    }

    /// Dedupes, but leaves `OPTIONS` without an answer.
    pub async fn silent_about_itself(store: u8) -> Self {
        Self::start(Some(StoreId::from_bytes([store; 16])), false).await
    }

    async fn start(store: Option<StoreId>, answers_options: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                store: Mutex::new(store),
                answers_options,
                redirects_to: Mutex::default(),
                faults: Mutex::default(),
                seen: Mutex::default(),
                effects: Mutex::default(),
                records: Mutex::default(),
            }),
        };
        let shared = Arc::clone(&peer.shared);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&shared), socket));
            }
        });
        peer
    }

    /// Does these things wrong, with one request after the other that is not `OPTIONS`.
    pub fn misbehave(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.faults.lock().extend(faults);
    }

    /// Forgets everything, and is another store.
    pub fn replace_store(&self, store: u8) {
        *self.shared.store.lock() = Some(StoreId::from_bytes([store; 16]));
        self.shared.records.lock().clear();
    }

    /// Is deployed anew, and dedupes no more.
    pub fn stop_deduping(&self) {
        *self.shared.store.lock() = None;
    }

    /// Sends everybody there, by 307.
    pub fn redirect_to(&self, url: String) {
        *self.shared.redirects_to.lock() = Some(url);
    }

    /// The header with which it names its store.
    pub fn store_line(&self) -> String {
        self.shared.store_line()
    }

    /// What it did, by body.
    pub fn effects(&self) -> Vec<Vec<u8>> {
        self.shared.effects.lock().clone()
    }

    /// What came, without the questions whether it dedupes.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock();
        seen.iter()
            .filter(|it| it.method != "OPTIONS")
            .cloned()
            .collect()
    }

    pub fn questions(&self) -> usize {
        let seen = self.shared.seen.lock();
        seen.iter().filter(|it| it.method == "OPTIONS").count()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn post(&self, body: &'static str) -> Request<Body> {
        Request::post(self.url("/transfers"))
            .body(body.into())
            .unwrap()
    }
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Over both transports, with short pauses.
pub fn clients() -> [(&'static str, Client); 2] {
    [
        ("hyper-util", quick(over_hyper()).build()),
        ("reqwest", quick(over_reqwest()).build()),
    ]
}

pub fn over_hyper() -> Stack {
    stack(Hyper::over(connector()))
}

pub fn over_reqwest() -> Stack {
    stack(reqwest(::reqwest::Client::builder()).unwrap())
}

pub fn connector() -> hyper_util::client::legacy::connect::HttpConnector {
    hyper_util::client::legacy::connect::HttpConnector::new()
}

/// With as many retries as it takes, and hardly a pause between them.
pub fn at_once(stack: Stack) -> Stack {
    let backoff = || {
        Backoff::new(BackoffOptions {
            base: Duration::from_millis(1),
            ..BackoffOptions::default()
        })
    };
    quick(stack)
        .with_budget(RetryBudget::unlimited)
        .with_retry(move |retry| retry.with_backoff(backoff().unwrap()))
}

/// Over HTTP/2 from the first byte.
pub fn over_hyper_h2() -> Stack {
    let mut builder =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    builder.http2_only(true).retry_canceled_requests(false);
    stack(hyper(builder.build(connector())))
}

pub fn over_reqwest_h2() -> Stack {
    stack(reqwest(::reqwest::Client::builder().http2_prior_knowledge()).unwrap())
}

pub fn quick(stack: Stack) -> Stack {
    stack
        .with_attempt_timeout(Duration::from_secs(3))
        .with_call_timeout(Duration::from_secs(8))
}

pub async fn text(response: Response<Body>) -> String {
    use http_body_util::BodyExt;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An answer with these lines of headers.
pub fn answer(code: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {code} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

async fn serve(shared: Arc<Shared>, mut socket: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        let next = shared.faults.lock().front().cloned();
        if let Some(Fault::CloseAfter(bytes)) = next {
            while buffer.len() < bytes {
                if read_more(&mut socket, &mut buffer).await.is_none() {
                    return;
                }
            }
            shared.faults.lock().pop_front();
            return;
        }
        let Some(mut seen) = read_head(&mut socket, &mut buffer).await else {
            return;
        };
        let question = seen.method == "OPTIONS";
        let fault = if question {
            Fault::None
        } else {
            shared.faults.lock().pop_front().unwrap_or(Fault::None)
        };
        let at_head = match &fault {
            Fault::CloseAtHead => Some(""),
            Fault::AnswerAtHead(answer) => Some(*answer),
            _ => None,
        };
        if let Some(answer) = at_head {
            shared.seen.lock().push(seen);
            let _ = socket.write_all(answer.as_bytes()).await;
            return;
        }
        if read_body(&mut socket, &mut buffer, &mut seen)
            .await
            .is_none()
        {
            return;
        }
        shared.seen.lock().push(seen.clone());
        let elsewhere = shared.redirects_to.lock().clone();
        if let Some(elsewhere) = elsewhere {
            let said = answer(307, &format!("location: {elsewhere}\r\n"), "");
            if socket.write_all(said.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        if question {
            if !shared.answers_options {
                std::future::pending::<()>().await;
            }
            let said = answer(204, &shared.store_line(), "");
            if socket.write_all(said.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let said = match &fault {
            Fault::CloseUndone => return,
            Fault::Say(said) => said.clone().into_bytes(),
            _ => shared.answer(&seen),
        };
        match fault {
            Fault::CloseDone => return,
            Fault::Silent => std::future::pending().await,
            Fault::Cut(at) => {
                let _ = socket.write_all(&said[..at.min(said.len())]).await;
                return;
            }
            _ => {}
        }
        if socket.write_all(&said).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn store_line(&self) -> String {
        let store = *self.store.lock();
        store.map_or(String::new(), |id| {
            format!("idempotency-store: \"{id}\"; now=1763740800000\r\n")
        })
    }

    /// Does what is asked, once for each key if it dedupes.
    fn answer(&self, seen: &Seen) -> Vec<u8> {
        let line = self.store_line();
        let Some(store) = *self.store.lock() else {
            self.effects.lock().push(seen.body.clone());
            return answer(200, "", "done").into_bytes();
        };
        if let Some(bound) = seen.header("idempotency-store")
            && bound.trim_matches('"') != store.to_string()
        {
            let lines = format!("idempotency-status: not-executed\r\n{line}");
            return answer(421, &lines, "another store").into_bytes();
        }
        let key = seen
            .header("idempotency-key")
            .unwrap_or_default()
            .to_owned();
        let mut records = self.records.lock();
        let replay = records.contains_key(&key);
        records.entry(key).or_insert_with(|| {
            self.effects.lock().push(seen.body.clone());
            Vec::new()
        });
        let status = if replay { "replayed" } else { "executed" };
        answer(
            200,
            &format!("idempotency-status: {status}\r\n{line}"),
            "done",
        )
        .into_bytes()
    }
}

async fn read_more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 4096];
    match socket.read(&mut piece).await {
        Ok(0) | Err(_) => None,
        Ok(length) => {
            buffer.extend_from_slice(&piece[..length]);
            Some(())
        }
    }
}

async fn read_head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(socket, buffer).await?;
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Seen {
        method: first.next().unwrap().to_owned(),
        path: first.next().unwrap().to_owned(),
        headers: lines.filter_map(header).collect(),
        body: Vec::new(),
        trailers: Vec::new(),
    })
}

async fn read_body(socket: &mut TcpStream, buffer: &mut Vec<u8>, seen: &mut Seen) -> Option<()> {
    if seen.header("transfer-encoding").is_none() {
        let length = seen.header("content-length");
        let length = length.map_or(0, |text| text.parse().unwrap());
        while buffer.len() < length {
            read_more(socket, buffer).await?;
        }
        seen.body = buffer.drain(..length).collect();
        return Some(());
    }
    loop {
        let size = read_line(socket, buffer).await?;
        let size = usize::from_str_radix(&size, 16).unwrap();
        while buffer.len() < size {
            read_more(socket, buffer).await?;
        }
        seen.body.extend(buffer.drain(..size));
        loop {
            let line = read_line(socket, buffer).await?;
            if line.is_empty() {
                break;
            }
            seen.trailers.push(line);
        }
        if size == 0 {
            return Some(());
        }
    }
}

async fn read_line(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..at + 2).collect();
            return Some(String::from_utf8(line[..at].to_vec()).unwrap());
        }
        read_more(socket, buffer).await?;
    }
}
