//! The power is cut while a client notes its calls in an outbox: each is where it was last said to
//! be, or one step further, with its bytes; and what was sent is never there as one that was not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use onlyonce_storage::outbox::{
    FirstSent, NewCall, OutboxChange, OutboxEntry, OutboxState, OutboxStore as _,
};
use onlyonce_storage::{IdempotencyKey, OutboxOptions, Scope, SledOutbox, StoreId, Timestamp};

use crate::calls::bytes;
use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::neighbour::neighbour;
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};

/// How far a call has got: each step is said when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Nothing,
    Written,
    Sent,
    Ended,
    Gone,
}

/// What was said until a cut: by task, of which call it was and how far that has got, and of which
/// calls before it the last word was not that they are gone.
#[derive(Debug, Default)]
struct Ledger {
    calls: HashMap<String, Step>,
    /// The number of each task's next call.
    next: HashMap<u64, u64>,
}

// H7, B21
#[test]
fn what_an_outbox_kept_is_there_after_the_power_was_cut() {
    let test = "outbox::what_an_outbox_kept_is_there_after_the_power_was_cut";
    in_own_namespaces(test, |rig| {
        cut_and_judge(rig, Cache::Kept, (cuts() / 10).max(10));
        cut_and_judge(rig, Cache::Lost, (cuts() / 20).max(5));
    });
}

fn cut_and_judge(rig: &Rig, cache: Cache, cuts: u64) {
    let drive = Drive::new(rig, cache);
    let (mut left, mut calls) = (cuts, 0);
    for run in 0.. {
        if left == 0 {
            break;
        }
        let name = format!("outbox-{}-{run}", seed());
        for (cut, ledger) in note_and_cut(rig, &drive, &name, left.min(CUTS_PER_RUN)) {
            left -= 1;
            let after = cut.turn_on(rig);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(judge(&after.at().join("outbox"), &name, &ledger));
            calls += ledger.calls.len();
        }
    }
    tell(&format!(
        "seed {}: {cuts} cuts of an outbox, cache {cache:?}: {calls} calls judged, none lost or \
         taken back",
        seed()
    ));
    assert!(calls > 0);
}

fn note_and_cut(rig: &Rig, drive: &Drive, run: &str, cuts: u64) -> Vec<(Cut, Ledger)> {
    let disk = drive.disk(rig);
    let child = Child::start(NOTE, &disk.at().join("outbox"), run);
    let mut taken = Vec::new();
    for number in 0..cuts {
        let gap = 1 + draw(&format!("gap {number} of {run}"), GAP_LINES_MAX);
        let more = child.wait_for(child.count() + usize::try_from(gap).unwrap(), DONE);
        assert!(!child.has_ended(), "the child ended by itself");
        let to = rig.path(&format!("outbox-{number}.img"));
        let (cut, count) = drive.cut(&disk, &to, || child.count());
        taken.push((cut, Ledger::of(&child.lines(count))));
        if !more {
            break;
        }
    }
    taken
}

async fn judge(path: &Path, run: &str, ledger: &Ledger) {
    let outbox = open(path).await;
    let list = outbox.list().await.unwrap();
    let mut found: HashMap<&str, &OutboxEntry> = HashMap::new();
    for entry in &list {
        found.insert(entry.key.as_str(), entry);
    }
    for (name, step) in &ledger.calls {
        judge_call(&outbox, name, *step, found.remove(&**name)).await;
    }
    for task in 0..TASKS {
        let number = ledger.next.get(&task).copied().unwrap_or_default();
        let name = format!("{run}-{task}-{number}");
        judge_call(&outbox, &name, Step::Nothing, found.remove(&*name)).await;
    }
    assert!(found.is_empty(), "nobody has written these: {found:?}");
    // It goes on, behind what was before.
    let last = list.last().map_or(0, |entry| entry.number);
    outbox.write(call("after")).await.unwrap();
    let after = outbox.load(&key("after")).await.unwrap();
    assert!(after.entry.number > last);
    outbox.close().await.unwrap();
}

async fn judge_call(outbox: &SledOutbox, name: &str, said: Step, found: Option<&OutboxEntry>) {
    let Some(entry) = found else {
        // Of a call that was never written there is nothing, nor of one that was let go.
        let last = if is_acknowledged(name) {
            Step::Ended
        } else {
            Step::Gone
        };
        assert!(
            said == Step::Nothing || said >= last,
            "{name} is gone, {said:?} was said"
        );
        return;
    };
    assert_ne!(said, Step::Gone, "{name} was let go and is back");
    let state = &entry.state;
    let is = match state {
        OutboxState::Unsent => Step::Written,
        OutboxState::Sent(sent) => {
            assert_eq!(*sent, first_sent(name), "{name}");
            Step::Sent
        }
        ended if *ended == OutboxState::InDoubt(first_sent(name)) && !is_answered(name) => {
            Step::Ended
        }
        OutboxState::Answered { sent, .. } if is_answered(name) => {
            assert_eq!(*sent, first_sent(name), "{name}");
            Step::Ended
        }
        other => panic!("{name}: {other:?}"),
    };
    // What was on its way when the power was cut may be there.
    assert!(
        is >= said && is as u8 <= said as u8 + 1,
        "{name} is {state:?}, {said:?} was said"
    );
    let kept = outbox.load(&key(name)).await.unwrap();
    assert_eq!(kept.request, request(name), "{name}");
    let answer = is_answered(name).then(|| answer(name));
    assert_eq!(kept.answer, answer.filter(|_| is == Step::Ended), "{name}");
}

// === impl Ledger ===

impl Ledger {
    fn of(lines: &[String]) -> Self {
        let mut ledger = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, name] = words[..] else {
                assert_eq!(line, DONE);
                continue;
            };
            let step = match what {
                "written" => Step::Written,
                "sent" => Step::Sent,
                "ended" => Step::Ended,
                "gone" => Step::Gone,
                _ => panic!("the child said {line:?}"),
            };
            ledger.calls.insert(name.to_owned(), step);
            let mut parts = name.rsplit('-').map(str::parse::<u64>);
            let number = parts.next().unwrap().unwrap();
            let task = parts.next().unwrap().unwrap();
            ledger.next.insert(task, number + 1);
        }
        ledger
    }
}

#[test]
fn notes_calls_until_its_power_is_cut_when_it_is_the_child() {
    child::work(NOTE, |path, run| {
        neighbour(path, run);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let outbox = Arc::new(open(path).await);
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (outbox, run) = (Arc::clone(&outbox), run.to_owned());
                    tokio::spawn(async move {
                        for number in 0..CALLS_MAX {
                            note(&outbox, &format!("{run}-{task}-{number}")).await;
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

/// One call, from its beginning to its end.
async fn note(outbox: &SledOutbox, name: &str) {
    outbox.write(call(name)).await.unwrap();
    child::say(&format!("written {name}"));
    let key = key(name);
    let sent = OutboxChange::MarkSent(first_sent(name));
    outbox.change(&key, sent).await.unwrap();
    child::say(&format!("sent {name}"));
    let end = if is_answered(name) {
        OutboxChange::Answer(answer(name))
    } else {
        OutboxChange::Doubt
    };
    outbox.change(&key, end).await.unwrap();
    child::say(&format!("ended {name}"));
    if is_acknowledged(name) {
        outbox
            .change(&key, OutboxChange::Acknowledge)
            .await
            .unwrap();
        child::say(&format!("gone {name}"));
    }
}

async fn open(path: &Path) -> SledOutbox {
    let outbox = SledOutbox::open_async(path, Scope::global(), OutboxOptions::new());
    outbox.await.unwrap()
}

fn call(name: &str) -> NewCall {
    NewCall::new(key(name), "bank.transfer", request(name))
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

fn first_sent(name: &str) -> FirstSent {
    FirstSent {
        at: Timestamp::from_millis(1 + draw(&format!("time of {name}"), 1_000_000)),
        store: Some(StoreId::from_bytes([7; 16])),
    }
}

/// Some of them are larger than a row.
fn request(name: &str) -> Bytes {
    body(&format!("request of {name}"))
}

fn answer(name: &str) -> Bytes {
    body(&format!("answer of {name}"))
}

fn body(name: &str) -> Bytes {
    let most = if draw(&format!("size of {name}"), 8) == 0 {
        20_000
    } else {
        500
    };
    bytes(name, draw(&format!("length of {name}"), most))
        .body()
        .clone()
}

fn is_answered(name: &str) -> bool {
    draw(&format!("whether {name} is answered"), 10) > 0
}

fn is_acknowledged(name: &str) -> bool {
    is_answered(name) && draw(&format!("whether {name} is acknowledged"), 10) > 0
}

const NOTE: &str = "outbox::notes_calls_until_its_power_is_cut_when_it_is_the_child";
const DONE: &str = "done";
const TASKS: u64 = 8;
const CUTS_PER_RUN: u64 = 5;
const GAP_LINES_MAX: u64 = 400;
/// What stays of them is far below the bounds of an outbox.
const CALLS_MAX: u64 = 400;
