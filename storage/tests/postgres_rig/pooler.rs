//! A PgBouncer of the tests' own, which pools by transaction.
//!
//! Where it is not installed the tests say `not run: pgbouncer not found` and pass; with
//! `ONLYONCE_REQUIRE_POSTGRES=1` they fail.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Server, as_owner, is_root};

/// A pooler. Its process and its folder are gone when it is dropped, or when this process is.
#[derive(Debug)]
pub struct Pooler {
    pub port: u16,
    keeper: Child,
}

impl Pooler {
    /// In front of `server`, with so many connections to it at most; `None` where it is not installed.
    pub async fn start(server: &Server, connections_max: usize) -> Option<Self> {
        let Some(program) = program() else {
            assert!(
                std::env::var_os("ONLYONCE_REQUIRE_POSTGRES").is_none_or(|value| value != "1"),
                "pgbouncer not found, and ONLYONCE_REQUIRE_POSTGRES says that it must be"
            );
            // On the stream itself: what a passing test prints is otherwise held back.
            let _ = writeln!(std::io::stderr(), "not run: pgbouncer not found");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("onlyonce-pooler-")
            .tempdir()
            .unwrap()
            .keep();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let users = folder.join("users.txt");
        std::fs::write(&users, "\"owner\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
            listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
            pool_mode = transaction\ndefault_pool_size = {connections_max}\nmax_client_conn = 200\n",
            server.port,
            users.display()
        );
        std::fs::write(folder.join("pgbouncer.ini"), settings).unwrap();
        if is_root() {
            let owned = Command::new("chown")
                .arg("-R")
                .arg("postgres")
                .arg(&folder)
                .status();
            assert!(owned.unwrap().success());
        }
        // Reads until this process is gone, then ends the pooler and removes its folder.
        let script = format!(
            "{} -q {folder}/pgbouncer.ini >{folder}/log 2>&1 & pooler=$!; cat >/dev/null; \
            kill -9 $pooler; rm -rf {folder}",
            program.display(),
            folder = folder.display(),
        );
        let keeper = as_owner(Path::new("sh"))
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(30), "{log}");
            sleep(Duration::from_millis(20)).await;
        }
        Some(Self { port, keeper })
    }

    pub fn url(&self) -> String {
        format!("postgres://owner@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // OK to ignore because the shell does its work also where nobody waits for it.
        let _ = self.keeper.wait();
    }
}

fn program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}
