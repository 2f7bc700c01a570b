//! Python's `requests`, which knows nothing of this crate, with the retries of urllib3 under it.
//!
//! `ONLYONCE_PYTHON` names a Python that has it: `.ci/run` makes one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::kit::{layer, paying};

/// Makes the calls that its arguments name, and prints of each its code, what is said of it, and its
/// body.
const CALLS: &str = r#"
import sys, requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

session = requests.Session()
retry = Retry(total=3, backoff_factor=0.05, allowed_methods=["POST"], status_forcelist=[409, 503])
session.mount("http://", HTTPAdapter(max_retries=retry))
for call in sys.argv[2:]:
    key, body = call.split("/")
    headers = {"Idempotency-Key": key} if key else {}
    reply = session.post(f"http://{sys.argv[1]}/pay", data=body, headers=headers, timeout=20)
    print(reply.status_code, reply.headers.get("Idempotency-Status"), reply.text, sep="|")
"#;

/// What was printed; `None` where there is no such Python.
async fn python(server: SocketAddr, calls: &[&str]) -> Option<Vec<String>> {
    let Ok(python) = std::env::var("ONLYONCE_PYTHON") else {
        println!("not run: ONLYONCE_PYTHON names no Python with requests");
        return None;
    };
    let mut command = Command::new(&python);
    command.args(["-c", CALLS, &server.to_string()]).args(calls);
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await;
    let output = output.expect("it ends").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    Some(printed.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn requests_pays_once() {
    let (server, ledger) = paying(layer()).await;
    let calls = ["k/10", "\"k\"/10", "k/11", "/10"];
    let Some(told) = python(server, &calls).await else {
        return;
    };
    assert_eq!(told[0], "200|executed|10 #1");
    assert_eq!(told[1], "200|replayed|10 #1");
    assert!(told[2].starts_with("422|mismatch|"), "{}", told[2]);
    assert!(told[3].starts_with("400|not-executed|"), "{}", told[3]);
    assert_eq!(ledger.effects(), 1);
}

/// A network before `server` that ends its first connection instead of passing an answer on.
async fn losing_one_answer(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut answer = vec![0; 4096];
                    loop {
                        let read = from_server.read(&mut answer).await?;
                        if connection == 0 || read == 0 {
                            return Ok::<_, std::io::Error>(());
                        }
                        to_client.write_all(&answer[..read]).await?;
                    }
                };
                tokio::select! {
                    _ = up => {}
                    _ = down => {}
                }
            });
        }
    });
    address
}

// H11
#[tokio::test]
async fn the_retries_of_urllib3_pay_once() {
    let (server, ledger) = paying(layer()).await;
    let network = losing_one_answer(server).await;
    let Some(told) = python(network, &["k/10"]).await else {
        return;
    };
    assert_eq!(told, ["200|replayed|10 #1"]);
    assert_eq!(ledger.effects(), 1);
}
