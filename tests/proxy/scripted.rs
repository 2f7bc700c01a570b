//! A service that answers as its test says, byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A service that answers as its test says.
pub(crate) struct Scripted {
    pub(crate) at: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// What is done about a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// The connection is closed at once.
    Close,
    /// These bytes; the connection stays.
    Say(String),
    /// These bytes, and then it is closed.
    SayAndClose(String),
    /// Nothing, for ever.
    Silence,
    /// A head, and a byte of the body now and then, for ever.
    Trickle,
}

// === impl Scripted ===

impl Scripted {
    /// `reply` is told the number of the request, from 1, and the whole request.
    pub(crate) async fn start<F>(reply: F) -> Self
    where
        F: Fn(usize, &str) -> Reply + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let counting = Arc::clone(&connections);
        let (noting, reply) = (Arc::clone(&heard), Arc::new(reply));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                counting.fetch_add(1, Ordering::AcqRel);
                let (heard, reply) = (Arc::clone(&noting), Arc::clone(&reply));
                tokio::spawn(async move {
                    let _ = serve(stream, &heard, &*reply).await;
                });
            }
        });
        Self {
            at,
            heard,
            connections,
            serving,
        }
    }

    /// Answers everything so.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    /// How many connections it has taken.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// The requests, in order.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Reply {
    /// 200 with this body.
    pub(crate) fn ok(body: &str) -> Self {
        Self::with("200 OK", "", body)
    }

    /// `headers` have each its line end.
    pub(crate) fn with(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Say(format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }
}

async fn serve(
    mut stream: TcpStream,
    heard: &Mutex<Vec<String>>,
    reply: &(impl Fn(usize, &str) -> Reply + ?Sized),
) -> std::io::Result<()> {
    loop {
        let Some(request) = request(&mut stream).await? else {
            return Ok(());
        };
        let number = {
            let mut heard = heard.lock();
            heard.push(request.clone());
            heard.len()
        };
        match reply(number, &request) {
            Reply::Close => return Ok(()),
            Reply::Say(bytes) => stream.write_all(bytes.as_bytes()).await?,
            Reply::SayAndClose(bytes) => return stream.write_all(bytes.as_bytes()).await,
            Reply::Silence => std::future::pending::<()>().await,
            Reply::Trickle => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                stream.write_all(head).await?;
                loop {
                    stream.write_all(b"x").await?;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// One request with a length, or none.
async fn request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if request.len() >= end + 4 + length {
                return Ok(Some(text));
            }
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
}
