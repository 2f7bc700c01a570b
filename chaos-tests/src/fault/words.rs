//! The words: [`Place`], [`Phase`], [`When`], [`What`], and a [`Fault`] made of them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing that goes wrong.
///
/// Its name is what decisions are drawn from: a fault that is renamed strikes elsewhere, one whose
/// share or duration is turned strikes where it did, more or less often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What reports call it. One name is one fault of a plan.
    pub name: String,
    /// Which part it is about.
    #[serde(rename = "where")]
    pub place: Place,
    /// At which moments of which attempts.
    #[serde(default)]
    pub when: When,
    /// What happens then.
    pub what: What,
}

/// Which part of a run a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Place {
    /// What lies between client and server: a message, or the connection that carries it.
    Wire,
    /// The server's process.
    Server,
    /// The client's process.
    Client,
    /// What the server's store writes to.
    Disk,
    /// The server's wall clock.
    Clock,
}

/// The moments of one attempt, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
// Exhaustive: an exchange has these, and whoever executes faults must know them all.
pub enum Phase {
    /// The client has handed the request to the wire. What is lost here never arrives.
    RequestSent,
    /// The server has the request, and has done nothing about it.
    RequestReceived,
    /// The effect is durable, and whatever comes after it is not: the record, the answer.
    EffectDurable,
    /// The server has handed the answer to the wire. What is lost here was executed.
    ReplySent,
    /// The client's process has the answer, and has told nobody.
    ReplyReceived,
}

/// At which moments a fault strikes. Empty is every moment that its [`What`] can strike at.
///
/// All that is said must be so: a phase and a share and an attempt narrow one another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Only at this moment of an attempt.
    pub phase: Option<Phase>,
    /// Only on this share of the attempts, from 0 to 1; all where it is absent.
    pub share: Option<f64>,
    /// Only on the call with this ordinal; the first one is 1.
    pub call: Option<u64>,
    /// Only on the attempt with this ordinal; the first one is 1.
    pub attempt: Option<u32>,
    /// Only on the first so many attempts of a call: "fail twice, then let it through".
    pub first_attempts: Option<u32>,
    /// Only from this byte of the message (or of the connection's direction) on.
    pub after_bytes: Option<u64>,
    /// Only from so many milliseconds of the run on.
    pub from_ms: Option<u64>,
    /// Only up to so many milliseconds of the run, that one excluded.
    pub until_ms: Option<u64>,
    /// Only where a process passes the point of its code that has this name. It goes with
    /// [`What::Crash`], alone or with [`When::passing`]: whoever stands at a point of the code is at
    /// no phase of one attempt. Only executors of real processes can; which names there are is up to
    /// the program that is killed.
    pub point: Option<String>,
    /// Only at this passing of the point by one process; the first one is 1, and meant if none is
    /// named.
    pub passing: Option<u64>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum What {
    /// The message is gone; nobody is told.
    Drop,
    /// The message comes twice, the second one so much later.
    Duplicate {
        /// Milliseconds between the two.
        later_ms: u64,
    },
    /// The message comes late. Others overtake it.
    Delay {
        /// Milliseconds at least.
        min_ms: u64,
        /// Milliseconds at most; each message draws its own.
        max_ms: u64,
    },
    /// A byte of the message is another one.
    Corrupt,
    /// The message ends early, and so does what carries it.
    Truncate,
    /// What carries the message is reset (RST) for both ends.
    Reset,
    /// What carries the message ends (FIN) for its receiver.
    Close,
    /// What carries the message goes silent in both directions, and stays.
    Blackhole,
    /// Nothing passes between the two, in both directions or in that of the phase.
    Partition,
    /// Packets below the connection are lost, in both directions or in that of the phase: the share
    /// is one of packets, retransmitted ones too. What a message loses so, TCP sends again later.
    PacketLoss,
    /// The process ends at once (SIGKILL) and comes back after so long.
    Crash {
        /// Milliseconds until it is started again.
        back_after_ms: u64,
    },
    /// The process stands still (SIGSTOP) for so long.
    Pause {
        /// Milliseconds until it goes on.
        for_ms: u64,
    },
    /// Power is cut: what no sync has made durable is gone, and the process with it.
    PowerCut,
    /// A sync fails.
    SyncFails,
    /// A sync takes so long.
    SyncSlow {
        /// Milliseconds.
        for_ms: u64,
    },
    /// A write finds the disk full.
    DiskFull,
    /// The clock jumps, by negative or positive milliseconds.
    ClockJump {
        /// Milliseconds.
        by_ms: i64,
    },
}

// === impl Fault ===

impl Fault {
    /// A fault that strikes at every moment it can; narrow it through [`Fault::when`].
    #[must_use]
    pub fn new(name: impl Into<String>, place: Place, what: What) -> Self {
        Self {
            name: name.into(),
            place,
            when: When::default(),
            what,
        }
    }

    /// The same at these moments.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

// === impl Phase ===

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [
        Self::RequestSent,
        Self::RequestReceived,
        Self::EffectDurable,
        Self::ReplySent,
        Self::ReplyReceived,
    ];

    /// The name for reports, such as `reply-sent`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestSent => "request-sent",
            Self::RequestReceived => "request-received",
            Self::EffectDurable => "effect-durable",
            Self::ReplySent => "reply-sent",
            Self::ReplyReceived => "reply-received",
        }
    }

    /// Numbers that never change, because decisions are drawn from them.
    pub(super) const fn ordinal(self) -> u64 {
        match self {
            Self::RequestSent => 1,
            Self::RequestReceived => 2,
            Self::EffectDurable => 3,
            Self::ReplySent => 4,
            Self::ReplyReceived => 5,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Place ===

impl Place {
    /// The name for reports, such as `wire`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Server => "server",
            Self::Client => "client",
            Self::Disk => "disk",
            Self::Clock => "clock",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl When ===

impl When {
    /// At this moment of every attempt.
    #[must_use]
    pub fn phase(phase: Phase) -> Self {
        Self {
            phase: Some(phase),
            ..Self::default()
        }
    }

    /// Only on this share of them, from 0 (none) to 1 (all).
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }

    /// Only on the attempt with this ordinal; the first one is 1.
    #[must_use]
    pub const fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Only on the call with this ordinal; the first one is 1.
    #[must_use]
    pub const fn call(mut self, call: u64) -> Self {
        self.call = Some(call);
        self
    }
}

// === impl What ===

impl What {
    /// The name without its numbers, such as `drop`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Duplicate { .. } => "duplicate",
            Self::Delay { .. } => "delay",
            Self::Corrupt => "corrupt",
            Self::Truncate => "truncate",
            Self::Reset => "reset",
            Self::Close => "close",
            Self::Blackhole => "blackhole",
            Self::Partition => "partition",
            Self::PacketLoss => "packet-loss",
            Self::Crash { .. } => "crash",
            Self::Pause { .. } => "pause",
            Self::PowerCut => "power-cut",
            Self::SyncFails => "sync-fails",
            Self::SyncSlow { .. } => "sync-slow",
            Self::DiskFull => "disk-full",
            Self::ClockJump { .. } => "clock-jump",
        }
    }

    /// Whether it can happen there.
    #[must_use]
    pub const fn fits(self, place: Place) -> bool {
        match self {
            Self::Drop
            | Self::Duplicate { .. }
            | Self::Delay { .. }
            | Self::Corrupt
            | Self::Truncate
            | Self::Reset
            | Self::Close
            | Self::Blackhole
            | Self::Partition
            | Self::PacketLoss => matches!(place, Place::Wire),
            Self::Crash { .. } | Self::Pause { .. } => {
                matches!(place, Place::Client | Place::Server)
            }
            Self::PowerCut | Self::SyncFails | Self::SyncSlow { .. } | Self::DiskFull => {
                matches!(place, Place::Disk)
            }
            Self::ClockJump { .. } => matches!(place, Place::Clock),
        }
    }

    /// How long a delayed message waits, within its bounds.
    #[must_use]
    pub fn delay(self, draw: crate::seed::Draw) -> Option<Duration> {
        match self {
            Self::Delay { min_ms, max_ms } => {
                Some(Duration::from_millis(draw.within(min_ms..=max_ms)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
