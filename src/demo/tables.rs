//! The same bank with its accounts in tables of the server's own store: a transfer is a transaction,
//! committed with the answer of its call.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use onlyonce_storage::transaction::{RowRange, TransactionalStore};
use onlyonce_storage::{OpenError, SledOptions, SledStore, StoreError};

use super::bank::{self, BankError, Books, Declined, Receipt, Transfer};
use super::server::{ACCOUNTS, OPENING};
use crate::rpc::{Caller, Table, Transaction, TransactionError, Undone};

#[derive(Debug, thiserror::Error)]
pub(super) enum TablesError {
    #[error(transparent)]
    Bank(#[from] BankError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the bank's tables cannot be read: {0}")]
    Store(#[from] StoreError),
}

/// Moves the money: both legs and the journal's line, or nothing.
pub(super) async fn transfer(
    caller: Caller,
    tables: Transaction,
    transfer: Transfer,
) -> Result<Receipt, Undone<Declined>> {
    let Some(execution) = caller.execution else {
        return Err(Undone::NotExecuted("nothing dedupes here".to_owned()));
    };
    let from = balance(&tables, transfer.from).await?;
    let to = balance(&tables, transfer.to).await?;
    let amount = i64::try_from(transfer.amount).unwrap_or(i64::MAX);
    if from < amount {
        return Err(Undone::Fault(Declined::NoFunds));
    }
    // Every execution has a line of its own: were there two of one call, the journal would show
    // both. A number that counts lines would make every transfer wait for every other.
    let token = execution.token;
    let receipt = Receipt {
        entry: (token.incarnation() << 40) | token.sequence(),
        from_balance: from - amount,
        to_balance: to + amount,
    };
    for (account, balance) in [
        (transfer.from, receipt.from_balance),
        (transfer.to, receipt.to_balance),
    ] {
        tables.put(&BALANCES, &account.to_be_bytes(), &balance.to_le_bytes())?;
    }
    let line = bank::line(&transfer, &receipt);
    tables.put(&JOURNAL, &receipt.entry.to_be_bytes(), &line)?;
    Ok(receipt)
}

/// Reads the books in a store that nobody has open.
pub(super) async fn read(store: &Path) -> Result<Books, TablesError> {
    let store = SledStore::open_async(store, SledOptions::new()).await?;
    let mut balances: BTreeMap<_, _> = (0..ACCOUNTS)
        .map(|account| (account.to_string(), OPENING))
        .collect();
    for (account, balance) in rows(&store, &BALANCES).await? {
        let account = account[..].try_into();
        let account = account.map_err(|_| BankError::Damaged("account number"))?;
        let account = u32::from_be_bytes(account).to_string();
        balances.insert(account, bank::amount(&balance)?);
    }
    let mut journal = Vec::new();
    for (entry, line) in rows(&store, &JOURNAL).await? {
        journal.push(bank::read_line(bank::number(&entry)?, &line)?);
    }
    store.close().await?;
    Ok(Books { journal, balances })
}

/// What an account has. One that nobody has used has what each begins with.
async fn balance(tables: &Transaction, account: u32) -> Result<i64, TransactionError> {
    let stored = tables.get(&BALANCES, &account.to_be_bytes()).await?;
    Ok(stored.map_or(OPENING, |bytes| bank::amount(&bytes).unwrap_or(0)))
}

async fn rows(store: &SledStore, table: &Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let after = found
            .last()
            .map_or(Bound::Unbounded, |(key, _)| Bound::Excluded(key));
        let range = RowRange::new::<Vec<u8>>(table, &(after, Bound::Unbounded), ROWS_AT_ONCE);
        let rows = store.read(range).await?;
        if rows.is_empty() {
            return Ok(found);
        }
        let rows = rows.into_iter();
        found.extend(rows.map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
}

const BALANCES: Table = Table::new("balances");
const JOURNAL: Table = Table::new("journal");

const ROWS_AT_ONCE: usize = 1_000;
