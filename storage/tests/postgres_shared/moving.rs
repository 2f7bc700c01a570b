//! E12: a schema that is moved to another server takes its records along.

use onlyonce_storage::postgres::PostgresStore;
use onlyonce_storage::{ClaimOutcome, DoubtReason, Inspect as _, KeyState, Store as _};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

/// E12: what was answered is replayed there, what was in doubt is in doubt, tokens go on growing. And a call
/// that was sent before the move and has no record there may have been executed by who stayed behind: it is
/// refused.
#[test]
fn a_schema_that_is_moved_to_another_server_takes_its_records_along() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    let Some(other) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let claim = given(store.claim(request(&key("paid"))).await.unwrap());
        store.complete(claim, answer("paid")).await.unwrap();
        let claim = given(store.claim(request(&key("doubted"))).await.unwrap());
        let token = claim.token();
        let doubted = store.doubt(claim, DoubtReason::Ambiguous, None);
        doubted.await.unwrap();
        let mut sent_before = request(&key("sent-before"));
        sent_before.first_sent = Some(store.now());

        server.copy_schema(&schema, &other);
        let options = onlyonce_storage::postgres::PostgresOptions::new(other.url()).schema(&schema);
        let there = PostgresStore::open(options).await.unwrap();
        assert_eq!(there.id(), store.id());
        assert_eq!(replayed(&there, &key("paid")).await, answer("paid"));
        let state = there.peek(key("doubted")).await.unwrap();
        assert!(
            matches!(&state, KeyState::InDoubt(doubt) if doubt.token == token),
            "{state:?}"
        );
        let outcome = there.claim(sent_before).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        let claim = given(there.claim(request(&key("new"))).await.unwrap());
        assert!(claim.token() > token);
        there.complete(claim, answer("new")).await.unwrap();
        assert_eq!(there.stats().await.unwrap().open.in_doubt, 1);
    });
}
