//! Every point of the journal is reached, and after a kill at each the server's next life does what
//! the manual says, unasked.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use onlyonce::admin::{self, AdminRequest, KeyName, StepOutcome};
use onlyonce::rpc::{CallFailure, Client, Known, Steps};
use onlyonce::storage::journal::StepResolution;
use onlyonce::storage::{
    IdempotencyKey, Journal, KeyState, Scope, ScopedKey, SledOptions, SledStore, StepName, Store,
};
use onlyonce_chaos::Seed;
use onlyonce_storage::points::KILL_AT;
use tokio::time::{Instant, sleep, timeout};

use super::bank::Bank;
use super::child::{BANK, ORDER, OWN_KEYS, STUMBLES_FROM, THANKS_STUMBLE_FROM, thanks_of};
use crate::alone::manual::are_meant;
use crate::alone::outcome::Found;
use crate::alone::table;
use crate::child::FOLDER;
use crate::orders::{Order, Receipt};
use crate::process::{End, Process};
use crate::sources;
use crate::till::Till;

/// One call, and where the lives of its server are killed, in order.
#[derive(Clone, Debug)]
struct Case {
    /// The point that it is about.
    point: &'static str,
    kills: Vec<String>,
    operation: u64,
    /// So many calls more are made beside it, with the next numbers of its kind.
    beside: u64,
}

/// What the next life made of the call, before anybody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Finished,
    InDoubtEffectMade,
    InDoubtNoEffect,
}

// B6, B17, A8
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_no_point_of_a_journal_doubles_a_step_and_the_server_finishes_the_call_unasked() {
    let seed = std::env::var("ONLYONCE_KILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("ONLYONCE_KILL_SEED={seed}");
    let cases = cases(Seed::new(seed));
    let points: BTreeSet<_> = cases.iter().map(|case| case.point.to_owned()).collect();
    let names = sources::mentions().into_iter().map(|(name, _)| name);
    let names: BTreeSet<_> = names
        .filter(|name| sources::is_about_journals(name))
        .collect();
    assert_eq!(points, names);

    let runs = stream::iter(cases).map(|case| async move {
        // Each in a task of its own: the runs are to use all processors.
        let run = tokio::spawn(async move {
            let bank = Bank::open().await;
            let became = case.run(&bank).await;
            (case, became)
        });
        run.await.unwrap()
    });
    let seen: Vec<_> = runs.buffered(AT_ONCE).collect().await;

    let rows = table::rows();
    for point in points {
        let found = seen.iter().filter(|(case, _)| case.point == point);
        let mut found: Vec<_> = found.map(|(_, became)| *became).collect();
        found.dedup();
        let words = rows[&point].outcomes(1);
        assert!(
            are_meant(&found, &words),
            "{point:?}: found {found:?}, said {words:?}"
        );
    }
    println!("{} calls, each killed and finished", seen.len());
}

/// With keys of its own for the bank one kill is enough: what is checked above can be found broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_step_that_uses_another_key_each_time_is_found_out_by_one_kill() {
    let bank = Bank::open().await;
    let case = Case {
        point: RUN,
        kills: vec![format!("{RUN}#1")],
        operation: 1,
        beside: 0,
    };
    let folder = tempfile::tempdir().unwrap();
    let own_keys = [(OWN_KEYS, "yes")];
    case.killed(folder.path(), &bank, &own_keys).await;
    let mut next = start(folder.path(), &bank, "", &own_keys);
    let client = case.client_of(&mut next).await;
    assert!(case.until_settled(&client).await.is_some());
    assert_eq!(bank.charged(1), 2);
    assert_eq!(next.stop().await, End::Stopped);
}

/// All kills, those of one point one behind the other, in the order in which a call comes there.
fn cases(seed: Seed) -> Vec<Case> {
    let at = |point: &str, passing: u64| format!("{point}#{passing}");
    let claimed = || at(CLAIMED, 1);
    let kills: [(&'static str, Vec<String>); 16] = [
        (CLAIMED, vec![claimed()]),
        // It is claimed anew in the second life, and killed again.
        (CLAIMED, vec![claimed(), claimed()]),
        (LISTED, vec![claimed(), at(LISTED, 1)]),
        (INTERRUPTED, vec![at(INTERRUPTED, 1)]),
        (FOUND, vec![at(FOUND, 1)]),
        (BEGUN, vec![at(BEGUN, 1)]),
        (RUN, vec![at(RUN, 1)]),
        (RUN, vec![at(RUN, 1), at(RUN, 1)]),
        (RUN, vec![at(RUN, 2)]),
        (RUN, vec![at(RUN, 3)]),
        (KEPT, vec![at(KEPT, 1)]),
        (KEPT, vec![at(KEPT, 2)]),
        (KEPT, vec![at(KEPT, 3), at(CLAIMED, 1)]),
        // An operator says that the step of the first life was not executed.
        (READ, vec![at(BEGUN, 1), at(READ, 1)]),
        (RESOLVED, vec![at(BEGUN, 1), at(RESOLVED, 1)]),
        (PARTS, vec![at(PARTS, 1)]),
    ];
    let mut cases = Vec::new();
    for (point, kills) in kills {
        let number = cases.len() as u64 + 1;
        let (operation, beside) = match point {
            INTERRUPTED | FOUND => (STUMBLES_FROM + number, 0),
            // The receipts of these are long, and so the log is full while they stand still.
            PARTS => (LONG_FROM + 6 * number, MANY),
            _ => (number, 0),
        };
        let step = if beside > 0 { 6 * (beside + 1) } else { 1 };
        // The last kill at once, and after others had time to go on.
        let linger = seed.draw(&[number]).within(1..=LINGER_MS);
        let mut waiting = kills.clone();
        if let Some(last) = waiting.last_mut() {
            last.push_str(&format!("+{linger}"));
        }
        for (kills, operation) in [(kills, operation), (waiting, operation + step)] {
            cases.push(Case {
                point,
                kills,
                operation,
                beside,
            });
        }
    }
    cases
}

// === impl Case ===

impl Case {
    const fn order(&self) -> Order {
        let operation = self.operation;
        Order { operation }
    }

    fn key(&self) -> IdempotencyKey {
        key(self.order())
    }

    fn all_orders(&self) -> impl Iterator<Item = Order> {
        let operations = (0..=self.beside).map(|number| self.operation + 6 * number);
        operations.map(|operation| Order { operation })
    }

    fn scoped_key(&self) -> ScopedKey {
        let scope = Scope::global().operation(ORDER.name()).unwrap();
        ScopedKey::new(scope, self.key())
    }

    /// Makes the call, kills its server as often as is to be, and looks what the next life makes of it
    /// unasked. Panics where the promise is broken.
    async fn run(&self, bank: &Bank) -> Became {
        let folder = tempfile::tempdir().unwrap();
        self.killed(folder.path(), bank, &[]).await;

        let mut next = start(folder.path(), bank, "", &[]);
        let mut client = self.client_of(&mut next).await;
        let mut receipt = self.until_settled(&client).await;
        let became = match (&receipt, self.shipped(folder.path()).len()) {
            (Some(_), _) => Became::Finished,
            (None, 0) => Became::InDoubtNoEffect,
            (None, _) => Became::InDoubtEffectMade,
        };
        if receipt.is_none() {
            // Nobody but an operator ends it.
            let asked = client.call_as(self.key(), &ORDER, &self.order()).await;
            assert!(
                matches!(asked, Err(CallFailure::InDoubt(_))),
                "{self}: {asked:?}"
            );
            assert_eq!(next.stop().await, End::Stopped, "{self}");
            self.resolve(folder.path()).await;
            next = start(folder.path(), bank, "", &[]);
            client = self.client_of(&mut next).await;
            receipt = self.until_settled(&client).await;
        }
        let receipt = receipt.unwrap_or_else(|| panic!("{self}: it is in doubt again"));
        let asked = client.call_as(self.key(), &ORDER, &self.order()).await;
        assert_eq!(asked.unwrap(), receipt, "{self}");
        for order in self.all_orders().skip(1) {
            let asked = client.call_as(key(order), &ORDER, &order).await;
            // The kill may have come while it shipped.
            let told = matches!(asked, Ok(_) | Err(CallFailure::InDoubt(_)));
            assert!(told, "{self}: {order:?}: {asked:?}");
        }
        assert_eq!(next.stop().await, End::Stopped, "{self}");
        self.judge(folder.path(), bank, &receipt);
        became
    }

    /// Makes the call in the first life, which is killed, and lets the others be killed as they go on
    /// with it.
    async fn killed(&self, folder: &Path, bank: &Bank, told: &[(&str, &str)]) {
        for (life, kill_at) in self.kills.iter().enumerate() {
            let mut server = start(folder, bank, kill_at, told);
            // A later life may be killed before it says where it listens.
            if let Ok(address) = server.address().await
                && life == 0
            {
                let client = Client::new(address.to_string());
                tokio::spawn(self.clone().call(client));
            }
            if kill_at.starts_with("admin") {
                self.resolve_by_socket(folder).await;
            }
            let end = timeout(PATIENCE, server.end()).await;
            let end = end.unwrap_or_else(|_| panic!("{self}: {kill_at:?} is not reached"));
            assert_eq!(end, End::Killed, "{self}");
        }
    }

    /// Makes the call, and those beside it once it stands still.
    async fn call(self, client: Client) {
        let order = self.order();
        let first = client.call_as(self.key(), &ORDER, &order);
        let beside = async {
            let in_doubt = async || {
                let known = client.peek(self.key(), &ORDER).await;
                matches!(known, Ok(Known::InDoubt(_)))
            };
            while self.beside > 0 && !in_doubt().await {
                sleep(LOOK / 4).await;
            }
            let others = self.all_orders().skip(1);
            let others = others.map(|order| {
                let client = client.clone();
                async move { client.call_as(key(order), &ORDER, &order).await }
            });
            join_all(others).await
        };
        // What comes of them is looked at when the server is gone.
        let _ = tokio::join!(first, beside);
    }

    /// The operator says that the shipping was not executed, until the server is gone that was told.
    async fn resolve_by_socket(&self, folder: &Path) {
        let store = folder.join("store");
        let key = KeyName {
            principal: None,
            operation: Some(ORDER.name().to_owned()),
            key: self.key().as_str().to_owned(),
        };
        let show = AdminRequest::Show {
            key: key.clone(),
            with_answer: false,
        };
        while let Ok(admin::AdminReply::Key(view)) = admin::ask(store.clone(), &show).await {
            let request = AdminRequest::ResolveStep {
                key: key.clone(),
                token: view.record.unwrap().token,
                step: "ship".to_owned(),
                outcome: StepOutcome::NotExecuted,
                by: "carol".to_owned(),
            };
            if admin::ask(store.clone(), &request).await.is_err() {
                return;
            }
        }
    }

    async fn client_of(&self, server: &mut Process) -> Client {
        let address = server.address().await;
        let address = address.unwrap_or_else(|end| panic!("{self}: {end:?}"));
        Client::new(address.to_string())
    }

    /// Looks, and asks for nothing, until the call has its answer, or is in doubt for as long as the
    /// server takes to look for what it can go on with: then there is none.
    async fn until_settled(&self, client: &Client) -> Option<Receipt> {
        let give_up_at = Instant::now() + LOOKED_FOR;
        while Instant::now() < give_up_at {
            match client.peek(self.key(), &ORDER).await {
                Ok(Known::Completed(answer)) => return Some(answer.unwrap()),
                Ok(Known::InDoubt(_) | Known::InProgress) | Err(_) => sleep(LOOK).await,
                Ok(other) => panic!("{self}: {other:?}"),
            }
        }
        None
    }

    /// The operator looks at the till, and says what became of the shipping.
    async fn resolve(&self, folder: &Path) {
        let store = SledStore::open_async(folder.join("store"), SledOptions::new()).await;
        let store = store.unwrap();
        let state = store.peek(self.scoped_key()).await.unwrap();
        let KeyState::InDoubt(doubt) = state else {
            panic!("{self}: {state:?}");
        };
        let what = match self.shipped(folder).pop() {
            Some(receipt) => StepResolution::Done(Steps::result_bytes(&receipt).unwrap()),
            None => StepResolution::NotExecuted,
        };
        let name = StepName::parse("ship").unwrap();
        let resolved = store.resolve_step(self.scoped_key(), doubt.token, name, what);
        resolved.await.unwrap();
        store.close().await.unwrap();
    }

    fn shipped(&self, folder: &Path) -> Vec<Receipt> {
        let lines = Till::read(folder).into_iter();
        let own = lines.filter(|(operation, _)| *operation == self.operation);
        own.map(|(_, receipt)| receipt).collect()
    }

    /// Each step had its effect once, and the answer is of that one.
    fn judge(&self, folder: &Path, bank: &Bank, receipt: &Receipt) {
        assert_eq!(bank.charged(self.operation), 1, "{self}");
        assert_eq!(bank.charged(thanks_of(self.operation)), 1, "{self}");
        let lines = Till::read(folder);
        for Order { operation } in self.all_orders() {
            let effects = [
                bank.charged(operation),
                bank.charged(thanks_of(operation)),
                lines.iter().filter(|(of, _)| *of == operation).count(),
            ];
            assert!(
                effects.iter().all(|count| *count <= 1),
                "{self}: {effects:?}"
            );
        }
        let shipped = self.shipped(folder);
        assert_eq!(&shipped[..], std::slice::from_ref(receipt), "{self}");
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}, {:?}", self.operation, self.kills)
    }
}

// === impl Became ===

impl Found for Became {}

impl fmt::Display for Became {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "finished",
            Self::InDoubtEffectMade => "in doubt, effect made",
            Self::InDoubtNoEffect => "in doubt, no effect",
        })
    }
}

fn key(order: Order) -> IdempotencyKey {
    IdempotencyKey::parse(&format!("order-{}", order.operation)).unwrap()
}

fn start(folder: &Path, bank: &Bank, kill_at: &str, told: &[(&str, &str)]) -> Process {
    let bank = bank.address().to_string();
    let mut variables = vec![
        (FOLDER, folder.to_str().unwrap()),
        (BANK, bank.as_str()),
        (KILL_AT, kill_at),
    ];
    variables.extend(told);
    let test = "journal::child::serves_journaled_calls_until_it_is_killed_when_it_is_the_child";
    Process::spawn(test, &variables)
}

const CLAIMED: &str = "journal: claimed, handler not called";
const LISTED: &str = "journal: abandoned call listed, not claimed";
const INTERRUPTED: &str = "journal: interrupted, nobody told";
const FOUND: &str = "journal: found standing still, not claimed";
const BEGUN: &str = "journal: step begun, not run";
const RUN: &str = "journal: step run, result not kept";
const KEPT: &str = "journal: step kept, handler not told";

const READ: &str = "admin: resolution of a step read, nothing done";
const RESOLVED: &str = "admin: step resolved, nobody told";
const PARTS: &str = "checkpoint: parts of a record written, not named";

/// The first whose thanks stumble and whose receipt is long.
const LONG_FROM: u64 = THANKS_STUMBLE_FROM + 3;

/// Their receipts are larger than the log together.
const MANY: u64 = 7;

/// A life that is to be killed comes to its point within it, also where it waits for a second look.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server looks for what it can go on with when it starts, and every ten seconds or so.
const LOOKED_FOR: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// So long that whoever was told too early goes on.
const LINGER_MS: u64 = 30;

/// A run waits for disks and for processes to start more than it computes.
const AT_ONCE: usize = 6;
