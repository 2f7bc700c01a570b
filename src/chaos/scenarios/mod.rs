//! The scenarios that come with the program, by name.

use std::fmt;
use std::io::Read;
use std::path::Path;

use onlyonce_chaos::scenario::{SCENARIO_BYTES_MAX, Scenario, ScenarioError};

use super::kill_points;

/// Why a scenario cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoScenario {
    /// It says what cannot be.
    #[error("{name}, {error}")]
    Wrong {
        /// Which one.
        name: String,
        /// What is wrong, and where.
        error: ScenarioError,
    },
    /// The file cannot be read.
    #[error("{name} cannot be read: {error}")]
    Unreadable {
        /// Which one.
        name: String,
        /// Why not.
        error: std::io::Error,
    },
    /// No such name, and no such file.
    #[error("no scenario `{name}`: neither a file nor one of {}", Names)]
    Unknown {
        /// Which one.
        name: String,
    },
}

struct Names;

/// The scenario of this name, or in this file.
///
/// # Errors
///
/// When there is none, or it is wrong: with line and field.
pub fn scenario(name: &str) -> Result<Scenario, NoScenario> {
    let wrong = |error| NoScenario::Wrong {
        name: name.to_owned(),
        error,
    };
    if let Some((_, text)) = SHIPPED.iter().find(|(own, _)| *own == name) {
        return Scenario::parse_with_points(text, kill_points()).map_err(wrong);
    }
    let path = Path::new(name);
    if !path.exists() {
        let name = name.to_owned();
        return Err(NoScenario::Unknown { name });
    }
    let mut text = String::new();
    // One byte more than it may have, so that a longer one is refused and not cut.
    let read = std::fs::File::open(path).and_then(|file| {
        file.take(SCENARIO_BYTES_MAX as u64 + 1)
            .read_to_string(&mut text)
    });
    match read {
        Ok(_) => Scenario::parse_with_points(&text, kill_points()).map_err(wrong),
        Err(error) => Err(NoScenario::Unreadable {
            name: name.to_owned(),
            error,
        }),
    }
}

/// The names of those that come with the program.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in names().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

const SHIPPED: [(&str, &str); 13] = [
    ("bad-network", include_str!("bad-network.toml")),
    ("charge-refund", include_str!("charge-refund.toml")),
    ("everything", include_str!("everything.toml")),
    ("hot-key", include_str!("hot-key.toml")),
    ("kill-points", include_str!("kill-points.toml")),
    ("lost-answers", include_str!("lost-answers.toml")),
    ("mailbox", include_str!("mailbox.toml")),
    ("outbox", include_str!("outbox.toml")),
    ("packets-30", include_str!("packets-30.toml")),
    ("packets-5", include_str!("packets-5.toml")),
    ("power-cuts", include_str!("power-cuts.toml")),
    ("rolling-restarts", include_str!("rolling-restarts.toml")),
    ("sockets", include_str!("sockets.toml")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_along_is_one_and_has_its_name() {
        for name in names() {
            let scenario = scenario(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, name);
            assert!(!scenario.about.is_empty(), "{name}");
            assert!(!scenario.goals.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_scenario_that_is_not_there_is_answered_with_those_that_are() {
        let error = scenario("no-such").unwrap_err().to_string();
        assert!(error.contains("bad-network, charge-refund"), "{error}");
    }

    #[test]
    fn a_point_that_the_server_does_not_have_is_refused_with_line_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let refused = |point: &str| {
            let text = format!(
                "name = \"x\"\nworkload = \"transfers\"\n[[fault]]\nname = \"kill\"\n\
                 where = \"server\"\nwhat = {{ crash = {{ back_after_ms = 5 }} }}\n\
                 when = {{ point = \"{point}\" }}\n"
            );
            std::fs::write(&path, text).unwrap();
            scenario(path.to_str().unwrap()).map_err(|error| error.to_string())
        };
        let known = refused("syncer: group written, not synced").unwrap();
        assert_eq!(known.faults.len(), 1);
        let error = refused("syncer: gruop written").unwrap_err();
        assert!(
            error.contains("line 7: `point`: there is no point"),
            "{error}"
        );
        assert!(
            error.contains("`syncer: group written, not synced`"),
            "{error}"
        );
        let error = refused("lunch").unwrap_err();
        assert!(
            error.contains("points begin with checkpoint, dedupe"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_file_is_refused_with_line_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(
            &path,
            "name = \"x\"\nworkload = \"transfers\"\nclients = 0\n",
        )
        .unwrap();
        let error = scenario(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(
            error.ends_with("line 3: `clients`: 0 is not from 1 to 1024"),
            "{error}"
        );
    }
}
