//! E6: one clock judges, the database's.

use std::time::Duration;

use onlyonce_storage::{ClaimOutcome, Clock as _, DoubtReason, Inspect as _, KeyState};
use onlyonce_storage::{SettleError, Store as _, SystemClock};

use crate::calls::{LEASE, answer, given, key, leased, replayed, request, run};
use crate::postgres_rig;

/// E6: two processes may have any clocks. A lease lapses when the database's clock says so, at once
/// for all, and a token that was given under another clock is still the larger one.
#[test]
fn leases_are_judged_by_the_clock_of_the_database_alone() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let one = postgres_rig::store(options.clone()).await;
        let other = onlyonce_storage::postgres::PostgresStore::open(options)
            .await
            .unwrap();
        let mut claim = given(one.claim(request(&key("a"))).await.unwrap());
        let token = claim.token();
        // Both are on this machine: what they are told is its time.
        let here = SystemClock.now();
        let apart = here.since(one.now()).max(one.now().since(here));
        assert!(apart < Duration::from_secs(60), "{apart:?}");

        // The database's clock is set an hour forward; no process' clock is.
        let client = server.client().await;
        let set = |hours: i64| {
            format!(
                "CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
                    + {hours} * 3600000'"
            )
        };
        client.batch_execute(&set(1)).await.unwrap();
        for store in [&one, &other] {
            let ClaimOutcome::InDoubt(doubt) = store.claim(request(&key("a"))).await.unwrap()
            else {
                panic!("its lease has lapsed");
            };
            assert_eq!(
                (doubt.token, doubt.reason),
                (token, DoubtReason::LeaseLapsed)
            );
            let told = store.now().since(here);
            assert!(told > Duration::from_secs(3_500), "told {told:?}");
        }
        assert_eq!(one.renew(&mut claim, LEASE).await, Err(SettleError::Fenced));
        // An hour of a clock is no hour of a process: nothing is forgotten by it.
        let swept = one.sweep().await.unwrap();
        assert!(swept.paused.is_some(), "{swept:?}");
        assert_eq!(one.confirm_clock().await, Ok(()));
        assert_eq!(one.sweep().await.unwrap().paused, None);

        // Set back again: a claim that is given now is the newer one all the same.
        client.batch_execute(&set(0)).await.unwrap();
        let second = given(other.claim(request(&key("b"))).await.unwrap());
        assert!(second.token() > token);
        assert_eq!(other.complete(second, answer("b")).await, Ok(()));
        // And the first owner may still say what happened.
        assert_eq!(one.complete(claim, answer("a")).await, Ok(()));
        assert_eq!(replayed(&other, &key("a")).await, answer("a"));
    });
}

/// The time of the database passes without anybody telling it.
#[test]
fn a_lease_lapses_by_itself_and_a_renewal_keeps_it() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let store = postgres_rig::store(postgres_rig::options(server)).await;
        let short = Duration::from_millis(1_500);
        let kept = key("kept");
        let mut kept_claim = given(store.claim(leased(&kept, short)).await.unwrap());
        let left = given(store.claim(leased(&key("left"), short)).await.unwrap());
        for _ in 0..6 {
            tokio::time::sleep(short / 4).await;
            assert_eq!(store.renew(&mut kept_claim, short).await, Ok(()));
        }
        let state = store.peek(key("left")).await.unwrap();
        assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
        let state = store.peek(kept).await.unwrap();
        assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
        assert_eq!(store.release(left).await, Ok(()));
        assert_eq!(store.complete(kept_claim, answer("paid")).await, Ok(()));
    });
}
