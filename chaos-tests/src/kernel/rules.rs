//! What the wire does to packets: data, and the text that `nft` reads.

use std::fmt::Write as _;

use super::namespaces::{CLIENT_ADDRESS, SERVER_ADDRESS, Side};
use crate::executor::NotRun;
use crate::fault::{Fault, Phase, Place, What};
use crate::seed::{Seed, digest};

/// The faults of a wire to a server's port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    port: u16,
    rules: Vec<Rule>,
    seed: Seed,
}

/// One fault, in one or both directions.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    name: String,
    deed: Deed,
    to_client: bool,
    to_server: bool,
    /// In ten thousandths.
    share: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Blackhole,
    Corrupt,
    Duplicate,
    MessageLost,
    PacketLoss,
    Partition,
    Reset,
}

// === impl Rules ===

impl Rules {
    /// Everything gets through.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            port: 0,
            rules: Vec::new(),
            seed: Seed::new(0),
        }
    }

    /// The same, with the packets that are struck drawn from this seed: the how many-th ones of each
    /// rule and direction, since the rules were applied. Which message is in the n-th packet is up to
    /// the timing, so that a seed repeats decisions and not runs.
    pub const fn with_seed(mut self, seed: Seed) -> Self {
        self.seed = seed;
        self
    }

    /// These faults, for connections to this port of the server.
    ///
    /// The phase `request-sent` is the direction to the server, `reply-sent` that to the client; none
    /// is both. A share is one of packets, for `drop`, `reset` and `blackhole` one of those that end
    /// a message. Windows of time are not looked at: apply other rules when one begins or ends.
    ///
    /// # Errors
    ///
    /// The first fault that packets cannot do, with the reason.
    pub fn of<'a>(faults: impl IntoIterator<Item = &'a Fault>, port: u16) -> Result<Self, NotRun> {
        let rules: Vec<_> = faults.into_iter().map(Rule::of).collect::<Result<_, _>>()?;
        if rules.len() > RULES_MAX {
            let text = format!(
                "{} faults at once, at most {RULES_MAX} are possible",
                rules.len()
            );
            return Err(NotRun::because(text));
        }
        Ok(Self {
            port,
            rules,
            seed: Seed::new(0),
        })
    }

    /// The faults' names, in the order of their counters.
    pub(super) fn names(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.name.clone()).collect()
    }
}

// === impl Rule ===

impl Rule {
    fn of(fault: &Fault) -> Result<Self, NotRun> {
        let not_run = |reason: &str| {
            let (name, what) = (&fault.name, fault.what);
            Err(NotRun::because(format!(
                "fault \"{name}\" ({what}): {reason}"
            )))
        };
        if fault.place != Place::Wire {
            return not_run("the kernel executor's faults are on the wire");
        }
        let when = &fault.when;
        if when.call.is_some() || when.attempt.is_some() || when.first_attempts.is_some() {
            return not_run("packets do not tell which call and attempt they carry; the proxy can");
        }
        if when.after_bytes.is_some() {
            return not_run("it cannot begin at a byte here; the proxy can");
        }
        let (to_server, to_client) = match when.phase {
            None => (true, true),
            Some(Phase::RequestSent) => (true, false),
            Some(Phase::ReplySent) => (false, true),
            Some(_) => return not_run("packets are seen when they are sent, at no other phase"),
        };
        let deed = match fault.what {
            What::Drop => Deed::MessageLost,
            What::PacketLoss => Deed::PacketLoss,
            What::Reset => Deed::Reset,
            What::Blackhole => Deed::Blackhole,
            What::Partition => Deed::Partition,
            What::Corrupt => Deed::Corrupt,
            What::Duplicate { later_ms: 0 } => Deed::Duplicate,
            What::Duplicate { .. } => return not_run("a packet's twin comes at once here"),
            What::Delay { .. } => return not_run("packets are not delayed; the proxy delays"),
            What::Close | What::Truncate => {
                return not_run("it needs to know messages; the proxy does");
            }
            _ => return not_run("nothing on the wire does that"),
        };
        let share = when.share.unwrap_or(1.0);
        if deed == Deed::Partition && share < 1.0 {
            return not_run("a partition is of everything; a share of packets is packet-loss");
        }
        Ok(Self {
            name: fault.name.clone(),
            deed,
            to_client,
            to_server,
            share: (share.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u32,
        })
    }

    /// Which packets it strikes, of all that come so far: ordinals, counted by the kernel.
    fn drawn(&self, seed: Seed, side: Side) -> String {
        if self.share == WHOLE {
            return String::new();
        }
        let side = match side {
            Side::Client => 1,
            Side::Server => 2,
        };
        let seed = seed.derive(&[digest(self.name.as_bytes()), side]);
        let share = f64::from(self.share) / f64::from(WHOLE);
        let mut struck: Vec<_> = (0..u64::from(WHOLE))
            .filter(|&ordinal| seed.draw(&[ordinal]).happens(share))
            .map(|ordinal| ordinal.to_string())
            .collect();
        // The kernel takes no empty set. Of a share that is not none one is struck.
        if struck.is_empty() {
            let one = match self.share {
                0 => u64::from(WHOLE),
                _ => seed.draw(&[ONE]).within(0..=u64::from(WHOLE) - 1),
            };
            struck.push(one.to_string());
        }
        format!("numgen inc mod {WHOLE} {{ {} }}", struck.join(", "))
    }

    /// Whether this side's `input` is what it is about.
    const fn comes_to(&self, side: Side) -> bool {
        match side {
            Side::Client => self.to_client,
            Side::Server => self.to_server,
        }
    }
}

/// The text for one side, one statement a line: `nft` 1.0.6 takes no blocks in one line.
#[must_use]
pub fn render(rules: &Rules, side: Side) -> String {
    let (mut counters, mut input, mut output) = (String::new(), String::new(), String::new());
    let (port, other) = (rules.port, rules.rules.iter().enumerate());
    let (comes, goes) = match side {
        Side::Server => (format!("tcp dport {port}"), format!("tcp sport {port}")),
        Side::Client => (format!("tcp sport {port}"), format!("tcp dport {port}")),
    };
    for (index, rule) in other {
        let counted = format!("counter name f{index}");
        let drawn = rule.drawn(rules.seed, side);
        // A packet that ends a message; acknowledgements carry none, whatever their length.
        let message = "tcp flags & psh == psh";
        let mark = index + 1;
        let _ = writeln!(counters, "  counter f{index} {{\n  }}");
        // A duplicate is made where it is sent, everything else where it comes in.
        if rule.deed == Deed::Duplicate {
            let (there, device) = match side {
                Side::Server => (CLIENT_ADDRESS, "va"),
                Side::Client => (SERVER_ADDRESS, "vb"),
            };
            let leaves = match side {
                Side::Server => rule.to_client,
                Side::Client => rule.to_server,
            };
            if leaves {
                let dup = format!("dup to {there} device \"{device}\"");
                let _ = writeln!(output, "    {goes} {drawn} {counted} {dup}");
            }
            continue;
        }
        if !rule.comes_to(side) {
            continue;
        }
        // Drawn once a connection: what it strikes first is what becomes of it.
        let strikes = format!("{comes} ct mark 0 {message} {drawn} {counted} ct mark set {mark}");
        let _ = match rule.deed {
            Deed::PacketLoss => writeln!(input, "    {comes} {drawn} {counted} drop"),
            Deed::Partition => writeln!(input, "    {comes} {counted} drop"),
            // The first byte behind a TCP header with timestamps; the checksum is made to fit.
            Deed::Corrupt => writeln!(
                input,
                "    {comes} {message} @th,96,4 8 {drawn} {counted} @th,256,8 set 0x39"
            ),
            Deed::MessageLost => {
                writeln!(
                    input,
                    "    {strikes}\n    {comes} ct mark {mark} {message} drop"
                )
            }
            Deed::Blackhole => {
                let _ = writeln!(output, "    {goes} ct mark {mark} drop");
                writeln!(input, "    {strikes}\n    {comes} ct mark {mark} drop")
            }
            Deed::Reset => {
                // The reset itself passes here, and must.
                let resets = format!("ct mark {mark} tcp flags & rst != rst reject with tcp reset");
                let _ = writeln!(output, "    {goes} {resets}");
                writeln!(input, "    {strikes}\n    {comes} {resets}")
            }
            Deed::Duplicate => Ok(()),
        };
    }
    format!(
        "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n{counters}  chain input {{\n    \
         type filter hook input priority 0;\n{input}  }}\n  chain output {{\n    type filter hook \
         output priority 0;\n{output}  }}\n}}\n"
    )
}

const TABLE: &str = "onlyonce_chaos";

/// What shares are parts of: so many packets on, the same ordinals are struck again.
const WHOLE: u32 = 10_000;

/// What is drawn where nothing else was; no ordinal.
const ONE: u64 = u64::MAX;

/// Each has a counter and up to three lines: more than anybody reads in a report.
const RULES_MAX: usize = 64;
