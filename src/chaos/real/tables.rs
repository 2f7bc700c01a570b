//! The same bank in tables of the server's own store: effect and answer commit together.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_storage::transaction::{RowRange, TransactionalStore};
use onlyonce_storage::{SledOptions, SledStore};

use super::transfer::{ACCOUNTS, Declined, Entry, OPENING, Receipt, Transfer};
use crate::rpc::{Caller, Table, Transaction, TransactionError, Undone, value};

/// Moves the money: both legs and the line, or nothing.
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
    if from < transfer.amount {
        return Err(Undone::Fault(Declined::NoFunds));
    }
    // Every execution has a line of its own: were there two of one call, the books would show both.
    let token = execution.token;
    let receipt = Receipt {
        entry: (token.incarnation() << 40) | token.sequence(),
        from_balance: from - transfer.amount,
        to_balance: to + transfer.amount,
    };
    for (account, balance) in [
        (transfer.from, receipt.from_balance),
        (transfer.to, receipt.to_balance),
    ] {
        tables.put(&BALANCES, &account.to_be_bytes(), &balance.to_le_bytes())?;
    }
    let number = receipt.entry.to_be_bytes();
    let entry = Entry {
        transfer,
        receipt: receipt.clone(),
    };
    let line = value::encode(&entry).map_err(|error| Undone::NotExecuted(error.to_string()))?;
    tables.put(&ENTRIES, &number, &line)?;
    Ok(receipt)
}

/// What is in the store of a folder, which nobody may have open.
pub(super) async fn read(folder: &Path) -> Result<(Vec<Entry>, BTreeMap<u32, i64>), HarnessError> {
    let store = SledStore::open_async(folder.join("store"), SledOptions::new());
    let store = store.await.map_err(HarnessError::other)?;
    let mut balances: BTreeMap<_, _> = (0..ACCOUNTS).map(|account| (account, OPENING)).collect();
    for (account, balance) in rows(&store, &BALANCES).await? {
        let account = <[u8; 4]>::try_from(&account[..]).map_err(HarnessError::other)?;
        let balance = <[u8; 8]>::try_from(&balance[..]).map_err(HarnessError::other)?;
        balances.insert(u32::from_be_bytes(account), i64::from_le_bytes(balance));
    }
    let entries = rows(&store, &ENTRIES).await?.into_iter();
    let entries = entries
        .map(|(_, line)| value::decode(&line).map_err(HarnessError::other))
        .collect::<Result<_, _>>()?;
    store.close().await.map_err(HarnessError::other)?;
    Ok((entries, balances))
}

/// What an account has. One that nobody has used has what each begins with.
async fn balance(tables: &Transaction, account: u32) -> Result<i64, TransactionError> {
    let stored = tables.get(&BALANCES, &account.to_be_bytes()).await?;
    let bytes = stored.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    Ok(bytes.map_or(OPENING, i64::from_le_bytes))
}

async fn rows(store: &SledStore, table: &Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, HarnessError> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let after = found
            .last()
            .map_or(Bound::Unbounded, |(key, _)| Bound::Excluded(key));
        let range = RowRange::new::<Vec<u8>>(table, &(after, Bound::Unbounded), ROWS_AT_ONCE);
        let rows = store.read(range).await.map_err(HarnessError::other)?;
        if rows.is_empty() {
            return Ok(found);
        }
        found.extend(
            rows.into_iter()
                .map(|(key, value)| (key.to_vec(), value.to_vec())),
        );
    }
}

const BALANCES: Table = Table::new("balances");
const ENTRIES: Table = Table::new("entries");

const ROWS_AT_ONCE: usize = 1_000;
