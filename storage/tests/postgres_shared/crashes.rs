//! The database is killed with -9 in the middle of calls, and started again on what is on its disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_storage::postgres::PostgresStore;
use onlyonce_storage::{Answer, ClaimOutcome, FencingToken, SettleError, Store as _};
use parking_lot::Mutex;

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

/// What the calls have seen.
#[derive(Default)]
struct Seen {
    /// Each is one execution.
    claims: HashMap<String, Vec<FencingToken>>,
    acknowledged: HashMap<String, Answer>,
    /// Told so by the store.
    fenced: u32,
}

/// A2, G3: of what was acknowledged nothing is lost, no key is executed twice, and what is not known is
/// in doubt. Each store has to find its way back by itself.
#[test]
fn a_database_that_is_killed_in_the_middle_of_calls_loses_nothing_that_was_acknowledged() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    run(async {
        let options = postgres_rig::options(&server).answer_within(Duration::from_secs(10));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let over = Arc::new(AtomicBool::new(false));
        let mut stores = vec![Arc::new(postgres_rig::store(options.clone()).await)];
        for _ in 0..2 {
            let another = PostgresStore::open(options.clone()).await.unwrap();
            stores.push(Arc::new(another));
        }
        let callers: Vec<_> = (0..24)
            .map(|caller| {
                let store = Arc::clone(&stores[caller % 3]);
                let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
                tokio::spawn(async move { make_calls(&store, caller, &seen, &over).await })
            })
            .collect();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.crash();
            tokio::time::sleep(Duration::from_millis(200)).await;
            // What the killed one left in memory is cleaned away by the next.
            server.up();
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        over.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        let seen = std::mem::take(&mut *seen.lock());
        assert!(
            seen.acknowledged.len() > 200,
            "{} calls",
            seen.acknowledged.len()
        );
        let executions = seen.claims.values().map(Vec::len);
        assert_eq!(executions.max(), Some(1), "no key was executed twice");
        assert_eq!(
            seen.fenced, 0,
            "nobody was told that another has taken over"
        );
        for (name, recorded) in &seen.acknowledged {
            assert_eq!(&replayed(&*stores[0], &key(name)).await, recorded, "{name}");
        }
        let tokens: Vec<_> = seen.claims.values().flatten().collect();
        let different: HashSet<_> = tokens.iter().collect();
        assert_eq!(tokens.len(), different.len(), "no token was given twice");
        // B12: also what is given after all of them.
        let last = given(stores[1].claim(request(&key("last"))).await.unwrap());
        assert!(tokens.into_iter().all(|earlier| *earlier < last.token()));
    });
}

/// Every other caller shares its keys with its neighbour.
async fn make_calls(store: &PostgresStore, caller: usize, seen: &Mutex<Seen>, over: &AtomicBool) {
    for call in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let name = format!("{}-{call}", caller / 2);
        // A failed question is asked once more, as a client would.
        for _ in 0..2 {
            match store.claim(request(&key(&name))).await {
                Ok(ClaimOutcome::Claimed(claim)) => {
                    let token = claim.token();
                    seen.lock()
                        .claims
                        .entry(name.clone())
                        .or_default()
                        .push(token);
                    let body = answer(format!("{name} by {caller}"));
                    match store.complete(claim, body.clone()).await {
                        Ok(()) => {
                            seen.lock().acknowledged.insert(name.clone(), body);
                        }
                        Err(SettleError::Fenced) => seen.lock().fenced += 1,
                        Err(_) => {}
                    }
                    break;
                }
                Ok(_) => break,
                Err(_) => {}
            }
        }
    }
}

/// B12: also where the database was stopped in order, and where it was not.
#[test]
fn tokens_given_after_a_restart_of_the_database_are_larger() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    run(async {
        let store = postgres_rig::store(postgres_rig::options(&server)).await;
        let mut last = FencingToken::new(0, 0);
        for round in 0..4 {
            for call in 0..5 {
                let claim = given(
                    store
                        .claim(request(&key(&format!("{round}-{call}"))))
                        .await
                        .unwrap(),
                );
                assert!(claim.token() > last, "{:?} after {last:?}", claim.token());
                last = claim.token();
                assert_eq!(store.release(claim).await, Ok(()));
            }
            if round % 2 == 0 {
                server.crash();
                tokio::time::sleep(Duration::from_millis(100)).await;
            } else {
                server.stop();
            }
            server.up();
        }
    });
}
