//! To TOML, as [`Scenario::parse`] reads it.

use super::Scenario;
use crate::fault::{Fault, What};

impl Scenario {
    /// The scenario as the text of a file: [`Scenario::parse`] makes the same of it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "name = {}\nabout = {}\nworkload = {}\ncalls = {}\nclients = {}\nmode = {}\n\
             deadline_ms = {}\nattempt_ms = {}\ncontrol = {}\n",
            quoted(&self.name),
            quoted(&self.about),
            quoted(self.workload.name()),
            self.calls,
            self.clients,
            quoted(self.mode.name()),
            self.deadline_ms,
            self.attempt_ms,
            self.control,
        );
        let goals: Vec<String> = self.goals.iter().map(|goal| quoted(goal)).collect();
        text.push_str(&format!("goals = [{}]\n", goals.join(", ")));
        for fault in &self.faults {
            text.push_str(&format!(
                "\n[[fault]]\nname = {}\nwhere = {}\nwhen = {{ {} }}\nwhat = {}\n",
                quoted(&fault.name),
                quoted(fault.place.name()),
                when(fault),
                what(fault.what),
            ));
        }
        text
    }
}

fn when(fault: &Fault) -> String {
    let when = &fault.when;
    let mut fields = Vec::new();
    let mut field = |name: &str, value: Option<String>| {
        fields.extend(value.map(|value| format!("{name} = {value}")));
    };
    field("phase", when.phase.map(|phase| quoted(phase.name())));
    field("share", when.share.map(|share| format!("{share:?}")));
    field("call", when.call.map(|call| call.to_string()));
    field("attempt", when.attempt.map(|attempt| attempt.to_string()));
    let first = when.first_attempts;
    field("first_attempts", first.map(|first| first.to_string()));
    field(
        "after_bytes",
        when.after_bytes.map(|bytes| bytes.to_string()),
    );
    field("from_ms", when.from_ms.map(|from| from.to_string()));
    field("until_ms", when.until_ms.map(|until| until.to_string()));
    field("point", when.point.as_deref().map(quoted));
    field("passing", when.passing.map(|passing| passing.to_string()));
    fields.join(", ")
}

fn what(what: What) -> String {
    let name = what.name();
    let fields = match what {
        What::Duplicate { later_ms } => format!("later_ms = {later_ms}"),
        What::Delay { min_ms, max_ms } => format!("min_ms = {min_ms}, max_ms = {max_ms}"),
        What::Crash { back_after_ms } => format!("back_after_ms = {back_after_ms}"),
        What::Pause { for_ms } | What::SyncSlow { for_ms } => format!("for_ms = {for_ms}"),
        What::ClockJump { by_ms } => format!("by_ms = {by_ms}"),
        What::Blackhole
        | What::Close
        | What::Corrupt
        | What::DiskFull
        | What::Drop
        | What::PacketLoss
        | What::Partition
        | What::PowerCut
        | What::Reset
        | What::SyncFails
        | What::Truncate => return quoted(name),
    };
    format!("{{ {name} = {{ {fields} }} }}")
}

/// A basic string of TOML: whatever could end it, or a line, is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Phase, Place, When};
    use crate::scenario::{Mode, Workload};

    #[test]
    fn a_scenario_that_is_written_down_is_read_as_the_same() {
        let every = When {
            share: Some(0.25),
            first_attempts: Some(2),
            after_bytes: Some(9),
            from_ms: Some(40),
            until_ms: Some(900),
            ..When::phase(Phase::ReplySent).call(3).attempt(2)
        };
        let point = When {
            point: Some("a \"point\", of \\ code".into()),
            passing: Some(7),
            ..When::default()
        };
        let whats = [
            (Place::Wire, What::Duplicate { later_ms: 3 }),
            (Place::Wire, What::Truncate),
            (Place::Server, What::Pause { for_ms: 5 }),
            (Place::Disk, What::PowerCut),
            (Place::Disk, What::SyncSlow { for_ms: 6 }),
            (Place::Clock, What::ClockJump { by_ms: -30_000 }),
        ];
        let named = whats
            .into_iter()
            .map(|(place, what)| Fault::new(format!("{what} \u{e4}"), place, what));
        let mut faults: Vec<Fault> = named.collect();
        faults.push(
            Fault::new(
                "late",
                Place::Wire,
                What::Delay {
                    min_ms: 1,
                    max_ms: 2,
                },
            )
            .when(every),
        );
        faults
            .push(Fault::new("kill", Place::Server, What::Crash { back_after_ms: 4 }).when(point));
        let scenario = Scenario {
            name: "a \"name\"".into(),
            about: "two\nlines, \u{7f} and a \\".into(),
            workload: Workload::HotKey,
            calls: 12,
            clients: 3,
            mode: Mode::Naive,
            deadline_ms: 900,
            attempt_ms: 300,
            control: false,
            faults,
            goals: vec!["a goal".into(), "another, with a comma".into()],
        };
        assert_eq!(Scenario::parse(&scenario.to_toml()), Ok(scenario));
    }
}
