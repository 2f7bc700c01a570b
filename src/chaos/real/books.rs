//! Books outside of any store: a file to which every execution appends its line.
//!
//! What is written here happened, whatever a record says of it: so it is the effect of claimed calls
//! and of those that nothing dedupes. One thread writes what waits, makes it durable together, and
//! only then answers.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use onlyonce_chaos::workload::{self, Order, Reply};
use tokio::sync::{mpsc, oneshot};

use super::order::{Asked, Declined, Entry, Receipt, opening};

/// The counter of the bank. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Books {
    orders: mpsc::Sender<Waiting>,
}

/// Whether what is answered outlives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    Synced,
    /// Answered when it is written: the control of power cuts.
    Unsynced,
}

struct Waiting {
    asked: Asked,
    answer: oneshot::Sender<Result<Receipt, Declined>>,
}

struct Clerk {
    file: File,
    durability: Durability,
    bank: workload::Books,
    entries: u64,
}

// === impl Books ===

impl Books {
    pub(super) fn open(folder: &Path, durability: Durability) -> io::Result<Self> {
        let mut clerk = Clerk::open(folder, durability)?;
        let (orders, mut waiting) = mpsc::channel::<Waiting>(ORDERS_MAX);
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

    /// Does what is asked, as durably as was said, once for every time it is called. `None` when it is not known
    /// what came of it.
    pub(super) async fn order(&self, asked: Asked) -> Option<Result<Receipt, Declined>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Waiting { asked, answer }).await.ok()?;
        answered.await.ok()
    }
}

// === impl Clerk ===

impl Clerk {
    fn open(folder: &Path, durability: Durability) -> io::Result<Self> {
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
            durability,
            bank: workload::Books::new(opening()),
            entries: entries.len() as u64,
        };
        for entry in entries {
            clerk.bank.apply(&parsed(&entry.asked)?);
        }
        Ok(clerk)
    }

    fn work(&mut self, group: &mut Vec<Waiting>) -> io::Result<()> {
        let (mut written, mut results) = (Vec::new(), Vec::with_capacity(group.len()));
        for order in group.iter() {
            results.push(self.apply(&order.asked, &mut written)?);
        }
        if !written.is_empty() {
            self.file.write_all(&written)?;
            if self.durability == Durability::Synced {
                self.file.sync_data()?;
            }
        }
        for (order, result) in group.drain(..).zip(results) {
            // OK because a caller who went away still has its money moved.
            let _ = order.answer.send(result);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        asked: &Asked,
        written: &mut Vec<u8>,
    ) -> io::Result<Result<Receipt, Declined>> {
        let (said, legs) = match self.bank.apply(&parsed(asked)?) {
            Reply::Applied { answer, legs } => (answer, legs),
            Reply::Declined { answer } => return Ok(Err(Declined { why: answer })),
        };
        self.entries += 1;
        let receipt = Receipt {
            entry: self.entries,
            said,
        };
        let has = |account: &String| self.bank.accounts().get(account).copied().unwrap_or(0);
        let after = legs
            .iter()
            .map(|(account, _)| (account.clone(), has(account)));
        let entry = Entry {
            asked: asked.clone(),
            receipt: receipt.clone(),
            after: after.collect(),
            legs,
        };
        serde_json::to_writer(&mut *written, &entry)?;
        written.push(b'\n');
        Ok(Ok(receipt))
    }
}

fn parsed(asked: &Asked) -> io::Result<Order> {
    Order::parse(&asked.order).map_err(io::Error::other)
}

/// The entries and the balances in the books of a folder; opening balances where there are none.
pub(super) fn read(folder: &Path) -> io::Result<(Vec<Entry>, BTreeMap<String, i64>)> {
    let entries = match File::open(path(folder)) {
        Ok(file) => lines(&file)?.0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut balances = opening();
    for entry in &entries {
        balances.extend(entry.after.iter().cloned());
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
    use onlyonce_chaos::workload::Demand;

    use super::super::order::OPENING;
    use super::*;

    fn transfer(call: u64, amount: u64) -> Asked {
        let demand = Demand::Transfer {
            from: "account-0".into(),
            to: "account-1".into(),
            amount,
        };
        let key = format!("k{call}");
        let reference = key.clone();
        Asked {
            call,
            key,
            order: Order { reference, demand }.to_bytes(),
            attempt: 0,
        }
    }

    #[tokio::test]
    async fn a_torn_last_line_is_no_entry_and_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path(), Durability::Synced).unwrap();
        for call in 1..=2 {
            books.order(transfer(call, 10)).await.unwrap().unwrap();
        }
        let file = OpenOptions::new()
            .append(true)
            .open(path(folder.path()))
            .unwrap();
        (&file).write_all(b"{\"asked\":{\"ca").unwrap();
        let books = Books::open(folder.path(), Durability::Synced).unwrap();
        let receipt = books.order(transfer(3, 10)).await.unwrap().unwrap();
        let left = format!("account-0 has {}", OPENING - 30);
        assert_eq!((receipt.entry, receipt.said), (3, left.into_bytes()));
        let (entries, balances) = read(folder.path()).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(balances["account-1"], OPENING + 30);
    }

    #[tokio::test]
    async fn what_is_not_covered_is_declined_and_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path(), Durability::Synced).unwrap();
        let dear = transfer(1, u64::try_from(OPENING).unwrap() + 1);
        let declined = books.order(dear).await.unwrap().unwrap_err();
        assert_eq!(declined.why, b"insufficient funds");
        assert_eq!(read(folder.path()).unwrap().0, []);
    }
}
