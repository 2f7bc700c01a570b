//! What lies in the tables of journals: when it goes, whose it is, and how it got there.

use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::postgres::{OpenError, PostgresStore};
use onlyonce_storage::{
    ClaimOutcome, DoubtReason, FencingToken, Inspect as _, Journal as _, NoteError, Operator,
    Resolution, SettleError, StepNote, Store as _,
};

use crate::calls::{LEASE, answer, given, key, replayed, request, run};
use crate::journals::{Values, done, journaled, kept, noted, rows, step, told};
use crate::postgres_rig;

/// However a call ends, nothing is left of its journal, by which the next one under its key could go on.
#[test]
fn nothing_is_left_of_the_journal_of_a_call_that_is_settled_or_removed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let by = || Operator::parse("alice").unwrap();
        for end in 0..6 {
            let name = key(&format!("end-{end}"));
            let claim = given(store.claim(journaled(&name, LEASE)).await.unwrap());
            noted(&store, &claim, done("reserve", "seat 7")).await;
            noted(&store, &claim, StepNote::begun(step("charge"))).await;
            assert_eq!(rows(server, &schema).await, 3);
            let token = claim.token();
            match end {
                0 => assert_eq!(store.complete(claim, answer("paid")).await, Ok(())),
                1 => assert_eq!(store.release(claim).await, Ok(())),
                2 | 3 => {
                    let left = store.doubt(claim, DoubtReason::Ambiguous, None).await;
                    assert_eq!(left, Ok(()));
                    assert_eq!(rows(server, &schema).await, 3);
                    let what = match end {
                        2 => Resolution::Applied(answer("paid")),
                        _ => Resolution::NotApplied,
                    };
                    let resolved = store.resolve(name, token, what, by()).await;
                    assert_eq!(resolved, Ok(()));
                }
                4 => {
                    // It is run again as a whole, by somebody who keeps no journal.
                    let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
                    assert_eq!(left, Ok(()));
                    let mut rerun = request(&name);
                    rerun.rerun_of = Some(token);
                    let claim = given(store.claim(rerun).await.unwrap());
                    assert_eq!(claim.journal(), None);
                }
                _ => {
                    let sql = format!("DELETE FROM {schema}.records WHERE key = $1");
                    let digest = name.digest().as_bytes().to_vec();
                    client.execute(&sql, &[&digest]).await.unwrap();
                }
            }
            assert_eq!(rows(server, &schema).await, 0, "{end}");
        }
    });
}

/// A program that knows of no journals has claimed the call anew, and may have run all of it: what was kept
/// before is not gone on with.
#[test]
fn a_call_that_a_program_without_journals_ran_again_does_not_go_on() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let claim = given(store.claim(journaled(&key("a"), LEASE)).await.unwrap());
        noted(&store, &claim, done("reserve", "seat 7")).await;
        // As its statement does: it says nothing of the journal.
        let anew = format!(
            "UPDATE {schema}.records SET state = 2, version = version + 1, reason = 3,
                sequence = nextval('{schema}.tokens')
            WHERE key = $1 AND incarnation = $2 AND sequence = $3 RETURNING sequence"
        );
        let (digest, [incarnation, sequence]) = told(&claim);
        let values: Values<'_> = [&digest, &incarnation, &sequence];
        let row = client.query_one(&anew, &values).await.unwrap();
        let sequence = u64::try_from(row.get::<_, i64>(0)).unwrap();
        let token = FencingToken::new(claim.token().incarnation(), sequence);
        assert!(store.abandoned(None, 10).await.unwrap().calls.is_empty());
        let mut rerun = journaled(&key("a"), LEASE);
        rerun.rerun_of = Some(token);
        let outcome = store.claim(rerun).await.unwrap();
        assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
        let nothing = StepResolution::NotExecuted;
        let resolved = store.resolve_step(key("a"), token, step("reserve"), nothing);
        assert_eq!(resolved.await, Err(SettleError::Fenced));
        let by = Operator::parse("alice").unwrap();
        let resolved = store.resolve(key("a"), token, Resolution::NotApplied, by);
        assert_eq!(resolved.await, Ok(()));
        assert_eq!(rows(server, &schema).await, 0);
        let claim = given(store.claim(journaled(&key("a"), LEASE)).await.unwrap());
        assert_eq!(kept(&claim), []);
    });
}

/// A store of the version before is brought to this one with its records, and by nobody else than who
/// migrates; what was in progress goes on.
#[test]
fn a_store_that_knew_no_journals_is_migrated_with_its_records() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let client = server.client().await;
        let begin = format!(
            "CREATE SCHEMA {schema};
            CREATE TABLE {schema}.migrations (
                number integer PRIMARY KEY, name text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
            )"
        );
        client.batch_execute(&begin).await.unwrap();
        for migration in PostgresStore::migrations(&schema).unwrap() {
            if migration.number <= 4 {
                client.batch_execute(&migration.sql).await.unwrap();
                let note =
                    format!("INSERT INTO {schema}.migrations (number, name) VALUES ($1, $2)");
                let told: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
                    [&migration.number, &migration.name];
                client.execute(&note, &told).await.unwrap();
            }
        }
        let make = format!(
            "INSERT INTO {schema}.store
            SELECT true, decode(repeat('07', 16), 'hex'), 1, {schema}.place(), t, 0, t
            FROM (SELECT {schema}.now_ms() AS t) clock"
        );
        client.batch_execute(&make).await.unwrap();
        // As a program of that version says it.
        let (done, running) = (request(&key("done")), request(&key("running")));
        for request in [&done, &running] {
            let scope = request.key.scope();
            let sql = format!(
                "SELECT verdict FROM {schema}.claim(
                    NULL, $1, 1, $2, $3, NULL, $4, 1, $5, $6, 30000,
                    NULL, NULL, NULL, NULL, NULL, NULL, 60000, false, 100, 100
                )"
            );
            let values: [Vec<u8>; 6] = [
                request.key.digest().as_bytes().to_vec(),
                scope.digest().as_bytes().to_vec(),
                scope.principal_name().unwrap().as_bytes().to_vec(),
                request.key.key().as_str().as_bytes().to_vec(),
                request.fingerprints.current().digest().to_vec(),
                request.attempt.as_bytes().to_vec(),
            ];
            let told: Vec<_> = values
                .iter()
                .map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync))
                .collect();
            let row = client.query_one(&sql, &told).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 1, "claimed");
        }
        let complete = format!(
            "SELECT {schema}.complete(NULL, key, incarnation, sequence, 86400000, 60000, 7, $2, false)
            FROM {schema}.records WHERE key = $1"
        );
        let told: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&done.key.digest().as_bytes().to_vec(), &b"paid".to_vec()];
        client.query_one(&complete, &told).await.unwrap();

        let refused = PostgresStore::open(options.clone()).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::OlderSchema { found: 4, .. }),
            "{refused}"
        );
        let newest = PostgresStore::migrations(&schema).unwrap().len();
        let expected: Vec<_> = (5..=i32::try_from(newest).unwrap()).collect();
        assert_eq!(PostgresStore::migrate(&options).await, Ok(expected));
        let store = PostgresStore::open(options).await.unwrap();
        assert_eq!(replayed(&store, &key("done")).await, answer("paid"));
        // The same attempt asks again: its claim is there, and keeps no journal.
        let claim = given(store.claim(running).await.unwrap());
        assert_eq!(claim.journal(), None);
        let note = StepNote::begun(step("charge"));
        let refused = store.note(claim.digest(), claim.token(), note).await;
        assert!(matches!(refused, Err(NoteError::Refused(_))), "{refused:?}");
        assert_eq!(store.complete(claim, answer("paid too")).await, Ok(()));
        assert_eq!(replayed(&store, &key("running")).await, answer("paid too"));
        let claim = given(store.claim(journaled(&key("new"), LEASE)).await.unwrap());
        noted(&store, &claim, StepNote::begun(step("charge"))).await;
        assert_eq!(store.release(claim).await, Ok(()));
    });
}
