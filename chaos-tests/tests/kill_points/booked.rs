//! The other handler's effects: rows in the server's own store, committed with its answers.

use std::path::Path;
use std::time::Duration;

use onlyonce::rpc::{Caller, Table, Transaction, Undone};
use onlyonce::storage::transaction::{RowRange, TransactionalStore};
use onlyonce::storage::{SledOptions, SledStore};

use super::orders::{Declined, Order, Receipt};

const BOOK: Table = Table::new("book");
const PAPERS: Table = Table::new("papers");

/// Books an order: its line, the number of the last line, and some papers.
pub async fn book(
    _: Caller,
    store: Transaction,
    order: Order,
) -> Result<Receipt, Undone<Declined>> {
    let last = store.get(&BOOK, LAST).await?;
    let last = last.map_or(FIRST, |last| {
        u64::from_be_bytes(last[..].try_into().unwrap())
    });
    // So long that others read the same number meanwhile, and some have to run again.
    tokio::time::sleep(THINKING).await;
    let entry = last + 1;
    store.put(&BOOK, LAST, &entry.to_be_bytes())?;
    store.put(&BOOK, &entry.to_be_bytes(), &order.operation.to_be_bytes())?;
    for paper in 0..PAPERS_EACH {
        let name = format!("{entry} {paper}");
        store.put(&PAPERS, name.as_bytes(), &[b'p'; PAPER_BYTES])?;
    }
    Ok(Receipt::new(order.operation, entry))
}

/// What is booked in a store that nobody has open. Panics where a part of a booking is missing.
pub async fn read(folder: &Path) -> Vec<(u64, Receipt)> {
    let store = SledStore::open_async(folder.join("store"), SledOptions::new()).await;
    let store = store.unwrap();
    let booked = read_in(&store).await;
    store.close().await.unwrap();
    booked
}

/// The same of a store that is open.
pub async fn read_in(store: &SledStore) -> Vec<(u64, Receipt)> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let mut booked = Vec::new();
    let mut last = FIRST;
    for (key, value) in rows(store, &BOOK).await {
        if key == LAST {
            last = number(&value);
            continue;
        }
        let (entry, operation) = (number(&key), number(&value));
        booked.push((operation, Receipt::new(operation, entry)));
    }
    let entries: Vec<_> = booked.iter().map(|(_, receipt)| receipt.entry).collect();
    let expected: Vec<_> = (FIRST + 1..=last).collect();
    assert_eq!(entries, expected, "lines, and the number of the last");
    let papers = rows(store, &PAPERS).await.len();
    assert_eq!(
        papers,
        booked.len() * PAPERS_EACH,
        "papers of {} lines",
        booked.len()
    );
    booked
}

async fn rows(store: &SledStore, table: &Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let range = RowRange::new::<&[u8]>(table, &(..), 1_000);
    let rows = store.read(range).await.unwrap();
    rows.into_iter()
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// Behind every entry.
const LAST: &[u8] = b"last";

/// Other numbers than the till's.
const FIRST: u64 = 1_000_000;

const THINKING: Duration = Duration::from_millis(4);

/// More than what a checkpoint writes in one piece.
const PAPERS_EACH: usize = 6;
const PAPER_BYTES: usize = 3_000;
