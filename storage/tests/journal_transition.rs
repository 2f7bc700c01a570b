//! Sequences of whatever two owners and an operator may say of a call with a journal: held against a
//! model of what was promised about its steps.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::journal::{JournalLimits, Noted, StepResolution};
use onlyonce_storage::record::{Record, State};
use onlyonce_storage::transition::{self, Circumstances, ClaimStep};
use onlyonce_storage::{
    CallJournal, ClaimRequest, DoubtReason, FencingToken, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, RetentionOptions, Scope, ScopedKey, StepName, StepNote,
    Timestamp,
};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(30);
const STEPS: [&str; 3] = ["reserve", "charge", "ship"];
const LIMITS: JournalLimits = JournalLimits {
    bytes_max: 1_000,
    steps_max: 10,
};

/// What somebody says.
#[derive(Clone, Debug)]
enum Word {
    /// An owner ends its run, in these words.
    Doubt(usize, DoubtReason),
    /// The lease of whoever runs lapses, whether anybody writes it down or not.
    Lapse { is_written: bool },
    /// An owner notes something under its token, of whatever run.
    Note(usize, usize, What),
    /// An operator says what became of a step, of the doubt that there is.
    Resolve(usize, What),
    /// An owner claims the call, and names the doubt that it sees.
    Run(usize),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Begun,
    Done(u8),
    NotExecuted,
}

/// What was acknowledged of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    BegunUnder(FencingToken),
    Done(Bytes),
}

/// The call, and what the model knows of it.
struct Run {
    record: Option<Record>,
    now: Timestamp,
    is_sole: bool,
    tokens: u64,
    /// The claim of each owner, and the one that was given last.
    owners: [Option<FencingToken>; 2],
    last: Option<FencingToken>,
    known: BTreeMap<StepName, Known>,
}

fn any_what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Begun),
        3 => (0..3_u8).prop_map(What::Done),
        1 => Just(What::NotExecuted),
    ]
}

fn any_word() -> impl Strategy<Value = Word> {
    let reason = prop_oneof![
        3 => Just(DoubtReason::OwnerGone),
        1 => Just(DoubtReason::Ambiguous),
    ];
    prop_oneof![
        1 => (0..2_usize, reason).prop_map(|(owner, reason)| Word::Doubt(owner, reason)),
        2 => any::<bool>().prop_map(|is_written| Word::Lapse { is_written }),
        8 => (0..2_usize, 0..STEPS.len(), any_what())
            .prop_map(|(owner, step, what)| Word::Note(owner, step, what)),
        2 => (0..STEPS.len(), any_what()).prop_map(|(step, what)| Word::Resolve(step, what)),
        4 => (0..2_usize).prop_map(Word::Run),
    ]
}

fn name(step: usize) -> StepName {
    StepName::parse(STEPS[step]).unwrap()
}

fn result(number: u8) -> Bytes {
    Bytes::from(vec![number])
}

// === impl Run ===

impl Run {
    fn new(is_sole: bool) -> Self {
        Self {
            record: None,
            now: Timestamp::from_millis(1_700_000_000_000),
            is_sole,
            tokens: 0,
            owners: [None, None],
            last: None,
            known: BTreeMap::new(),
        }
    }

    fn at(&self) -> Circumstances {
        Circumstances {
            now: self.now,
            retention: RetentionOptions::default(),
            forgotten_until: Timestamp::default(),
            sole_incarnation: self.is_sole.then_some(1),
        }
    }

    fn hear(&mut self, word: &Word) {
        match word {
            Word::Doubt(owner, reason) => self.doubt(*owner, *reason),
            Word::Lapse { is_written } => {
                self.now = self.now.plus(LEASE);
                let lapsed = transition::lapse(self.record.as_ref(), &self.at());
                if let Some(call) = lapsed.filter(|_| *is_written) {
                    self.record = Some(Record::Call(call));
                }
            }
            Word::Note(owner, step, what) => self.note(*owner, name(*step), *what),
            Word::Resolve(step, what) => self.resolve(&name(*step), *what),
            Word::Run(owner) => self.run(*owner),
        }
        // Whatever was said, what is kept is what was acknowledged.
        assert_eq!(self.kept(), self.model());
    }

    fn doubt(&mut self, owner: usize, reason: DoubtReason) {
        let Some(token) = self.owners[owner].take() else {
            return;
        };
        let at = self.at();
        let doubted = transition::doubt(self.record.as_ref(), token, reason, None, &at);
        if let Ok(call) = doubted {
            assert_eq!(Some(token), self.last);
            self.record = Some(Record::Call(call));
        }
    }

    fn run(&mut self, owner: usize) {
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
        let key = ScopedKey::new(
            Scope::global(),
            IdempotencyKey::parse("order-4711").unwrap(),
        );
        let mut request = ClaimRequest::new(key, Fingerprints::new(print), LEASE);
        request.journal = Some(Bytes::from("POST"));
        request.rerun_of = self
            .record
            .as_ref()
            .and_then(Record::call)
            .map(|call| call.token);
        self.tokens += 1;
        let token = FencingToken::new(1, self.tokens);
        match transition::claim(self.record.as_ref(), &request, token, &self.at()).unwrap() {
            ClaimStep::Claim(call) => {
                let begun = |known: &Known| matches!(known, Known::BegunUnder(_));
                assert!(
                    !self.known.values().any(begun),
                    "given although nobody knows of {:?}",
                    self.known
                );
                assert_eq!(call.token, token);
                self.record = Some(Record::Call(call));
                self.owners[owner] = Some(token);
                self.last = Some(token);
            }
            ClaimStep::Doubt(call) => self.record = Some(Record::Call(call)),
            _ => {}
        }
    }

    fn note(&mut self, owner: usize, name: StepName, what: What) {
        let Some(token) = self.owners[owner] else {
            return;
        };
        let what = match what {
            What::Begun => Noted::Begun,
            What::Done(number) => Noted::Done(result(number)),
            What::NotExecuted => Noted::NotExecuted,
        };
        let is_held = self.is_held(token);
        let note = StepNote {
            name: name.clone(),
            what: what.clone(),
        };
        let noted = transition::note(self.record.as_ref(), token, &note, LIMITS, &self.at());
        let Ok(call) = noted else {
            return;
        };
        assert_eq!(
            Some(token),
            self.last,
            "a run that was superseded noted {what:?}"
        );
        let before = self.known.get(&name);
        match &what {
            Noted::Begun => {
                assert!(is_held, "a run without a claim has begun a step");
                // The heart of it: begun twice only by the run that asks twice.
                let again = Known::BegunUnder(token);
                assert!(before.is_none_or(|known| *known == again), "{before:?}");
                self.known.insert(name, again);
            }
            Noted::Done(result) => {
                let done = Known::Done(result.clone());
                let is_new = !matches!(before, Some(Known::Done(_)));
                assert!(
                    is_new || *before.unwrap() == done,
                    "{before:?} is {done:?} now"
                );
                assert!(
                    is_held || before.is_some(),
                    "a run without a claim has run a step"
                );
                self.known.insert(name, done);
            }
            Noted::NotExecuted => {
                assert!(
                    !matches!(before, Some(Known::Done(_))),
                    "{before:?} is undone"
                );
                self.known.remove(&name);
            }
        }
        self.record = Some(Record::Call(call));
    }

    fn resolve(&mut self, name: &StepName, what: What) {
        let Some(token) = self.last else {
            return;
        };
        let resolution = match what {
            What::Done(number) => StepResolution::Done(result(number)),
            What::Begun | What::NotExecuted => StepResolution::NotExecuted,
        };
        let is_held = self.is_held(token);
        let resolved = transition::resolve_step(
            self.record.as_ref(),
            token,
            name,
            resolution.clone(),
            LIMITS,
            &self.at(),
        );
        let Ok(call) = resolved else {
            return;
        };
        assert!(!is_held, "the step of a run that goes on was resolved");
        let before = self.known.remove(name);
        assert!(matches!(before, Some(Known::BegunUnder(_))), "{before:?}");
        if let StepResolution::Done(result) = resolution {
            self.known.insert(name.clone(), Known::Done(result));
        }
        assert!(matches!(call.state, State::InDoubt { .. }));
        self.record = Some(Record::Call(call));
    }

    fn is_held(&self, token: FencingToken) -> bool {
        let call = self.record.as_ref().and_then(Record::call);
        call.is_some_and(|call| {
            call.token == token
                && matches!(call.state, State::InProgress { lease } if !lease.is_lapsed(self.now))
        })
    }

    fn kept(&self) -> BTreeMap<StepName, Option<Bytes>> {
        let journal = self.record.as_ref().and_then(Record::journal);
        let steps = journal.map_or(&[][..], CallJournal::steps);
        let kept = steps
            .iter()
            .map(|step| (step.name().clone(), step.result().cloned()));
        kept.collect()
    }

    fn model(&self) -> BTreeMap<StepName, Option<Bytes>> {
        let known = self.known.iter().map(|(name, known)| match known {
            Known::BegunUnder(_) => (name.clone(), None),
            Known::Done(result) => (name.clone(), Some(result.clone())),
        });
        known.collect()
    }
}

proptest! {
    // A failing case is printed; it becomes a named test.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    // B2, B10
    #[test]
    fn no_step_is_begun_under_two_claims_unless_it_was_said_not_to_have_been_executed(
        is_sole in any::<bool>(),
        words in prop::collection::vec(any_word(), 1..60),
    ) {
        let mut run = Run::new(is_sole);
        run.hear(&Word::Run(0));
        for word in &words {
            run.hear(word);
        }
    }
}
