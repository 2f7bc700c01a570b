//! The tables of the manual against what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt, stream};

use super::kept::Left;
use super::measured::{Served, measure, passed};
use super::outcome::{Found, Outcome};
use super::scripts::Script;
use super::table;
use crate::folder::Prepared;
use crate::sources;

/// One point, as one script comes to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    name: String,
    cell: usize,
    script: Script,
    /// Of the passings that the manual tells.
    passings: Vec<u64>,
}

/// What the manual says, by point and cell.
type Said = BTreeMap<(String, usize), Vec<String>>;

#[test]
fn every_point_has_its_row_in_the_manual_and_every_row_its_point() {
    let points: BTreeSet<_> = points().collect();
    let rows: BTreeSet<_> = table::rows().into_keys().collect();
    let missing: Vec<_> = points.difference(&rows).collect();
    assert!(missing.is_empty(), "no row is about {missing:#?}");
    let gone: Vec<_> = rows.difference(&points).collect();
    assert!(gone.is_empty(), "there are no points {gone:#?}");
}

// B17, A8
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_call_is_what_the_manual_says_at_every_point() {
    let prepared = Arc::new(Prepared::new().await);
    let points: Vec<_> = points()
        .filter(|name| !sources::is_the_outbox_s(name) && !sources::is_about_journals(name))
        .collect();
    let (mut cases, left) = tokio::join!(cases(&points, &prepared), Left::new(&prepared));
    let served: BTreeSet<_> = cases.iter().map(|case| case.name.clone()).collect();

    let rows = table::rows();
    let mut said = BTreeMap::new();
    for name in &points {
        for cell in [CLAIMED, TRANSACTIONAL] {
            let words = rows.get(name).map(|row| row.outcomes(cell));
            said.insert((name.clone(), cell), words.unwrap_or_default());
        }
    }
    // One point alone, while somebody works at it.
    if let Ok(only) = std::env::var("ONLYONCE_KILL_POINT") {
        assert!(points.contains(&only), "there is no point {only:?}");
        cases.retain(|case| case.name == only);
        said.retain(|(name, _), _| *name == only);
    }
    let mut differ = at_a_call(cases, &mut said, &prepared).await;
    // What is left in `said` no call was killed at.
    differ += &at_no_call(&said, &served, left).await;
    assert!(differ.is_empty(), "\n{differ}");
}

/// Kills the calls, takes what is said of them out of `said`, and tells what differs.
async fn at_a_call(cases: BTreeSet<Case>, said: &mut Said, prepared: &Arc<Prepared>) -> String {
    let kills: usize = cases.iter().map(|case| case.passings.len()).sum();
    println!("{kills} kills at a call");
    let runs = cases.into_iter().map(|case| {
        let prepared = Arc::clone(prepared);
        tokio::spawn(async move {
            let found = case.measure(&prepared).await;
            (case, found)
        })
    });
    let seen: Vec<_> = at_once(runs).collect().await;
    let mut differ = String::new();
    for (Case { name, cell, .. }, found) in seen {
        let words = said.remove(&(name.clone(), cell)).unwrap();
        if !are_meant(&found, &words) {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            writeln!(
                differ,
                "{name:?}, cell {cell}: found {found:?}, said {words:?}"
            )
            .unwrap();
        }
    }
    differ
}

/// Kills what does not serve the call at a point, and tells where something else is said.
async fn at_no_call(said: &Said, served: &BTreeSet<String>, left: Left) -> String {
    let lives = Arc::new(left.lives().await);
    let left = Arc::new(left);
    let mut differ = String::new();
    let mut kept = BTreeSet::new();
    for ((name, cell), words) in said {
        let word = if served.contains(name) { NONE } else { KEPT };
        if *words != [word] {
            writeln!(
                differ,
                "{name:?}, cell {cell}: found [{word:?}], said {words:?}"
            )
            .unwrap();
        }
        if word == KEPT {
            kept.insert(name.clone());
        }
    }
    println!("{} points at which no call is", kept.len());
    let runs = kept.into_iter().flat_map(|name| {
        let when = lives.when(&name);
        assert!(!when.is_empty(), "no life passes {name:?}");
        when.into_iter().map(move |when| (name.clone(), when))
    });
    let runs = runs.map(|(name, when)| {
        let (left, lives) = (Arc::clone(&left), Arc::clone(&lives));
        tokio::spawn(async move { left.is_kept(&name, when, &lives).await })
    });
    at_once(runs).collect::<Vec<_>>().await;
    differ
}

/// Every point of the product and of the handler in the test.
fn points() -> impl Iterator<Item = String> {
    let names = sources::mentions().into_iter().map(|(name, _)| name);
    names.filter(|name| !name.starts_with(sources::OUTBOX_CHILD))
}

/// The first script of each kind that passes a point says what is found there.
async fn cases(points: &[String], prepared: &Prepared) -> BTreeSet<Case> {
    let kinds: [(usize, &[Script]); 3] = [
        (CLAIMED, &Script::CLAIMED),
        (CLAIMED, &Script::DOUBTS),
        (TRANSACTIONAL, &Script::TRANSACTIONAL),
    ];
    let mut cases = BTreeMap::new();
    for (cell, scripts) in kinds {
        let runs = scripts.iter().map(|script| passed(*script, prepared));
        for (script, passed) in scripts.iter().zip(join_all(runs).await) {
            let Served { opened, served } = passed;
            for name in points {
                if !script.is_about(name) {
                    continue;
                }
                let count =
                    |passed: &crate::process::Passed| passed.get(name).copied().unwrap_or(0);
                let (opened, served) = (count(&opened), count(&served));
                if served > opened {
                    let last = if script.is_plain() {
                        served
                    } else {
                        opened + 1
                    };
                    cases.entry((name.clone(), cell)).or_insert(Case {
                        name: name.clone(),
                        cell,
                        script: *script,
                        passings: (opened + 1..=last).collect(),
                    });
                }
            }
        }
    }
    cases.into_values().collect()
}

/// Whether what was found, passing by passing, is what the words say in the same order. What is
/// found several times in a row is said once.
pub fn are_meant<T: Found>(found: &[T], words: &[String]) -> bool {
    let mut words = words.iter();
    let mut word = words.next();
    for outcome in found {
        while !word.is_some_and(|word| outcome.is_meant_by(word)) {
            word = words.next();
            match word {
                Some(word) if outcome.is_meant_by(word) => {}
                _ => return false,
            }
        }
    }
    words.next().is_none() && word.is_some()
}

pub fn at_once<T: Send + 'static>(
    tasks: impl Iterator<Item = tokio::task::JoinHandle<T>>,
) -> impl Stream<Item = T> {
    // Begun one after the other: an iterator of tasks begins each when it is taken.
    stream::iter(tasks)
        .map(|task| async move { task.await.unwrap() })
        .buffer_unordered(AT_ONCE)
}

// === impl Case ===

impl Case {
    /// What is found after a kill at each passing, once where it is the same as before.
    async fn measure(&self, prepared: &Prepared) -> Vec<Outcome> {
        let mut found: Vec<Outcome> = Vec::new();
        for passing in &self.passings {
            let kill_at = format!("{}#{passing}", self.name);
            let mut outcomes = measure(self.script, &kill_at, prepared).await;
            if self.script == Script::Books {
                // The other one has won, whether or not that is durable yet.
                let winner = outcomes
                    .iter()
                    .position(|found| *found == Outcome::Answered);
                outcomes.remove(winner.unwrap_or(0));
            }
            if self.script == Script::CrowdAndBook {
                outcomes.truncate(1);
            }
            found.append(&mut outcomes);
        }
        found.dedup();
        found
    }
}

/// The places of the cells in a row, behind the point and what is durable there.
const CLAIMED: usize = 1;
const TRANSACTIONAL: usize = 2;

/// No call is there, and what was left stays.
pub const KEPT: &str = "kept";

/// A call of this kind does not come there.
const NONE: &str = "-";

/// A run waits for disks and for processes to start more than it computes.
const AT_ONCE: usize = 10;

#[test]
fn words_are_held_against_what_was_found_in_order() {
    let (runs, answered) = (Outcome::Runs, Outcome::Answered);
    let words = |text: &[&str]| {
        text.iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    assert!(are_meant(&[runs, answered], &words(&["runs", "answered"])));
    assert!(are_meant(&[answered, runs], &words(&["runs or answered"])));
    assert!(!are_meant(&[runs], &words(&["runs", "answered"])));
    assert!(!are_meant(&[runs, answered], &words(&["runs"])));
    assert!(!are_meant(&[answered, runs], &words(&["runs", "answered"])));
}
