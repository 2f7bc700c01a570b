//! What clients do in a run of one call, or of the few that it takes to come to a point.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use onlyonce::admin::{self, AdminReply, AdminRequest, KeyName, Outcome, StateView};
use onlyonce::rpc::{Channel, ChannelOptions, Client, Method};
use onlyonce_chaos::ledger::Ending;

use crate::clients::{ending, key, layers};
use crate::orders::{Declined, Order, Receipt};
use crate::sources::is_about_doubts;

/// In doubt the first time; see `child.rs` for the handler and its hook.
pub const CHECK: Method<Order, Receipt, Declined> = Method::new("till.check");

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// A Claimed call, answered, and asked about and made again.
    Again,
    /// A Transactional call.
    Book,
    /// A Transactional call, answered, and asked about and made again.
    BookAgain,
    /// Two of them, of which one runs again.
    Books,
    /// Eight Claimed calls at once.
    Crowd,
    /// A Transactional call among them.
    CrowdAndBook,
    /// A call that ends in doubt, and is made again: see [`Check`].
    Doubted(Check),
    /// The handler pays and says that it does not know.
    Doubtful,
    /// A Claimed call.
    Pay,
    /// The handler says, once, that it executed nothing.
    Refuse,
    /// An operator seals a key that nobody used.
    Seal,
    /// A handler that runs for longer than a third of its lease, and a duplicate meanwhile.
    Slow,
}

/// What becomes of a call in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// It had its effect, as the hook finds out.
    Applied,
    /// It had none, and its first re-run says that it had none either.
    ForNothing,
    /// It had none, and runs again.
    NotApplied,
    /// An operator says that it had none.
    Resolved,
}

// === impl Script ===

impl Script {
    /// The first that passes a point says what becomes of a Claimed call there.
    pub const CLAIMED: [Self; 6] = [
        Self::Pay,
        Self::Refuse,
        Self::Doubtful,
        Self::Slow,
        Self::Again,
        Self::Crowd,
    ];

    pub const TRANSACTIONAL: [Self; 4] =
        [Self::Book, Self::BookAgain, Self::Books, Self::CrowdAndBook];

    pub const DOUBTS: [Self; 5] = [
        Self::Doubted(Check::Applied),
        Self::Doubted(Check::NotApplied),
        Self::Doubted(Check::ForNothing),
        Self::Doubted(Check::Resolved),
        Self::Seal,
    ];

    /// The calls that it makes. What becomes of each is looked at.
    pub fn operations(self) -> Vec<u64> {
        match self {
            Self::Again | Self::Pay => vec![1],
            Self::Book | Self::BookAgain => vec![10],
            Self::Books => vec![10, 22],
            Self::Crowd => (0..8).map(|call| 12 * call + 1).collect(),
            Self::CrowdAndBook => [vec![10], Self::Crowd.operations()].concat(),
            Self::Doubted(check) => vec![check.operation()],
            Self::Doubtful => vec![7],
            Self::Refuse => vec![2],
            Self::Seal => vec![SEALED],
            Self::Slow => vec![4],
        }
    }

    /// Whether every passing of a point is told in the manual, or only the first.
    pub const fn is_plain(self) -> bool {
        matches!(self, Self::Book | Self::Pay)
    }

    /// Whether it says what happens at this point. Where several calls are made at once the other
    /// points are not always passed in one order.
    pub fn is_about(self, point: &str) -> bool {
        match self {
            Self::Books => point == LOST,
            Self::Crowd | Self::CrowdAndBook => point == GROUP,
            Self::Doubted(_) | Self::Seal => is_about_doubts(point),
            _ => !is_about_doubts(point),
        }
    }

    /// Plays it, through whatever befalls the server, and says how each call ended at last.
    pub async fn play(self, client: &Client, folder: &Path) -> Vec<Ending> {
        let call = async |operation| {
            let order = Order { operation };
            let ended = client.call_as(key(order), &method(order), &order).await;
            ending(order, ended)
        };
        match self {
            Self::Again | Self::BookAgain => {
                let operation = self.operations()[0];
                let first = call(operation).await;
                let order = Order { operation };
                while client.peek(key(order), &method(order)).await.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                assert_eq!(call(operation).await, first);
                vec![first]
            }
            Self::Doubted(check) => {
                let mut ended = call(check.operation()).await;
                if check == Check::Resolved {
                    assert_eq!(ended, Ending::InDoubt);
                    resolve(folder).await;
                }
                while ended == Ending::InDoubt {
                    ended = call(check.operation()).await;
                }
                vec![ended]
            }
            Self::Seal => {
                let request = AdminRequest::Seal { key: name(SEALED) };
                while admin::ask(store(folder), &request).await.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                // No call was made.
                vec![Ending::Unknown]
            }
            Self::Slow => {
                let twin = async {
                    tokio::time::sleep(TWIN_COMES).await;
                    call(4).await
                };
                let (first, twin) = tokio::join!(call(4), twin);
                assert_eq!(first, twin);
                vec![first]
            }
            _ => join_all(self.operations().into_iter().map(call)).await,
        }
    }
}

// === impl Check ===

impl Check {
    const ALL: [Self; 4] = [
        Self::Applied,
        Self::ForNothing,
        Self::NotApplied,
        Self::Resolved,
    ];

    pub fn of(order: Order) -> Self {
        let check = Self::ALL.into_iter();
        let mut check = check.filter(|check| check.operation() == order.operation);
        check.next().unwrap()
    }

    const fn operation(self) -> u64 {
        101 + self as u64
    }
}

/// What the calls of scripts are made with.
pub fn method(order: Order) -> Method<Order, Receipt, Declined> {
    if order.operation < SEALED {
        order.method()
    } else {
        CHECK
    }
}

/// Whose attempts have no end. Dropping it says goodbye to the server, which passes points too.
pub fn client(address: SocketAddr) -> Client {
    let channel = Channel::new(address.to_string(), ChannelOptions::default());
    Client::with_stack(channel, layers())
}

/// As operators do: look, find out, say so, and look again where nothing was heard.
async fn resolve(folder: &Path) {
    std::fs::write(folder.join(RESOLVED), "").unwrap();
    let key = name(Check::Resolved.operation());
    loop {
        let show = AdminRequest::Show {
            key: key.clone(),
            with_answer: false,
        };
        if let Ok(AdminReply::Key(view)) = admin::ask(store(folder), &show).await {
            if view.state == StateView::Absent {
                return;
            }
            let request = AdminRequest::Resolve {
                key: key.clone(),
                token: view.record.unwrap().token,
                outcome: Outcome::NotApplied,
                by: "carol".to_owned(),
            };
            if admin::ask(store(folder), &request).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Whether an operator has found out that the call had no effect; then it runs as any other.
pub fn is_resolved(folder: &Path) -> bool {
    folder.join(RESOLVED).exists()
}

fn name(operation: u64) -> KeyName {
    KeyName {
        principal: None,
        operation: Some(CHECK.name().to_owned()),
        key: key(Order { operation }).as_str().to_owned(),
    }
}

fn store(folder: &Path) -> std::path::PathBuf {
    folder.join("store")
}

const LOST: &str = "dedupe: transaction lost, not run again";
const GROUP: &str = "syncer: next group let go, this one not answered";

const RESOLVED: &str = "resolved";

const SEALED: u64 = 100;

const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The first is with its handler by then, and stays there for most of a second.
const TWIN_COMES: Duration = Duration::from_millis(200);
