//! A bank that keeps its accounts in its own sled database: the handler whose effects are counted
//! where nothing dedupes. The other column has the same bank in its store (`tables.rs`).
//!
//! A transfer's two legs and its line in the journal are one sled transaction. One thread applies
//! all transfers that are waiting and makes them durable together, because sled's own `flush` is
//! not durable and must not be called from many threads.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::thread;

use onlyonce_storage::sled::{SyncError, SyncPoint};
use serde::{Deserialize, Serialize};
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};
use tokio::sync::{mpsc, oneshot};

/// What a client asks for. The operation names the intent, so that the journal shows what was
/// applied twice; the layer under test knows nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) operation: u64,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) amount: u64,
}

/// What the bank answers: the line in its journal, and the balances behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    pub(super) entry: u64,
    pub(super) from_balance: i64,
    pub(super) to_balance: i64,
}

/// Why the bank declines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Declined {
    NoFunds,
}

/// The bank's counter. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Bank {
    orders: mpsc::Sender<Order>,
}

/// What the bank's books say when nobody works there any more.
pub(super) struct Books {
    pub(super) journal: Vec<(Transfer, Receipt)>,
    pub(super) balances: BTreeMap<String, i64>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BankError {
    #[error("the bank's books cannot be opened: {0}")]
    Database(#[from] sled::Error),
    #[error("the bank's books are damaged: {0}")]
    Damaged(&'static str),
    #[error("the bank's folder cannot be opened: {0}")]
    Io(#[from] std::io::Error),
    #[error("the bank's books could not be made durable: {0}")]
    Sync(#[from] SyncError),
}

struct Order {
    transfer: Transfer,
    answer: oneshot::Sender<Result<Receipt, Declined>>,
}

struct Ledger {
    database: sled::Db,
    accounts: sled::Tree,
    journal: sled::Tree,
    sync: SyncPoint,
}

// === impl Bank ===

impl Bank {
    /// Opens the bank in `folder`; a new one has `accounts` accounts with `opening` each.
    pub(super) fn open(folder: &Path, accounts: u32, opening: i64) -> Result<Self, BankError> {
        let mut ledger = Ledger::open(folder)?;
        ledger.endow(accounts, opening)?;
        let (orders, mut waiting) = mpsc::channel::<Order>(ORDERS_MAX);
        thread::Builder::new()
            .name("bank".to_owned())
            .spawn(move || {
                let mut group = Vec::with_capacity(GROUP_MAX);
                while let Some(first) = waiting.blocking_recv() {
                    group.push(first);
                    while group.len() < GROUP_MAX
                        && let Ok(next) = waiting.try_recv()
                    {
                        group.push(next);
                    }
                    if !ledger.work(&mut group) {
                        // Nobody is answered any more: every open transfer's outcome is unknown.
                        return;
                    }
                }
            })?;
        Ok(Self { orders })
    }

    /// Moves the money, durably, once for every time it is called. `None` when the bank cannot
    /// tell what came of it.
    pub(super) async fn transfer(&self, transfer: Transfer) -> Option<Result<Receipt, Declined>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { transfer, answer }).await.ok()?;
        answered.await.ok()
    }
}

// === impl Ledger ===

impl Ledger {
    fn open(folder: &Path) -> Result<Self, BankError> {
        std::fs::create_dir_all(folder)?;
        let sync = SyncPoint::open(folder)?;
        let database = sled::Config::new()
            .path(folder)
            .flush_every_ms(None)
            .cache_capacity(CACHE)
            .open()?;
        let (accounts, journal) = (
            database.open_tree("accounts")?,
            database.open_tree("journal")?,
        );
        Ok(Self {
            database,
            accounts,
            journal,
            sync,
        })
    }

    fn endow(&mut self, accounts: u32, opening: i64) -> Result<(), BankError> {
        if !self.accounts.is_empty() {
            return Ok(());
        }
        for account in 0..accounts {
            self.accounts
                .insert(account.to_be_bytes(), &opening.to_le_bytes())?;
        }
        self.sync.commit(&self.database)?;
        Ok(())
    }

    /// Applies a group, makes it durable, answers it. False when it could not be made durable.
    fn work(&mut self, group: &mut Vec<Order>) -> bool {
        let mut results = Vec::with_capacity(group.len());
        for order in group.iter() {
            match self.apply(&order.transfer) {
                Ok(result) => results.push(result),
                Err(_) => return false,
            }
        }
        if self.sync.commit(&self.database).is_err() {
            return false;
        }
        for (order, result) in group.drain(..).zip(results) {
            // OK because a caller who went away still has its money moved.
            let _ = order.answer.send(result);
        }
        true
    }

    /// Both legs and the journal's line, in one transaction.
    fn apply(&self, transfer: &Transfer) -> Result<Result<Receipt, Declined>, BankError> {
        let entry = match self.journal.last()? {
            Some((last, _)) => number(&last)? + 1,
            None => 1,
        };
        let outcome = (&self.accounts, &self.journal).transaction(|(accounts, journal)| {
            let from = balance(accounts, transfer.from)?;
            let to = balance(accounts, transfer.to)?;
            let amount = i64::try_from(transfer.amount).unwrap_or(i64::MAX);
            if from < amount {
                return Err(ConflictableTransactionError::Abort(Declined::NoFunds));
            }
            let receipt = Receipt {
                entry,
                from_balance: from - amount,
                to_balance: to + amount,
            };
            accounts.insert(
                &transfer.from.to_be_bytes(),
                &receipt.from_balance.to_le_bytes(),
            )?;
            accounts.insert(
                &transfer.to.to_be_bytes(),
                &receipt.to_balance.to_le_bytes(),
            )?;
            journal.insert(&entry.to_be_bytes(), line(transfer, &receipt))?;
            Ok(receipt)
        });
        match outcome {
            Ok(receipt) => Ok(Ok(receipt)),
            Err(TransactionError::Abort(declined)) => Ok(Err(declined)),
            Err(TransactionError::Storage(error)) => Err(error.into()),
        }
    }
}

// === impl Books ===

impl Books {
    /// Reads the books of a bank that is closed.
    pub(super) fn read(folder: &Path) -> Result<Self, BankError> {
        let ledger = Ledger::open(folder)?;
        let mut balances = BTreeMap::new();
        for row in &ledger.accounts {
            let (account, balance) = row?;
            let account: [u8; 4] = account
                .as_ref()
                .try_into()
                .map_err(|_| BankError::Damaged("account number"))?;
            balances.insert(u32::from_be_bytes(account).to_string(), amount(&balance)?);
        }
        let mut journal = Vec::new();
        for row in &ledger.journal {
            let (entry, line) = row?;
            journal.push(read_line(number(&entry)?, &line)?);
        }
        Ok(Self { journal, balances })
    }

    /// Whether any transfer was made more than once.
    pub(super) fn has_duplicates(&self) -> bool {
        let mut seen = HashSet::new();
        let operations = self.journal.iter().map(|(transfer, _)| transfer.operation);
        !operations
            .into_iter()
            .all(|operation| seen.insert(operation))
    }
}

fn balance(
    accounts: &TransactionalTree,
    account: u32,
) -> Result<i64, ConflictableTransactionError<Declined>> {
    let stored = accounts.get(account.to_be_bytes())?;
    // An account that does not exist has nothing.
    Ok(stored.and_then(|bytes| amount(&bytes).ok()).unwrap_or(0))
}

pub(super) fn number(bytes: &[u8]) -> Result<u64, BankError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| BankError::Damaged("entry number"))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn amount(bytes: &[u8]) -> Result<i64, BankError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| BankError::Damaged("balance"))?;
    Ok(i64::from_le_bytes(bytes))
}

/// operation, from, to, amount, and the two balances, in fixed width.
pub(super) fn line(transfer: &Transfer, receipt: &Receipt) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LINE_BYTES);
    bytes.extend_from_slice(&transfer.operation.to_be_bytes());
    bytes.extend_from_slice(&transfer.from.to_be_bytes());
    bytes.extend_from_slice(&transfer.to.to_be_bytes());
    bytes.extend_from_slice(&transfer.amount.to_be_bytes());
    bytes.extend_from_slice(&receipt.from_balance.to_le_bytes());
    bytes.extend_from_slice(&receipt.to_balance.to_le_bytes());
    bytes
}

pub(super) fn read_line(entry: u64, line: &[u8]) -> Result<(Transfer, Receipt), BankError> {
    if line.len() != LINE_BYTES {
        return Err(BankError::Damaged("journal line"));
    }
    let part = |from: usize| -> [u8; 8] { line[from..from + 8].try_into().unwrap_or_default() };
    let short = |from: usize| -> [u8; 4] { line[from..from + 4].try_into().unwrap_or_default() };
    let transfer = Transfer {
        operation: u64::from_be_bytes(part(0)),
        from: u32::from_be_bytes(short(8)),
        to: u32::from_be_bytes(short(12)),
        amount: u64::from_be_bytes(part(16)),
    };
    let receipt = Receipt {
        entry,
        from_balance: i64::from_le_bytes(part(24)),
        to_balance: i64::from_le_bytes(part(32)),
    };
    Ok((transfer, receipt))
}

const LINE_BYTES: usize = 40;

/// Callers wait for a place here, so the queue is bounded by what a disk does in some seconds.
const ORDERS_MAX: usize = 1_024;

/// Groups past this gain nothing on sled and only add latency.
const GROUP_MAX: usize = 256;

const CACHE: u64 = 16 * 1024 * 1024;
