//! A PostgreSQL server of the tests' own: started from what is installed, on a free port of the
//! loopback and in a temporary folder, and gone with the process that started it.
//!
//! Where PostgreSQL is not installed the tests say `not run: postgres not found` and pass; with
//! `ONLYONCE_REQUIRE_POSTGRES=1` they fail, so that a gate cannot pass without them.
#![allow(dead_code, reason = "not every test binary uses all of it")]

pub mod pooler;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};

/// A server. Its folder and its processes are gone when it is dropped, and also when this process is
/// killed: a shell waits for the end of a pipe.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    pub port: u16,
    keeper: Child,
}

/// Whether an acknowledged commit is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    No,
    Yes,
}

/// The server that the tests of this binary share; `None` where PostgreSQL is not installed.
pub fn shared() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Durable::No)).as_ref()
}

/// Options for a store in a schema that nobody else uses, which is not made yet.
pub fn options(server: &Server) -> PostgresOptions {
    named(server).1
}

/// The same, and the name of its schema, which its connections have as well.
pub fn named(server: &Server) -> (String, PostgresOptions) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let schema = format!("store_{number}");
    let url = format!("{}?application_name={schema}", server.url());
    let options = PostgresOptions::new(url).schema(&schema);
    (schema, options)
}

/// A store of its own.
pub async fn store(options: PostgresOptions) -> PostgresStore {
    PostgresStore::migrate(&options).await.unwrap();
    PostgresStore::open(options).await.unwrap()
}

impl Server {
    /// A new server, or `None` where PostgreSQL is not installed.
    pub fn start(durable: Durable) -> Option<Self> {
        let folder = tempfile::Builder::new()
            .prefix("onlyonce-postgres-")
            .tempdir()
            .unwrap()
            .keep();
        Self::start_in(folder, durable)
    }

    /// The same, in a folder that is there and empty, and gone with the server.
    pub fn start_in(folder: PathBuf, durable: Durable) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                std::env::var_os("ONLYONCE_REQUIRE_POSTGRES").is_none_or(|value| value != "1"),
                "postgres not found, and ONLYONCE_REQUIRE_POSTGRES says that it must be"
            );
            // On the stream itself: what a passing test prints is otherwise held back.
            let _ = writeln!(std::io::stderr(), "not run: postgres not found");
            // OK to ignore because an empty folder is in nobody's way.
            let _ = std::fs::remove_dir(folder);
            return None;
        };
        let server = Self::keep(programs, folder);
        server.as_owner(
            "initdb",
            &[
                "-U", "owner", "-A", "trust", "-N", "-E", "UTF8", "-D", "data",
            ],
        );
        server.configure(durable);
        server.up();
        Some(server)
    }

    /// A standby of this one, that follows it until it is promoted.
    pub fn standby(&self) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("onlyonce-standby-")
            .tempdir()
            .unwrap()
            .keep();
        let standby = Self::keep(self.programs.clone(), folder);
        let port = self.port.to_string();
        standby.as_owner(
            "pg_basebackup",
            &[
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "owner",
                "-D",
                "data",
                "-R",
                "-c",
                "fast",
            ],
        );
        standby.configure(Durable::No);
        standby.up();
        standby
    }

    fn keep(programs: PathBuf, folder: PathBuf) -> Self {
        // Its processes become ours when those that started them have ended: what was killed is then
        // gone, and no zombie that looks as if it ran, whatever the first process here does.
        set_child_subreaper(Some(getpid())).unwrap();
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&folder).status();
            assert!(owned.unwrap().success());
        }
        // Reads until this process is gone, then ends the server and removes its folder.
        let script = format!(
            "cat >/dev/null; {} -D {}/data -m immediate stop >/dev/null 2>&1; rm -rf {}",
            programs.join("pg_ctl").display(),
            folder.display(),
            folder.display()
        );
        let keeper = as_owner(Path::new("sh"))
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // What ends the group of this process must leave it to clean up.
            .process_group(0)
            .spawn()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            programs,
            folder,
            port,
            keeper,
        }
    }

    fn configure(&self, durable: Durable) {
        let fsync = if durable == Durable::Yes { "on" } else { "off" };
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
            fsync = {fsync}\nfull_page_writes = {fsync}\nmax_connections = 200\n\
            shared_buffers = 32MB\nlog_min_messages = fatal\n",
            self.port
        );
        let script = format!("cat >> {}/data/postgresql.conf", self.folder.display());
        let mut writer = as_owner(Path::new("sh"))
            .args(["-c", &script])
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = writer.stdin.take().unwrap();
        input.write_all(settings.as_bytes()).unwrap();
        drop(input);
        assert!(writer.wait().unwrap().success());
    }

    /// Writes a setting, which holds when it is started the next time.
    pub fn set(&self, setting: &str) {
        let line = format!(
            "echo \"{setting}\" >> {}/data/postgresql.conf",
            self.folder.display()
        );
        let done = as_owner(Path::new("sh"))
            .args(["-c", &line])
            .current_dir("/")
            .status();
        assert!(done.unwrap().success());
    }

    /// Starts it unless it runs.
    pub fn up_again(&self) {
        let status = as_owner(&self.programs.join("pg_ctl"))
            .args(["-D", "data", "status"])
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .status();
        if !status.unwrap().success() {
            self.up();
        }
    }

    /// Starts it, and waits until it takes connections.
    pub fn up(&self) {
        self.as_owner(
            "pg_ctl",
            &["-D", "data", "-l", "log", "-w", "-t", "60", "start"],
        );
    }

    /// Puts a copy of a schema into another server, as whoever moves it would.
    pub fn copy_schema(&self, schema: &str, other: &Self) {
        let script = format!(
            "{programs}/pg_dump -h 127.0.0.1 -p {from} -U owner -n {schema} postgres |
            {programs}/psql -h 127.0.0.1 -p {to} -U owner -q -v ON_ERROR_STOP=1 postgres",
            programs = self.programs.display(),
            from = self.port,
            to = other.port,
        );
        let copied = as_owner(Path::new("sh"))
            .args(["-c", &script])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(copied.unwrap().success());
    }

    /// Ends it as a crash would: nothing is written that was not.
    pub fn crash(&self) {
        let processes = self.processes();
        self.signal("KILL", &processes);
        for pid in processes {
            // OK to ignore because one that somebody else has reaped is gone as well.
            let _ = waitpid(pid_of(pid), WaitOptions::empty());
        }
    }

    /// Ends it in order.
    pub fn stop(&self) {
        self.as_owner("pg_ctl", &["-D", "data", "-m", "fast", "-w", "stop"]);
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.as_owner("pg_ctl", &["-D", "data", "-w", "promote"]);
    }

    /// Stops all of its processes where they are, or lets them go on.
    pub fn freeze(&self, frozen: bool) {
        self.signal(if frozen { "STOP" } else { "CONT" }, &self.processes());
    }

    /// The postmaster and what it has started.
    fn processes(&self) -> Vec<u32> {
        let file = self.folder.join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let master: u32 = text.lines().next().unwrap().trim().parse().unwrap();
        let listed = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &master.to_string()])
            .output()
            .unwrap();
        let mut processes = vec![master];
        let text = String::from_utf8(listed.stdout).unwrap();
        processes.extend(
            text.split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap()),
        );
        processes
    }

    fn signal(&self, name: &str, processes: &[u32]) {
        for pid in processes {
            // OK to ignore because one that has just ended needs no signal.
            let _ = Command::new("kill")
                .args(["-s", name, &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }

    fn as_owner(&self, program: &str, arguments: &[&str]) {
        let output = as_owner(&self.programs.join(program))
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
        );
    }

    pub fn url(&self) -> String {
        self.url_of("owner")
    }

    pub fn url_of(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// A connection beside those of the stores.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, io) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(io);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // OK to ignore because the shell does its work also where nobody waits for it.
        let _ = self.keeper.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn as_owner(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

fn pid_of(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The folder of `initdb` and the others.
fn programs() -> Option<PathBuf> {
    let all = ["initdb", "pg_basebackup", "pg_ctl", "postgres"];
    let has = |folder: &Path| all.iter().all(|program| folder.join(program).is_file());
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&paths).find(|folder| has(folder)) {
        return Some(found);
    }
    let asked = Command::new("pg_config").arg("--bindir").output();
    if let Ok(asked) = asked {
        let folder = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        if has(&folder) {
            return Some(folder);
        }
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<_> = versions
        .filter_map(Result::ok)
        .map(|version| version.path().join("bin"))
        .filter(|folder| has(folder))
        .collect();
    folders.sort();
    folders.pop()
}
