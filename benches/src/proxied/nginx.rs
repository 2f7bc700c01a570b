//! nginx as a proxy: two workers, connections to the service that are kept, no access log.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An nginx of its own.
#[derive(Debug)]
pub(super) struct Nginx {
    child: Child,
}

// === impl Nginx ===

impl Nginx {
    /// Starts it on a free port, with its files in `folder`.
    pub(super) fn start(upstream: SocketAddr, folder: &Path) -> (SocketAddr, Self) {
        let address = free_address();
        let configuration = folder.join("nginx.conf");
        let text = text(address, upstream, folder);
        std::fs::write(&configuration, text).expect("a file");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(folder)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx");
        let nginx = Self { child };
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                break;
            }
            pause();
        }
        (address, nginx)
    }

    /// The master and its workers.
    pub(super) fn processes(&self) -> Vec<u32> {
        let master = self.child.id();
        let path = format!("/proc/{master}/task/{master}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let workers = children.split_whitespace().flat_map(str::parse);
        [master].into_iter().chain(workers).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Only the master knows how to end its workers; it does on SIGTERM.
        let stop = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        if stop.is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// Whether there is a program `nginx`; says so if not.
pub(super) fn is_installed() -> bool {
    let asked = Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status();
    let is_there = asked.is_ok_and(|status| status.success());
    if !is_there {
        eprintln!("not measured: nginx not found (`apt-get install nginx-light` brings it)");
    }
    is_there
}

fn text(address: SocketAddr, upstream: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes 2;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream service {{
    server {upstream};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {address} backlog=4096;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
    }}
  }}
}}
"
    )
}

/// An address that was free a moment ago: nginx cannot be told to take any.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

fn pause() {
    let (never, nobody) = std::sync::mpsc::channel::<()>();
    // Waits for its time, because nothing is ever sent.
    let _ = nobody.recv_timeout(Duration::from_millis(10));
    drop(never);
}
