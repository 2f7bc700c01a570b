//! A PostgreSQL server of our own: from what is installed, on a free port of the loopback, in a
//! temporary folder, and gone with whoever started it.
//!
//! A shell waits for the end of a pipe that only this process holds. So the server is ended and its
//! folder removed also where this process is killed.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

/// A PostgreSQL server with an empty database. Dropping it ends it and removes its folder; that takes
/// an instant, in which the thread waits.
///
/// What it acknowledges is durable, as far as PostgreSQL's own settings go.
#[derive(Debug)]
pub struct TemporaryPostgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    owner: Option<Owner>,
    server: Option<Child>,
    keeper: Child,
}

/// Why there is no temporary server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemporaryPostgresError {
    /// It ended, or did not answer.
    #[error("PostgreSQL does not start: {0}")]
    NotStarted(String),
    /// A file or a process failed.
    #[error("no temporary PostgreSQL: {0}")]
    Io(#[from] io::Error),
    /// PostgreSQL refuses to run as root, and there is nobody else to run it as.
    #[error(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as; \
         run this as another user, or name a database with --store postgres://USER@HOST/DATABASE"
    )]
    NoUser,
    /// The folder for temporary files is closed to the user that the server runs as.
    #[error(
        "the user `{user}`, as which PostgreSQL runs, cannot use {}; name another folder in TMPDIR, \
         or a database with --store postgres://USER@HOST/DATABASE", folder.display()
    )]
    FolderClosed {
        /// Its folder.
        folder: PathBuf,
        /// Who cannot.
        user: &'static str,
    },
    /// PostgreSQL's programs are not here.
    #[error(
        "postgres not found: install PostgreSQL's server (initdb and postgres on the PATH, where \
         pg_config says, or under /usr/lib/postgresql), or name a database with --store \
         postgres://USER@HOST/DATABASE"
    )]
    NotInstalled,
}

/// Which port a start may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Any,
    /// Others know it.
    Same,
}

/// What came of a start.
enum Started {
    Answers,
    /// It has ended, and said this.
    PortTaken(String),
}

/// Whom the server runs as where we are root.
#[derive(Clone, Copy, Debug)]
struct Owner {
    name: &'static str,
    user: u32,
    group: u32,
}

// === impl TemporaryPostgres ===

impl TemporaryPostgres {
    /// Starts one, and waits until it answers. As root it runs as the user `postgres` or `nobody`.
    ///
    /// # Errors
    ///
    /// See [`TemporaryPostgresError`]; nothing is left then.
    pub async fn start() -> Result<Self, TemporaryPostgresError> {
        let programs = programs().ok_or(TemporaryPostgresError::NotInstalled)?;
        let owner = match geteuid().is_root() {
            true => Some(Owner::find().ok_or(TemporaryPostgresError::NoUser)?),
            false => None,
        };
        let folder = tempfile::Builder::new()
            .prefix("onlyonce-postgres-")
            .tempdir()?;
        if let Some(owner) = owner {
            chown(folder.path(), Some(owner.user), Some(owner.group))?;
            let mut enter = owner.command(Path::new("test"));
            if !enter.arg("-w").arg(folder.path()).status()?.success() {
                return Err(TemporaryPostgresError::FolderClosed {
                    folder: folder.path().to_owned(),
                    user: owner.name,
                });
            }
        }
        let keeper = keep(folder.path())?;
        // From here on the keeper removes it.
        let mut server = Self {
            programs,
            folder: folder.keep(),
            port: free_port()?,
            owner,
            server: None,
            keeper,
        };
        server.make_database()?;
        server.up(Port::Any).await?;
        Ok(server)
    }

    /// Where it is: `postgres://owner@127.0.0.1:PORT/postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://owner@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends it as a crash would, with every connection, and starts it again over what is on disk.
    ///
    /// # Errors
    ///
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<(), TemporaryPostgresError> {
        self.end();
        self.up(Port::Same).await
    }

    fn make_database(&self) -> Result<(), TemporaryPostgresError> {
        let mut initdb = self.program("initdb");
        initdb.args([
            "-U",
            "owner",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--no-locale",
        ]);
        let made = initdb
            .args(["-D", "data"])
            .stderr(Stdio::piped())
            .output()?;
        if !made.status.success() {
            let words = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(TemporaryPostgresError::NotStarted(words));
        }
        Ok(())
    }

    /// Starts it, and waits until it answers. Others may have been given its port since it was chosen or
    /// since the server ended, for a connection of theirs: that passes, or `port` says to take another.
    async fn up(&mut self, port: Port) -> Result<(), TemporaryPostgresError> {
        let give_up_at = Instant::now() + START;
        loop {
            match self.start_once(give_up_at).await? {
                Started::Answers => return Ok(()),
                Started::PortTaken(words) if Instant::now() >= give_up_at => {
                    return Err(TemporaryPostgresError::NotStarted(words));
                }
                Started::PortTaken(_) => {}
            }
            sleep(PAUSE).await;
            if port == Port::Any {
                self.port = free_port()?;
            }
        }
    }

    async fn start_once(&mut self, give_up_at: Instant) -> Result<Started, TemporaryPostgresError> {
        let path = self.folder.join("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let earlier = log.metadata()?.len();
        let words = || {
            let said = std::fs::read(&path).unwrap_or_default();
            let said = said.get(usize::try_from(earlier).unwrap_or(0)..);
            String::from_utf8_lossy(said.unwrap_or_default()).into_owned()
        };
        let mut postgres = self.program("postgres");
        postgres
            .args(["-D", "data", "-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "max_connections=200"])
            .args(["-c", "log_min_messages=fatal"])
            .stderr(log)
            // What ends the group of this process must leave it to be ended in order.
            .process_group(0);
        let server = self.server.insert(postgres.spawn()?);
        let url = format!("postgres://owner@127.0.0.1:{}/postgres", self.port);
        loop {
            if let Some(ended) = server.try_wait()? {
                let said = words();
                let last = said.lines().last().unwrap_or_default();
                let reason = format!("it ended with {ended}. {last}");
                if said.contains(NO_SOCKET) {
                    return Ok(Started::PortTaken(reason));
                }
                return Err(TemporaryPostgresError::NotStarted(reason));
            }
            // A connection that is made is enough: before that it says that it is starting.
            let error = match timeout(CONNECT, tokio_postgres::connect(&url, NoTls)).await {
                Ok(Ok(_)) => return Ok(Started::Answers),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("a connection was not answered within {CONNECT:?}"),
            };
            if Instant::now() >= give_up_at {
                let said = words();
                let last = said.lines().last().unwrap_or("it said nothing");
                let reason = format!(
                    "it runs and did not answer within {START:?} ({error}; in its log: {last}). The machine \
                     is too busy, or its disk too slow: run this again when there is less to do, or name a \
                     database with --store postgres://USER@HOST/DATABASE"
                );
                return Err(TemporaryPostgresError::NotStarted(reason));
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends the server at once, as *immediate* does: nothing is flushed.
    fn end(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let id = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // OK to ignore because one that has ended needs no signal.
            let _ = kill_process(id, Signal::QUIT);
        }
        // OK to ignore because it was our child, so that the wait can only say that it ended.
        let _ = server.wait();
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = match self.owner {
            Some(owner) => owner.command(&program),
            None => Command::new(program),
        };
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

impl Drop for TemporaryPostgres {
    fn drop(&mut self) {
        self.end();
        drop(self.keeper.stdin.take());
        // OK to ignore because the shell does its work also where nobody waits for it.
        let _ = self.keeper.wait();
    }
}

// === impl Owner ===

impl Owner {
    fn find() -> Option<Self> {
        let number = |of: &str, name: &str| {
            let asked = Command::new("id").args([of, name]).output().ok()?;
            String::from_utf8_lossy(&asked.stdout).trim().parse().ok()
        };
        let found = ["postgres", "nobody"].into_iter().find_map(|name| {
            Some(Self {
                name,
                user: number("-u", name)?,
                group: number("-g", name)?,
            })
        });
        found.filter(|owner| owner.user != 0)
    }

    fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(self.user).gid(self.group);
        command
    }
}

/// Reads until this process is gone; then ends the server, where it still runs, and removes its
/// folder.
fn keep(folder: &Path) -> io::Result<Child> {
    // The folder is an argument and no text of the script: it may be called anything.
    let script = r#"
        cat >/dev/null
        server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        if [ -n "$server" ] && kill -s QUIT "$server" 2>/dev/null; then
            tries=0
            while kill -s 0 "$server" 2>/dev/null && [ "$tries" -lt 50 ]; do
                sleep 0.1
                tries=$((tries + 1))
            done
        fi
        rm -rf -- "$1""#;
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // What ends the group of this process must leave it to clean up.
        .process_group(0)
        .spawn()
}

/// A port that was free an instant ago.
fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// The folder of `initdb` and `postgres`.
fn programs() -> Option<PathBuf> {
    let has = |folder: &Path| {
        let programs = ["initdb", "postgres"];
        programs
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&paths).find(|folder| has(folder)) {
        return Some(found);
    }
    if let Ok(asked) = Command::new("pg_config").arg("--bindir").output() {
        let folder = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        if has(&folder) {
            return Some(folder);
        }
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(Result::ok);
    folders
        .map(|version| version.path().join("bin"))
        .filter(|folder| has(folder))
        .max()
}

/// A new database answers within two seconds; on a machine that does much else it takes minutes until its
/// files are flushed, and after a crash until its log is applied.
const START: Duration = Duration::from_secs(300);

/// A server that has taken a connection and does not get to answer is asked anew.
const CONNECT: Duration = Duration::from_secs(10);

/// What the server says where it gets no port.
const NO_SOCKET: &str = "could not create any TCP/IP sockets";

const PAUSE: Duration = Duration::from_millis(50);
