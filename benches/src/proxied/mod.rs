//! What stands between a client and a service: nothing, a bare proxy of hyper's, nginx, and onlyonce;
//! each in a process of its own, which ends when its [`Between`] is dropped.

mod bare;
mod nginx;
mod service;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use onlyonce::proxy::{Ingress, Keyless, Mode, Principal, Proxy, ProxyConfig, Upstream};
use tempfile::TempDir;

use self::nginx::Nginx;
pub use self::service::serve;

/// What stands in front of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Direct,
    /// Server and pooled client of hyper, and nothing else.
    Hyper,
    /// nginx, with connections to the service that are kept.
    Nginx,
    /// onlyonce: calls without a key, which pass (`--keyless pass`).
    Pass,
    /// onlyonce, with its store in memory.
    Memory,
    /// onlyonce, with its store on the disk.
    Sled,
}

/// A process between client and service.
#[derive(Debug)]
pub struct Between {
    address: SocketAddr,
    process: Process,
    _folder: TempDir,
}

#[derive(Debug)]
enum Process {
    None,
    Own(Child),
    Nginx(Nginx),
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::Hyper,
        Self::Nginx,
        Self::Pass,
        Self::Memory,
        Self::Sled,
    ];

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hyper => "hyper",
            Self::Nginx => "nginx",
            Self::Pass => "onlyonce-pass",
            Self::Memory => "onlyonce-memory",
            Self::Sled => "onlyonce-sled",
        }
    }

    /// Whether it can be started here: nginx must be installed.
    #[must_use]
    pub fn is_here(self) -> bool {
        self != Self::Nginx || nginx::is_installed()
    }

    /// Whether its clients send keys.
    #[must_use]
    pub const fn is_keyed(self) -> bool {
        matches!(self, Self::Memory | Self::Sled)
    }
}

// === impl Between ===

impl Between {
    /// Starts it in front of the service at `upstream`. What lies on the disk lies under `folder`.
    ///
    /// # Panics
    ///
    /// When it cannot, for example because nginx is not there.
    #[must_use]
    pub fn start(kind: Kind, upstream: SocketAddr, folder: &Path) -> Self {
        let folder = tempfile::tempdir_in(folder).expect("a folder");
        let (address, process) = match kind {
            Kind::Direct => (upstream, Process::None),
            Kind::Nginx => {
                let (address, nginx) = Nginx::start(upstream, folder.path());
                (address, Process::Nginx(nginx))
            }
            Kind::Hyper | Kind::Pass | Kind::Memory | Kind::Sled => {
                let (address, child) = own(kind, upstream, folder.path());
                (address, Process::Own(child))
            }
        };
        Self {
            address,
            process,
            _folder: folder,
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How much memory its processes have resident, in bytes. Pages that they share count for each.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        match &self.process {
            Process::None => 0,
            Process::Own(child) => resident_bytes(child.id()),
            Process::Nginx(nginx) => nginx.processes().into_iter().map(resident_bytes).sum(),
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        if let Process::Own(child) = &mut self.process {
            // It ends when its input does; a kill makes sure, and both may find it gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// This program once more, as the proxy `kind`.
fn own(kind: Kind, upstream: SocketAddr, folder: &Path) -> (SocketAddr, Child) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["between", kind.name(), &upstream.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut line = String::new();
    let output = child.stdout.take().expect("its output");
    let read = BufReader::new(output).read_line(&mut line);
    read.expect("it says where it listens");
    (line.trim().parse().expect("an address"), child)
}

/// Is the proxy that `arguments` name, until its input ends: what a program does whose first argument
/// is `between`.
///
/// # Panics
///
/// When they name none.
pub fn be(arguments: &[String]) {
    let [name, upstream, folder] = arguments else {
        panic!("a name, an upstream and a folder");
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.expect("a kind of proxy");
    let upstream: SocketAddr = upstream.parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (address, _proxy) = runtime.block_on(async {
        if kind == Kind::Hyper {
            return (bare::start(upstream).await, None);
        }
        let proxy = Proxy::start(config(kind, upstream, folder)).await;
        let proxy = proxy.expect("a proxy");
        (proxy.listens_at(), Some(proxy))
    });
    println!("{address}");
    let mut rest = Vec::new();
    // OK because an input that fails has ended too.
    let _ = std::io::stdin().read_to_end(&mut rest);
    std::process::exit(0);
}

fn config(kind: Kind, upstream: SocketAddr, folder: &str) -> ProxyConfig {
    let store = match kind {
        Kind::Sled => format!("sled:{folder}/store"),
        _ => "memory:".to_owned(),
    };
    let mut ingress = Ingress::new(store.parse().expect("a store"), Principal::Global);
    if kind == Kind::Pass {
        ingress.keyless = Keyless::Pass;
    }
    let url = format!("http://{upstream}");
    let upstream = Upstream::parse(&url, Default::default(), false).expect("an address");
    let listen = "127.0.0.1:0".parse().expect("an address");
    ProxyConfig::new(listen, upstream, Mode::Ingress(Box::new(ingress)))
}

fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
