//! The bank: transfers between accounts, outside of the store or in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::{Phase, Place, What};
use onlyonce_chaos::history::{Happened, Seen};
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
    pub(super) to: u32,
    pub(super) amount: i64,
}

/// The method. What it answers is unlike every other answer: a replay that is none is noticed.
pub(super) const TRANSFER: Method<Transfer, String, String> = Method::new("transfer");

/// What every life of the server shares: the books of the bank, which no disk of ours can lose.
#[derive(Clone)]
pub(super) struct Bank {
    pub(super) run: Run,
    pub(super) disk: SimDisk,
    books: Arc<Mutex<Books>>,
    /// That of the server's life now.
    pub(super) store: Arc<Mutex<Weak<SimStore>>>,
}

#[derive(Default)]
struct Books {
    balances: BTreeMap<u32, i64>,
    index: u64,
    runs: BTreeMap<u64, u64>,
    /// The token of the last run that was given a key.
    tokens: BTreeMap<String, FencingToken>,
}

/// An effect as the books in the store keep it.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) transfer: Transfer,
    pub(super) answer: String,
}

pub(super) const ACCOUNTS: Table = Table::new("accounts");
pub(super) const JOURNAL: Table = Table::new("journal");
const COUNTERS: Table = Table::new("counters");

/// How many accounts there are.
pub(super) const ACCOUNTS_MAX: u32 = 8;

// === impl Transfer ===

impl Transfer {
    /// The transfer of a call. One in eleven is of nothing, which the bank declines.
    pub(super) fn of(seed: Seed, call: u64) -> Self {
        let draw = |what| seed.draw(&[TRANSFERS, call, what]);
        let account = |what| draw(what).within(0..=u64::from(ACCOUNTS_MAX) - 1) as u32;
        let from = account(1);
        let to = (from + 1 + draw(2).within(0..=u64::from(ACCOUNTS_MAX) - 2) as u32) % ACCOUNTS_MAX;
        let amount = match draw(3).within(0..=10) {
            0 => 0,
            _ => draw(4).within(1..=1_000) as i64,
        };
        Self {
            call,
            from,
            to,
            amount,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self {
            call,
            from,
            to,
            amount,
        } = self;
        format!("{call}: {amount} from {from} to {to}").into_bytes()
    }

    pub(super) fn legs(&self) -> Vec<(String, i64)> {
        vec![
            (account(self.from), -self.amount),
            (account(self.to), self.amount),
        ]
    }
}

pub(super) fn account(number: u32) -> String {
    format!("account-{number}")
}

// === impl Bank ===

impl Bank {
    pub(super) fn new(run: Run, disk: SimDisk) -> Self {
        Self {
            run,
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
        sleep(work(draw(1).within(0..=99), draw(2).within(0..=20))).await;
        if transfer.amount == 0 {
            return Err(Failure::Fault("nothing to transfer".to_owned()));
        }
        // Chance ends with the faults, so that every call can come to its end.
        let chance = if self.run.faults_ended() {
            99
        } else {
            draw(3).within(0..=99)
        };
        match chance {
            0..=2 => {
                return Err(Failure::NotExecuted(
                    "the bank is not in the mood".to_owned(),
                ));
            }
            3 => std::panic::resume_unwind(Box::new("before the effect")),
            _ => {}
        }
        let answer = {
            let mut books = self.books.lock();
            *books.balances.entry(transfer.from).or_default() -= transfer.amount;
            *books.balances.entry(transfer.to).or_default() += transfer.amount;
            books.index += 1;
            format!("entry {} of {key}, run {run}", books.index)
        };
        let index = self.books.lock().index;
        self.run.note(
            call,
            caller.attempt.get(),
            Happened::Effect {
                index,
                key,
                payload: transfer.bytes(),
                answer: answer.clone().into_bytes(),
                legs: transfer.legs(),
                seen: Seen::AtCommit,
            },
        );
        self.after_effect(call, caller.attempt.get()).await;
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

    /// The moment behind the effect, and what strikes it.
    async fn after_effect(&self, call: u64, attempt: u32) {
        let phase = Phase::EffectDurable;
        let possible = |place, what| match place {
            Place::Server => matches!(what, What::Crash { .. }),
            Place::Disk => what == What::PowerCut,
            _ => false,
        };
        for strike in self.run.strikes(phase, (call, attempt), possible) {
            self.run.order(match strike.what {
                What::Crash { back_after_ms } => Order::Crash {
                    host: "server".to_owned(),
                    back_after: Duration::from_millis(back_after_ms),
                },
                _ => Order::CutPower {
                    draw: strike.draw.bits(),
                },
            });
            // The process ends here.
            std::future::pending::<()>().await;
        }
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
        sleep(work(draw(1).within(0..=99), draw(2).within(0..=8))).await;
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
                return Err(Undone::NotExecuted(
                    "the bank is not in the mood".to_owned(),
                ));
            }
            3 => std::panic::resume_unwind(Box::new("before the commit")),
            _ => {}
        }
        for (account, amount) in [
            (transfer.from, -transfer.amount),
            (transfer.to, transfer.amount),
        ] {
            let name = super::bank::account(account);
            let balance = number(books.get(&ACCOUNTS, name.as_bytes()).await?);
            books.put(
                &ACCOUNTS,
                name.as_bytes(),
                &(balance + amount).to_be_bytes(),
            )?;
        }
        let index = number(books.get(&COUNTERS, b"entries").await?) + 1;
        books.put(&COUNTERS, b"entries", &index.to_be_bytes())?;
        let answer = format!("entry {index} of {key}, run {run}");
        let entry = Entry {
            key,
            transfer,
            answer: answer.clone(),
        };
        // OK because an entry is text and numbers.
        let entry = serde_json::to_vec(&entry).unwrap_or_default();
        // Runs of one call that both commit leave two entries.
        let row = [index.to_be_bytes(), (call * 1_000 + run).to_be_bytes()].concat();
        books.put(&JOURNAL, &row, &entry)?;
        self.after_effect_is_written(call, caller.attempt.get())
            .await;
        Ok(answer)
    }

    /// Between the last write of a transaction and its commit.
    async fn after_effect_is_written(&self, call: u64, attempt: u32) {
        self.after_effect(call, attempt).await;
    }
}

fn named(caller: &Caller) -> String {
    let key = caller.key.as_ref();
    key.map_or_else(String::new, |key| key.as_str().to_owned())
}

/// Mostly a moment, now and then longer than an attempt waits.
fn work(percent: u64, ms: u64) -> Duration {
    match percent {
        0 => Duration::from_millis(700),
        1..=4 => Duration::from_millis(150),
        _ => Duration::from_millis(ms),
    }
}

pub(super) fn number(bytes: Option<bytes::Bytes>) -> i64 {
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    bytes.map_or(0, i64::from_be_bytes)
}

// Which decision is drawn.
const TRANSFERS: u64 = 21;
const HANDLES: u64 = 22;
