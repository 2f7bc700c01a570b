//! The power is cut while handlers move money in transactions, in sessions: what a handler wrote and
//! the answer of its call are there together or not at all, all that were acknowledged are, and what
//! was acknowledged in a session stays forgotten.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::transaction::{
    CommitError, RowRange, Table, Transaction, TransactionalStore as _,
};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Scope, SessionCall, SessionRequest,
    SessionState, Store as _,
};

use crate::calls::{bytes, request};
use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::neighbour::neighbour;
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};

/// What was said until a cut.
#[derive(Debug, Default)]
struct Ledger {
    run: String,
    /// By task: its session, how many of its transfers were answered, and below which number they
    /// were acknowledged.
    tasks: HashMap<u64, Task>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Task {
    session: u64,
    moved: u64,
    first_unanswered: u64,
}

/// What a handler does: known from its name alone, on both sides of a cut.
#[derive(Debug)]
struct Transfer {
    from: String,
    to: String,
    amount: i64,
    note: Vec<u8>,
    /// It is answered and has no effect.
    declined: bool,
}

// B1, B21, E7
#[test]
fn a_transfer_and_its_answer_are_there_together_after_the_power_was_cut() {
    let test = "handlers::a_transfer_and_its_answer_are_there_together_after_the_power_was_cut";
    in_own_namespaces(test, |rig| {
        cut_and_judge(rig, Cache::Kept, (cuts() / 10).max(10));
        cut_and_judge(rig, Cache::Lost, (cuts() / 20).max(5));
    });
}

fn cut_and_judge(rig: &Rig, cache: Cache, cuts: u64) {
    let drive = Drive::new(rig, cache);
    let (mut left, mut transfers, mut acknowledged) = (cuts, 0, 0);
    for run in 0.. {
        if left == 0 {
            break;
        }
        let name = format!("handlers-{}-{run}", seed());
        for (cut, ledger) in move_and_cut(rig, &drive, &name, left.min(CUTS_PER_RUN)) {
            left -= 1;
            let after = cut.turn_on(rig);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(judge(&after.at().join("bank"), &ledger));
            for task in ledger.tasks.values() {
                transfers += task.moved;
                acknowledged += task.first_unanswered.saturating_sub(1);
            }
        }
    }
    tell(&format!(
        "seed {}: {cuts} cuts of handlers, cache {cache:?}: {transfers} transfers that were answered \
         judged, {acknowledged} of them acknowledged in sessions, none lost, halved or free to run again",
        seed()
    ));
    assert!(transfers > acknowledged && acknowledged > 0);
}

fn move_and_cut(rig: &Rig, drive: &Drive, run: &str, cuts: u64) -> Vec<(Cut, Ledger)> {
    let disk = drive.disk(rig);
    let child = Child::start(MOVE, &disk.at().join("bank"), run);
    let mut taken = Vec::new();
    for number in 0..cuts {
        let gap = 1 + draw(&format!("gap {number} of {run}"), GAP_LINES_MAX);
        let more = child.wait_for(child.count() + usize::try_from(gap).unwrap(), DONE);
        assert!(!child.has_ended(), "the child ended by itself");
        let to = rig.path(&format!("handlers-{number}.img"));
        let (cut, count) = drive.cut(&disk, &to, || child.count());
        taken.push((cut, Ledger::of(run, &child.lines(count))));
        if !more {
            break;
        }
    }
    taken
}

async fn judge(path: &Path, ledger: &Ledger) {
    let store = open(path, SledOptions::new()).await;
    let journal = all(&store, &JOURNAL).await;
    let mut expected: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for (name, note) in &journal {
        let name = std::str::from_utf8(name).unwrap();
        let transfer = Transfer::of(name);
        assert!(!transfer.declined, "{name} was declined and has an effect");
        assert_eq!(*note, transfer.note, "the note of {name} is torn");
        *expected.entry(transfer.from.into_bytes()).or_insert(START) -= transfer.amount;
        *expected.entry(transfer.to.into_bytes()).or_insert(START) += transfer.amount;
    }
    let balances = all(&store, &ACCOUNTS).await;
    let balances: BTreeMap<_, _> = balances
        .into_iter()
        .map(|(name, balance)| (name, balance_of(&balance)))
        .collect();
    assert_eq!(balances, expected, "balances are the fold of the journal");
    for (number, task) in &ledger.tasks {
        judge_task(&store, &journal, ledger, (*number, *task)).await;
    }
    store.close().await.unwrap();
}

async fn judge_task(
    store: &SledStore,
    journal: &BTreeMap<Vec<u8>, Vec<u8>>,
    ledger: &Ledger,
    (number, task): (u64, Task),
) {
    let session = task.session;
    let resumed = store.session(Scope::global(), SessionRequest::Resume { session });
    let SessionState::Live {
        first_unanswered, ..
    } = resumed.await.unwrap()
    else {
        panic!("session {session} is gone");
    };
    // A number may have reached the disk before anybody was told.
    let said = task.first_unanswered;
    assert!(
        first_unanswered >= said && first_unanswered <= task.moved + 2,
        "session {session}: {first_unanswered}, {task:?}"
    );
    for sequence in 1..=task.moved + 1 {
        let name = ledger.name(number, sequence);
        let transfer = Transfer::of(&name);
        let has_effect = journal.contains_key(name.as_bytes());
        let place = SessionCall {
            session,
            sequence,
            first_unanswered: 0,
        };
        let outcome = store.begin(in_session(&name, place)).await.unwrap();
        let answered = match outcome {
            ClaimOutcome::Completed(found) => {
                assert_eq!(found.answer, answer(&name), "the answer of {name}");
                true
            }
            ClaimOutcome::Stale if sequence < first_unanswered => true,
            // The one that was on its way has left nothing, and may run.
            ClaimOutcome::Claimed(claim) => {
                store.release(claim).await.unwrap();
                false
            }
            other => panic!("{name}, {task:?}, {first_unanswered}: {other:?}"),
        };
        assert!(
            answered || sequence > task.moved,
            "{name} was answered and may run again"
        );
        assert_eq!(
            has_effect,
            answered && !transfer.declined,
            "{name} has an effect without its answer, or the other way round"
        );
    }
    // The session goes on.
    let place = SessionCall {
        session,
        sequence: task.moved + 2,
        first_unanswered: 0,
    };
    let name = ledger.name(number, task.moved + 2);
    let claim = claimed(store, in_session(&name, place)).await;
    make(store, claim, &name).await;
}

// === impl Ledger ===

impl Ledger {
    fn of(run: &str, lines: &[String]) -> Self {
        let mut tasks: HashMap<u64, Task> = HashMap::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, task, number] = words[..] else {
                assert_eq!(line, DONE);
                continue;
            };
            let task = tasks.entry(task.parse().unwrap()).or_default();
            let number = number.parse().unwrap();
            match what {
                "session" => task.session = number,
                "moved" => task.moved = number,
                "acknowledged" => task.first_unanswered = number,
                _ => panic!("the child said {line:?}"),
            }
        }
        Self {
            run: run.to_owned(),
            tasks,
        }
    }

    fn name(&self, task: u64, sequence: u64) -> String {
        format!("{}-{task}-{sequence}", self.run)
    }
}

// === impl Transfer ===

impl Transfer {
    fn of(name: &str) -> Self {
        let note = format!("note of {name}");
        Self {
            from: format!("from-{}", draw(&format!("from of {name}"), NAMES)),
            to: format!("to-{}", draw(&format!("to of {name}"), NAMES)),
            amount: draw(&format!("amount of {name}"), 100).cast_signed(),
            note: bytes(&note, 20 + draw(&note, 3_000)).body().to_vec(),
            declined: draw(&format!("whether {name} is declined"), 10) == 0,
        }
    }
}

#[test]
fn moves_money_in_transactions_until_its_power_is_cut_when_it_is_the_child() {
    child::work(MOVE, |path, run| {
        neighbour(path, run);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            // Carried over while it serves: all the time, now and then, once.
            let log_bytes = (64 * 1024) << (3 * draw(&format!("log of {run}"), 3));
            let store = open(path, SledOptions::new().log_bytes(log_bytes)).await;
            let store = Arc::new(store);
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (store, run) = (Arc::clone(&store), run.to_owned());
                    tokio::spawn(async move { move_money(&store, &run, task).await })
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

async fn move_money(store: &SledStore, run: &str, task: u64) {
    let opened = store.session(Scope::global(), SessionRequest::Open);
    let SessionState::Live { session, .. } = opened.await.unwrap() else {
        panic!("there is room for a session");
    };
    child::say(&format!("session {task} {session}"));
    let mut first_unanswered = 0;
    for sequence in 1..=TRANSFERS_MAX {
        let name = format!("{run}-{task}-{sequence}");
        let place = SessionCall {
            session,
            sequence,
            first_unanswered,
        };
        let claim = claimed(store, in_session(&name, place)).await;
        make(store, claim, &name).await;
        child::say(&format!("moved {task} {sequence}"));
        match draw(&format!("whether {name} is acknowledged"), 8) {
            // By a message of its own, or on the way of the next call.
            0 => {
                first_unanswered = sequence + 1;
                let request = SessionRequest::Acknowledge {
                    session,
                    first_unanswered,
                };
                store.session(Scope::global(), request).await.unwrap();
                child::say(&format!("acknowledged {task} {first_unanswered}"));
            }
            1 => first_unanswered = sequence + 1,
            _ => {}
        }
    }
}

/// Runs the transfer of this name until it commits.
async fn make(store: &SledStore, mut claim: Claim, name: &str) {
    loop {
        let transaction = store.start(&claim);
        run(&transaction, name, &Transfer::of(name)).await;
        let work = transaction.end().unwrap();
        match store.commit(claim, work, answer(name)).await {
            Ok(()) => return,
            Err(CommitError::Conflict(still)) => claim = still,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn run(transaction: &Transaction, name: &str, transfer: &Transfer) {
    transaction
        .put(&JOURNAL, name.as_bytes(), &transfer.note)
        .unwrap();
    for (name, change) in [
        (&transfer.from, -transfer.amount),
        (&transfer.to, transfer.amount),
    ] {
        let balance = transaction.get(&ACCOUNTS, name.as_bytes()).await.unwrap();
        let balance = balance.map_or(START, |balance| balance_of(&balance)) + change;
        let balance = balance.to_le_bytes();
        transaction
            .put(&ACCOUNTS, name.as_bytes(), &balance)
            .unwrap();
    }
    if transfer.declined {
        transaction.discard_writes();
    }
}

async fn claimed(store: &SledStore, request: ClaimRequest) -> Claim {
    match store.begin(request).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("a new key is free: {other:?}"),
    }
}

fn in_session(name: &str, place: SessionCall) -> ClaimRequest {
    let mut request = request(name, None);
    request.session = Some(place);
    request
}

fn answer(name: &str) -> Answer {
    Answer::new(AnswerFormat::new(1), format!("the answer of {name}"))
}

async fn open(path: &Path, options: SledOptions) -> SledStore {
    SledStore::open_async(path, options).await.unwrap()
}

async fn all(store: &SledStore, table: &Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut after = Vec::new();
    loop {
        let bounds = (Bound::Excluded(after.clone()), Bound::Unbounded);
        let rows = store.read(RowRange::new(table, &bounds, 500)).await;
        let rows = rows.unwrap();
        let Some((last, _)) = rows.last() else {
            return found;
        };
        after = last.to_vec();
        let rows = rows.iter();
        found.extend(rows.map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
}

fn balance_of(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().unwrap())
}

const ACCOUNTS: Table = Table::new("accounts");
const JOURNAL: Table = Table::new("journal");
const MOVE: &str =
    "handlers::moves_money_in_transactions_until_its_power_is_cut_when_it_is_the_child";
const DONE: &str = "done";
const TASKS: u64 = 8;
const NAMES: u64 = 16;
const START: i64 = 1_000;
const CUTS_PER_RUN: u64 = 5;
const GAP_LINES_MAX: u64 = 400;
/// A task may not be further ahead of its acknowledgements than its window, nor fill the disk.
const TRANSFERS_MAX: u64 = 500;
