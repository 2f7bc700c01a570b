//! The bank: transfers between accounts, outside of the store or in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Phase, Place, What};
use onlyonce_chaos::goals::situations;
use onlyonce_chaos::history::{Happened, Seen};
use onlyonce_chaos::scenario::{Mode, Scenario, Workload};
use onlyonce_chaos::sim::{Order, Run};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::rpc::{Caller, Failure, Method, Router, Routes, Table, Transaction, Undone};
use crate::storage::simulated::{SimDisk, SimStore};
use crate::storage::{
    Answer, AnswerFormat, FencingToken, IdempotencyKey, KeyState, Scope, ScopedKey, Store,
};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) call: u64,
    pub(super) from: u32,
    /// The same account for a line that goes to the end of a mailbox.
    pub(super) to: u32,
    pub(super) amount: i64,
    /// The charge that a refund gives back.
    pub(super) gives_back: Option<u64>,
}

/// The method. What it answers is unlike every other answer: a replay that is none is noticed.
pub(super) const TRANSFER: Method<Transfer, String, String> = Method::new("transfer");

/// What every life of the server shares: the books of the bank, which no disk of ours can lose.
#[derive(Clone)]
pub(super) struct Bank {
    pub(super) run: Run,
    pub(super) workload: Workload,
    /// Whether it fails of itself now and then: is slower than an attempt waits, refuses, breaks off,
    /// or does not know what it has done. Not for the control: what is duplicated there is to be the
    /// work of faults, and who hears "I do not know" asks again.
    has_failings: bool,
    pub(super) disk: SimDisk,
    books: Arc<Mutex<Books>>,
    /// That of the server's life now.
    pub(super) store: Arc<Mutex<Weak<SimStore>>>,
}

#[derive(Default)]
struct Books {
    balances: BTreeMap<u32, i64>,
    index: u64,
    /// By call, whether it was given back.
    charges: BTreeMap<u64, bool>,
    runs: BTreeMap<u64, u64>,
    /// The token of the last run that was given a key.
    tokens: BTreeMap<String, FencingToken>,
    /// The keys of which the handler itself does not say what became of them.
    left_open: BTreeSet<String>,
    /// When rows of the journal became durable, in microseconds of the run.
    committed_us: BTreeMap<Vec<u8>, u64>,
}

/// An effect as the books in the store keep it.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) transfer: Transfer,
    pub(super) answer: String,
    pub(super) attempt: u32,
}

pub(super) const ACCOUNTS: Table = Table::new("accounts");
pub(super) const JOURNAL: Table = Table::new("journal");
const COUNTERS: Table = Table::new("counters");
const CHARGES: Table = Table::new("charges");

/// How many accounts there are.
pub(super) const ACCOUNTS_MAX: u32 = 8;

/// Whom charges go to.
const SHOP: u32 = ACCOUNTS_MAX - 1;
const MAILBOXES: u32 = 4;
const NOTHING_TO_GIVE_BACK: &str = "nothing to give back";

// === impl Transfer ===

impl Transfer {
    /// The transfer of a call. One in eleven is of nothing, which the bank declines.
    pub(super) fn of(seed: Seed, workload: Workload, call: u64) -> Self {
        let draw = |what| seed.draw(&[TRANSFERS, call, what]);
        let account = |what| draw(what).within(0..=u64::from(ACCOUNTS_MAX) - 1) as u32;
        let from = account(1);
        let to = (from + 1 + draw(2).within(0..=u64::from(ACCOUNTS_MAX) - 2) as u32) % ACCOUNTS_MAX;
        let amount = match draw(3).within(0..=10) {
            0 if workload != Workload::HotKey => 0,
            _ => draw(4).within(1..=1_000) as i64,
        };
        let transfer = Self {
            call,
            from,
            to,
            amount,
            gives_back: None,
        };
        match workload {
            Workload::Mailbox => Self {
                from: from % MAILBOXES,
                to: from % MAILBOXES,
                amount: 1,
                ..transfer
            },
            // Every third call gives back what one of the last ones took.
            Workload::Refunds if call.is_multiple_of(3) => {
                let charge = call - draw(5).within(1..=2);
                let charged = Self::of(seed, workload, charge);
                Self {
                    from: charged.to,
                    to: charged.from,
                    amount: charged.amount,
                    gives_back: Some(charge),
                    ..transfer
                }
            }
            Workload::Refunds => Self {
                from: from % SHOP,
                to: SHOP,
                ..transfer
            },
            _ => transfer,
        }
    }

    /// What goes to which account.
    fn postings(&self) -> Vec<(u32, i64)> {
        match self.from == self.to {
            true => vec![(self.to, self.amount)],
            false => vec![(self.from, -self.amount), (self.to, self.amount)],
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self {
            call,
            from,
            to,
            amount,
            gives_back: _,
        } = self;
        format!("{call}: {amount} from {from} to {to}").into_bytes()
    }

    pub(super) fn legs(&self) -> Vec<(String, i64)> {
        let postings = self.postings().into_iter();
        postings
            .map(|(number, amount)| (account(number), amount))
            .collect()
    }
}

pub(super) fn account(number: u32) -> String {
    format!("account-{number}")
}

// === impl Bank ===

impl Bank {
    pub(super) fn new(run: Run, disk: SimDisk, scenario: &Scenario) -> Self {
        Self {
            run,
            workload: scenario.workload,
            has_failings: scenario.mode != Mode::Naive,
            disk,
            books: Arc::default(),
            store: Arc::default(),
        }
    }

    /// The balances, of books outside of the store.
    pub(super) fn balances(&self) -> BTreeMap<String, i64> {
        let books = self.books.lock();
        let balances = books.balances.iter();
        balances
            .map(|(number, amount)| (account(*number), *amount))
            .collect()
    }

    /// The keys of which a handler panicked, or said that it cannot know.
    pub(super) fn left_open(&self) -> BTreeSet<String> {
        self.books.lock().left_open.clone()
    }

    /// Tokens of one store say nothing in another.
    pub(super) fn forget_tokens(&self) {
        self.books.lock().tokens.clear();
    }

    /// Says that it fails this call of itself: what comes of that is no fault's doing.
    fn fails(&self, call: u64, attempt: u32, how: &str) {
        let (who, event) = (situations::SERVICE.to_owned(), how.to_owned());
        let failing = Happened::Lifecycle { who, event };
        self.run.note(call, attempt, failing);
    }

    fn leave_open(&self, key: &str) {
        self.books.lock().left_open.insert(key.to_owned());
    }

    /// Its methods, with the effect outside of the store.
    pub(super) fn claimed(&self) -> Routes {
        Router::new(self.clone())
            .method(
                &TRANSFER,
                async |caller: Caller, bank: Self, transfer: Transfer| {
                    bank.transfer(&caller, transfer).await
                },
            )
            .into_routes()
    }

    /// Its methods, with the effect in the store.
    pub(super) fn transactional(&self) -> Routes {
        let bank = self.clone();
        Router::new(())
            .method_transactional(
                &TRANSFER,
                move |caller: Caller, transaction: Transaction, transfer: Transfer| {
                    let bank = bank.clone();
                    async move { bank.book(&caller, &transaction, transfer).await }
                },
            )
            .into_routes()
    }

    /// How many times the handler has begun with this call.
    fn begin(&self, call: u64) -> u64 {
        let mut books = self.books.lock();
        let runs = books.runs.entry(call).or_default();
        *runs += 1;
        let runs = *runs;
        drop(books);
        let possible = |_, what| what == What::DiskFull;
        let subject = (call, u32::try_from(runs).unwrap_or(u32::MAX));
        if !self
            .run
            .strikes(Phase::RequestReceived, subject, possible)
            .is_empty()
        {
            self.disk.set_full(true);
        }
        runs
    }

    async fn transfer(
        &self,
        caller: &Caller,
        transfer: Transfer,
    ) -> Result<String, Failure<String>> {
        let (key, call) = (named(caller), transfer.call);
        let run = self.begin(call);
        let draw = |what| self.run.seed().draw(&[HANDLES, call, run, what]);
        self.speak_late(caller, &key, draw(4).within(0..=11));
        let percent = match self.has_failings {
            true => draw(1).within(0..=99),
            false => 99,
        };
        let attempt = caller.attempt.get();
        if percent <= SLOW_MAX {
            self.fails(call, attempt, "is slow");
        }
        sleep(work(percent, draw(2).within(0..=20))).await;
        if transfer.amount == 0 {
            return Err(Failure::Fault("nothing to transfer".to_owned()));
        }
        // Chance ends with the faults, so that every call can come to its end.
        let chance = match self.has_failings && !self.run.faults_ended() {
            true => draw(3).within(0..=99),
            false => 99,
        };
        match chance {
            0..=2 => {
                self.fails(call, attempt, "refuses");
                return Err(Failure::NotExecuted(
                    "the bank is not in the mood".to_owned(),
                ));
            }
            3..=6 => {
                self.fails(call, attempt, "does not know");
                self.leave_open(&key);
            }
            _ => {}
        }
        if chance == 3 {
            std::panic::resume_unwind(Box::new("before the effect"));
        }
        let (answer, index) = {
            let mut books = self.books.lock();
            let books = &mut *books;
            if let Some(charge) = transfer.gives_back {
                match books.charges.get_mut(&charge) {
                    Some(given_back @ false) => *given_back = true,
                    _ => return Err(Failure::Fault(NOTHING_TO_GIVE_BACK.to_owned())),
                }
            } else {
                books.charges.entry(call).or_insert(false);
            }
            let mut balance = 0;
            for (account, amount) in transfer.postings() {
                let held = books.balances.entry(account).or_default();
                *held += amount;
                balance = *held;
            }
            books.index += 1;
            let index = books.index;
            (
                answer_of(&transfer, &key, (index as i64, run), balance),
                index,
            )
        };
        self.run.note(
            call,
            caller.attempt.get(),
            Happened::Effect {
                index,
                key,
                payload: transfer.bytes(),
                answer: answer.clone().into_bytes(),
                // What was asked for, and not what was done: the balances tell that.
                legs: Transfer::of(self.run.seed(), self.workload, call).legs(),
                seen: Seen::AtCommit,
            },
        );
        if self.after_effect(call, caller.attempt.get()) {
            // The process ends here.
            std::future::pending::<()>().await;
        }
        match chance {
            4..=5 => return Err(Failure::InDoubt),
            6 => std::panic::resume_unwind(Box::new("after the effect")),
            _ => {}
        }
        Ok(answer)
    }

    /// Lets owners speak that were thought to be dead: one of an earlier claim of this key, and now
    /// and then one who has invented its token, or gives another answer when its call is settled.
    fn speak_late(&self, caller: &Caller, key: &str, draw: u64) {
        let Some(execution) = caller.execution else {
            return;
        };
        let token = execution.token;
        let before = self.books.lock().tokens.insert(key.to_owned(), token);
        let forged = || Some(Answer::new(AnswerFormat::new(1), vec![0, 1, b'?']));
        let (late, answer, after_ms) = match (before, draw) {
            (Some(before), _) => (before, None, 3),
            (None, 0) => {
                let invented = FencingToken::new(token.incarnation(), token.sequence() + 1_000_000);
                (invented, None, 3)
            }
            (None, 1) => (token, forged(), 80),
            (None, _) => return,
        };
        let scope = Scope::global().operation(TRANSFER.name());
        let (Ok(scope), Ok(key)) = (scope, IdempotencyKey::parse(key)) else {
            return;
        };
        let (store, run) = (Arc::clone(&self.store), self.run.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(after_ms)).await;
            let store = store.lock().upgrade();
            if let Some(store) = store.filter(|_| !run.faults_ended()) {
                let key = ScopedKey::new(scope, key);
                // Who speaks before its call is settled is its owner, and may.
                let settled = matches!(store.peek(key.clone()).await, Ok(KeyState::Completed(_)));
                if answer.is_none() || settled {
                    store.settle_late(key, late, answer).await;
                }
            }
        });
    }

    /// What a group of the store has made durable: notes when, and lets that moment be struck.
    /// Whether the process goes on.
    pub(super) fn committed(&self, table: &Table, row: &[u8], value: Option<&[u8]>) -> bool {
        let Some(entry) = value.filter(|_| *table == JOURNAL) else {
            return true;
        };
        let Ok(entry) = serde_json::from_slice::<Entry>(entry) else {
            return true;
        };
        let now_us = self.run.now_us();
        let mut books = self.books.lock();
        books.committed_us.entry(row.to_vec()).or_insert(now_us);
        drop(books);
        !self.after_effect(entry.transfer.call, entry.attempt)
    }

    /// When this row of the journal became durable, where its process lived to see it.
    pub(super) fn committed_us(&self, row: &[u8]) -> Option<u64> {
        self.books.lock().committed_us.get(row).copied()
    }

    /// The moment behind the effect, and what strikes it: whether the process ends.
    fn after_effect(&self, call: u64, attempt: u32) -> bool {
        let phase = Phase::EffectDurable;
        let possible = |place, what| match place {
            Place::Server => matches!(what, What::Crash { .. }),
            Place::Disk => what == What::PowerCut,
            _ => false,
        };
        let strikes = self.run.strikes(phase, (call, attempt), possible);
        for strike in &strikes {
            self.run.order(match strike.what {
                What::Crash { back_after_ms } => Order::Crash {
                    host: "server".to_owned(),
                    back_after: Duration::from_millis(back_after_ms),
                },
                _ => Order::CutPower {
                    draw: strike.draw.bits(),
                },
            });
        }
        !strikes.is_empty()
    }

    async fn book(
        &self,
        caller: &Caller,
        books: &Transaction,
        transfer: Transfer,
    ) -> Result<String, Undone<String>> {
        let (key, call) = (named(caller), transfer.call);
        let run = self.begin(call);
        let draw = |what| self.run.seed().draw(&[HANDLES, call, run, what]);
        let (percent, attempt) = (draw(1).within(0..=99), caller.attempt.get());
        if percent <= SLOW_MAX {
            self.fails(call, attempt, "is slow");
        }
        sleep(work(percent, draw(2).within(0..=8))).await;
        if transfer.amount == 0 {
            return Err(Undone::Fault("nothing to transfer".to_owned()));
        }
        let chance = if self.run.faults_ended() {
            99
        } else {
            draw(3).within(0..=99)
        };
        match chance {
            0..=2 => {
                self.fails(call, attempt, "refuses");
                return Err(Undone::NotExecuted(
                    "the bank is not in the mood".to_owned(),
                ));
            }
            3 => {
                self.fails(call, attempt, "breaks off");
                std::panic::resume_unwind(Box::new("before the commit"));
            }
            _ => {}
        }
        let charge = transfer.gives_back.unwrap_or(call).to_be_bytes();
        let given_back = books.get(&CHARGES, &charge).await?;
        if transfer.gives_back.is_some() && given_back.as_deref() != Some(b"no") {
            return Err(Undone::Fault(NOTHING_TO_GIVE_BACK.to_owned()));
        }
        let given_back: &[u8] = if transfer.gives_back.is_some() {
            b"yes"
        } else {
            b"no"
        };
        books.put(&CHARGES, &charge, given_back)?;
        let mut balance = 0;
        for (account, amount) in transfer.legs() {
            balance = number(books.get(&ACCOUNTS, account.as_bytes()).await?) + amount;
            books.put(&ACCOUNTS, account.as_bytes(), &balance.to_be_bytes())?;
        }
        let index = number(books.get(&COUNTERS, b"entries").await?) + 1;
        books.put(&COUNTERS, b"entries", &index.to_be_bytes())?;
        let answer = answer_of(&transfer, &key, (index, run), balance);
        let entry = Entry {
            key,
            transfer,
            answer: answer.clone(),
            attempt: caller.attempt.get(),
        };
        // OK because an entry is text and numbers.
        let entry = serde_json::to_vec(&entry).unwrap_or_default();
        // Runs of one call that both commit leave two entries.
        let row = [index.to_be_bytes(), (call * 1_000 + run).to_be_bytes()].concat();
        books.put(&JOURNAL, &row, &entry)?;
        Ok(answer)
    }
}

/// What is answered: unlike every other answer. A line in a mailbox is told its place.
fn answer_of(transfer: &Transfer, key: &str, (index, run): (i64, u64), balance: i64) -> String {
    let place = match transfer.from == transfer.to {
        true => format!("place {balance}, "),
        false => String::new(),
    };
    format!("{place}entry {index} of {key}, run {run}")
}

fn named(caller: &Caller) -> String {
    let key = caller.key.as_ref();
    key.map_or_else(String::new, |key| key.as_str().to_owned())
}

/// Mostly a moment, now and then longer than an attempt waits.
fn work(percent: u64, ms: u64) -> Duration {
    match percent {
        0 => Duration::from_millis(700),
        1..=SLOW_MAX => Duration::from_millis(150),
        _ => Duration::from_millis(ms),
    }
}

pub(super) fn number(bytes: Option<bytes::Bytes>) -> i64 {
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    bytes.map_or(0, i64::from_be_bytes)
}

/// Up to this percentile work takes longer than it should.
const SLOW_MAX: u64 = 4;

// Which decision is drawn.
const TRANSFERS: u64 = 21;
const HANDLES: u64 = 22;
