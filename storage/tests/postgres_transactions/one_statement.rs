//! Calls whose whole effect is one statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_storage::postgres::{
    Isolation, OneStatement, OneStatementOutcome, PostgresOptions, PostgresStore, SqlValue,
};
use onlyonce_storage::transaction::{CommitError, TransactionError, TransactionalStore as _};
use onlyonce_storage::{
    ClaimOutcome, ClaimRequest, ScopedKey, SessionCall, SessionRequest, SessionState, Store as _,
    StoreError, StoreLimits, Timestamp,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bank::{Bank, LEVELS, begin, commit, is_absent, replayed, with_a_bank};
use crate::calls::{answer, given, key, request, run};
use crate::postgres_rig::{self, Server};

const ADD: &str = "UPDATE {schema}.accounts SET cents = cents + $1 WHERE name = $2";

/// Adds to bob's account, in one statement.
async fn add(
    store: &PostgresStore,
    bank: &Bank,
    request: ClaimRequest,
    cents: i64,
) -> Result<OneStatementOutcome, StoreError> {
    execute(store, request, &bank.sql(ADD), &[&cents, &"bob"]).await
}

async fn execute(
    store: &PostgresStore,
    request: ClaimRequest,
    sql: &str,
    values: &[&dyn SqlValue],
) -> Result<OneStatementOutcome, StoreError> {
    let effect = OneStatement::new(sql, values).rows(1);
    store.execute_once(request, effect, answer("paid")).await
}

fn is_executed(outcome: &Result<OneStatementOutcome, StoreError>) -> bool {
    matches!(outcome, Ok(OneStatementOutcome::Executed { rows: 1 }))
}

fn body_of(outcome: Result<OneStatementOutcome, StoreError>) -> String {
    match outcome {
        Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Completed(completion))) => {
            String::from_utf8(completion.answer.body().to_vec()).unwrap()
        }
        other => panic!("its answer should be told, and it is {other:?}"),
    }
}

fn new_session(state: Result<SessionState, StoreError>) -> u64 {
    match state {
        Ok(SessionState::Live { session, .. }) => session,
        other => panic!("{other:?}"),
    }
}

fn in_session(key: &ScopedKey, session: u64, sequence: u64) -> ClaimRequest {
    let mut asked = request(key);
    asked.session = Some(SessionCall {
        session,
        sequence,
        first_unanswered: 1,
    });
    asked
}

/// A2: whoever comes again is told the answer, by whatever way he comes; so does who counts what is open, at
/// every level of isolation.
#[test]
fn an_effect_of_one_statement_happens_once_and_its_answer_is_replayed() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let store = bank.store_with(bank.options.clone().isolation(level)).await;
            let before = bank.cents("bob").await;
            // The first has the open calls of its scope counted, the others not.
            for number in 0..3 {
                let key = key(&format!("{level:?}-{number}"));
                assert!(is_executed(&add(&store, &bank, request(&key), 5).await));
                assert_eq!(body_of(add(&store, &bank, request(&key), 5).await), "paid");
                assert_eq!(replayed(&store, &key).await, "paid");
                let claim = store.claim(request(&key)).await;
                assert!(matches!(claim, Ok(ClaimOutcome::Completed(_))), "{claim:?}");
            }
            assert_eq!(bank.cents("bob").await, before + 15);
        }
        // Sent before anything that the store remembers.
        let long_ago = |name: &str| {
            let mut asked = request(&key(name));
            asked.first_sent = Some(Timestamp::from_millis(1));
            asked
        };
        let store = bank.store().await;
        let known = long_ago("ReadCommitted-1");
        assert_eq!(body_of(add(&store, &bank, known, 5).await), "paid");
        let late = add(&store, &bank, long_ago("late"), 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = late else {
            panic!("{late:?}");
        };
        let sealed = key("sealed");
        store.seal(sealed.clone()).await.unwrap();
        let late = add(&store, &bank, request(&sealed), 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = late else {
            panic!("{late:?}");
        };
        assert_eq!(bank.cents("bob").await, 145);
    });
}

/// A1: three servers race for the same keys, half of them with a transaction that is begun for a handler.
#[test]
fn of_many_racers_each_statement_is_executed_once() {
    with_a_bank(async |bank| {
        let bank = Arc::new(bank);
        let mut racers = Vec::new();
        for racer in 0..6 {
            let (bank, store) = (Arc::clone(&bank), bank.store().await);
            racers.push(tokio::spawn(async move {
                let mut executed = 0;
                for number in 0..100 {
                    let key = key(&format!("race-{number}"));
                    loop {
                        let outcome = if racer % 2 == 0 {
                            match add(&store, &bank, request(&key), 1).await {
                                Ok(OneStatementOutcome::Executed { rows: 1 }) => {
                                    executed += 1;
                                    break;
                                }
                                Ok(OneStatementOutcome::NotExecuted(outcome)) => outcome,
                                other => panic!("{other:?}"),
                            }
                        } else {
                            store.begin(request(&key)).await.unwrap()
                        };
                        match outcome {
                            ClaimOutcome::Completed(_) => break,
                            ClaimOutcome::InProgress { .. } => {}
                            ClaimOutcome::Claimed(claim) => {
                                let transaction = store.start(&claim);
                                bank.add(&transaction, "bob", 1).await.unwrap();
                                // Whom another one has overtaken begins again, and is told.
                                match commit(&store, claim, &transaction, "paid").await {
                                    Ok(()) => executed += 1,
                                    Err(CommitError::Conflict(_)) => {}
                                    Err(error) => panic!("{error}"),
                                }
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
                executed
            }));
        }
        let mut executed = 0;
        for racer in racers {
            executed += racer.await.unwrap();
        }
        assert_eq!(bank.cents("bob").await, 200);
        // One whose commit was in conflict and who came again is counted once all the same.
        assert_eq!(executed, 100);
    });
}

/// What does not change as many rows as it must has not happened, and nothing is recorded.
#[test]
fn a_statement_that_would_change_other_rows_leaves_nothing_and_frees_its_key() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let key = key("withdraw");
        let all = bank.sql("UPDATE {schema}.accounts SET cents = cents - $1");
        for _ in 0..3 {
            let other = execute(&store, request(&key), &all, &[&30_i64]).await;
            let Ok(OneStatementOutcome::OtherRows { rows: 2 }) = other else {
                panic!("{other:?}");
            };
            is_absent(&store, &key).await;
        }
        assert_eq!(
            (bank.cents("alice").await, bank.cents("bob").await),
            (100, 100)
        );
        assert!(is_executed(&add(&store, &bank, request(&key), 5).await));
        // Executed before, whatever it would change now.
        let again = execute(&store, request(&key), &all, &[&30_i64]).await;
        assert_eq!(body_of(again), "paid");
    });
}

/// What the database refuses is not told as refused where the reason is that the call was executed before.
#[test]
fn a_duplicate_that_would_be_refused_is_told_the_answer() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let insert = bank.sql("INSERT INTO {schema}.accounts VALUES ($1, $2)");
        let key = key("opens");
        for round in 0..3 {
            let opened = execute(&store, request(&key), &insert, &[&"carol", &7_i64]).await;
            if round == 0 {
                assert!(is_executed(&opened), "{opened:?}");
            } else {
                assert_eq!(body_of(opened), "paid");
            }
        }
        let another = crate::calls::key("opens-again");
        let refused = execute(&store, request(&another), &insert, &[&"carol", &7_i64]).await;
        let Ok(OneStatementOutcome::Refused(TransactionError::Statement(refused))) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(refused.code(), "23505");
        is_absent(&store, &another).await;
        let forbidden = execute(&store, request(&another), "COMMIT", &[]).await;
        let Ok(OneStatementOutcome::Refused(TransactionError::StatementForbidden { .. })) =
            forbidden
        else {
            panic!("{forbidden:?}");
        };
    });
}

/// A call that somebody executes is in progress, and nothing of the statement happens.
#[test]
fn a_statement_of_a_call_that_is_in_progress_does_nothing() {
    with_a_bank(async |bank| {
        let (store, other) = (bank.store().await, bank.store().await);
        let (held, claimed) = (key("held"), key("claimed"));
        let (claim, transaction) = begin(&store, &held).await;
        let row = given(store.claim(request(&claimed)).await.unwrap());
        for store in [&store, &other] {
            for key in [&held, &claimed] {
                let outcome = add(store, &bank, request(key), 5).await;
                let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::InProgress { .. })) = outcome
                else {
                    panic!("{outcome:?}");
                };
            }
        }
        assert_eq!(bank.cents("bob").await, 100);
        commit(&store, claim, &transaction, "theirs").await.unwrap();
        store.complete(row, answer("theirs")).await.unwrap();
        for key in [&held, &claimed] {
            assert_eq!(body_of(add(&other, &bank, request(key), 5).await), "theirs");
        }
        assert_eq!(bank.cents("bob").await, 100);
    });
}

/// E7: what was acknowledged is not executed again, nor what names a session that is somebody else's or none.
#[test]
fn a_statement_in_a_session_keeps_to_it() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let key = key("numbered");
        let scope = key.scope().clone();
        let session = new_session(store.session(scope.clone(), SessionRequest::Open).await);
        let asked = in_session(&key, session, 1);
        assert!(is_executed(&add(&store, &bank, asked.clone(), 5).await));
        assert_eq!(body_of(add(&store, &bank, asked.clone(), 5).await), "paid");
        // One number, one key.
        let second = in_session(&crate::calls::key("another"), session, 1);
        let taken = add(&store, &bank, second, 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = taken else {
            panic!("{taken:?}");
        };
        let done = SessionRequest::Acknowledge {
            session,
            first_unanswered: 2,
        };
        store.session(scope, done).await.unwrap();
        let late = add(&store, &bank, asked, 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = late else {
            panic!("{late:?}");
        };
        let theirs = onlyonce_storage::Scope::principal("somebody else").unwrap();
        let theirs = new_session(store.session(theirs, SessionRequest::Open).await);
        let foreign = in_session(&crate::calls::key("foreign"), theirs, 1);
        let foreign = add(&store, &bank, foreign, 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::UnknownSession)) = foreign else {
            panic!("{foreign:?}");
        };
        assert_eq!(bank.cents("bob").await, 105);
    });
}

/// F2: over quota nothing happens.
#[test]
fn a_statement_over_quota_does_nothing() {
    with_a_bank(async |bank| {
        let limits = StoreLimits::default().in_progress_max(1);
        let store = bank.store_with(bank.options.clone().limits(limits)).await;
        let claim = given(store.claim(request(&key("open"))).await.unwrap());
        let refused = add(&store, &bank, request(&key("next")), 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::OverQuota)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(bank.cents("bob").await, 100);
        store.complete(claim, answer("done")).await.unwrap();
        assert!(is_executed(
            &add(&store, &bank, request(&key("next")), 5).await
        ));
    });
}

/// B13: the answer is lost on the way. The caller is told that nobody knows, asks again, and one effect is there.
#[test]
fn a_statement_whose_answer_was_cut_off_has_happened_once() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        // One message for each statement, so that the answer which is lost is the one to this.
        let (loses, port) = losing(server).await;
        let url = format!("postgres://owner@127.0.0.1:{port}/postgres");
        let options = PostgresOptions::new(url)
            .schema(&bank.schema)
            .connections_max(2);
        let store = bank
            .store_with(options.without_listening().behind_pooler())
            .await;
        for number in 0..5 {
            let (warm, key) = (
                key(&format!("warm-{number}")),
                key(&format!("lost-{number}")),
            );
            assert!(is_executed(&add(&store, &bank, request(&warm), 1).await));
            loses.store(true, Ordering::SeqCst);
            let lost = add(&store, &bank, request(&key), 5).await;
            assert!(
                matches!(lost, Err(StoreError::Unavailable { .. })),
                "{lost:?}"
            );
            assert!(!loses.load(Ordering::SeqCst));
            assert_eq!(body_of(add(&store, &bank, request(&key), 5).await), "paid");
        }
        assert_eq!(bank.cents("bob").await, 130);
    });
}

/// Between a store and its database: once told, it loses the next answer, and the connection with it.
async fn losing(server: &Server) -> (Arc<AtomicBool>, u16) {
    let (loses, port) = (Arc::new(AtomicBool::new(false)), server.port);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let told = Arc::clone(&loses);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                tokio::spawn(carry(Arc::clone(&told), client, server));
            }
        }
    });
    (loses, own)
}

async fn carry(loses: Arc<AtomicBool>, mut client: TcpStream, mut server: TcpStream) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let done = tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                server.write_all(&asked[..count]).await
            }
            read = server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                if loses.swap(false, Ordering::SeqCst) {
                    return;
                }
                client.write_all(&answered[..count]).await
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// B7: in the instant in which a call is taken, another one may have settled it, so that its picture shows
/// nothing. There is one record for each key: its own cannot be written, and its effect is undone.
#[test]
fn whoever_is_overtaken_while_he_takes_a_call_has_no_effect_and_replays() {
    with_a_bank(async |bank| {
        let store = bank
            .store_with(bank.options.clone().isolation(Isolation::ReadCommitted))
            .await;
        let key = key("overtaken");
        // So that nothing is counted, and one statement takes the call.
        let (claim, transaction) = begin(&store, &crate::calls::key("first")).await;
        commit(&store, claim, &transaction, "first").await.unwrap();
        let (claim, transaction) = begin(&store, &key).await;
        commit(&store, claim, &transaction, "theirs").await.unwrap();
        bank.run(
            "CREATE TABLE {schema}.aside AS SELECT * FROM {schema}.records;
            DELETE FROM {schema}.records",
        )
        .await;
        let (claim, transaction) = begin(&store, &key).await;
        bank.run("INSERT INTO {schema}.records SELECT * FROM {schema}.aside")
            .await;
        bank.add(&transaction, "bob", 5).await.unwrap();
        let work = transaction.end().unwrap();
        let committed = store.commit(claim, work, answer("mine")).await;
        let Err(CommitError::Conflict(claim)) = committed else {
            panic!("{committed:?}");
        };
        let again = store.start(&claim);
        let late = bank.add(&again, "bob", 5).await;
        assert_eq!(late, Err(TransactionError::Superseded));
        assert_eq!(store.release(claim).await, Ok(()));
        assert_eq!(bank.cents("bob").await, 100);
        assert_eq!(replayed(&store, &key).await, "theirs");
    });
}

/// E7: that a row is there already says nothing of whether the call was executed.
#[test]
fn a_duplicate_of_what_is_forgotten_is_stale_also_where_its_statement_would_be_refused() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let insert = bank.sql("INSERT INTO {schema}.accounts VALUES ($1, $2)");
        let key = key("opened-once");
        let scope = key.scope().clone();
        let session = new_session(store.session(scope.clone(), SessionRequest::Open).await);
        let asked = in_session(&key, session, 1);
        let values: [&dyn SqlValue; 2] = [&"carol", &7_i64];
        let opened = execute(&store, asked.clone(), &insert, &values).await;
        assert!(is_executed(&opened), "{opened:?}");
        let done = SessionRequest::Acknowledge {
            session,
            first_unanswered: 2,
        };
        store.session(scope, done).await.unwrap();
        let late = execute(&store, asked, &insert, &values).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::Stale)) = late else {
            panic!("{late:?}");
        };
    });
}

/// The text of an effect is the caller's: nothing in it is taken for a part of ours.
#[test]
fn an_effect_says_what_it_says_and_reaches_nothing_of_ours() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let insert = bank.sql("INSERT INTO {schema}.accounts VALUES ") + "('{schema}', $1)";
        let opened = execute(&store, request(&key("braces")), &insert, &[&7_i64]).await;
        assert!(is_executed(&opened), "{opened:?}");
        let as_it_was = "SELECT count(*) FROM {schema}.accounts WHERE name = '{' || 'schema}'";
        assert_eq!(bank.number(as_it_was).await, 1);
        let unnamed = bank.sql("UPDATE {schema}.accounts SET cents = $3 WHERE name = $2");
        let values: [&dyn SqlValue; 2] = [&1_i64, &"bob"];
        let beyond = execute(&store, request(&key("beyond")), &unnamed, &values).await;
        let Ok(OneStatementOutcome::Refused(TransactionError::StatementForbidden { word })) =
            beyond
        else {
            panic!("{beyond:?}");
        };
        assert_eq!(word, "$3");
    });
}

/// A claim that was written and not heard of is somebody's: it is not taken over by a statement of the same request.
#[test]
fn a_statement_takes_over_no_claim_of_its_own_request() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let asked = request(&key("claimed-before"));
        let claim = given(store.claim(asked.clone()).await.unwrap());
        let outcome = add(&store, &bank, asked, 5).await;
        let Ok(OneStatementOutcome::NotExecuted(ClaimOutcome::InProgress { .. })) = outcome else {
            panic!("{outcome:?}");
        };
        store.release(claim).await.unwrap();
        assert_eq!(bank.cents("bob").await, 100);
    });
}
