//! The same bank in tables of the server's own store: effect and answer commit together.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Bound;
use std::path::Path;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::workload::{Demand, Order, SHOP};
use onlyonce_storage::transaction::{RowRange, TransactionalStore};
use onlyonce_storage::{SledOptions, SledStore};

use super::commits::Commits;
use super::order::{Asked, Declined, Entry, Receipt, opening};
use crate::rpc::{Caller, Table, Transaction, TransactionError, Undone, value};

/// Does what the order says: all legs and the line, or nothing.
pub(super) async fn order(
    caller: Caller,
    tables: Transaction,
    asked: Asked,
    commits: Commits,
) -> Result<Receipt, Undone<Declined>> {
    let Some(execution) = caller.execution else {
        return Err(Undone::NotExecuted("nothing dedupes here".to_owned()));
    };
    let order = Order::parse(&asked.order).map_err(not_executed)?;
    let done = match order.demand {
        Demand::Append { mailbox, line } => {
            let lines = balance(&tables, &mailbox).await? + 1;
            Done {
                said: format!("{line} is line {lines} of {mailbox}"),
                legs: vec![(mailbox.clone(), 1)],
                after: vec![(mailbox, lines)],
            }
        }
        Demand::Charge { account, amount } => {
            let done = take(&tables, &account, SHOP, amount).await?;
            let charge = value::encode(&(account, amount)).map_err(not_executed)?;
            tables.put(&CHARGES, asked.key.as_bytes(), &charge)?;
            done
        }
        Demand::Refund { charge } => {
            let Some(stored) = tables.get(&CHARGES, charge.as_bytes()).await? else {
                return declined(format!("no charge {charge} to refund"));
            };
            let (account, amount): (String, u64) = value::decode(&stored).map_err(not_executed)?;
            tables.delete(&CHARGES, charge.as_bytes())?;
            take(&tables, SHOP, &account, amount).await?
        }
        Demand::Transfer { from, to, amount } => take(&tables, &from, &to, amount).await?,
    };
    // Every execution has a line of its own: were there two of one call, the books would show both.
    let token = execution.token;
    let receipt = Receipt {
        entry: (token.incarnation() << 40) | token.sequence(),
        said: done.said.into_bytes(),
    };
    for (account, balance) in &done.after {
        tables.put(&BALANCES, account.as_bytes(), &balance.to_le_bytes())?;
    }
    let number = receipt.entry.to_be_bytes();
    let entry = Entry {
        asked,
        receipt: receipt.clone(),
        legs: done.legs,
        after: done.after,
    };
    let line = value::encode(&entry).map_err(not_executed)?;
    tables.put(&ENTRIES, &number, &line)?;
    commits.note(receipt.entry);
    Ok(receipt)
}

/// What is in the store of a folder, which nobody may have open.
pub(super) async fn read(
    folder: &Path,
) -> Result<(Vec<Entry>, BTreeMap<String, i64>), HarnessError> {
    let store = SledStore::open_async(folder.join("store"), SledOptions::new());
    let store = store.await.map_err(HarnessError::other)?;
    let mut balances = opening();
    for (account, balance) in rows(&store, &BALANCES).await? {
        let account = String::from_utf8(account).map_err(HarnessError::other)?;
        let balance = <[u8; 8]>::try_from(&balance[..]).map_err(HarnessError::other)?;
        balances.insert(account, i64::from_le_bytes(balance));
    }
    let entries = rows(&store, &ENTRIES).await?.into_iter();
    let entries = entries
        .map(|(_, line)| value::decode(&line).map_err(HarnessError::other))
        .collect::<Result<_, _>>()?;
    store.close().await.map_err(HarnessError::other)?;
    Ok((entries, balances))
}

/// What an order comes to, not yet written.
struct Done {
    said: String,
    legs: Vec<(String, i64)>,
    after: Vec<(String, i64)>,
}

async fn take(
    tables: &Transaction,
    from: &str,
    to: &str,
    amount: u64,
) -> Result<Done, Undone<Declined>> {
    let (here, there) = (balance(tables, from).await?, balance(tables, to).await?);
    let amount = i64::try_from(amount).map_err(not_executed)?;
    let (Some(here), Some(there)) = (here.checked_sub(amount), there.checked_add(amount)) else {
        return declined("insufficient funds".to_owned());
    };
    if here < 0 {
        return declined("insufficient funds".to_owned());
    }
    Ok(Done {
        said: format!("{from} has {here}"),
        legs: vec![(from.to_owned(), -amount), (to.to_owned(), amount)],
        after: vec![(from.to_owned(), here), (to.to_owned(), there)],
    })
}

fn declined<T>(why: String) -> Result<T, Undone<Declined>> {
    let why = why.into_bytes();
    Err(Undone::Fault(Declined { why }))
}

fn not_executed(error: impl Into<Box<dyn Error>>) -> Undone<Declined> {
    Undone::NotExecuted(error.into().to_string())
}

/// What an account has, or how many lines a mailbox.
async fn balance(tables: &Transaction, account: &str) -> Result<i64, TransactionError> {
    let stored = tables.get(&BALANCES, account.as_bytes()).await?;
    let bytes = stored.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    Ok(bytes.map_or_else(|| opening_of(account), i64::from_le_bytes))
}

/// What one that nobody has used yet begins with.
fn opening_of(account: &str) -> i64 {
    opening().get(account).copied().unwrap_or(0)
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
const CHARGES: Table = Table::new("charges");
const ENTRIES: Table = Table::new("entries");

const ROWS_AT_ONCE: usize = 1_000;
