//! What clients were told, judged by what is in the bank's books.

use std::collections::BTreeMap;

use onlyonce_chaos::ledger::{self, Effect, Effects, Ending, History, Money, Operation};

use super::bank::{Books, Transfer};
use super::clients::receipt_text;
use super::log::Log;
use super::server::{ACCOUNTS, OPENING};

/// Judges what clients were told by what is on disk.
pub(super) fn judge(log: &Log, transfers: &[Transfer], books: &Books) -> ledger::Report {
    let mut history = History::new();
    let operations = log.operations();
    for transfer in transfers {
        let endings = operations
            .get(&transfer.operation)
            .map_or(&[][..], Vec::as_slice);
        let mut operation = Operation::new(transfer.operation, payload(transfer))
            .attempts(endings.iter().map(|ended| ended.attempts).sum());
        // What was left open and resumed has ended as the last word says.
        let settled: Vec<_> = endings
            .iter()
            .filter(|e| e.ending != Ending::Unknown)
            .collect();
        if settled.is_empty() && !endings.is_empty() {
            operation = operation.ended(Ending::Unknown);
        }
        for ended in settled {
            operation = operation.ended(ended.ending.clone());
        }
        history.push(operation);
    }
    let effects: Effects = books
        .journal
        .iter()
        .map(|(transfer, receipt)| {
            Effect::new(transfer.operation, payload(transfer), receipt_text(receipt))
        })
        .collect();
    let opening = (0..ACCOUNTS)
        .map(|account| (account.to_string(), OPENING))
        .collect();
    // Each operation once: what the balances would be had nothing happened twice.
    let mut once = BTreeMap::new();
    for (transfer, _) in &books.journal {
        once.entry(transfer.operation)
            .or_insert_with(|| ledger::Transfer {
                from: transfer.from.to_string(),
                to: transfer.to.to_string(),
                amount: transfer.amount,
            });
    }
    let once: Vec<_> = once.into_values().collect();
    let money = Money::check(&opening, &once, &books.balances);
    ledger::check(&history, &effects).with_money(money)
}

fn payload(transfer: &Transfer) -> String {
    let Transfer {
        operation,
        from,
        to,
        amount,
    } = transfer;
    format!("{operation}: {amount} from {from} to {to}")
}
