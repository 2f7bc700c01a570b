//! What a proxy does to which connection: pure data, and the function that turns it into a script.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::seed::Seed;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Exhaustive: a byte stream has two directions.
pub enum Direction {
    /// From the server to the client: answers.
    ToClient,
    /// From the client to the server: requests.
    ToServer,
}

/// What happens to a connection once its byte is reached.
///
/// "From here on" starts with the byte at the rule's offset: that byte is the first one to meet the
/// fault, and it has to arrive first. So a [`Reset`](Self::Reset) of the direction to the client at
/// offset 0 fires when the server begins to answer, which is after the request went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Both directions stop, nothing is closed: the two ends keep a connection that is dead.
    ///
    /// It lasts until [`Proxy::cut`](super::Proxy::cut) or the end of the proxy, also when an end
    /// goes away, and counts for the bound on connections all that time.
    Blackhole,
    /// The receiver sees the stream end (FIN); what the sender still sends is swallowed. The other
    /// direction goes on.
    Close,
    /// Each chunk waits for `base` plus up to `jitter` before it goes on. Chunks wait one after
    /// another, so this also slows the direction down. Replaces an earlier delay.
    Delay {
        /// What every chunk waits at least.
        base: Duration,
        /// What is added at most; each chunk draws its own share.
        jitter: Duration,
    },
    /// Everything of this direction is swallowed from here on, the end of the stream included; the
    /// connection stays open and the other direction goes on.
    DropRest,
    /// Both ends get a real reset (RST). Bytes before the offset were handed to the kernel; what
    /// the receiver had no room for is lost with the reset.
    Reset,
    /// Bytes go on in writes of at most `bytes_max`, so that a reader sees frames in pieces.
    /// Replaces an earlier slicing.
    Slice {
        /// The largest write in bytes; 0 counts as 1.
        bytes_max: usize,
    },
}

/// The name of a [`Fault`] without its numbers, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// [`Fault::Blackhole`].
    Blackhole,
    /// [`Fault::Close`].
    Close,
    /// [`Fault::Delay`].
    Delay,
    /// [`Fault::DropRest`].
    DropRest,
    /// [`Fault::Reset`].
    Reset,
    /// [`Fault::Slice`].
    Slice,
}

/// One fault: in which direction, on which connections, from which byte on, how likely.
///
/// [`Rule::new`] is about every connection, from its first byte on, for certain; the other
/// methods narrow that.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a rule does nothing until it is in a plan"]
pub struct Rule {
    direction: Direction,
    fault: Fault,
    connections: Connections,
    /// Drawn from when the script is made, both ends included.
    offset: (u64, u64),
    probability: f64,
}

/// Rules of a proxy. The empty plan, [`Plan::none`], forwards everything unharmed.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a plan does nothing until a proxy has it"]
pub struct Plan {
    rules: Vec<Rule>,
}

/// What will happen to one connection: a pure function of plan, seed and connection ordinal.
///
/// Nothing in it depends on how the network cuts the stream into chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub(super) to_client: Vec<Step>,
    pub(super) to_server: Vec<Step>,
}

/// One fault of a [`Script`], at its byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    after_bytes: u64,
    fault: Fault,
    /// Draws the jitter of the chunks, if there is any.
    seed: Seed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connections {
    Every,
    First(u64),
    Nth(u64),
}

// === impl Direction ===

impl Direction {
    const fn ordinal(self) -> u64 {
        match self {
            Self::ToClient => 1,
            Self::ToServer => 2,
        }
    }
}

// === impl Fault ===

impl Fault {
    /// The fault's name without its numbers.
    #[must_use]
    pub const fn kind(self) -> FaultKind {
        match self {
            Self::Blackhole => FaultKind::Blackhole,
            Self::Close => FaultKind::Close,
            Self::Delay { .. } => FaultKind::Delay,
            Self::DropRest => FaultKind::DropRest,
            Self::Reset => FaultKind::Reset,
            Self::Slice { .. } => FaultKind::Slice,
        }
    }
}

// === impl FaultKind ===

impl FaultKind {
    /// The name for reports, such as `drop-rest`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Close => "close",
            Self::Delay => "delay",
            Self::DropRest => "drop-rest",
            Self::Reset => "reset",
            Self::Slice => "slice",
        }
    }

    /// Numbers that never change, because decisions are drawn from them.
    const fn ordinal(self) -> u64 {
        match self {
            Self::Blackhole => 1,
            Self::Close => 2,
            Self::Delay => 3,
            Self::DropRest => 4,
            Self::Reset => 5,
            Self::Slice => 6,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Rule ===

impl Rule {
    /// This fault in this direction, on every connection, from the first byte on.
    pub const fn new(direction: Direction, fault: Fault) -> Self {
        Self {
            direction,
            fault,
            connections: Connections::Every,
            offset: (0, 0),
            probability: 1.0,
        }
    }

    /// The answer is lost after the request went through: everything that the server sends is
    /// swallowed from this byte on, while the client's bytes still arrive.
    pub const fn answer_lost(after_bytes: u64) -> Self {
        Self::new(Direction::ToClient, Fault::DropRest).after_bytes(after_bytes)
    }

    /// The request is lost: everything that the client sends is swallowed from this byte on.
    pub const fn request_lost(after_bytes: u64) -> Self {
        Self::new(Direction::ToServer, Fault::DropRest).after_bytes(after_bytes)
    }

    /// Only the connection with this ordinal. The first one of a proxy is 1; 0 is none.
    pub const fn nth(mut self, ordinal: u64) -> Self {
        self.connections = Connections::Nth(ordinal);
        self
    }

    /// Only the first `count` connections of a proxy: "fail twice, then let it through".
    pub const fn first(mut self, count: u64) -> Self {
        self.connections = Connections::First(count);
        self
    }

    /// Only after this many bytes of the direction went through unharmed.
    pub const fn after_bytes(mut self, bytes: u64) -> Self {
        self.offset = (bytes, bytes);
        self
    }

    /// From a byte that each connection draws from this range, both ends included.
    pub const fn after_bytes_within(mut self, range: RangeInclusive<u64>) -> Self {
        self.offset = (*range.start(), *range.end());
        self
    }

    /// Only on a share of the connections, from 0 (none) to 1 (all). Not-a-number is none.
    ///
    /// A connection that the rule hits at one probability is hit at every higher one.
    pub const fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// The name under which this rule draws.
    ///
    /// Made of where and when, not of the place in the plan, so that other rules can come and go;
    /// not of the probability or the fault's numbers, so that these can be turned.
    fn id(&self) -> [u64; 6] {
        let (kind, count) = match self.connections {
            Connections::Every => (0, 0),
            Connections::First(count) => (1, count),
            Connections::Nth(ordinal) => (2, ordinal),
        };
        let (start, end) = self.offset;
        [
            self.direction.ordinal(),
            self.fault.kind().ordinal(),
            kind,
            count,
            start,
            end,
        ]
    }
}

// === impl Plan ===

impl Plan {
    /// No faults.
    pub const fn none() -> Self {
        Self { rules: Vec::new() }
    }

    /// This plan and one more rule. A rule that is added changes nothing for the others.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What happens to the connection with this ordinal (from 1) under this seed.
    #[must_use]
    pub fn script(&self, seed: Seed, connection: u64) -> Script {
        let mut script = Script::default();
        for (index, rule) in self.rules.iter().enumerate() {
            // Twins would otherwise always fire together, at the same byte.
            let twins = self.rules[..index]
                .iter()
                .filter(|other| other.id() == rule.id())
                .count();
            let seed = seed.derive(&rule.id()).derive(&[twins as u64, connection]);
            if let Some(step) = rule.step(seed, connection) {
                script.steps_mut(rule.direction).push(step);
            }
        }
        // Stable: at the same byte the plan's order counts.
        script.to_client.sort_by_key(Step::after_bytes);
        script.to_server.sort_by_key(Step::after_bytes);
        script
    }
}

impl FromIterator<Rule> for Plan {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self {
            rules: rules.into_iter().collect(),
        }
    }
}

impl Rule {
    fn step(&self, seed: Seed, connection: u64) -> Option<Step> {
        let meant = match self.connections {
            Connections::Every => true,
            Connections::First(count) => connection <= count,
            Connections::Nth(ordinal) => connection == ordinal,
        };
        if !meant || !seed.draw(&[FIRES]).happens(self.probability) {
            return None;
        }
        let (start, end) = self.offset;
        Some(Step {
            after_bytes: seed.draw(&[OFFSET]).within(start..=end),
            fault: self.fault,
            seed,
        })
    }
}

// === impl Script ===

impl Script {
    /// The faults of one direction, by the byte at which they start.
    #[must_use]
    pub fn steps(&self, direction: Direction) -> &[Step] {
        match direction {
            Direction::ToClient => &self.to_client,
            Direction::ToServer => &self.to_server,
        }
    }

    fn steps_mut(&mut self, direction: Direction) -> &mut Vec<Step> {
        match direction {
            Direction::ToClient => &mut self.to_client,
            Direction::ToServer => &mut self.to_server,
        }
    }
}

// === impl Step ===

impl Step {
    /// How many bytes of the direction go through before the fault.
    #[must_use]
    pub const fn after_bytes(&self) -> u64 {
        self.after_bytes
    }

    /// What happens then.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        self.fault
    }

    /// How long a chunk waits, counted from the first one that this step delays.
    pub(super) fn jittered(&self, base: Duration, jitter: Duration, chunk: u64) -> Duration {
        base.saturating_add(self.seed.draw(&[JITTER, chunk]).duration(jitter))
    }
}

// Which decision of a rule is drawn.
const FIRES: u64 = 1;
const OFFSET: u64 = 2;
const JITTER: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn flaky() -> Plan {
        Plan::none()
            .rule(
                Rule::answer_lost(0)
                    .after_bytes_within(0..=999)
                    .probability(0.5),
            )
            .rule(
                Rule::new(Direction::ToServer, Fault::Reset)
                    .after_bytes_within(0..=999)
                    .probability(0.5),
            )
    }

    #[test]
    fn the_same_seed_gives_the_same_script_and_another_seed_another() {
        let scripts = |seed| -> Vec<_> {
            (1..=20)
                .map(|ordinal| flaky().script(Seed::new(seed), ordinal))
                .collect()
        };
        assert_eq!(scripts(1), scripts(1));
        assert_ne!(scripts(1), scripts(2));
    }

    #[test]
    fn connections_differ() {
        let mut offsets: Vec<_> = (1..=100)
            .flat_map(|ordinal| flaky().script(Seed::new(1), ordinal).to_client)
            .map(|step| step.after_bytes())
            .collect();
        let fired = offsets.len();
        assert!((30..70).contains(&fired), "{fired} of 100 at 0.5");
        offsets.sort_unstable();
        offsets.dedup();
        assert!(offsets.len() > fired / 2, "{} offsets", offsets.len());
    }

    #[test]
    fn a_rule_that_is_added_in_front_changes_nothing_for_the_others() {
        let more: Plan = [Rule::new(Direction::ToServer, Fault::DropRest).after_bytes(3)]
            .into_iter()
            .chain(flaky().rules)
            .collect();
        for ordinal in 1..=50 {
            let before = flaky().script(Seed::new(4), ordinal);
            let mut after = more.script(Seed::new(4), ordinal);
            after
                .to_server
                .retain(|step| step.fault() != Fault::DropRest);
            assert_eq!(before, after);
        }
    }

    #[test]
    fn what_fires_at_a_probability_fires_at_a_higher_one_at_the_same_byte() {
        let at = |probability| {
            Plan::none().rule(
                Rule::answer_lost(0)
                    .after_bytes_within(0..=99)
                    .probability(probability),
            )
        };
        for ordinal in 1..=100 {
            let seldom = at(0.2).script(Seed::new(9), ordinal);
            let often = at(0.8).script(Seed::new(9), ordinal);
            assert!(seldom.to_client.is_empty() || seldom == often);
        }
    }

    #[test]
    fn twins_in_a_plan_draw_apart() {
        let rule = Rule::answer_lost(0).after_bytes_within(0..=u64::MAX);
        let script = Plan::none()
            .rule(rule.clone())
            .rule(rule)
            .script(Seed::new(1), 1);
        assert_ne!(
            script.to_client[0].after_bytes(),
            script.to_client[1].after_bytes()
        );
    }

    #[test]
    fn ordinals_choose_connections() {
        let fires = |rule: Rule| -> Vec<u64> {
            let plan = Plan::none().rule(rule);
            (1..=5)
                .filter(|&ordinal| !plan.script(Seed::new(1), ordinal).to_client.is_empty())
                .collect()
        };
        assert_eq!(fires(Rule::answer_lost(0).nth(3)), [3]);
        assert_eq!(fires(Rule::answer_lost(0).first(2)), [1, 2]);
        assert_eq!(fires(Rule::answer_lost(0)), [1, 2, 3, 4, 5]);
        assert!(fires(Rule::answer_lost(0).probability(0.0)).is_empty());
    }

    #[test]
    fn jitter_stays_between_its_bounds_and_varies() {
        let plan = Plan::none().rule(Rule::new(Direction::ToClient, Fault::Reset));
        let step = plan.script(Seed::new(1), 1).to_client[0];
        let (base, jitter) = (Duration::from_millis(5), Duration::from_millis(10));
        let waits: Vec<_> = (0..50)
            .map(|chunk| step.jittered(base, jitter, chunk))
            .collect();
        assert!(
            waits
                .iter()
                .all(|wait| (base..=base + jitter).contains(wait))
        );
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
