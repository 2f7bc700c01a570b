//! G3: the connection is cut after the database has done what was asked, and before it said so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use onlyonce_storage::journal::{Step, StepResolution};
use onlyonce_storage::postgres::PostgresOptions;
use onlyonce_storage::{
    ClaimRequest, DoubtReason, Journal as _, KeyState, ScopedKey, SettleError, StepName, StepNote,
    Store as _,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::calls::{LEASE, answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Server};

/// Between a store and its database. Once told, it lets one more question through, waits for the first
/// bytes of its answer, and closes both ends without passing them on.
#[derive(Clone, Default)]
struct Cutter {
    cut: Arc<AtomicBool>,
    /// How often the database began to answer.
    answers: Arc<AtomicU32>,
    /// Whether something was asked since it last did.
    asked: Arc<AtomicBool>,
}

impl Cutter {
    async fn start(server: &Server) -> (Self, u16) {
        let (cutter, port) = (Self::default(), server.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let told = cutter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(told.clone().carry(client, server));
            }
        });
        (cutter, own)
    }

    async fn carry(self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let asked = Arc::clone(&self.asked);
        let asking = tokio::spawn(async move {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                asked.store(true, Ordering::SeqCst);
                if to_server.write_all(&bytes[..count]).await.is_err() {
                    break;
                }
            }
        });
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            if self.asked.swap(false, Ordering::SeqCst) {
                self.answers.fetch_add(1, Ordering::SeqCst);
            }
            if self.cut.swap(false, Ordering::SeqCst) {
                break;
            }
            if to_client.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
        asking.abort();
    }

    fn cut_the_next_answer(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Round trips since this was asked last.
    fn round_trips(&self) -> u32 {
        self.answers.swap(0, Ordering::SeqCst)
    }

    fn was_used(&self) -> bool {
        !self.cut.load(Ordering::SeqCst)
    }
}

/// The same attempt recognises its own claim, and no second token is drawn; a completion, a doubt and a
/// release that were done are not taken for somebody else's; a renewal is done.
#[test]
fn a_word_whose_answer_was_cut_off_counts_once() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (cutter, port) = Cutter::start(server).await;
        let (schema, _) = postgres_rig::named(server);
        let url = format!("postgres://owner@127.0.0.1:{port}/postgres");
        // One question at a time, so that the next answer is the one that is meant.
        let options = PostgresOptions::new(url)
            .schema(&schema)
            // What is told to others goes its own way.
            .without_listening();
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let drawn = async || -> i64 {
            let sql = format!("SELECT last_value FROM {schema}.tokens");
            client.query_one(&sql, &[]).await.unwrap().get(0)
        };

        cutter.cut_the_next_answer();
        let mut claim = given(store.claim(request(&key("a"))).await.unwrap());
        assert!(cutter.was_used());
        assert_eq!((drawn().await, claim.token().sequence()), (1, 1));

        cutter.cut_the_next_answer();
        assert_eq!(store.renew(&mut claim, LEASE * 2).await, Ok(()));
        assert!(cutter.was_used());
        cutter.cut_the_next_answer();
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        assert!(cutter.was_used());
        assert_eq!(replayed(&store, &key("a")).await, answer("paid"));

        let claim = given(store.claim(request(&key("b"))).await.unwrap());
        cutter.cut_the_next_answer();
        let kept = Some(answer("500"));
        let doubted = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
        assert_eq!(doubted, Ok(()));
        let state = store.peek(key("b")).await.unwrap();
        let KeyState::InDoubt(doubt) = state else {
            panic!("{state:?}");
        };
        assert_eq!(doubt.answer, Some(answer("500")));

        cutter.cut_the_next_answer();
        let mut rerun = request(&key("b"));
        rerun.rerun_of = Some(doubt.token);
        let claim = given(store.claim(rerun).await.unwrap());
        cutter.cut_the_next_answer();
        assert_eq!(store.release(claim).await, Ok(()));
        assert_eq!(store.peek(key("b")).await, Ok(KeyState::Absent));
        assert!(cutter.was_used());
    });
}

/// The same of journals: a note that was made is made, also where its claim has lapsed meanwhile or the step is
/// gone with it; and whoever recognises his own claim is given the journal too.
#[test]
fn a_note_whose_answer_was_cut_off_counts_once() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (cutter, port) = Cutter::start(server).await;
        let (schema, _) = postgres_rig::named(server);
        let url = format!("postgres://owner@127.0.0.1:{port}/postgres");
        let options = PostgresOptions::new(url)
            .schema(&schema)
            .without_listening();
        let store = postgres_rig::store(options).await;
        cutter.cut_the_next_answer();
        let claim = given(store.claim(journaled(&key("a"))).await.unwrap());
        assert!(cutter.was_used());
        let journal = claim.journal().unwrap();
        assert_eq!(
            (&journal.request()[..], journal.steps()),
            (REQUEST, &[][..])
        );
        let (digest, token) = (claim.digest(), claim.token());
        let notes = [
            StepNote::begun(charge()),
            StepNote::not_executed(charge()),
            StepNote::begun(charge()),
            paid(),
        ];
        for note in notes {
            cutter.cut_the_next_answer();
            assert_eq!(store.note(digest, token, note).await, Ok(()));
            assert!(cutter.was_used());
        }
        let ship = || StepName::parse("ship").unwrap();
        let begun = store.note(digest, token, StepNote::begun(ship())).await;
        assert_eq!(begun, Ok(()));
        let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(left, Ok(()));
        cutter.cut_the_next_answer();
        let none = StepResolution::NotExecuted;
        let resolved = store.resolve_step(key("a"), token, ship(), none).await;
        // Its first question is the one that is cut.
        assert_eq!(resolved, Ok(()));
        assert!(cutter.was_used());
        let mut rerun = journaled(&key("a"));
        rerun.rerun_of = Some(token);
        cutter.cut_the_next_answer();
        let claim = given(store.claim(rerun).await.unwrap());
        assert!(cutter.was_used());
        let steps = claim.journal().unwrap().steps();
        assert_eq!(
            steps,
            [Step::done(charge(), Bytes::from_static(b"paid 100"))]
        );
        assert_eq!(store.release(claim).await, Ok(()));
    });
}

/// What was asked again by whoever lost the answer is known from what somebody else says: a result that comes
/// late, and was never noted, is refused.
#[test]
fn a_note_that_was_not_made_is_fenced_however_often_it_is_asked() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let claim = given(store.claim(journaled(&key("a"))).await.unwrap());
        let note = StepNote::done(
            StepName::parse("reserve").unwrap(),
            Bytes::from_static(b"7"),
        );
        let made = store.note(claim.digest(), claim.token(), note).await;
        assert_eq!(made, Ok(()));
        let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(left, Ok(()));
        let client = server.client().await;
        let paid = Some(b"paid".to_vec());
        let seat = Some(b"7".to_vec());
        // Step, begun or done or not executed, with what, whether it may have been asked before; 0 is noted.
        for (step, what, result, again, expected) in [
            ("charge", 1, None, true, 1),
            ("charge", 2, paid, true, 1),
            ("charge", 3, None, false, 1),
            ("charge", 3, None, true, 0),
            ("reserve", 2, seat.clone(), false, 1),
            ("reserve", 2, seat, true, 0),
            ("reserve", 2, Some(b"8".to_vec()), true, 1),
        ] {
            let sql = format!(
                "SELECT n.outcome FROM {schema}.records r, {schema}.note(
                    NULL, r.key, r.incarnation, r.sequence, $1, $2, $3, 1000, 10, $4
                ) n"
            );
            let told: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&step, &what, &result, &again];
            let row = client.query_one(&sql, &told).await.unwrap();
            assert_eq!(
                row.get::<_, i32>(0),
                expected,
                "{step} {what} {result:?} {again}"
            );
        }
    });
}

fn journaled(key: &ScopedKey) -> ClaimRequest {
    let mut request = request(key);
    request.journal = Some(Bytes::from_static(REQUEST));
    request
}

fn charge() -> StepName {
    StepName::parse("charge").unwrap()
}

fn paid() -> StepNote {
    StepNote::done(charge(), Bytes::from_static(b"paid 100"))
}

const REQUEST: &[u8] = b"POST /orders";

/// What the manual says of the cost.
#[test]
fn a_claim_a_replay_and_each_word_that_spends_a_claim_are_one_round_trip() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (cutter, port) = Cutter::start(server).await;
        let (schema, _) = postgres_rig::named(server);
        let url = format!("postgres://owner@127.0.0.1:{port}/postgres");
        let options = PostgresOptions::new(url)
            .schema(&schema)
            // What is told to others goes its own way.
            .without_listening();
        let store = postgres_rig::store(options).await;
        let large = answer(vec![7; 1_000]);
        // The first time that a connection is asked something of a kind it takes one more, to keep the statement.
        for is_kept in [false, true] {
            let key = |name: &str| key(&format!("{name}-{is_kept}"));
            let trips = |count: u32, what: &str| {
                let made = cutter.round_trips();
                assert!(!is_kept || made == count, "{what}: {made}");
            };
            cutter.round_trips();
            let mut claim = given(store.claim(request(&key("a"))).await.unwrap());
            trips(1, "a first claim");
            assert_eq!(store.renew(&mut claim, LEASE).await, Ok(()));
            trips(1, "a renewal");
            assert_eq!(store.complete(claim, large.clone()).await, Ok(()));
            trips(1, "a completion");
            assert_eq!(replayed(&store, &key("a")).await, large);
            trips(1, "a replay");
            store.peek(key("a")).await.unwrap();
            trips(1, "a peek");
            let claim = given(store.claim(request(&key("b"))).await.unwrap());
            let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
            assert_eq!(doubted, Ok(()));
            trips(2, "a claim and a doubt");
            let claim = given(store.claim(request(&key("c"))).await.unwrap());
            assert_eq!(store.release(claim).await, Ok(()));
            trips(2, "a claim and a release");
            let claim = given(store.claim(journaled(&key("d"))).await.unwrap());
            trips(1, "a first claim that keeps a journal");
            let (digest, token) = (claim.digest(), claim.token());
            for note in [StepNote::begun(charge()), paid()] {
                assert_eq!(store.note(digest, token, note).await, Ok(()));
                trips(1, "a note");
            }
            let left = store.doubt(claim, DoubtReason::OwnerGone, None).await;
            assert_eq!(left, Ok(()));
            trips(1, "the doubt of a call that keeps a journal");
            let mut rerun = journaled(&key("d"));
            rerun.rerun_of = Some(token);
            let claim = given(store.claim(rerun).await.unwrap());
            trips(3, "going on");
            assert_eq!(store.complete(claim, large.clone()).await, Ok(()));
            trips(1, "the completion of a call that keeps a journal");
        }
    });
}

/// Only the very word that was lost is recognised.
#[test]
fn a_word_that_comes_again_without_having_been_lost_is_fenced() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let store = postgres_rig::store(postgres_rig::options(server)).await;
        let claim = given(store.claim(request(&key("a"))).await.unwrap());
        let doubt = onlyonce_storage::InDoubt {
            token: claim.token(),
            since: store.now(),
            reason: DoubtReason::OwnerGone,
            answer: None,
        };
        let same = || onlyonce_storage::Claim::of_doubt(key("a"), &doubt);
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        for body in ["paid", "other"] {
            let again = store.complete(same(), answer(body)).await;
            assert_eq!(again, Err(SettleError::Fenced), "{body}");
        }
        assert_eq!(store.release(same()).await, Err(SettleError::Fenced));
        assert_eq!(replayed(&store, &key("a")).await, answer("paid"));
    });
}
