//! The connection ends while a transaction is committed: it is found out what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use onlyonce_storage::Store as _;
use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::CommitError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bank::{Bank, begin, commit, is_absent, replayed};
use crate::calls::{key, run};
use crate::postgres_rig::{self, Durable, Server};

/// Between a store and its database. Once told, it cuts the connection over which the next `COMMIT` comes:
/// before that is passed on, or before its answer is; or it says what a pooler says of a server that died
/// before it answered.
#[derive(Clone, Default)]
struct Cutter(Arc<AtomicU8>);

const BEFORE: u8 = 1;
const AFTER: u8 = 2;
const CUT: u8 = 3;
const CRASHED: u8 = 4;

impl Cutter {
    async fn start(server: &Server) -> (Self, u16) {
        let (cutter, port) = (Self::default(), server.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let told = cutter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                    tokio::spawn(told.clone().carry(client, server));
                }
            }
        });
        (cutter, own)
    }

    async fn carry(self, mut client: TcpStream, mut server: TcpStream) {
        let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut commits = false;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(count @ 1..) = read else { return };
                    commits |= asked[..count].windows(7).any(|word| word == b"COMMIT\0");
                    if commits && self.when(BEFORE) {
                        return;
                    }
                    if server.write_all(&asked[..count]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(count @ 1..) = read else { return };
                    let done = answered[..count].windows(7).any(|word| word == b"COMMIT\0");
                    if commits && done && self.when(AFTER) {
                        return;
                    }
                    if commits && done && self.when(CRASHED) {
                        // OK because whoever is gone hears nothing.
                        let _ = client.write_all(&of_a_crash()).await;
                        return;
                    }
                    commits &= !done;
                    if client.write_all(&answered[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn when(&self, what: u8) -> bool {
        let cut = self
            .0
            .compare_exchange(what, CUT, Ordering::SeqCst, Ordering::SeqCst);
        cut.is_ok()
    }

    fn cut(&self, when: u8) {
        self.0.store(when, Ordering::SeqCst);
    }

    fn has_cut(&self) -> bool {
        self.0.load(Ordering::SeqCst) == CUT
    }
}

/// A store whose words to its database go through a cutter.
async fn behind_a_cutter(bank: &Bank, server: &Server) -> (Cutter, Arc<PostgresStore>) {
    let (cutter, port) = Cutter::start(server).await;
    let url = format!("postgres://owner@127.0.0.1:{port}/postgres");
    let options = PostgresOptions::new(url).schema(&bank.schema);
    (cutter, bank.store_with(options).await)
}

/// B13: the database has committed and its word is lost: the record says so.
#[test]
fn a_commit_whose_answer_was_cut_off_is_found_to_be_done() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let (cutter, store) = behind_a_cutter(&bank, server).await;
        for number in 0..5 {
            let key = key(&format!("done-{number}"));
            let (claim, transaction) = begin(&store, &key).await;
            bank.add(&transaction, "bob", 5).await.unwrap();
            cutter.cut(AFTER);
            commit(&store, claim, &transaction, "paid").await.unwrap();
            assert!(cutter.has_cut());
            assert_eq!(replayed(&store, &key).await, "paid");
        }
        assert_eq!(bank.cents("bob").await, 125);
    });
}

/// B13: a pooler's word that the server has crashed says nothing of a commit that the server had before: the
/// record is asked, and no call is told that nothing happened.
#[test]
fn a_commit_that_a_pooler_calls_crashed_is_found_to_be_done() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let (cutter, store) = behind_a_cutter(&bank, server).await;
        let key = key("crashed");
        let (claim, transaction) = begin(&store, &key).await;
        bank.add(&transaction, "bob", 5).await.unwrap();
        cutter.cut(CRASHED);
        commit(&store, claim, &transaction, "paid").await.unwrap();
        assert!(cutter.has_cut());
        assert_eq!(replayed(&store, &key).await, "paid");
        assert_eq!(bank.cents("bob").await, 105);
    });
}

/// B13: a token that was drawn just before the database crashed is drawn again. The record of another attempt
/// under the same key and token is not the record of this one.
#[test]
fn a_record_of_another_attempt_with_the_same_token_is_not_taken_for_ones_own() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        bank.run(
            "CREATE FUNCTION {schema}.of_another() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                NEW.attempt := decode(repeat('5a', 16), 'hex');
                RETURN NEW;
            END $$;
            CREATE TRIGGER of_another BEFORE INSERT ON {schema}.records
                FOR EACH ROW EXECUTE FUNCTION {schema}.of_another()",
        )
        .await;
        let (cutter, store) = behind_a_cutter(&bank, server).await;
        let (claim, transaction) = begin(&store, &key("theirs")).await;
        cutter.cut(AFTER);
        let told = commit(&store, claim, &transaction, "ours").await;
        assert!(cutter.has_cut());
        assert!(told.is_err(), "{told:?}");
    });
}

/// What a pooler says then.
fn of_a_crash() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0";
    let mut message = vec![b'E'];
    message.extend((fields.len() as u32 + 4).to_be_bytes());
    message.extend(fields);
    message
}

/// B13: the word never came to the database: nothing is applied, and the key is free.
#[test]
fn a_commit_that_never_arrived_is_found_not_to_be_done() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let (cutter, store) = behind_a_cutter(&bank, server).await;
        for number in 0..5 {
            let key = key(&format!("lost-{number}"));
            let (claim, transaction) = begin(&store, &key).await;
            bank.add(&transaction, "bob", 5).await.unwrap();
            cutter.cut(BEFORE);
            let lost = commit(&store, claim, &transaction, "paid").await;
            assert!(cutter.has_cut());
            assert!(matches!(lost, Err(CommitError::Refused(_))), "{lost:?}");
            is_absent(&store, &key).await;
            let (claim, transaction) = begin(&store, &key).await;
            bank.add(&transaction, "bob", 1).await.unwrap();
            commit(&store, claim, &transaction, "then").await.unwrap();
        }
        assert_eq!(bank.cents("bob").await, 105);
    });
}

/// While the old transaction is still at it nobody can say what it comes to, and nobody guesses.
#[test]
fn a_commit_that_hangs_is_not_known_and_nobody_executes_it_meanwhile() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let bank = Bank::open(&server).await;
        let options = bank
            .options
            .clone()
            .answer_within(Duration::from_millis(500));
        let store = bank.store_with(options).await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        bank.add(&transaction, "bob", 5).await.unwrap();
        server.freeze(true);
        let unknown = commit(&store, claim, &transaction, "paid").await;
        assert!(
            matches!(unknown, Err(CommitError::Unknown(_))),
            "{unknown:?}"
        );
        server.freeze(false);
        // The record says what became of it, once the database answers: all of it, or nothing.
        let cents = loop {
            use onlyonce_storage::KeyState;
            match store.peek(key("a")).await {
                Ok(KeyState::Completed(_)) => break 105,
                Ok(KeyState::Absent) => break 100,
                Ok(KeyState::InProgress { .. }) | Err(_) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(bank.cents("bob").await, cents);
    });
}

/// A2, B3: the database is killed and restarted under load: the effects are those of the calls that were
/// acknowledged, and of those alone of which nobody knows; each once.
#[test]
fn a_database_that_is_killed_under_load_keeps_effects_and_answers_together() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    run(async {
        let bank = Arc::new(Bank::open(&server).await);
        bank.run("CREATE TABLE {schema}.effects (call text NOT NULL)")
            .await;
        let options = bank.options.clone().answer_within(Duration::from_secs(2));
        let over = Arc::new(AtomicU8::new(0));
        let mut callers = Vec::new();
        for caller in 0..4 {
            let store = bank.store_with(options.clone()).await;
            let (bank, over) = (Arc::clone(&bank), Arc::clone(&over));
            callers.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                let mut call = 0;
                while over.load(Ordering::SeqCst) == 0 {
                    call += 1;
                    let name = format!("{caller}-{call}");
                    let key = key(&name);
                    while !one_attempt(&bank, &store, &key, &name).await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    acknowledged.push(name);
                }
                acknowledged
            }));
        }
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.crash();
            server.up();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.store(1, Ordering::SeqCst);
        let mut acknowledged = 0;
        for caller in callers {
            acknowledged += caller.await.unwrap().len();
        }
        let bank = Arc::into_inner(bank).unwrap().again(&server).await;
        let counts = async |what: &str| {
            bank.number(&format!("SELECT count({what}) FROM {{schema}}.effects"))
                .await
        };
        assert!(acknowledged > 20, "{acknowledged} calls");
        assert_eq!(counts("*").await, i64::try_from(acknowledged).unwrap());
        assert_eq!(counts("DISTINCT call").await, counts("*").await);
        let records = "SELECT count(*) FROM {schema}.records WHERE state = 3";
        assert_eq!(bank.number(records).await, counts("*").await);
    });
}

/// True once the call has an answer.
async fn one_attempt(
    bank: &Bank,
    store: &PostgresStore,
    key: &onlyonce_storage::ScopedKey,
    name: &str,
) -> bool {
    use onlyonce_storage::ClaimOutcome;
    use onlyonce_storage::transaction::TransactionalStore as _;
    let claim = match store.begin(crate::calls::request(key)).await {
        Ok(ClaimOutcome::Claimed(claim)) => claim,
        Ok(ClaimOutcome::Completed(_)) => return true,
        Ok(ClaimOutcome::InProgress { .. }) | Err(_) => return false,
        Ok(other) => panic!("a transaction leaves nothing else: {other:?}"),
    };
    let transaction = store.start(&claim);
    let sql = transaction.sql().unwrap();
    let insert = bank.sql("INSERT INTO {schema}.effects VALUES ($1)");
    let done = sql.execute(&insert, &[&name]).await;
    match (done, transaction.end()) {
        (Ok(_), Ok(work)) => {
            let committed = store
                .commit(claim, work, crate::calls::answer("paid"))
                .await;
            committed.is_ok()
        }
        _ => {
            let _ = store.release(claim).await;
            false
        }
    }
}
