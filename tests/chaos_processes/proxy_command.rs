//! `chaos proxy`, in front of a server that knows nothing of it.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::judged::program;

/// A server of HTTP as short as it gets, and how often it was asked.
async fn server() -> (
    std::net::SocketAddr,
    std::sync::Arc<std::sync::atomic::AtomicU64>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let asked = std::sync::Arc::clone(&counting);
            tokio::spawn(async move {
                let mut request = vec![0; 1024];
                while matches!(socket.read(&mut request).await, Ok(length) if length > 0) {
                    asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if socket.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, asked)
}

async fn post(address: &str, key: &str) -> usize {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST / HTTP/1.1\r\nidempotency-key: {key}\r\ncontent-length: 3\r\n\r\npay");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.read(&mut [0; 100]).await.unwrap()
}

#[tokio::test]
async fn a_server_in_any_language_loses_its_first_answers_until_a_signal_ends_the_proxy() {
    let (upstream, asked) = server().await;
    let mut proxy = Command::new(program())
        .args(["chaos", "proxy", "--listen", "127.0.0.1:0", "--json"])
        .args(["--upstream", &upstream.to_string()])
        .args(["--fault", "lost:what=close,phase=reply-sent,attempt=1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(proxy.stderr.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("listening ").unwrap();
    for key in ["a", "b"] {
        assert_eq!(post(address, key).await, 0, "the first answer is lost");
        assert!(post(address, key).await > 0, "the second one is not");
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 4);
    let id = Pid::from_raw(i32::try_from(proxy.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let ended = proxy.wait_with_output().await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let told: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(told["fired"]["lost"]["struck"], 2);
    assert_eq!(told["fired"]["lost"]["affected"], 2);
    assert_eq!(
        (&told["requests"], &told["replies"]),
        (&4.into(), &4.into())
    );
}

#[tokio::test]
async fn what_a_proxy_cannot_do_is_bad_usage_with_the_reason() {
    let refused = async |arguments: &[&str]| {
        let output = Command::new(program())
            .args([
                "chaos",
                "proxy",
                "--listen",
                "127.0.0.1:0",
                "--upstream",
                "127.0.0.1:9",
            ])
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&["--fault", "f:what=packet-loss"]).await;
    assert!(text.contains("the kernel does"), "{text}");
    let text = refused(&["--fault", "f:what=drip"]).await;
    assert!(text.contains("nothing that happens"), "{text}");
    let text = refused(&["--protocol", "length:width=9"]).await;
    assert!(text.contains("1 to 8"), "{text}");
    let text = refused(&["--fault", "f:what=drop", "--fault", "f:what=reset"]).await;
    assert!(text.contains("two faults"), "{text}");
}
