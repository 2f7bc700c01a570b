//! A client that costs next to nothing, so that the server is what is measured.

use std::io::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One connection that is kept alive, for one call after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Whether calls carry a key.
    keyed: bool,
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            request: Vec::with_capacity(1_024),
            answer: vec![0; 4_096],
            keyed: true,
        }
    }

    /// The same connection, whose calls carry no key.
    #[must_use]
    pub fn without_keys(mut self) -> Self {
        self.keyed = false;
        self
    }

    /// Makes call `number`: for the first time, or again. Returns the status of the answer.
    ///
    /// Ten calls in a row are of one session, as of somebody who shops: rivals keep answers there.
    ///
    /// # Panics
    ///
    /// When the answer is none, or larger than 4 KiB.
    pub async fn call(&mut self, number: u64) -> u16 {
        let session = number / 10;
        self.request.clear();
        // A header of the same length, so that all calls have as many bytes.
        let key = if self.keyed {
            "Idempotency-Key"
        } else {
            "X-Number-Of-All"
        };
        write!(
            self.request,
            "POST /pay HTTP/1.1\r\n\
             Host: localhost\r\n\
             Content-Type: application/json\r\n\
             Content-Length: 64\r\n\
             {key}: 0199f1c2-7a3e-7b21-{number:016x}\r\n\
             Cookie: session={session:021}A\r\n\
             \r\n\
             {{\"account\":\"0199f1c2\",\"cents\":1250,\"order\":\"{number:018}\"}}",
        )
        .expect("a vector takes it");
        let request = self.stream.write_all(&self.request);
        request.await.expect("the server reads");
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..]).await;
            let read = read.expect("the server answers");
            assert!(read > 0, "the answer ends early or is too large");
            filled += read;
            if let Some((status, length)) = parse(&self.answer[..filled])
                && filled >= length
            {
                assert_eq!(filled, length, "one answer");
                return status;
            }
        }
    }
}

/// Status and length of the answer with its body, once its head is there.
fn parse(bytes: &[u8]) -> Option<(u16, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).expect("an answer in ASCII");
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length: usize = length.expect("a length").parse().expect("a number");
    Some((status.parse().expect("a status"), head + 4 + length))
}
