//! Who waits for another server's call hears when that is settled. A word that is lost costs no more than
//! the time until the next look.

use std::time::Duration;

use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{DoubtReason, Store as _};
use tokio::time::timeout;

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig;

/// Far longer than it takes, for a machine that is busy; nobody looks meanwhile.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_server_hears_when_another_one_settles_a_call() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let options = postgres_rig::options(server);
        let store = postgres_rig::store(options.clone()).await;
        let other = postgres_rig::store(options).await;
        wait_until_it_listens(&other, &store).await;
        for number in 0..4 {
            let key = key(&format!("call-{number}"));
            let claim = match number {
                3 => given(store.begin(request(&key)).await.unwrap()),
                _ => given(store.claim(request(&key)).await.unwrap()),
            };
            let told = other.until_told(&key);
            match number {
                0 => store.complete(claim, answer("paid")).await.unwrap(),
                1 => store.release(claim).await.unwrap(),
                2 => {
                    let doubted = store.doubt(claim, DoubtReason::Ambiguous, None);
                    doubted.await.unwrap();
                }
                _ => {
                    let work = store.start(&claim).end().unwrap();
                    store.commit(claim, work, answer("paid")).await.unwrap();
                }
            }
            timeout(SOON, told).await.expect("it is told");
        }
        // A word about one key is none about another.
        let told = other.until_told(&key("another"));
        let claim = given(store.claim(request(&key("call-9"))).await.unwrap());
        store.complete(claim, answer("paid")).await.unwrap();
        assert!(timeout(Duration::from_millis(300), told).await.is_err());
    });
}

/// The connection over which it is told is cut: nothing is lost but the word, and the next one is heard
/// over a new connection.
#[test]
fn a_listener_that_was_cut_off_loses_words_and_no_answers_and_listens_again() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options.clone()).await;
        let other = postgres_rig::store(options).await;
        wait_until_it_listens(&other, &store).await;
        let client = server.client().await;
        let claim = given(store.claim(request(&key("a"))).await.unwrap());
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = '{schema}' AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')"
        );
        client.batch_execute(&cut).await.unwrap();
        store.complete(claim, answer("paid")).await.unwrap();
        assert_eq!(replayed(&other, &key("a")).await, answer("paid"));
        wait_until_it_listens(&other, &store).await;
    });
}

/// Connections are made while the store is already in use.
async fn wait_until_it_listens(
    hears: &onlyonce_storage::postgres::PostgresStore,
    tells: &onlyonce_storage::postgres::PostgresStore,
) {
    for round in 0..200 {
        let key = key(&format!(
            "listens-{round}-{}",
            onlyonce_storage::IdempotencyKey::unique().as_str()
        ));
        let told = hears.until_told(&key);
        let claim = given(tells.claim(request(&key)).await.unwrap());
        tells.release(claim).await.unwrap();
        if timeout(Duration::from_millis(100), told).await.is_ok() {
            return;
        }
    }
    panic!("nothing is ever told");
}
