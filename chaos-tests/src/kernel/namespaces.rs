//! Two namespaces with a wire between them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;

use super::rules::Rules;
use super::tools::{Tools, command, output};
use crate::executor::NotRun;

/// Where the server's namespace is reached.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Where the client's namespace is reached.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Exhaustive: a wire has two ends.
pub enum Side {
    /// Where clients run.
    Client,
    /// Where the server runs.
    Server,
}

/// Two private network namespaces with a wire between them, and rules of what it loses.
///
/// Dropping it ends both: a process that still runs in one keeps only that one, without its wire.
/// All methods block for some milliseconds: they run programs.
#[derive(Debug)]
#[must_use = "the namespaces end when this is dropped"]
pub struct Namespaces {
    tools: Tools,
    server: Holder,
    client: Holder,
    struck: Mutex<Struck>,
}

/// How often each fault struck.
#[derive(Debug, Default)]
struct Struck {
    /// By rules that were replaced since.
    before: BTreeMap<String, u64>,
    /// The fault behind each counter of the rules that hold now.
    counters: Vec<String>,
}

/// A process that does nothing but be in a namespace. It ends when its input does, and so also
/// when this process is killed.
#[derive(Debug)]
struct Holder {
    child: Child,
    /// What runs a program beside it.
    enter: Vec<OsString>,
}

// === impl Namespaces ===

impl Namespaces {
    /// Makes them with what is installed.
    ///
    /// # Errors
    ///
    /// What the machine lacks, or does not allow.
    pub fn pair() -> Result<Self, NotRun> {
        Self::pair_with(Tools::installed())
    }

    /// Makes them with these programs.
    ///
    /// # Errors
    ///
    /// What the machine lacks, or does not allow.
    pub fn pair_with(tools: Tools) -> Result<Self, NotRun> {
        for program in ["unshare", "nsenter", "ip", "nft", "cat"] {
            tools.find(program)?;
        }
        // A user namespace first: it is what works without root.
        let server = match Holder::start(&tools, &[], &["-U", "-r", "-n"]) {
            Ok(holder) => holder,
            Err(user) => Holder::start(&tools, &[], &["-n"]).map_err(|root| {
                NotRun::because(format!(
                    "no namespace can be made: as a user: {}; as root: {}",
                    user.reason(),
                    root.reason()
                ))
            })?,
        };
        let client = Holder::start(&tools, &server.enter, &["-n"])?;
        let pair = Self {
            tools,
            server,
            client,
            struck: Mutex::default(),
        };
        pair.wire()?;
        // Says now rather than in the middle of a run that the kernel lacks something.
        pair.apply(&Rules::none())?;
        Ok(pair)
    }

    /// A program in one of the two, to be given arguments and started by the caller.
    ///
    /// It is the program's own process that is started, so that killing it kills the program; it
    /// inherits everything else of this process.
    pub fn command(&self, side: Side, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.holder(side).enter.clone();
        words.push(program.as_ref().to_owned());
        command(&words)
    }

    /// Replaces the rules in both at once, each atomically. Live connections that a rule has marked
    /// stay as they are.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn apply(&self, rules: &Rules) -> Result<(), NotRun> {
        let mut struck = self.struck.lock();
        let before = self.count(&struck)?;
        for side in [Side::Server, Side::Client] {
            let mut nft = self.command(side, self.tools.find("nft")?);
            nft.args(["-f", "-"]);
            output(nft, &super::render(rules, side))?;
        }
        struck.before = before;
        struck.counters = rules.names();
        Ok(())
    }

    /// How many packets each fault has struck since the namespaces began; for a fault that silences
    /// or resets connections, how many connections. One that never struck is there with 0.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    pub fn struck(&self) -> Result<BTreeMap<String, u64>, NotRun> {
        self.count(&self.struck.lock())
    }

    fn count(&self, struck: &Struck) -> Result<BTreeMap<String, u64>, NotRun> {
        let mut counts = struck.before.clone();
        for fault in &struck.counters {
            counts.entry(fault.clone()).or_default();
        }
        if struck.counters.is_empty() {
            return Ok(counts);
        }
        for side in [Side::Server, Side::Client] {
            let mut nft = self.command(side, self.tools.find("nft")?);
            nft.args(["list", "counters"]);
            for (index, packets) in counters(&output(nft, "")?) {
                if let Some(fault) = struck.counters.get(index) {
                    *counts.entry(fault.clone()).or_default() += packets;
                }
            }
        }
        Ok(counts)
    }

    fn wire(&self) -> Result<(), NotRun> {
        let peer = self.client.child.id().to_string();
        let (server, client) = (
            format!("{SERVER_ADDRESS}/30"),
            format!("{CLIENT_ADDRESS}/30"),
        );
        let link = [
            "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", &peer,
        ];
        self.ip(Side::Server, &link)?;
        for (side, device, address) in [(Side::Server, "va", server), (Side::Client, "vb", client)]
        {
            self.ip(side, &["addr", "add", &address, "dev", device])?;
            self.ip(side, &["link", "set", device, "up"])?;
            self.ip(side, &["link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn ip(&self, side: Side, arguments: &[&str]) -> Result<(), NotRun> {
        let mut ip = self.command(side, self.tools.find("ip")?);
        ip.args(arguments);
        output(ip, "").map(drop)
    }

    const fn holder(&self, side: Side) -> &Holder {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

// === impl Holder ===

impl Holder {
    /// In a namespace of its own, made from within the one that `enter` enters.
    fn start(tools: &Tools, enter: &[OsString], unshare: &[&str]) -> Result<Self, NotRun> {
        let mut words = enter.to_vec();
        words.push(tools.find("unshare")?.into());
        words.extend(unshare.iter().map(OsString::from));
        words.push(tools.find("cat")?.into());
        let mut child = command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| NotRun::because(format!("{}: {error}", words[0].display())))?;
        if !answers(&mut child) {
            let text = match child.wait_with_output() {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(NotRun::because(text));
        }
        let user =
            !enter.is_empty() && enter.iter().any(|word| word == "-U") || unshare.contains(&"-U");
        let mut enter: Vec<OsString> = vec![
            tools.find("nsenter")?.into(),
            "-t".into(),
            child.id().to_string().into(),
            "-n".into(),
        ];
        if user {
            enter.extend(["-U".into(), "--preserve-credentials".into()]);
        }
        enter.push("--".into());
        Ok(Self { child, enter })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // OK because one that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it repeats a line: then it runs, and is where it shall be.
fn answers(child: &mut Child) -> bool {
    let (Some(input), Some(output)) = (&mut child.stdin, &mut child.stdout) else {
        return false;
    };
    let mut line = String::new();
    input.write_all(b"here\n").is_ok()
        && BufReader::new(output).read_line(&mut line).is_ok()
        && line == "here\n"
}

/// The counters by the ordinal in their names, as `nft list counters` shows them.
fn counters(listed: &str) -> impl Iterator<Item = (usize, u64)> + '_ {
    let mut ordinal = None;
    listed.lines().filter_map(move |line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["counter", name, ..] => {
                ordinal = name.strip_prefix('f').and_then(|n| n.parse().ok());
                None
            }
            ["packets", packets, ..] => Some((ordinal.take()?, packets.parse().ok()?)),
            _ => None,
        }
    })
}
