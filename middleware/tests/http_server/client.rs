//! A client of HTTP/1.1 that is nothing but a socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request line, headers and a body, as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    head: String,
    body: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// How many bytes it had on the wire.
    pub(crate) length: usize,
}

/// A POST of text.
pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Raw {
    request("POST", path, body)
}

pub(crate) fn request(method: &str, path: &str, body: impl Into<Vec<u8>>) -> Raw {
    let body = body.into();
    let length = body.len();
    Raw {
        head: format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n"
        ),
        body,
    }
}

/// Sends bytes and reads until the server has no more to say.
pub(crate) async fn send_bytes(server: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut socket = TcpStream::connect(server).await.unwrap();
    // OK because a server that refuses early need not read all of it.
    let _ = socket.write_all(bytes).await;
    read_reply(&mut socket).await
}

/// What the server says until it closes; `None` where it says nothing.
pub(crate) async fn read_reply(socket: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = timeout(Duration::from_secs(20), socket.read(&mut piece));
        match read.await.expect("the server answers or closes") {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
    (!bytes.is_empty()).then(|| Reply::parse(&bytes))
}

// === impl Raw ===

impl Raw {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(self) -> Self {
        self.header("content-type", "application/json")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }

    pub(crate) async fn send(&self, server: SocketAddr) -> Reply {
        let reply = send_bytes(server, &self.bytes()).await;
        reply.expect("an answer")
    }
}

// === impl Reply ===

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = find(bytes, b"\r\n\r\n").expect("a head") + 4;
        let (code, headers) = head(&bytes[..end]);
        let mut reply = Self {
            code,
            headers,
            body: bytes[end..].to_vec(),
            trailers: Vec::new(),
            length: bytes.len(),
        };
        if reply.header("transfer-encoding") == Some("chunked") {
            (reply.body, reply.trailers) = unchunk(&bytes[end..]);
        } else if let Some(length) = reply.header("content-length") {
            assert_eq!(length.parse::<usize>().unwrap(), reply.body.len());
        }
        reply
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        std::str::from_utf8(value).ok()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }

    pub(crate) fn said(&self) -> &str {
        self.header("idempotency-status").unwrap_or("nothing")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The last part of a problem's type.
    pub(crate) fn problem(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.code);
        let name = problem["type"].as_str().unwrap();
        name.strip_prefix("urn:onlyonce:problem:")
            .unwrap()
            .to_owned()
    }
}

type Lines = Vec<(String, Vec<u8>)>;

fn head(bytes: &[u8]) -> (u16, Lines) {
    let end = find(bytes, b"\r\n").unwrap();
    let status = std::str::from_utf8(&bytes[..end]).unwrap();
    let code = status.split(' ').nth(1).unwrap().parse().unwrap();
    (code, lines(&bytes[end + 2..]))
}

fn lines(bytes: &[u8]) -> Lines {
    let mut rest = bytes;
    let mut lines = Vec::new();
    while let Some(end) = find(rest, b"\r\n").filter(|end| *end > 0) {
        let colon = find(rest, b":").unwrap();
        let name = String::from_utf8(rest[..colon].to_vec()).unwrap();
        lines.push((name, rest[colon + 1..end].trim_ascii().to_vec()));
        rest = &rest[end + 2..];
    }
    lines
}

fn unchunk(bytes: &[u8]) -> (Vec<u8>, Lines) {
    let (mut rest, mut body) = (bytes, Vec::new());
    loop {
        let end = find(rest, b"\r\n").expect("a chunk's length");
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        rest = &rest[end + 2..];
        if length == 0 {
            return (body, lines(rest));
        }
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
