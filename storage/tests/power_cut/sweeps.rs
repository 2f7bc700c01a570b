//! The power is cut while a store drops what is past its retention and its horizon: what is gone
//! is gone as a whole and for good, its late duplicates are refused, and the rest is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    ClaimOutcome, Clock as _, DoubtReason, Inspect as _, KeyState, ManualClock, RetentionOptions,
    Store as _, Timestamp,
};
use tokio::sync::RwLock;

use crate::calls::{bytes, key, request};
use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};

/// What was said until a cut.
#[derive(Debug)]
struct Ledger {
    run: String,
    /// When each call was claimed, on the store's clock, and whether it was completed: which was
    /// at the same time.
    calls: BTreeMap<String, (Timestamp, bool)>,
    /// No clock reading of the store was later.
    now: Timestamp,
    /// When the last acknowledged sweep began.
    swept: Option<Timestamp>,
}

/// What was found, by how a call may end up.
#[derive(Debug, Default)]
struct Found {
    completed: usize,
    tombstones: usize,
    forgotten: usize,
}

// G5
#[test]
fn what_a_sweep_drops_is_gone_for_good_and_its_late_duplicates_are_refused() {
    let test = "sweeps::what_a_sweep_drops_is_gone_for_good_and_its_late_duplicates_are_refused";
    in_own_namespaces(test, |rig| {
        let drive = Drive::new(rig, Cache::Kept);
        let mut found = Found::default();
        let mut left = (cuts() * 3 / 10).max(10);
        let mut taken = 0;
        for run in 0.. {
            if left == 0 {
                break;
            }
            let name = format!("{}-sweeps-{run}", seed());
            for (cut, ledger) in sweep_and_cut(rig, &drive, &name, left.min(10)) {
                left -= 1;
                taken += 1;
                let after = cut.turn_on(rig);
                judge(&after.at().join("calls"), &ledger, &mut found);
            }
        }
        tell(&format!(
            "seed {}: {taken} cuts of a sweeping store: {found:?}",
            seed()
        ));
        let Found {
            completed,
            tombstones,
            forgotten,
        } = found;
        assert!(
            completed > 0 && tombstones > 0 && forgotten > 0,
            "not all was seen"
        );
    });
}

fn sweep_and_cut(rig: &Rig, drive: &Drive, run: &str, cuts: u64) -> Vec<(Cut, Ledger)> {
    let disk = drive.disk(rig);
    let child = Child::start(SWEEP, &disk.at().join("calls"), run);
    let mut taken = Vec::new();
    for number in 0..cuts {
        let gap = 1 + draw(&format!("gap {number} of {run}"), GAP_LINES_MAX);
        let more = child.wait_for(child.count() + usize::try_from(gap).unwrap(), DONE);
        assert!(!child.has_ended(), "the child ended by itself");
        let to = rig.path(&format!("sweeps-{number}.img"));
        let (cut, count) = drive.cut(&disk, &to, || child.count());
        taken.push((cut, Ledger::of(run, &child.lines(count))));
        if !more {
            break;
        }
    }
    taken
}

fn judge(path: &Path, ledger: &Ledger, found: &mut Found) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let clock = Arc::new(ManualClock::new(ledger.now));
        let store = SledStore::open_async(path, options(&clock)).await.unwrap();
        for (name, (at, completed)) in &ledger.calls {
            if *completed {
                judge_completed(&store, ledger, (name, *at), found).await;
            } else {
                judge_claimed(&store, name, *at).await;
            }
        }
        // What was dropped stays dropped, and the rest can be dropped.
        clock.advance(HORIZON + 2 * DAY);
        store.sweep().await.unwrap();
        for (name, (at, completed)) in &ledger.calls {
            let state = store.peek(key(name)).await.unwrap();
            let kept = !completed && matches!(state, KeyState::InDoubt(_));
            assert!(kept || state == KeyState::Absent, "{name}: {state:?}");
            let outcome = store.claim(request(name, Some(*at))).await.unwrap();
            let refused = matches!(outcome, ClaimOutcome::Stale | ClaimOutcome::InDoubt(_));
            assert!(refused, "{name} could be executed again: {outcome:?}");
        }
        store.close().await.unwrap();
    });
}

async fn judge_completed(
    store: &SledStore,
    ledger: &Ledger,
    (name, at): (&str, Timestamp),
    found: &mut Found,
) {
    let peeked = store.peek(key(name)).await;
    let state = peeked.unwrap_or_else(|error| panic!("{name}: {error}"));
    let age = ledger.now.since(at);
    let swept_at_age = ledger.swept.map_or(Duration::ZERO, |swept| swept.since(at));
    match &state {
        KeyState::Completed(completion) => {
            assert!(
                completion.answer == answer(name),
                "{name} has another answer"
            );
            assert!(
                swept_at_age < ANSWER + BUCKET,
                "{name} was swept and has its answer"
            );
            found.completed += 1;
        }
        KeyState::Tombstone { .. } => {
            assert!(
                age >= ANSWER,
                "{name} lost its answer at the age of {age:?}"
            );
            assert!(
                swept_at_age < HORIZON + BUCKET,
                "{name} was swept and left a trace"
            );
            found.tombstones += 1;
        }
        KeyState::Absent => {
            assert!(age >= HORIZON, "{name} is forgotten at the age of {age:?}");
            found.forgotten += 1;
        }
        other => panic!("{name}, {age:?} old, is {other:?}"),
    }
    // What the store has forgotten it says that it has: `forgotten_until` is not behind.
    let outcome = store.claim(request(name, Some(at))).await.unwrap();
    let just = match &outcome {
        ClaimOutcome::Completed(_) => matches!(state, KeyState::Completed(_)),
        ClaimOutcome::Stale => age >= ANSWER,
        _ => false,
    };
    assert!(just, "{name}, {age:?} old, {state:?}: {outcome:?}");
}

/// It may have been completed before anybody was told, and then be as old as any.
async fn judge_claimed(store: &SledStore, name: &str, at: Timestamp) {
    let state = store.peek(key(name)).await.unwrap();
    let just = match &state {
        KeyState::InDoubt(doubt) => doubt.reason == DoubtReason::OwnerGone,
        KeyState::Completed(completion) => completion.answer == answer(name),
        _ => false,
    };
    assert!(just, "{name}: {state:?}");
    let outcome = store.claim(request(name, Some(at))).await.unwrap();
    let refused = matches!(
        outcome,
        ClaimOutcome::Completed(_) | ClaimOutcome::InDoubt(_)
    );
    assert!(refused, "{name} could be executed again: {outcome:?}");
}

// === impl Ledger ===

impl Ledger {
    fn of(run: &str, lines: &[String]) -> Self {
        let mut ledger = Self {
            run: run.to_owned(),
            calls: BTreeMap::new(),
            now: START.plus(STEP),
            swept: None,
        };
        let time = |text: &str| Timestamp::from_millis(text.parse().unwrap());
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["claimed", name, at] => {
                    ledger.calls.insert(name.to_owned(), (time(at), false));
                }
                ["completed", name, at] => {
                    ledger.calls.insert(name.to_owned(), (time(at), true));
                }
                // It is moved after it was said, perhaps once more than was heard.
                ["clock", to] => ledger.now = time(to).plus(STEP),
                ["swept", at] => ledger.swept = Some(time(at)),
                [DONE] => {}
                _ => panic!("run {}: the child said {line:?}", ledger.run),
            }
        }
        ledger
    }
}

#[test]
fn sweeps_until_its_power_is_cut_when_it_is_the_child() {
    child::work(SWEEP, |path, run| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let clock = Arc::new(ManualClock::new(START));
            let store = SledStore::open_async(path, options(&clock)).await;
            let store = Arc::new(store.unwrap());
            // What was first sent when the store was made may have been executed by another one.
            clock.advance(STEP);
            // Held for reading by a call on its way, so that it is claimed and completed at one
            // time.
            let moves = Arc::new(RwLock::new(()));
            for task in 0..TASKS {
                let names = format!("{run}-{task}");
                let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
                let moves = Arc::clone(&moves);
                tokio::spawn(async move {
                    for number in 0.. {
                        let _still = moves.read().await;
                        serve(&store, &format!("{names}-{number}"), clock.now()).await;
                    }
                });
            }
            for _ in 0..STEPS {
                {
                    let _moving = moves.write().await;
                    let to = clock.now().plus(STEP);
                    child::say(&format!("clock {}", to.as_millis()));
                    clock.advance(to.since(clock.now()));
                }
                let at = clock.now();
                let swept = store.sweep().await.unwrap();
                assert_eq!(swept.paused, None, "the clock is trusted");
                child::say(&format!("swept {}", at.as_millis()));
            }
            child::say(DONE);
            child::wait_for_the_end();
        });
    });
}

async fn serve(store: &SledStore, name: &str, at: Timestamp) {
    let request = request(name, Some(at));
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("a new key is claimed");
    };
    child::say(&format!("claimed {name} {}", at.as_millis()));
    store.complete(claim, answer(name)).await.unwrap();
    child::say(&format!("completed {name} {}", at.as_millis()));
}

/// Also larger than what sled takes in one piece.
fn answer(name: &str) -> onlyonce_storage::Answer {
    let most = if draw(&format!("size of {name}"), 8) == 0 {
        20_000
    } else {
        500
    };
    bytes(name, 20 + draw(&format!("length of {name}"), most))
}

fn options(clock: &Arc<ManualClock>) -> SledOptions {
    let retention = RetentionOptions::new(ANSWER, HORIZON).unwrap();
    SledOptions::new()
        .clock(clock.clone())
        .retention(retention)
        .log_bytes(64 * 1024)
}

const SWEEP: &str = "sweeps::sweeps_until_its_power_is_cut_when_it_is_the_child";
const DONE: &str = "done";
const TASKS: u64 = 4;
const STEPS: u64 = 200;
const GAP_LINES_MAX: u64 = 200;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const STEP: Duration = Duration::from_secs(6 * 60 * 60);
const ANSWER: Duration = DAY;
const HORIZON: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// How much longer a record may be kept: until its bucket, which lasts a day and takes in clocks
/// that are five minutes ahead, is past as a whole.
const BUCKET: Duration = Duration::from_secs((24 * 60 + 5) * 60);
