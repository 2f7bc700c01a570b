//! Ten thousand clients that say hello and then nothing, and what each costs the server.
//!
//! The clients are in a child process: both ends of as many connections are more open files than a
//! process usually may have.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use onlyonce::rpc::{
    Channel, ChannelOptions, Incoming, RefusalCode, Reply, Request, Server, ServerOptions, Status,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tower::{ServiceExt, service_fn};

const ADDRESS: &str = "ONLYONCE_IDLE_TEST_ADDRESS";
const CONNECTIONS: u32 = 10_000;

/// Generous: a read buffer of 16 KiB and two tasks are about a third of it.
const IDLE_BYTES_MAX: u64 = 64 * 1024;

/// The runtime, the standard streams, and what the machine opens on the way.
const OTHER_FILES: u64 = 200;

#[test]
fn ten_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    if let Err(why) = permit_open_files(u64::from(CONNECTIONS) + OTHER_FILES) {
        println!("not run: {why}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = ServerOptions::default();
        options.connections_max = CONNECTIONS + 1;
        options.handshake_timeout = Duration::from_secs(60);
        let server = Server::builder().global_scope().options(options);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = service_fn(async |call: Incoming| {
            Ok::<_, Infallible>(Reply::new(Status::Executed, call.arguments))
        });
        let serving = server.build().unwrap().serve(listener, service).unwrap();
        let address = serving.local_addr().to_string();
        let channel = || Channel::new(address.clone(), ChannelOptions::default());
        let normal = channel();
        let call = || normal.clone().oneshot(Request::new("echo", "hello"));
        assert_eq!(call().await.unwrap().body, "hello");

        let before = memory("VmRSS");
        let mut clients = Clients::start(&address);
        tokio::task::block_in_place(|| clients.until("idle"));
        report("idle", before, memory("VmRSS"));
        assert_eq!(call().await.unwrap().body, "hello");

        // One more than there are places for.
        let refused = channel().oneshot(Request::new("echo", "")).await;
        let refused = refused.unwrap_err().to_string();
        let words = "the server has as many connections as it takes";
        assert!(refused.contains(words), "{refused}");
        assert!(refused.contains(&RefusalCode::TooManyConnections.to_string()));

        // Each promises a frame of 2 MiB, sends one byte of it, and ends: the server has read all
        // of that by the time it says goodbye.
        // Memory that is reserved and not written to is seen only in the size of the process.
        let before = memory("VmSize");
        clients.tell("promise");
        tokio::task::block_in_place(|| clients.until("told"));
        report("2 MiB promised", before, memory("VmPeak"));
        assert_eq!(call().await.unwrap().body, "hello");
        clients.end();
    });
}

/// The child: the clients. Does nothing when it is run as a test.
#[test]
fn is_ten_thousand_clients_when_it_is_the_child() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    permit_open_files(u64::from(CONNECTIONS) + OTHER_FILES).unwrap();
    // Written out, and not by the code under test: a hello without credential and session.
    let hello = b"\x89ONCE\r\n\x1a\x01\x00\x08\x00\x00\x00\x01\x00\x00\xfc\x00\x00\x20\x00";
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(&address).unwrap();
        connection.write_all(hello).unwrap();
        let mut head = [0; 14];
        connection.read_exact(&mut head).unwrap();
        let mut welcome = vec![0; usize::from(head[10])];
        connection.read_exact(&mut welcome).unwrap();
        assert_eq!(welcome[0], 2, "not welcome: {welcome:?}");
        connections.push(connection);
    }
    println!("idle");
    until_told("promise");
    for connection in &mut connections {
        connection.write_all(&[0, 0, 0x20, 0, 1]).unwrap();
    }
    for connection in &mut connections {
        connection.shutdown(Shutdown::Write).unwrap();
        let mut farewell = Vec::new();
        connection.read_to_end(&mut farewell).unwrap();
        let words = String::from_utf8_lossy(&farewell);
        assert!(words.contains("within a frame"), "{words}");
    }
    println!("told");
}

struct Clients {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Clients {
    fn start(address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("is_ten_thousand_clients_when_it_is_the_child")
            .env(ADDRESS, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let say = child.stdin.take().unwrap();
        let hear = BufReader::new(child.stdout.take().unwrap());
        Self { child, say, hear }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.say, "{word}").unwrap();
    }

    /// Other lines are the test harness's of the child.
    fn until(&mut self, word: &str) {
        let mut said = self.hear.by_ref().lines();
        let heard = said.any(|line| line.unwrap().ends_with(word));
        assert!(heard, "the clients ended before they said {word}");
    }

    fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // OK because a child that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_told(word: &str) {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), word);
}

fn report(what: &str, before: u64, after: u64) {
    let each = after.saturating_sub(before) / u64::from(CONNECTIONS);
    println!("{CONNECTIONS} connections, {what}: {each} bytes each ({before} to {after})");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes for each connection");
}

/// A line of what the kernel says of this process, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

fn permit_open_files(needed: u64) -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if maximum.is_some_and(|maximum| maximum < needed) {
        return Err(format!(
            "this process may open {maximum:?} files, {needed} are needed"
        ));
    }
    let current = Some(needed);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).map_err(|error| error.to_string())
}
