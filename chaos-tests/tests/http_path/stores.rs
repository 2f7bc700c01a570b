//! Servers that do not share a store, lost theirs, or have none.

use std::net::SocketAddr;
use std::time::Duration;

use onlyonce::http::Status;
use onlyonce::middleware::client::{Outcome, Stopped};
use onlyonce_chaos::ledger::{History, Operation, Verdict, check};
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::bank::{Bank, Books, Folder};
use super::teller::{BOTH, FEW, ONE_ATTEMPT, Patience, client, ending, fresh, network, pay};

/// Gives connections to these servers in turn.
async fn balancer(servers: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for server in servers.into_iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                // OK because either end may break off.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    addr
}

// B22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_over_two_stores_makes_no_payment_twice() {
    let (folders, books) = ([Folder::new(), Folder::new()], Books::default());
    let banks = [
        Bank::open(folders[0].open().await, &books),
        Bank::open(folders[1].open().await, &books),
    ];
    let mut history = History::new();
    for over in BOTH {
        for (lost, servers) in [
            (1, vec![0, 1]),
            (2, vec![0, 1, 0]),
            (2, vec![0, 0, 1]),
            (9, vec![1, 0]),
        ] {
            let networks = [
                network(banks[0].addr, 0, Plan::none()).await,
                network(banks[1].addr, 0, Plan::none()).await,
            ];
            let servers = servers.iter().map(|&which: &usize| networks[which].addr());
            let balancer = balancer(servers.collect()).await;
            let outside = network(
                balancer,
                0,
                Plan::none().rule(Rule::new(Direction::ToClient, Fault::Close).nth(lost)),
            )
            .await;
            for number in 0..6 {
                let key = format!("{over:?}-{lost}-{}-{number}", outside.addr());
                let client = client(over, FEW);
                let paid = pay(&client, outside.addr(), fresh(&key), "order").await;
                history.push(
                    Operation::new(key, "order")
                        .attempts(1)
                        .ended(ending(&paid)),
                );
            }
        }
    }
    let report = check(&history, &books.effects());
    println!("{report}");
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    assert!(report.figures().answered > 0, "{report}");
}

// B22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_resumed_at_a_wiped_store_is_not_made_again() {
    let books = Books::default();
    for over in BOTH {
        let folder = Folder::new();
        let bank = Bank::open(folder.open().await, &books);
        let lost = Plan::none().rule(Rule::answer_lost(0).nth(2));
        let network = network(bank.addr, 0, lost).await;
        let impatient = Patience {
            attempt_timeout: Duration::from_millis(500),
            ..ONE_ATTEMPT
        };
        let client = client(over, impatient);
        let key = format!("{over:?}-1");
        let before = books.effects().len();
        let paid = pay(&client, network.addr(), fresh(&key), "order").await;
        let error = paid.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown);
        bank.kill().await;
        let wiped = Folder::new();
        let bank = Bank::open(wiped.open().await, &books);
        network.set_upstream(bank.addr);
        network.cut();
        let again = pay(&client, network.addr(), error.ticket, "order").await;
        let error = again.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{error}");
        assert_eq!(books.effects().len(), before + 1);
    }
}

// H4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_the_layer_is_sent_a_payment_once_whatever_is_lost() {
    let books = Books::default();
    let bank = Bank::unprotected(&books);
    for over in BOTH {
        for byte in (0..200).step_by(10) {
            let lost = Rule::new(Direction::ToClient, Fault::Close);
            let network = network(
                bank.addr,
                0,
                Plan::none().rule(lost.after_bytes(byte).nth(2)),
            )
            .await;
            let key = format!("{over:?}-{byte}");
            let before = books.effects().len();
            let paid = pay(&client(over, FEW), network.addr(), fresh(&key), "order").await;
            match paid {
                // The answer is shorter.
                Ok(answer) => assert_eq!(Status::of(answer.headers()), None),
                Err(error) => {
                    assert_eq!(error.outcome, Outcome::Unknown, "{error}");
                    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe, "{error}");
                    // Nor is it sent again later.
                    let client = client(over, FEW);
                    let again = pay(&client, network.addr(), error.ticket, "order").await;
                    assert_eq!(again.unwrap_err().outcome, Outcome::Unknown);
                }
            }
            assert_eq!(books.effects().len(), before + 1, "{byte}");
        }
    }
}
