//! Callers meet in the table of flights in every order, or in many: the real table, owner and
//! service, over a memory store that takes its time.
//!
//! The scheduler stands before each lock, each counter and each wait. What tokio's channels do in
//! themselves is one step here: they have their own tests. All memory is sequentially consistent.
//! A failure prints its schedule, which [`shuttle::replay`] repeats.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, KeyState, MemoryStore, Question, Scope,
    ScopedKey, SettleError, Store, StoreFuture, StoreId, Timestamp,
};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use tower_layer::Layer;
use tower_service::Service;

use super::flight::{Boarding, FlightName, Flights, Landing};
use super::{Dedupe, DedupeLayer, DedupeOptions};
use crate::server::{Adapter, Admission, Intent, Outcome, Recording, Refusal, Served};

// A1
#[test]
fn in_whatever_order_callers_come_one_executes_and_all_get_its_answer() {
    in_many_orders(|| {
        let (server, effects) = server(|_| Outcome::Record(answer()));
        let callers: Vec<_> = (0..3).map(|_| spawn(call(&server))).collect();
        let told: Vec<_> = callers.into_iter().map(joined).collect();
        assert_eq!(effects.load(Ordering::SeqCst), 1);
        assert!(told.iter().all(Told::answered), "{told:?}");
        let executed = told
            .iter()
            .filter(|told| **told == Told::Served(Served::Executed));
        assert_eq!(executed.count(), 1, "{told:?}");
        assert_eq!(server.load(), (0, 0));
    });
}

// A1, B7
#[test]
fn an_execution_that_came_to_nothing_lets_the_next_in_line_execute() {
    in_many_orders(|| {
        let (server, effects) = server(|run| match run {
            0 => Outcome::NotExecuted,
            _ => Outcome::Record(answer()),
        });
        let callers: Vec<_> = (0..3).map(|_| spawn(call(&server))).collect();
        let told: Vec<_> = callers.into_iter().map(joined).collect();
        assert_eq!(effects.load(Ordering::SeqCst), 1);
        let declined = told
            .iter()
            .filter(|told| **told == Told::Served(Served::NotExecuted));
        assert_eq!(declined.count(), 1, "{told:?}");
        assert_eq!(
            told.iter().filter(|told| told.answered()).count(),
            2,
            "{told:?}"
        );
        assert_eq!(server.load(), (0, 0));
    });
}

// B16
#[test]
fn a_caller_who_goes_away_at_any_moment_leaves_an_answer_or_nothing_and_nobody_waits_in_vain() {
    in_many_orders(|| {
        let (server, effects) = server(|_| Outcome::Record(answer()));
        let leaves = spawn(call(&server));
        let stays = spawn(call(&server));
        leaves.abort();
        let told = joined(stays);
        // It left, or was told before it could.
        let _ = block_on(leaves);
        assert!(told.answered(), "{told:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 1);
        block_on(server.executions().idle());
        assert_eq!(server.load(), (0, 0));
    });
}

#[test]
fn who_waits_for_the_end_of_all_executions_hears_of_the_last() {
    in_every_order(|| idle_after([name(1)]));
    in_many_orders(|| idle_after([name(1), name(2)]));
}

#[test]
fn whoever_boards_while_a_flight_ends_learns_how_or_leads_the_next() {
    in_every_order(|| {
        let flights = flights(&DedupeOptions::default());
        let lead = lead(&flights, name(1));
        let boards = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || match flights.board(name(1)) {
                Boarding::Lead(_) => true,
                Boarding::Wait(waiter) => matches!(
                    block_on(waiter.wait(LONG)),
                    Some(Landing::Answer(_, Served::Attached))
                ),
                Boarding::Crowded | Boarding::Full => false,
            })
        };
        lead.land(Landing::Answer(answer(), Served::Attached));
        assert!(boards.join().unwrap());
        assert_eq!((flights.in_flight(), flights.waiting()), (0, 0));
    });
}

#[test]
fn whoever_hears_that_nothing_was_executed_does_not_meet_that_flight_again() {
    in_every_order(|| {
        let flights = flights(&DedupeOptions::default());
        let lead = lead(&flights, name(1));
        let waiter = match flights.board(name(1)) {
            Boarding::Wait(waiter) => waiter,
            _ => panic!("somebody leads this flight"),
        };
        let boards_again = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || {
                let landing = block_on(waiter.wait(LONG));
                assert!(matches!(landing, Some(Landing::NotExecuted)));
                matches!(flights.board(name(1)), Boarding::Lead(_))
            })
        };
        lead.land(Landing::NotExecuted);
        assert!(boards_again.join().unwrap());
    });
}

#[test]
fn whoever_waits_for_a_lead_that_is_lost_is_sent_back_to_ask() {
    in_every_order(|| {
        let flights = flights(&DedupeOptions::default());
        let lost = lead(&flights, name(1));
        let waits = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || match flights.board(name(1)) {
                Boarding::Wait(waiter) => matches!(
                    block_on(waiter.wait(LONG)),
                    Some(Landing::Refused(Refusal::InProgress { .. }))
                ),
                Boarding::Lead(_) => true,
                Boarding::Crowded | Boarding::Full => false,
            })
        };
        drop(lost);
        assert!(waits.join().unwrap());
        assert_eq!((flights.in_flight(), flights.waiting()), (0, 0));
    });
}

#[test]
fn no_order_lets_more_callers_wait_than_may_or_loses_a_place() {
    in_many_orders(|| {
        let options = DedupeOptions {
            waiters_max: 2,
            waiters_per_key_max: 1,
            ..DedupeOptions::default()
        };
        let flights = flights(&options);
        let lead = lead(&flights, name(1));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let flights = Arc::clone(&flights);
                thread::spawn(move || match flights.board(name(1)) {
                    Boarding::Wait(waiter) => Some(waiter),
                    _ => None,
                })
            })
            .collect();
        let seated: Vec<_> = callers
            .into_iter()
            .filter_map(|caller| caller.join().unwrap())
            .collect();
        assert_eq!(seated.len(), 1);
        drop(seated);
        assert_eq!(flights.waiting(), 0);
        assert!(matches!(flights.board(name(1)), Boarding::Wait(_)));
        drop(lead);
    });
}

#[test]
fn a_call_is_called_off_or_begun_and_never_both() {
    in_every_order(|| {
        let flights = flights(&DedupeOptions::default());
        let lead = lead(&flights, name(1));
        let flight = Arc::clone(lead.flight());
        let off = thread::spawn(move || flight.call_off());
        let begun = lead.flight().start_running();
        assert_ne!(begun, off.join().unwrap());
    });
}

/// Every order there is.
fn in_every_order(test: impl Fn() + Send + Sync + 'static) {
    let orders = run(DfsScheduler::new(Some(ORDERS_MAX), false), test);
    assert!(
        orders < ORDERS_MAX,
        "there are more than {ORDERS_MAX} orders"
    );
    println!("{orders} orders, which are all");
}

/// Orders that chance comes up with, and such that need few changes at the worst moments.
fn in_many_orders(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    println!("orders of seed {SEED}");
    let again = Arc::clone(&test);
    run(
        RandomScheduler::new_from_seed(SEED, ORDERS_BY_CHANCE),
        move || again(),
    );
    run(
        PctScheduler::new_from_seed(SEED, CHANGES, ORDERS_BY_CHANCE),
        move || test(),
    );
}

/// Answers how many orders were tried.
fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> usize {
    // Timers are made and never fire: nobody drives this runtime. So nothing here may need one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(test)
}

fn idle_after<const N: usize>(names: [FlightName; N]) {
    let flights = flights(&DedupeOptions::default());
    let leads = names.map(|name| lead(&flights, name));
    let ends = leads.map(|lead| thread::spawn(move || lead.land(Landing::NotExecuted)));
    // One that hears of no end is a deadlock, which the scheduler reports.
    block_on(flights.idle());
    assert_eq!(flights.in_flight(), 0);
    for end in ends {
        end.join().unwrap();
    }
}

fn joined(caller: shuttle::future::JoinHandle<Told>) -> Told {
    block_on(caller).unwrap()
}

fn flights(options: &DedupeOptions) -> Arc<Flights> {
    Flights::new(options)
}

fn lead(flights: &Arc<Flights>, name: FlightName) -> super::flight::Lead {
    match flights.board(name) {
        Boarding::Lead(lead) => lead,
        _ => panic!("somebody else has this flight"),
    }
}

fn name(number: u8) -> FlightName {
    FlightName {
        key: key(number).digest(),
        fingerprint: fingerprint(),
    }
}

fn key(number: u8) -> ScopedKey {
    let key = IdempotencyKey::parse(&format!("key-{number}")).unwrap();
    ScopedKey::new(Scope::global(), key)
}

fn fingerprint() -> Fingerprint {
    Fingerprint::from_parts(FingerprintAlgorithm::new(1), [1; 32])
}

fn answer() -> Answer {
    Answer::new(AnswerFormat::new(1), "paid")
}

/// What a caller gets.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    /// The answer, or that there is none where the handler says so.
    Served(Served),
    Refused(Refusal),
    State(KeyState),
}

impl Told {
    fn answered(&self) -> bool {
        let answers = [Served::Attached, Served::Executed, Served::Replayed];
        matches!(self, Self::Served(served) if answers.contains(served))
    }
}

type Server = Dedupe<Handler, Plain>;

/// A server whose handler's runs come to these outcomes, and the count of its effects.
fn server(outcome: fn(usize) -> Outcome) -> (Server, Arc<AtomicUsize>) {
    let effects = Arc::new(AtomicUsize::new(0));
    let handler = Handler {
        runs: Arc::default(),
        effects: Arc::clone(&effects),
        outcome,
    };
    let store = Arc::new(Slow(MemoryStore::new()));
    (DedupeLayer::new(store, Plain).layer(handler), effects)
}

fn call(server: &Server) -> impl Future<Output = Told> + Send + use<> {
    let mut server = server.clone();
    async move { server.call(()).await.unwrap() }
}

/// Speaks a protocol in which there is one call.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Adapter for Plain {
    type Request = ();
    type Response = Told;
    type Error = Outcome;

    async fn admit(&self, (): ()) -> Admission<()> {
        let intent = Intent::new(key(1), Fingerprints::new(fingerprint()));
        Admission::Protected(intent, ())
    }

    async fn record(&self, result: Result<Told, Outcome>) -> Recording<Told> {
        let outcome = result.expect_err("this handler tells its outcome as an error");
        yield_now().await;
        Recording {
            outcome,
            response: Some(Told::Served(Served::Unprotected)),
        }
    }

    fn replay(&self, replayed: &Answer, served: Served) -> Result<Told, Refusal> {
        assert_eq!(*replayed, answer());
        Ok(Told::Served(served))
    }

    fn mark(&self, _: Told, served: Served) -> Told {
        Told::Served(served)
    }

    fn refuse(&self, refusal: &Refusal) -> Told {
        Told::Refused(refusal.clone())
    }

    fn tell(&self, state: &KeyState) -> Told {
        Told::State(state.clone())
    }
}

/// Has an effect where its outcome is an answer, and takes its time before and after.
#[derive(Clone)]
struct Handler {
    runs: Arc<AtomicUsize>,
    effects: Arc<AtomicUsize>,
    outcome: fn(usize) -> Outcome,
}

impl Service<()> for Handler {
    type Response = Told;
    type Error = Outcome;
    type Future = Pin<Box<dyn Future<Output = Result<Told, Outcome>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let Self {
            runs,
            effects,
            outcome,
        } = self.clone();
        Box::pin(async move {
            yield_now().await;
            let outcome = outcome(runs.fetch_add(1, Ordering::SeqCst));
            if matches!(outcome, Outcome::Record(_)) {
                effects.fetch_add(1, Ordering::SeqCst);
            }
            yield_now().await;
            Err(outcome)
        })
    }
}

/// A store that answers later: others come in between, before and after the change.
#[derive(Debug)]
struct Slow(MemoryStore);

impl Slow {
    fn later<'a, T: Send + 'a, E: Send + 'a>(
        &'a self,
        reply: StoreFuture<'a, T, E>,
    ) -> StoreFuture<'a, T, E> {
        Box::pin(async move {
            yield_now().await;
            let reply = reply.await;
            yield_now().await;
            reply
        })
    }
}

impl Store for Slow {
    fn id(&self) -> StoreId {
        self.0.id()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        self.later(self.0.claim(request))
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        self.later(self.0.renew(claim, lease))
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        self.later(self.0.complete(claim, answer))
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        self.later(self.0.release(claim))
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.later(self.0.doubt(claim, reason, answer))
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        self.later(self.0.ask(question, key, first_sent))
    }
}

/// No wait in these tests ends by its limit.
const LONG: Duration = Duration::from_secs(60);

/// Far more than two threads of a few steps have.
const ORDERS_MAX: usize = 20_000;

/// Seconds in a debug build.
const ORDERS_BY_CHANCE: usize = 1_000;

/// How many changes of the running task the worst orders have.
const CHANGES: usize = 3;

/// Futures of a debug build are large.
const STACK_BYTES: usize = 256 * 1024;

/// Fixed, so that the gate says the same each time.
const SEED: u64 = 20_261_121;
