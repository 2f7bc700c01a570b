//! A service that costs next to nothing, so that what stands in front of it is measured.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers each request with 201 and 300 bytes, on a port of its own.
///
/// # Panics
///
/// When there is no port.
pub async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket option");
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// Answers what comes on one connection, until it ends.
async fn answer(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 201 Created\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: 300\r\nLocation: /payments/4711\r\n\r\n{}",
        "x".repeat(300)
    );
    let mut buffer = vec![0; 8_192];
    let mut filled = 0;
    loop {
        let whole = loop {
            if let Some(length) = length(&buffer[..filled])
                && length <= filled
            {
                break length;
            }
            match stream.read(&mut buffer[filled..]).await {
                Ok(read @ 1..) => filled += read,
                // OK because whoever goes away wants no answer.
                _ => return,
            }
        };
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// How long the first request is with its body, once its head is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).expect("a head in ASCII");
    assert!(!text.contains("hunked"), "a body with a length");
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    Some(head + length)
}
