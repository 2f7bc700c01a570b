//! Books outside of any store: a file to which every execution appends its line.
//!
//! What is written here happened, whatever a record says of it: so it is the effect of claimed calls
//! and of those that nothing dedupes. One thread writes what waits, makes it durable together, and
//! only then answers.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use super::transfer::{ACCOUNTS, Declined, Entry, OPENING, Receipt, Transfer};

/// The counter of the bank. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Books {
    orders: mpsc::Sender<Order>,
}

struct Order {
    transfer: Transfer,
    answer: oneshot::Sender<Result<Receipt, Declined>>,
}

struct Clerk {
    file: File,
    balances: BTreeMap<u32, i64>,
    entries: u64,
}

// === impl Books ===

impl Books {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let mut clerk = Clerk::open(folder)?;
        let (orders, mut waiting) = mpsc::channel::<Order>(ORDERS_MAX);
        std::thread::Builder::new()
            .name("books".into())
            .spawn(move || {
                let mut group = Vec::new();
                while let Some(first) = waiting.blocking_recv() {
                    group.push(first);
                    while group.len() < ORDERS_MAX
                        && let Ok(next) = waiting.try_recv()
                    {
                        group.push(next);
                    }
                    // Nobody is answered any more after a failed write: those outcomes are unknown.
                    if clerk.work(&mut group).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { orders })
    }

    /// Moves the money, durably, once for every time it is called. `None` when it is not known what
    /// came of it.
    pub(super) async fn transfer(&self, transfer: Transfer) -> Option<Result<Receipt, Declined>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { transfer, answer }).await.ok()?;
        answered.await.ok()
    }
}

// === impl Clerk ===

impl Clerk {
    fn open(folder: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path(folder))?;
        let (entries, whole) = lines(&file)?;
        // What a killed writer left of a line was never acknowledged, and must not be continued.
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        let mut clerk = Self {
            file,
            balances: BTreeMap::new(),
            entries: entries.len() as u64,
        };
        for entry in entries {
            let Receipt {
                from_balance,
                to_balance,
                ..
            } = entry.receipt;
            clerk.balances.insert(entry.transfer.from, from_balance);
            clerk.balances.insert(entry.transfer.to, to_balance);
        }
        Ok(clerk)
    }

    fn work(&mut self, group: &mut Vec<Order>) -> io::Result<()> {
        let (mut written, mut results) = (Vec::new(), Vec::with_capacity(group.len()));
        for order in group.iter() {
            results.push(self.apply(&order.transfer, &mut written)?);
        }
        if !written.is_empty() {
            self.file.write_all(&written)?;
            self.file.sync_data()?;
        }
        for (order, result) in group.drain(..).zip(results) {
            // OK because a caller who went away still has its money moved.
            let _ = order.answer.send(result);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        transfer: &Transfer,
        written: &mut Vec<u8>,
    ) -> io::Result<Result<Receipt, Declined>> {
        let balance = |account| self.balances.get(&account).copied().unwrap_or(OPENING);
        let (from, to) = (balance(transfer.from), balance(transfer.to));
        if from < transfer.amount {
            return Ok(Err(Declined::NoFunds));
        }
        self.entries += 1;
        let receipt = Receipt {
            entry: self.entries,
            from_balance: from - transfer.amount,
            to_balance: to + transfer.amount,
        };
        self.balances.insert(transfer.from, receipt.from_balance);
        self.balances.insert(transfer.to, receipt.to_balance);
        let entry = Entry {
            transfer: transfer.clone(),
            receipt: receipt.clone(),
        };
        serde_json::to_writer(&mut *written, &entry)?;
        written.push(b'\n');
        Ok(Ok(receipt))
    }
}

/// The entries and the balances in the books of a folder; opening balances where there are none.
pub(super) fn read(folder: &Path) -> io::Result<(Vec<Entry>, BTreeMap<u32, i64>)> {
    let entries = match File::open(path(folder)) {
        Ok(file) => lines(&file)?.0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut balances: BTreeMap<_, _> = (0..ACCOUNTS).map(|account| (account, OPENING)).collect();
    for Entry { transfer, receipt } in &entries {
        balances.insert(transfer.from, receipt.from_balance);
        balances.insert(transfer.to, receipt.to_balance);
    }
    Ok((entries, balances))
}

/// The whole lines, and how many bytes they are.
fn lines(file: &File) -> io::Result<(Vec<Entry>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut entries, mut whole, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok((entries, whole));
        }
        entries.push(serde_json::from_slice(&line)?);
        whole += length as u64;
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("books.jsonl")
}

/// Callers wait for a place here: as many as write in one sync.
const ORDERS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(call: u64) -> Transfer {
        Transfer {
            call,
            key: format!("k{call}"),
            from: 0,
            to: 1,
            amount: 10,
            attempt: 0,
        }
    }

    #[tokio::test]
    async fn a_torn_last_line_is_no_entry_and_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path()).unwrap();
        for call in 1..=2 {
            books.transfer(transfer(call)).await.unwrap().unwrap();
        }
        let file = OpenOptions::new()
            .append(true)
            .open(path(folder.path()))
            .unwrap();
        (&file).write_all(b"{\"transfer\":{\"ca").unwrap();
        let books = Books::open(folder.path()).unwrap();
        let receipt = books.transfer(transfer(3)).await.unwrap().unwrap();
        assert_eq!((receipt.entry, receipt.from_balance), (3, OPENING - 30));
        let (entries, balances) = read(folder.path()).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(balances[&1], OPENING + 30);
    }

    #[tokio::test]
    async fn what_is_not_covered_is_declined_and_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path()).unwrap();
        let dear = Transfer {
            amount: OPENING + 1,
            ..transfer(1)
        };
        assert_eq!(books.transfer(dear).await, Some(Err(Declined::NoFunds)));
        assert_eq!(read(folder.path()).unwrap().0, []);
    }
}
