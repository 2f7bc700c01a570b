//! The network is cut at every byte of a request and of an answer.

use onlyonce::http::Status;
use onlyonce::middleware::client::Outcome;
use onlyonce_chaos::ledger::{Ending, History, Operation, Verdict, check};
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::bank::{Bank, Books, Folder};
use super::teller::{BOTH, FEW, ONE_ATTEMPT, Over, client, ending, fresh, network, pay, text};

/// The question whether the bank dedupes goes over the first connection, the payment over the second.
const PAYMENT: u64 = 2;

/// How many bytes a payment has in each direction.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    request: u64,
    answer: u64,
}

impl Lengths {
    async fn measure(bank: &Bank, over: Over) -> Self {
        let network = network(bank.addr, 0, Plan::none()).await;
        let client = client(over, ONE_ATTEMPT);
        let order = "order-00000";
        // The first one asks before; what comes on top with the second is a payment alone.
        let mut totals = Vec::new();
        for number in 0..2 {
            let key = format!("{over:?}-a{number:04}");
            let paid = pay(&client, network.addr(), fresh(&key), order).await;
            paid.unwrap();
            let stats = network.stats();
            totals.push((stats.bytes_to_server, stats.bytes_to_client));
        }
        Self {
            request: totals[1].0 - totals[0].0,
            answer: totals[1].1 - totals[0].1,
        }
    }

    /// Every cut of either direction, in each way in which a network cuts.
    fn cuts(self) -> Vec<Rule> {
        let directions = [
            (Direction::ToServer, self.request),
            (Direction::ToClient, self.answer),
        ];
        let mut cuts = Vec::new();
        for (direction, bytes) in directions {
            let at = |fault, byte| Rule::new(direction, fault).after_bytes(byte).nth(PAYMENT);
            cuts.extend((0..bytes).map(|byte| at(Fault::Close, byte)));
            // Both ends see it at once, and what was on its way is lost.
            cuts.extend((0..bytes).step_by(7).map(|byte| at(Fault::Reset, byte)));
        }
        cuts
    }
}

// P26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_cut_at_any_byte_is_made_once_and_its_retry_gets_the_answer() {
    let (folder, books) = (Folder::new(), Books::default());
    let bank = Bank::open(folder.open().await, &books);
    let mut history = History::new();
    for over in BOTH {
        let cuts = Lengths::measure(&bank, over).await.cuts();
        for (number, cut) in cuts.iter().enumerate() {
            let network = network(bank.addr, 0, Plan::none().rule(cut.clone())).await;
            let (key, order) = (
                format!("{over:?}-{number:05}"),
                format!("order-{number:05}"),
            );
            let paid = pay(&client(over, FEW), network.addr(), fresh(&key), &order).await;
            let end = ending(&paid);
            assert!(matches!(end, Ending::Answered(_)), "{cut:?}: {paid:?}");
            let operation = Operation::new(key, order).attempts(2);
            history.push(operation.ended(end));
        }
    }
    judge(&history, &books);
}

// P26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_attempt_that_is_cut_at_any_byte_is_unknown_and_its_ticket_gets_the_answer() {
    let (folder, books) = (Folder::new(), Books::default());
    let bank = Bank::open(folder.open().await, &books);
    let mut history = History::new();
    let (mut replayed, mut told_that_nothing_was_executed) = (0, 0);
    for over in BOTH {
        let cuts = Lengths::measure(&bank, over).await.cuts();
        for (number, cut) in cuts.iter().enumerate() {
            let network = network(bank.addr, 0, Plan::none().rule(cut.clone())).await;
            let (key, order) = (
                format!("{over:?}-{number:05}"),
                format!("order-{number:05}"),
            );
            let client = client(over, ONE_ATTEMPT);
            let cut_off = pay(&client, network.addr(), fresh(&key), &order).await;
            let Err(error) = cut_off else {
                panic!("{cut:?}: {cut_off:?}");
            };
            let operation = Operation::new(key, order.clone()).attempts(2);
            // The bank was there to say that half of a request came.
            if error.outcome == Outcome::NotExecuted {
                told_that_nothing_was_executed += 1;
                history.push(operation.ended(Ending::Refused));
                continue;
            }
            assert_eq!(error.outcome, Outcome::Unknown, "{cut:?}: {error}");
            assert!(error.ticket.store.is_some(), "{cut:?}: {error}");
            let resumed = pay(&client, network.addr(), error.ticket, &order).await;
            let answer = resumed.as_ref().unwrap();
            let status = Status::of(answer.headers()).unwrap();
            assert!(text(answer).ends_with(&order));
            replayed += u32::from(status == Status::Replayed);
            let operation = operation.ended(Ending::Unknown);
            history.push(operation.ended(ending(&resumed)));
        }
    }
    // Whatever was cut of an answer was executed before, at least where the bank was not cut off too.
    assert!(replayed > 100, "{replayed}");
    assert!(told_that_nothing_was_executed > 0);
    judge(&history, &books);
}

fn judge(history: &History, books: &Books) {
    // What was paid to learn how long a payment is.
    let effects = books.effects();
    let mut history = history.clone();
    for over in BOTH {
        for number in 0..2 {
            let length = Operation::new(format!("{over:?}-a{number:04}"), "order-00000");
            history.push(length.attempts(1).ended(Ending::Unknown));
        }
    }
    let report = check(&history, &effects);
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    assert!(report.figures().answered > 1_000, "{report}");
}
