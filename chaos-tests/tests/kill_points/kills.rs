//! Every point is reached, and a kill at none of them breaks the promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use onlyonce_chaos::Seed;
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::seed::digest;

use super::clients::{CALLS, WORKERS};
use super::folder::{Beginning, Prepared};
use super::process::Passed;
use super::run::{Outcome, Schedule};
use super::sources;

/// What an undisturbed run passes.
struct Reference {
    /// By an opening of an empty folder.
    empty: Passed,
    /// By an opening of what a killed server left.
    opened: Passed,
    /// By a whole run.
    ended: Passed,
}

// B17, B21, A8
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_no_point_doubles_loses_or_changes_what_was_done() {
    let seed = std::env::var("ONLYONCE_KILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("ONLYONCE_KILL_SEED={seed}");
    let prepared = Arc::new(Prepared::new().await);
    let reference = Reference::take(&prepared).await;
    let names: BTreeSet<_> = sources::mentions()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !sources::is_the_outbox_s(name) && !sources::is_about_doubts(name))
        .filter(|name| !sources::is_about_journals(name))
        .collect();
    reference.covers(&names);

    let schedules = reference.schedules(&names, Seed::new(seed));
    let count = schedules.len();
    let outcomes: Vec<_> = stream::iter(schedules)
        .map(|(must, schedule)| {
            let prepared = Arc::clone(&prepared);
            // Each in a task of its own: the runs are to use all processors.
            let run = tokio::spawn(async move {
                let outcome = schedule.run(&prepared).await;
                (must, schedule, outcome)
            });
            async move { run.await.unwrap() }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    report(names.len(), count, &outcomes);
}

/// Without the layer one kill is enough: what is checked above can be found broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_says_that_it_dedupes_is_found_out_by_one_kill() {
    let kill_at = "handler: effect durable, not returned#3";
    let schedule = Schedule {
        beginning: Beginning::Old,
        kills: vec![kill_at.to_owned()],
    };
    let report = schedule.control(&Prepared::new().await).await;
    assert_eq!(report.verdict(), Verdict::Violated, "{report}");
    assert!(report.figures().duplicated > 0, "{report}");
}

/// Says what was done, and fails where a kill that had to come did not.
fn report(points: usize, count: usize, outcomes: &[(bool, Schedule, Outcome)]) {
    let killed = |outcome: &Outcome| outcome.killed.iter().filter(|killed| **killed).count();
    let kills: usize = outcomes.iter().map(|(_, _, outcome)| killed(outcome)).sum();
    let planned: usize = outcomes.iter().map(|(_, s, _)| s.kills.len()).sum();
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, _, o)| of(o)).sum::<u64>();
    println!(
        "{points} points, {count} runs, {kills} kills of {planned}; \
         {} operations answered, {} in doubt",
        sum(|outcome| outcome.answered),
        sum(|outcome| outcome.in_doubt),
    );
    for (must, schedule, outcome) in outcomes {
        let came = outcome.killed.iter().all(|killed| *killed);
        assert!(came || !must, "not reached: {schedule}");
    }
}

// === impl Reference ===

impl Reference {
    async fn take(prepared: &Prepared) -> Self {
        let run = |beginning| async move {
            let kills = Vec::new();
            Schedule { beginning, kills }.run(prepared).await
        };
        let (empty, old) = tokio::join!(run(Beginning::Empty), run(Beginning::Old));
        Self {
            empty: empty.opened,
            opened: old.opened,
            ended: old.ended,
        }
    }

    /// Panics for a point that no run passes, and for one that is said not to be passed and is.
    fn covers(&self, names: &BTreeSet<String>) {
        let excused: BTreeMap<_, _> = NOT_PASSED.into_iter().collect();
        for name in names {
            let passed = self.ended.contains_key(name) || self.empty.contains_key(name);
            match excused.get(name.as_str()) {
                None => assert!(passed, "no run passes {name:?}"),
                Some(why) => assert!(!passed, "{name:?} is passed, although {why}"),
            }
        }
        for name in excused.keys() {
            assert!(names.contains(*name), "there is no point {name:?}");
        }
    }

    /// What is to be run, and whether its kills have to come about.
    fn schedules(&self, names: &BTreeSet<String>, seed: Seed) -> Vec<(bool, Schedule)> {
        let mut schedules = Vec::new();
        for name in names {
            let draw = |what: u64| seed.draw(&[digest(name.as_bytes()), what]);
            let mut add = |must, beginning, kills: Vec<String>| {
                schedules.push((must, Schedule { beginning, kills }));
            };
            if self.empty.contains_key(name) {
                add(true, Beginning::Empty, vec![format!("{name}#1")]);
            }
            let opened = self.opened.get(name).copied().unwrap_or(0);
            if opened > 0 {
                // While it recovers from a kill, and while it recovers from that one.
                let work = format!("{WORKING}#{}", draw(0).within(3..=WORKING_MIN));
                let first = format!("{name}#{}", draw(1).within(1..=opened));
                let again = format!("{name}#1+{LINGER_MS}");
                add(true, Beginning::Old, vec![work.clone(), first.clone()]);
                add(true, Beginning::Old, vec![work, first, again]);
            }
            let served = self.ended.get(name).copied().unwrap_or(0) - opened;
            if served > 0 {
                let first = opened + 1;
                add(true, Beginning::Old, vec![format!("{name}#{first}")]);
                let lingering = format!("{name}#{first}+{LINGER_MS}");
                add(true, Beginning::Old, vec![lingering]);
            }
            if served > 3 {
                // Groups fall otherwise in every run: a later passing may not come about.
                let at = |what| opened + draw(what).within(2..=served / 2);
                let lingering = format!("{name}#{}+{LINGER_MS}", at(2));
                let twice = vec![format!("{name}#{}", at(3)), lingering];
                add(false, Beginning::Old, twice);
            }
        }
        schedules
    }
}

/// Points that no run passes, each with the reason.
const NOT_PASSED: [(&str, &str); 0] = [];

/// A point that is passed often while calls are served: where a server is killed that is then to
/// be killed while it opens.
const WORKING: &str = "syncer: group taken, not written";

/// A group is at most a claim or an answer of each worker, and every call has both; what is booked,
/// a quarter of them, has no claim there.
const WORKING_MIN: u64 = (2 * CALLS - CALLS / 4) / WORKERS - 1;

/// So long that an answer which was given too early reaches its client.
const LINGER_MS: u64 = 30;

/// A run waits for disks and for processes to start more than it computes.
const AT_ONCE: usize = 6;
