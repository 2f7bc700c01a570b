//! The legal changes of a record, under every order of events that chance comes up with.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashSet;
use std::time::Duration;

use onlyonce_storage::record::{AnswerKept, KeyState, Record, State};
use onlyonce_storage::transition::{self, Circumstances, ClaimStep, Settled};
use onlyonce_storage::{
    Answer, AnswerFormat, AttemptId, ClaimRequest, DoubtReason, FencingToken, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Operator, Resolution, RetentionOptions,
    Scope, ScopedKey, Timestamp,
};
use proptest::prelude::*;

/// What may happen to one key. A number names one of the claims that were given so far.
#[derive(Clone, Copy, Debug)]
enum Event {
    Advance(u64),
    Claim { attempt: u8, body: bool },
    Complete(usize),
    Doubt(usize, bool),
    Lapse,
    Release(usize),
    Renew(usize),
    Rerun(usize, bool),
    Resolve(usize, bool),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let claim = any::<usize>;
    prop_oneof![
        2 => prop_oneof![Just(1), Just(5_000), Just(10_000), Just(86_400_000)]
            .prop_map(Event::Advance),
        6 => (0..4_u8, prop::bool::weighted(0.9))
            .prop_map(|(attempt, body)| Event::Claim { attempt, body }),
        3 => claim().prop_map(Event::Complete),
        2 => (claim(), any::<bool>()).prop_map(|(claim, kept)| Event::Doubt(claim, kept)),
        1 => Just(Event::Lapse),
        2 => claim().prop_map(Event::Release),
        2 => claim().prop_map(Event::Renew),
        3 => (claim(), any::<bool>()).prop_map(|(claim, applied)| Event::Resolve(claim, applied)),
        3 => (claim(), prop::bool::weighted(0.9))
            .prop_map(|(claim, body)| Event::Rerun(claim, body)),
        1 => Just(Event::Restart),
    ]
}

/// One key, its record, and who believes to hold the right to execute it.
struct World {
    record: Option<Record>,
    now: Timestamp,
    incarnation: u64,
    sequence: u64,
    shared: bool,
    tokens: Vec<FencingToken>,
    /// Claims that were given and neither spent nor declared dead.
    holders: HashSet<FencingToken>,
    answered: Option<Answer>,
}

// === impl World ===

impl World {
    fn new(shared: bool) -> Self {
        Self {
            record: None,
            now: Timestamp::from_millis(1_700_000_000_000),
            incarnation: 1,
            sequence: 0,
            shared,
            tokens: Vec::new(),
            holders: HashSet::new(),
            answered: None,
        }
    }

    fn at(&self) -> Circumstances {
        Circumstances {
            now: self.now,
            retention: RetentionOptions::default(),
            forgotten_until: Timestamp::default(),
            sole_incarnation: (!self.shared).then_some(self.incarnation),
        }
    }

    fn token(&self, number: usize) -> Option<FencingToken> {
        let count = self.tokens.len();
        (count > 0).then(|| self.tokens[number % count])
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Advance(millis) => self.now = self.now.plus(Duration::from_millis(millis)),
            Event::Claim { attempt, body } => self.claim(&request(attempt, body), body),
            Event::Rerun(number, body) => {
                let mut request = request(4, body);
                request.rerun_of = self.token(number);
                self.claim(&request, body);
            }
            Event::Lapse => {
                if let Some(call) = transition::lapse(self.record.as_ref(), &self.at()) {
                    self.holders.remove(&call.token);
                    self.write(Record::Call(call));
                }
            }
            Event::Restart => {
                self.incarnation += 1;
                self.sequence = 0;
                if !self.shared {
                    // Its process is gone.
                    self.holders.clear();
                }
            }
            Event::Complete(number)
            | Event::Doubt(number, _)
            | Event::Release(number)
            | Event::Renew(number)
            | Event::Resolve(number, _) => {
                if let Some(token) = self.token(number) {
                    self.settle(&event, token);
                }
            }
        }
    }

    fn claim(&mut self, request: &ClaimRequest, body: bool) {
        self.sequence += 1;
        let token = FencingToken::new(self.incarnation, self.sequence);
        let step = transition::claim(self.record.as_ref(), request, token, &self.at()).unwrap();
        match step {
            ClaimStep::Claim(call) => {
                assert!(
                    self.holders.is_empty(),
                    "a second holder beside {:?}",
                    self.holders
                );
                assert_eq!(self.answered, None, "an answered call is executed again");
                assert!(self.tokens.iter().all(|earlier| *earlier < token));
                if let Some(superseded) = self.record.as_ref().and_then(Record::call) {
                    assert!(body, "another request superseded a doubt");
                    assert!(matches!(superseded.state, State::InDoubt { .. }));
                    assert_eq!(request.rerun_of, Some(superseded.token));
                }
                self.tokens.push(token);
                self.holders.insert(token);
                self.write(Record::Call(call));
            }
            ClaimStep::OwnClaim(call) => {
                assert!(
                    self.shared,
                    "between a store and its process nothing gets lost"
                );
                assert!(self.holders.contains(&call.token), "a claim that has ended");
            }
            ClaimStep::Doubt(call) => {
                self.holders.remove(&call.token);
                self.write(Record::Call(call));
            }
            ClaimStep::Replay(call) => {
                assert!(body, "another request learned the answer");
                if let State::Completed { answer, .. } = call.state {
                    let kept = self.answered.clone().map(AnswerKept::Here);
                    assert_eq!(Some(answer), kept);
                }
            }
            ClaimStep::Refuse(_) => {}
        }
    }

    fn settle(&mut self, event: &Event, token: FencingToken) {
        let at = self.at();
        let existing = self.record.as_ref();
        let done = match event {
            Event::Complete(_) => {
                transition::complete(existing, token, answer(token), &at).map(Settled::Write)
            }
            Event::Doubt(_, kept) => {
                let kept = kept.then(|| answer(token));
                let reason = DoubtReason::Ambiguous;
                transition::doubt(existing, token, reason, kept, &at).map(Settled::Write)
            }
            Event::Release(_) => transition::release(existing, token),
            Event::Renew(_) => {
                let renewed = transition::renew(existing, token, LEASE, &at).map(Settled::Write);
                if renewed.is_ok() {
                    assert!(self.holders.contains(&token), "an ended claim was renewed");
                }
                renewed
            }
            Event::Resolve(_, true) => {
                let resolution = Resolution::Applied(answer(token));
                transition::resolve(existing, token, resolution, operator(), &at)
            }
            _ => transition::resolve(existing, token, Resolution::NotApplied, operator(), &at),
        };
        let Ok(done) = done else {
            return;
        };
        assert_eq!(
            self.answered, None,
            "an answered record was changed by {event:?}"
        );
        if !matches!(event, Event::Renew(_)) {
            self.holders.remove(&token);
        }
        match done {
            Settled::Remove => self.record = None,
            Settled::Write(call) => self.write(Record::Call(call)),
        }
    }

    fn write(&mut self, record: Record) {
        if let Some(State::Completed { answer, .. }) = record.call().map(|call| &call.state) {
            let AnswerKept::Here(answer) = answer else {
                panic!("nothing here removes answers");
            };
            assert!(self.answered.is_none(), "completed twice");
            self.answered = Some(answer.clone());
        }
        self.record = Some(record);
    }

    /// What a reader is told never contradicts what happened.
    fn check(&self) {
        let state = transition::state(self.record.as_ref(), None, &self.at());
        match state {
            KeyState::Absent => assert_eq!((self.answered.as_ref(), self.holders.len()), (None, 0)),
            KeyState::Completed(completion) => {
                assert_eq!(Some(completion.answer), self.answered);
            }
            KeyState::InProgress { .. } => assert_eq!(self.holders.len(), 1),
            KeyState::InDoubt(_) => assert_eq!(self.answered, None),
            KeyState::Tombstone { .. } => assert!(self.answered.is_some()),
            other => panic!("nothing here seals, and the key is {other:?}"),
        }
    }
}

fn request(attempt: u8, body: bool) -> ClaimRequest {
    let key = IdempotencyKey::parse("key").unwrap();
    let body: &[u8] = if body { b"right" } else { b"wrong" };
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
        .field("body", body)
        .finish();
    let key = ScopedKey::new(Scope::global(), key);
    let mut request = ClaimRequest::new(key, Fingerprints::new(print), LEASE);
    request.attempt = AttemptId::from_bytes([attempt; 16]);
    request
}

/// Each claim would answer something else.
fn answer(token: FencingToken) -> Answer {
    Answer::new(AnswerFormat::new(1), token.to_string())
}

const LEASE: Duration = Duration::from_secs(10);

/// Now, for a store that several processes share, or that one owns alone.
fn circumstances(sole_incarnation: Option<u64>) -> Circumstances {
    Circumstances {
        now: Timestamp::from_millis(1_000_000),
        retention: RetentionOptions::default(),
        forgotten_until: Timestamp::from_millis(0),
        sole_incarnation,
    }
}

fn claimed(attempt: u8, at: &Circumstances) -> Record {
    let token = FencingToken::new(1, 1);
    match transition::claim(None, &request(attempt, true), token, at).unwrap() {
        ClaimStep::Claim(call) => Record::Call(call),
        other => panic!("the key is absent, and the store says {other:?}"),
    }
}

// G3
#[test]
fn an_attempt_whose_claim_was_written_but_not_answered_recognises_its_own_claim() {
    let at = circumstances(None);
    let record = claimed(7, &at);
    let later = FencingToken::new(1, 2);
    match transition::claim(Some(&record), &request(7, true), later, &at).unwrap() {
        ClaimStep::OwnClaim(call) => assert_eq!(call.token, FencingToken::new(1, 1)),
        other => panic!("{other:?}"),
    }
    // Another attempt of the same call does not get it.
    let other = transition::claim(Some(&record), &request(8, true), later, &at).unwrap();
    assert!(
        matches!(
            other,
            ClaimStep::Refuse(transition::Refusal::InProgress { .. })
        ),
        "{other:?}"
    );
}

// G3: inside one process no answer of the store gets lost, so a second claim of the same attempt
// would be a second holder.
#[test]
fn a_store_that_one_process_owns_gives_a_claim_once() {
    let at = circumstances(Some(1));
    let record = claimed(7, &at);
    let again = transition::claim(
        Some(&record),
        &request(7, true),
        FencingToken::new(1, 2),
        &at,
    );
    let again = again.unwrap();
    assert!(
        matches!(
            again,
            ClaimStep::Refuse(transition::Refusal::InProgress { .. })
        ),
        "{again:?}"
    );
}

proptest! {
    // A failing case is printed; it becomes a named test.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn there_are_never_two_holders_and_an_answer_never_changes(
        shared in any::<bool>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(shared);
        // The first request says what the right one is.
        world.happen(Event::Claim { attempt: 0, body: true });
        for event in events {
            // A key that is absent again may be used with any request; here it is the right one.
            let event = match (&world.record, event) {
                (None, Event::Claim { attempt, .. }) => Event::Claim { attempt, body: true },
                (None, Event::Rerun(claim, _)) => Event::Rerun(claim, true),
                (_, event) => event,
            };
            world.happen(event);
            world.check();
        }
    }
}

fn operator() -> Operator {
    Operator::parse("test").unwrap()
}
