//! The shell of group commit in many orders: the real [`GroupCore`] between callers, an applier and
//! a syncer, which are threads of a scheduler that tries orders, and a disk that is cut at any sync.
//!
//! The threads have the shape of `commit/writer/`, and are not that code: it blocks in channels of
//! the standard library and of tokio, over which no scheduler of a test has power. What is checked
//! here is the shape: decide over what is applied, one group in the syncer at a time, replies only
//! behind its sync.
#![cfg(any(feature = "memory", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::commit::{Change, ClaimReply, GroupCore, Operation, Reply, Rows};
use onlyonce_storage::record::{CallRecord, Record, State};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimRequest, FencingToken, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, KeyDigest, RetentionOptions, Scope, ScopedKey, StoreError,
    StoreLimits, Timestamp,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use shuttle::sync::{Mutex, MutexGuard};
use shuttle::{Config, Runner, thread};

// B21
#[test]
fn in_no_order_is_a_caller_told_what_a_cut_takes() {
    in_many_orders(|| {
        for cut_after in 0..3 {
            let told = run(Shell::AsBuilt, cut_after);
            told.judge();
        }
    });
}

#[test]
fn a_shell_that_replies_when_it_has_applied_is_found() {
    let found = std::panic::catch_unwind(|| {
        in_many_orders(|| run(Shell::RepliesWhenApplied, 0).judge());
    });
    let found = found.expect_err("the check has no teeth");
    let said = found.downcast_ref::<String>().unwrap();
    assert!(said.contains("nothing is durable"), "{said}");
}

/// How the threads go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    AsBuilt,
    RepliesWhenApplied,
}

/// What a caller heard, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Answer(Answer),
    Claimed(FencingToken),
    Completed,
}

/// What is left when all threads have ended.
struct Run {
    heard: Vec<Vec<Heard>>,
    durable: HashMap<KeyDigest, Record>,
}

/// The disk: what is applied, and what each group of it would leave.
#[derive(Debug, Default)]
struct Disk {
    applied: HashMap<KeyDigest, Record>,
    durable: HashMap<KeyDigest, Record>,
}

struct Ask {
    operation: Operation,
    caller: Sender<Reply>,
}

/// A group that was handed over: what its sync makes durable, and who waits for it.
struct Handed {
    rows: HashMap<KeyDigest, Record>,
    /// Nobody waits for a reply that was already sent.
    replies: Vec<(Sender<Reply>, Option<Reply>)>,
}

struct Table(HashMap<KeyDigest, Record>);

impl Rows for Table {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        Ok(self.0.get(&key).cloned())
    }

    fn answer(&self, _: KeyDigest, _: &CallRecord) -> Result<Option<Answer>, StoreError> {
        Ok(None)
    }
}

// === impl Run ===

impl Run {
    /// One claim was told, everybody who heard an answer heard the same, and all of it is durable.
    fn judge(&self) {
        let heard = || self.heard.iter().flatten();
        let claims = heard().filter(|heard| matches!(heard, Heard::Claimed(_)));
        assert!(claims.count() <= 1, "two claims: {:?}", self.heard);
        let record = self.durable.get(&key().digest()).and_then(Record::call);
        for heard in heard() {
            let call = record.unwrap_or_else(|| panic!("told {heard:?}, and nothing is durable"));
            match heard {
                Heard::Claimed(token) => assert_eq!(call.token, *token),
                Heard::Completed | Heard::Answer(_) => {
                    let State::Completed { answer: kept, .. } = &call.state else {
                        panic!("told {heard:?}, and {:?} is durable", call.state);
                    };
                    let first = onlyonce_storage::record::AnswerKept::Here(answer());
                    assert_eq!(*kept, first);
                }
            }
        }
    }
}

/// Callers, an applier and a syncer, until the power is cut after so many syncs.
fn run(shell: Shell, cut_after: usize) -> Run {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let (queue, asked) = sync_channel(4);
    let (groups, handed) = sync_channel(1);
    let (tell, done) = channel();
    let syncer = {
        let disk = Arc::clone(&disk);
        thread::spawn(move || sync(&disk, &handed, &tell, cut_after))
    };
    let applier = {
        let disk = Arc::clone(&disk);
        thread::spawn(move || apply(shell, &disk, &asked, &groups, &done))
    };
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || call(&queue))
        })
        .collect();
    drop(queue);
    let heard = callers.into_iter().map(|caller| caller.join().unwrap());
    let heard = heard.collect();
    applier.join().unwrap();
    syncer.join().unwrap();
    let durable = locked(&disk).durable.clone();
    Run { heard, durable }
}

/// Claims, and completes what it was given. Ends when the store is gone.
fn call(queue: &SyncSender<Ask>) -> Vec<Heard> {
    let mut heard = Vec::new();
    let Some(Reply::Claim(Ok(reply))) = ask(queue, claim()) else {
        return heard;
    };
    match reply {
        ClaimReply::Claimed { token, .. } => {
            heard.push(Heard::Claimed(token));
            let complete = Operation::Complete {
                key: key().digest(),
                token,
                answer: answer(),
            };
            if let Some(Reply::Settle(Ok(()))) = ask(queue, complete) {
                heard.push(Heard::Completed);
            }
        }
        ClaimReply::Completed(done) => heard.push(Heard::Answer(done.answer)),
        _ => {}
    }
    heard
}

fn ask(queue: &SyncSender<Ask>, operation: Operation) -> Option<Reply> {
    let (caller, reply) = channel();
    queue.send(Ask { operation, caller }).ok()?;
    reply.recv().ok()
}

/// Decides and applies while the last group is being synced; hands over when the syncer is idle.
fn apply(
    shell: Shell,
    disk: &Mutex<Disk>,
    asked: &Receiver<Ask>,
    groups: &SyncSender<Handed>,
    done: &Receiver<()>,
) {
    let mut core = core();
    let mut pending = Vec::new();
    let mut busy = false;
    loop {
        if busy && done.try_recv().is_ok() {
            busy = false;
        }
        if !busy && !pending.is_empty() {
            let handed = Handed {
                rows: locked(disk).applied.clone(),
                replies: std::mem::take(&mut pending),
            };
            busy = groups.send(handed).is_ok();
        }
        let first = if pending.is_empty() {
            asked.recv().ok()
        } else {
            asked.try_recv().ok()
        };
        let Some(first) = first else {
            // Nobody asks any more, or only the syncer has something to say.
            if pending.is_empty() || done.recv().is_err() {
                return;
            }
            busy = false;
            continue;
        };
        let asks = std::iter::once(first).chain(asked.try_iter());
        let (operations, callers): (Vec<_>, Vec<_>) =
            asks.map(|ask| (ask.operation, ask.caller)).unzip();
        let rows = Table(locked(disk).applied.clone());
        let group = core.decide(operations, &rows, NOW);
        for Change { key, after, .. } in group.changes {
            let applied = &mut locked(disk).applied;
            match after {
                None => applied.remove(&key),
                Some(record) => applied.insert(key, record),
            };
        }
        for (caller, reply) in callers.into_iter().zip(group.replies) {
            if shell == Shell::RepliesWhenApplied {
                let (nobody, _) = channel();
                // OK because a caller that is gone needs no reply.
                let _ = caller.send(reply);
                pending.push((nobody, None));
            } else {
                pending.push((caller, Some(reply)));
            }
        }
    }
}

/// Makes groups durable, then tells. Once the power is cut nothing is, and whoever waits is told
/// nothing: its reply is dropped.
fn sync(disk: &Mutex<Disk>, groups: &Receiver<Handed>, tell: &Sender<()>, cut_after: usize) {
    for (synced, Handed { rows, replies }) in groups.iter().enumerate() {
        let cut = synced >= cut_after;
        if !cut {
            locked(disk).durable = rows;
        }
        // The next group need not wait for the replies to this one.
        let _ = tell.send(());
        for (caller, reply) in replies {
            if let Some(reply) = reply.filter(|_| !cut) {
                // OK because a caller that is gone needs no reply.
                let _ = caller.send(reply);
            }
        }
    }
}

fn locked(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap()
}

fn core() -> GroupCore {
    let (retention, limits) = (RetentionOptions::default(), StoreLimits::default());
    GroupCore::new(1, Timestamp::default(), retention, limits)
}

fn claim() -> Operation {
    let print = Fingerprint::from_parts(FingerprintAlgorithm::new(1), [1; 32]);
    let lease = Duration::from_secs(10);
    Operation::Claim(ClaimRequest::new(key(), Fingerprints::new(print), lease))
}

fn key() -> ScopedKey {
    let key = IdempotencyKey::parse("the-one-key").unwrap();
    ScopedKey::new(Scope::global(), key)
}

fn answer() -> Answer {
    Answer::new(AnswerFormat::new(1), "paid")
}

fn in_many_orders(test: impl Fn() + Send + Sync + Clone + 'static) {
    println!("orders of seed {SEED}");
    let worst = PctScheduler::new_from_seed(SEED, CHANGES, ORDERS);
    scheduled(RandomScheduler::new_from_seed(SEED, ORDERS), test.clone());
    scheduled(worst, test);
}

fn scheduled(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    Runner::new(scheduler, config).run(test);
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A second or two in a debug build.
const ORDERS: usize = 1_000;

/// How many changes of the running thread the worst orders have.
const CHANGES: usize = 3;

/// Frames of a debug build are large.
const STACK_BYTES: usize = 256 * 1024;

/// Fixed, so that the gate says the same each time.
const SEED: u64 = 20_261_121;
