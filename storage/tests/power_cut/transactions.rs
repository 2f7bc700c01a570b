//! The power is cut while transactions move money between the rows of one tree and note it in
//! another: each is there as a whole or not at all, and all that were acknowledged are.

use std::path::Path;

use onlyonce_storage::sled::SyncPoint;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};

use crate::calls::bytes;
use crate::child::{self, Child};
use crate::device::{Cache, Cut, Drive};
use crate::rig::{Rig, in_own_namespaces, tell};
use crate::run_options::{cuts, draw, seed};

#[test]
fn acknowledged_transactions_are_there_whole_after_the_power_was_cut() {
    let test = "transactions::acknowledged_transactions_are_there_whole_after_the_power_was_cut";
    in_own_namespaces(test, |rig| {
        let drive = Drive::new(rig, Cache::Kept);
        let mut left = (cuts() / 5).max(10);
        let (mut taken, mut judged) = (0, 0);
        for run in 0.. {
            if left == 0 {
                break;
            }
            let name = format!("{}-{run}", seed());
            for (cut, acknowledged) in move_and_cut(rig, &drive, &name, left.min(10)) {
                left -= 1;
                taken += 1;
                judged += acknowledged;
                let after = cut.turn_on(rig);
                judge(&after.at().join("bank"), &name, acknowledged);
            }
        }
        tell(&format!(
            "seed {}: {taken} cuts of transactions, {judged} acknowledged transfers judged, \
             none lost or halved",
            seed()
        ));
    });
}

fn move_and_cut(rig: &Rig, drive: &Drive, run: &str, cuts: u64) -> Vec<(Cut, u64)> {
    let disk = drive.disk(rig);
    let child = Child::start(MOVE, &disk.at().join("bank"), run);
    let taken = (0..cuts).map(|number| {
        let gap = 1 + draw(&format!("transfers {number} of {run}"), 60);
        let gap = usize::try_from(gap).unwrap();
        assert!(
            child.wait_for(child.count() + gap, ""),
            "the child ended by itself"
        );
        let to = rig.path(&format!("bank-{number}.img"));
        let (cut, count) = drive.cut(&disk, &to, || child.count());
        let last = child.lines(count).pop();
        (cut, last.map_or(0, |line| line.parse().unwrap()))
    });
    taken.collect()
}

fn judge(path: &Path, run: &str, acknowledged: u64) {
    let (db, accounts, transfers) = open(path);
    let mut expected = [START; ACCOUNTS];
    let mut count = 0;
    for row in &transfers {
        let (number, note) = row.unwrap();
        assert_eq!(
            *number,
            number_key(count),
            "a transfer is missing before the last"
        );
        assert_eq!(
            note,
            note_of(run, count),
            "the note of transfer {count} is torn"
        );
        let (from, to, amount) = transfer(run, count);
        expected[from] -= amount;
        expected[to] += amount;
        count += 1;
    }
    assert!(
        count >= acknowledged,
        "{count} transfers are there, {acknowledged} were acknowledged"
    );
    for (account, expected) in expected.into_iter().enumerate() {
        let balance = accounts.get(account_key(account)).unwrap();
        let balance = balance.map_or(START, |bytes| balance_of(&bytes));
        assert_eq!(
            balance, expected,
            "account {account} after {count} transfers"
        );
    }
    drop((accounts, transfers, db));
}

#[test]
fn moves_money_until_its_power_is_cut_when_it_is_the_child() {
    child::work(MOVE, |path, run| {
        let sync = SyncPoint::open(path).unwrap();
        let (db, accounts, transfers) = open(path);
        let mut number = 0;
        loop {
            // As many as a group of the store's writer might hold.
            for _ in 0..=draw(&format!("group at {number} of {run}"), 8) {
                apply(&accounts, &transfers, run, number);
                number += 1;
            }
            sync.commit(&db).unwrap();
            child::say(&number.to_string());
        }
    });
}

fn apply(accounts: &sled::Tree, transfers: &sled::Tree, run: &str, number: u64) {
    let (from, to, amount) = transfer(run, number);
    let note = note_of(run, number);
    let done: Result<(), TransactionError<()>> =
        (accounts, transfers).transaction(|(accounts, transfers)| {
            for (account, change) in [(from, -amount), (to, amount)] {
                let key = account_key(account);
                let balance = accounts.get(&key)?;
                let balance = balance.map_or(START, |bytes| balance_of(&bytes)) + change;
                accounts.insert(&key[..], &balance.to_le_bytes())?;
            }
            transfers.insert(&number_key(number), note.as_slice())?;
            Ok::<(), ConflictableTransactionError<()>>(())
        });
    done.unwrap();
}

fn open(path: &Path) -> (sled::Db, sled::Tree, sled::Tree) {
    let config = sled::Config::new().path(path).flush_every_ms(None);
    let db = config.open().unwrap();
    let accounts = db.open_tree("accounts").unwrap();
    let transfers = db.open_tree("transfers").unwrap();
    (db, accounts, transfers)
}

/// From which account to which other one, and how much.
fn transfer(run: &str, number: u64) -> (usize, usize, i64) {
    let accounts = ACCOUNTS as u64;
    let from = draw(&format!("from {number} of {run}"), accounts);
    let to = (from + 1 + draw(&format!("to {number} of {run}"), accounts - 1)) % accounts;
    let amount = draw(&format!("amount {number} of {run}"), 100);
    (from as usize, to as usize, amount.cast_signed())
}

/// Up to what a store puts into one value.
fn note_of(run: &str, number: u64) -> Vec<u8> {
    let name = format!("note {number} of {run}");
    bytes(&name, 20 + draw(&name, 4_000)).body().to_vec()
}

fn number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn account_key(account: usize) -> Vec<u8> {
    format!("account {account}").into_bytes()
}

fn balance_of(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().unwrap())
}

const MOVE: &str = "transactions::moves_money_until_its_power_is_cut_when_it_is_the_child";
const ACCOUNTS: usize = 8;
const START: i64 = 1_000;
