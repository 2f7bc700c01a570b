//! The power is cut while a store serves calls of all sizes and endings.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onlyonce_storage::journal::Journal as _;
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    AnswerBytes, CallJournal, ClaimOutcome, DoubtReason, FencingToken, InDoubt, Inspect as _,
    KeyState, KeyView, Store,
};

use crate::calls::{Ending, LARGE, answer, ending, journal, journal_after, key, notes, request};
use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::neighbour::neighbour;
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};

/// What was said of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    Claimed,
    Ended,
}

/// What was said until a cut.
#[derive(Debug, Default)]
pub struct Ledger {
    run: String,
    calls: HashMap<String, Acknowledged>,
    /// How many notes of a call.
    noted: HashMap<String, usize>,
    token: Option<FencingToken>,
}

/// How much was held against the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    pub claims: usize,
    pub endings: usize,
    pub notes: usize,
}

// B21, G5
#[test]
fn what_a_store_acknowledged_is_there_after_the_power_was_cut() {
    let test = "store::what_a_store_acknowledged_is_there_after_the_power_was_cut";
    in_own_namespaces(test, |rig| cut_and_judge(rig, Cache::Kept, "mixed", cuts()));
}

// B21, G5
#[test]
fn what_a_store_acknowledged_is_there_after_the_drive_lost_its_cache() {
    let test = "store::what_a_store_acknowledged_is_there_after_the_drive_lost_its_cache";
    in_own_namespaces(test, |rig| {
        cut_and_judge(rig, Cache::Lost, "mixed", cuts() / 2);
    });
}

// B21, G5
//
// sled takes its log for durable where it has only asked the kernel to write it. When one group
// fills several of its segments, a later one may be on the disk, and say that an earlier one is,
// while the length of the file that the earlier one needs is not. Then sled takes all of its log
// for torn, and wipes it.
#[test]
fn groups_of_large_answers_that_were_acknowledged_are_there_after_the_power_was_cut() {
    let test =
        "store::groups_of_large_answers_that_were_acknowledged_are_there_after_the_power_was_cut";
    in_own_namespaces(test, |rig| {
        cut_and_judge(rig, Cache::Kept, LARGE, cuts() / 4);
        cut_and_judge(rig, Cache::Lost, LARGE, cuts() / 10);
    });
}

fn cut_and_judge(rig: &Rig, cache: Cache, load: &str, cuts: u64) {
    let mut judged = Judged::default();
    let mut left = cuts;
    for run in 0.. {
        if left == 0 {
            break;
        }
        let name = format!("{load}-{}-{run}", seed());
        let drive = Drive::new(rig, cache);
        for (cut, ledger) in serve_and_cut(rig, &drive, &name, left.min(CUTS_PER_RUN)) {
            left -= 1;
            let after = cut.turn_on(rig);
            judged.add(judge(&after.at().join("calls"), &ledger));
        }
    }
    let Judged {
        claims,
        endings,
        notes,
    } = judged;
    tell(&format!(
        "seed {}: {cuts} cuts of a serving store, {load} answers, cache {cache:?}: {claims} acknowledged claims, \
         {notes} acknowledged notes and {endings} acknowledged endings judged, none lost",
        seed()
    ));
    assert!(
        endings > claims / 2,
        "most calls had ended when the power was cut"
    );
}

/// Lets a store serve on a new disk and cuts its power `cuts` times, or fewer where it was done
/// before.
pub fn serve_and_cut(rig: &Rig, drive: &Drive, run: &str, cuts: u64) -> Vec<(Cut, Ledger)> {
    let disk = drive.disk(rig);
    let child = Child::start(SERVE, &disk.at().join("calls"), run);
    let mut taken = Vec::new();
    let gap_max = if run.contains(LARGE) {
        GAP_LINES_MAX_LARGE
    } else {
        GAP_LINES_MAX
    };
    for number in 0..cuts {
        let gap = 1 + draw(&format!("gap {number} of {run}"), gap_max);
        let more = child.wait_for(child.count() + usize::try_from(gap).unwrap(), DONE);
        assert!(!child.has_ended(), "the child ended by itself");
        let to = rig.path(&format!("cut-{number}.img"));
        let (cut, count) = drive.cut(&disk, &to, || child.count());
        taken.push((cut, Ledger::of(run, &child.lines(count))));
        if !more {
            break;
        }
    }
    taken
}

/// Opens what a cut has left and compares it with what had been acknowledged.
pub fn judge(path: &Path, ledger: &Ledger) -> Judged {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = SledStore::open_async(path, SledOptions::new())
            .await
            .unwrap();
        for (name, acknowledged) in &ledger.calls {
            judge_call(&store, name, Some(*acknowledged)).await;
            let noted = ledger.noted.get(name).copied().unwrap_or(0);
            judge_journal(&store, name, noted).await;
        }
        // What each task did last: it may be there, as a whole, or not.
        for task in 0..TASKS {
            let next = (0..).map(|number| ledger.name(task, number));
            let next = next
                .into_iter()
                .find(|name| !ledger.calls.contains_key(name));
            judge_call(&store, &next.unwrap(), None).await;
        }
        judge_use(&store, ledger).await;
        store.close().await.unwrap();
    });
    ledger.judged()
}

async fn judge_call(store: &SledStore, name: &str, acknowledged: Option<Acknowledged>) {
    let found = store.peek(key(name)).await;
    let found = found.unwrap_or_else(|error| panic!("{name}, {acknowledged:?}: {error}"));
    let ended = match (&found, ending(name)) {
        (KeyState::Completed(found), Ending::Completed(answer)) => found.answer == answer,
        (KeyState::InDoubt(found), Ending::Doubted(reason, answer)) => {
            found.reason == reason && found.answer == answer
        }
        (KeyState::Absent, Ending::Released) => true,
        _ => false,
    };
    // Its owner is gone with the power.
    let claimed = matches!(&found, KeyState::InDoubt(doubt)
        if doubt.reason == DoubtReason::OwnerGone && doubt.answer.is_none());
    let just = match acknowledged {
        Some(Acknowledged::Ended) => ended,
        // Its ending may have reached the disk before anybody was told.
        Some(Acknowledged::Claimed) => claimed || ended,
        None => claimed || ended || found == KeyState::Absent,
    };
    assert!(
        just,
        "{name}, {acknowledged:?}, {:?}: {found:?}",
        ending(name)
    );
    if found != KeyState::Absent {
        let outcome = store.claim(request(name, None)).await.unwrap();
        let refused = matches!(
            outcome,
            ClaimOutcome::Completed(_) | ClaimOutcome::InDoubt(_)
        );
        assert!(refused, "{name} could be executed again: {outcome:?}");
    }
}

/// Of a call that had not ended, every note that was acknowledged is there, and one more at most; it goes on
/// behind them, or not at all where a step was begun.
async fn judge_journal(store: &SledStore, name: &str, noted: usize) {
    if journal(name).is_none() {
        return;
    }
    let KeyState::InDoubt(InDoubt {
        reason: DoubtReason::OwnerGone,
        answer: None,
        token,
        ..
    }) = store.peek(key(name)).await.unwrap()
    else {
        return;
    };
    let KeyView::Call(view) = store.show(key(name), AnswerBytes::LeaveOut).await.unwrap() else {
        panic!("{name} is in doubt");
    };
    let shown: Vec<_> = view
        .steps
        .iter()
        .map(|step| (step.name.clone(), step.result_bytes))
        .collect();
    let expected =
        (noted..=notes(name).len().min(noted + 1)).map(|count| journal_after(name, count));
    let as_shown = |journal: &CallJournal| {
        let steps = journal.steps().iter();
        let bytes = |step: &onlyonce_storage::journal::Step| {
            step.result().map(|result| result.len() as u64)
        };
        steps
            .map(|step| (step.name().clone(), bytes(step)))
            .collect::<Vec<_>>()
    };
    let found = expected
        .into_iter()
        .find(|journal| as_shown(journal) == shown);
    let found = found.unwrap_or_else(|| panic!("{name}, {noted} notes: {shown:?}"));
    let mut again = request(name, None);
    again.journal = Some(found.request().clone());
    again.rerun_of = Some(token);
    match store.claim(again).await.unwrap() {
        ClaimOutcome::Claimed(claim) => {
            assert_eq!(found.unfinished(), None, "{name}");
            assert!(
                claim.journal() == Some(&found),
                "{name} has another journal"
            );
            let stopped = store.doubt(claim, DoubtReason::OwnerGone, None).await;
            stopped.unwrap();
        }
        ClaimOutcome::InDoubt(_) => assert!(found.unfinished().is_some(), "{name}"),
        other => panic!("{name}: {other:?}"),
    }
}

/// The store serves on, and orders what is new behind what was before.
async fn judge_use(store: &SledStore, ledger: &Ledger) {
    let ClaimOutcome::Claimed(claim) = store.claim(request("after", None)).await.unwrap() else {
        panic!("a new key is claimed");
    };
    assert!(
        Some(claim.token()) > ledger.token,
        "{} is not the largest",
        claim.token()
    );
    store.complete(claim, answer("after")).await.unwrap();
    let state = store.peek(key("after")).await.unwrap();
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
}

// === impl Ledger ===

impl Ledger {
    fn of(run: &str, lines: &[String]) -> Self {
        let mut ledger = Self {
            run: run.to_owned(),
            ..Self::default()
        };
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["claimed", name, incarnation, sequence] => {
                    ledger.calls.insert(name.to_owned(), Acknowledged::Claimed);
                    let token =
                        FencingToken::new(incarnation.parse().unwrap(), sequence.parse().unwrap());
                    ledger.token = ledger.token.max(Some(token));
                }
                ["noted", name] => {
                    *ledger.noted.entry(name.to_owned()).or_default() += 1;
                }
                ["ended", name] => {
                    ledger.calls.insert(name.to_owned(), Acknowledged::Ended);
                }
                [DONE] => {}
                _ => panic!("the child said {line:?}"),
            }
        }
        ledger
    }

    fn name(&self, task: u64, number: u64) -> String {
        format!("{}-{task}-{number}", self.run)
    }

    fn judged(&self) -> Judged {
        let ended = |call: &&Acknowledged| **call == Acknowledged::Ended;
        Judged {
            claims: self.calls.len(),
            endings: self.calls.values().filter(ended).count(),
            notes: self.noted.values().sum(),
        }
    }
}

// === impl Judged ===

impl Judged {
    pub fn add(&mut self, more: Self) {
        self.claims += more.claims;
        self.endings += more.endings;
        self.notes += more.notes;
    }
}

#[test]
fn serves_until_its_power_is_cut_when_it_is_the_child() {
    child::work(SERVE, |path, run| {
        neighbour(path, run);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            // Carried over while it serves: all the time, now and then, once.
            let log_bytes = (64 * 1024) << (3 * draw(&format!("log of {run}"), 3));
            let options = SledOptions::new().log_bytes(log_bytes);
            let store = SledStore::open_async(path, options).await;
            let store = Arc::new(store.unwrap());
            let written = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (store, written) = (Arc::clone(&store), Arc::clone(&written));
                    let names = format!("{run}-{task}");
                    tokio::spawn(async move {
                        for number in 0.. {
                            if written.load(Ordering::SeqCst) > RUN_BYTES_MAX {
                                break;
                            }
                            let bytes = serve(&store, &format!("{names}-{number}")).await;
                            written.fetch_add(bytes, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            child::say(DONE);
            child::wait_for_the_end();
        });
    });
}

/// Answers how many bytes it took, about.
async fn serve(store: &SledStore, name: &str) -> usize {
    let mut asked = request(name, None);
    asked.journal = journal(name).map(|journal| journal.request().clone());
    let is_journaled = asked.journal.is_some();
    let ClaimOutcome::Claimed(claim) = store.claim(asked).await.unwrap() else {
        panic!("a new key is claimed");
    };
    let token = claim.token();
    child::say(&format!(
        "claimed {name} {} {}",
        token.incarnation(),
        token.sequence()
    ));
    let mut bytes = CALL_BYTES;
    if is_journaled {
        for (note, count) in notes(name).into_iter().zip(1..) {
            store.note(claim.digest(), token, note).await.unwrap();
            child::say(&format!("noted {name}"));
            bytes += journal_after(name, count).bytes();
        }
    }
    match ending(name) {
        Ending::Completed(answer) => {
            bytes += answer.body().len();
            store.complete(claim, answer).await.unwrap();
        }
        Ending::Doubted(reason, answer) => {
            bytes += answer.as_ref().map_or(0, |answer| answer.body().len());
            store.doubt(claim, reason, answer).await.unwrap();
        }
        Ending::Held => {
            // Its handler runs for ever: the claim is neither spent nor dropped.
            std::mem::forget(claim);
            return bytes;
        }
        Ending::Released => store.release(claim).await.unwrap(),
    }
    child::say(&format!("ended {name}"));
    bytes
}

const SERVE: &str = "store::serves_until_its_power_is_cut_when_it_is_the_child";
const DONE: &str = "done";
const TASKS: u64 = 16;
const CUTS_PER_RUN: u64 = 10;
const GAP_LINES_MAX: u64 = 400;
const GAP_LINES_MAX_LARGE: u64 = 16;

/// sled writes a few times as much; a disk has room for all of it.
const RUN_BYTES_MAX: usize = 16 * 1024 * 1024;
const CALL_BYTES: usize = 1_000;
