//! Every point of the outbox is reached, and a kill at none of them breaks the promise.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::{StreamExt, stream};
use onlyonce_chaos::Seed;
use onlyonce_chaos::ledger::{self, Ending, Report, Verdict};
use onlyonce_chaos::seed::digest;
use onlyonce_storage::points::KILL_AT;

use super::child::{HABIT, Habit, SERVER};
use super::notes::Notes;
use super::server;
use crate::child::FOLDER;
use crate::clients::{CALLS, effects};
use crate::orders::{Order, Wish};
use crate::process::{End, Passed, Process};
use crate::sources;

/// What came of a run.
struct Outcome {
    /// Which kills came about.
    killed: Vec<bool>,
    /// What the last life passed.
    opened: Passed,
    ended: Passed,
    report: Report,
}

// H7, H1, E7, B17
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_at_any_point_of_its_outbox_loses_and_doubles_nothing() {
    let seed = std::env::var("ONLYONCE_KILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("ONLYONCE_KILL_SEED={seed}");
    let names: BTreeSet<_> = sources::mentions()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| sources::is_the_outbox_s(name) && !name.contains(FORGETFUL))
        .collect();
    assert!(names.len() > 15, "only {} points were found", names.len());
    let reference = run(&[], Habit::Outbox).await;
    for name in &names {
        assert!(reference.ended.contains_key(name), "no run passes {name:?}");
    }

    let schedules = schedules(&names, &reference, Seed::new(seed));
    let count = schedules.len();
    let kills = stream::iter(schedules)
        .map(|(must, kills)| async move {
            // Each in a task of its own: the runs are to use all processors.
            let outcome = tokio::spawn(async move {
                let outcome = run(&kills, Habit::Outbox).await;
                assert_eq!(
                    outcome.report.verdict(),
                    Verdict::Valid,
                    "{kills:?}: {}",
                    outcome.report
                );
                let came = outcome.killed.iter().all(|killed| *killed);
                assert!(came || !must, "not reached: {kills:?}");
                outcome.killed.iter().filter(|killed| **killed).count()
            });
            outcome.await.unwrap()
        })
        .buffer_unordered(AT_ONCE)
        .fold(0, |sum, kills| async move { sum + kills })
        .await;
    println!("{} points, {count} runs, {kills} kills", names.len());
}

/// Without an outbox one kill is enough: what is checked above can be found broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_keys_die_with_it_is_found_out_by_one_kill() {
    let kill_at = "outbox child: forgetful, answer told, not noted#3".to_owned();
    let outcome = run(&[kill_at], Habit::Forgetful).await;
    assert_eq!(outcome.killed, [true]);
    let report = outcome.report;
    assert_eq!(report.verdict(), Verdict::Violated, "{report}");
    assert!(report.figures().duplicated > 0, "{report}");
}

/// What is to be run, and whether its kills have to come about.
fn schedules(
    names: &BTreeSet<String>,
    reference: &Outcome,
    seed: Seed,
) -> Vec<(bool, Vec<String>)> {
    let mut schedules = Vec::new();
    for name in names {
        let draw = |what: u64| seed.draw(&[digest(name.as_bytes()), what]);
        let count = |passed: &Passed| passed.get(name).copied().unwrap_or(0);
        let first = format!("{name}#1");
        schedules.push((true, vec![first.clone()]));
        // It recovers from a kill while it worked, is killed at this point, and again.
        let work = format!("{WORKING}#{}", draw(0).within(3..=WORKING_MIN));
        let lingering = format!("{first}+{LINGER_MS}");
        schedules.push((true, vec![work, lingering.clone(), first]));
        if count(&reference.opened) == 0 && count(&reference.ended) > 3 {
            // Groups fall otherwise in every run: a later passing may not come about.
            let at = |what| draw(what).within(2..=count(&reference.ended) / 2);
            let twice = vec![
                format!("{name}#{}+{LINGER_MS}", at(1)),
                format!("{name}#{}", at(2)),
            ];
            schedules.push((false, twice));
        }
    }
    schedules
}

/// One client for each kill, and one that is not killed. Panics where the promise is broken.
async fn run(kills: &[String], habit: Habit) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let shop = server::serve().await;
    let address = shop.serving.local_addr().to_string();
    let start = |kill_at: &str| {
        Process::spawn(
            "outbox::child::calls_until_it_is_killed_when_it_is_the_child",
            &[
                (FOLDER, folder.path().to_str().unwrap()),
                (SERVER, address.as_str()),
                (HABIT, habit.name()),
                (KILL_AT, kill_at),
            ],
        )
    };
    let mut killed = Vec::new();
    for kill_at in kills {
        killed.push(start(kill_at).end().await == End::Killed);
    }
    let mut last = start("");
    assert_eq!(last.end().await, End::Stopped, "{kills:?}");
    let executed = shop.effects.lock().clone();
    let renewed = shop.renewed.lock().len();
    assert_eq!(renewed, 0, "{kills:?}: a call came again as a new one");
    if habit == Habit::Outbox {
        judge(kills, folder.path(), &executed);
    }
    let told = Notes::told(folder.path());
    Outcome {
        killed,
        opened: last.opened,
        ended: last.ended,
        report: ledger::check(&told.history(), &effects(executed)),
    }
}

/// Every operation ended, as it wished: the server was there all the while.
fn judge(kills: &[String], folder: &Path, executed: &[(u64, crate::orders::Receipt)]) {
    let told = Notes::told(folder).endings();
    for operation in 0..CALLS {
        let count = executed.iter().filter(|(of, _)| *of == operation).count();
        let ended = told.get(&operation);
        let ended = ended.unwrap_or_else(|| panic!("{kills:?}: {operation} was lost"));
        let wish = Order { operation }.wish();
        let just = |ending: &Ending| match wish {
            Wish::Decline => matches!(ending, Ending::Declined(_)) && count == 0,
            Wish::Doubt => *ending == Ending::InDoubt && count == 1,
            Wish::Pay | Wish::Refuse | Wish::Slow => {
                matches!(ending, Ending::Answered(_)) && count == 1
            }
        };
        assert!(
            ended.iter().all(just),
            "{kills:?}: {operation} was executed {count} times and ended {ended:?}"
        );
    }
}

/// A point that is passed often: where a client is killed that is then to be killed again.
const WORKING: &str = "outbox: group flushed, not synced";

/// A group is at most what all workers wait for, and every call has four.
const WORKING_MIN: u64 = 20;

/// So long that whoever was told too early goes on.
const LINGER_MS: u64 = 30;

/// A run waits for disks and for processes to start more than it computes.
const AT_ONCE: usize = 6;

/// Points of a client without an outbox.
const FORGETFUL: &str = "forgetful";
