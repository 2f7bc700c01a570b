//! The store: the real [`GroupCore`] over one row, and what a crash leaves.
//!
//! A word is decided, made durable and answered in one step, since the writer lets nobody hear of
//! what is not durable; that it does so is checked where the writer is (`storage/tests`). What can
//! happen in between is a word that gets lost with its change or without it ([`Fate`]).

use std::time::Duration;

use onlyonce_storage::commit::{Change, GroupCore, Operation, Reply, Rows};
use onlyonce_storage::record::{CallRecord, Record};
use onlyonce_storage::transition::{self, Circumstances};
use onlyonce_storage::{
    Answer, AttemptId, ClaimRequest, FencingToken, Fingerprints, KeyDigest, KeyState, Question,
    RetentionOptions, StoreError, StoreLimits, Timestamp,
};

use crate::mutant::Mutant;
use crate::record::{Row, RowState, fingerprint, key};
use crate::state::{Body, StoreHalf, Ticket};

/// What becomes of a word to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It was heard, and nobody learns of it.
    Kept,
    /// It was never heard.
    Lost,
    /// It is answered.
    Told,
}

/// The only row, as the core reads it.
struct OneRow(Option<Record>);

impl Rows for OneRow {
    fn record(&self, _: KeyDigest) -> Result<Option<Record>, StoreError> {
        Ok(self.0.clone())
    }

    fn answer(&self, _: KeyDigest, _: &CallRecord) -> Result<Option<Answer>, StoreError> {
        // OK because a row of this model has its answer in itself.
        Ok(None)
    }
}

// === impl StoreHalf ===

impl StoreHalf {
    /// A store that was made at this tick. It remembers nothing from before.
    pub fn new(id: u8, tick: u8) -> Self {
        Self {
            id,
            incarnation: 1,
            forgotten_until: time(tick),
            applied: None,
            durable: None,
        }
    }

    /// The time that it tells its clients.
    pub fn now_told(&self, tick: u8) -> Timestamp {
        transition::now_told(time(tick), self.forgotten_until)
    }

    /// Decides one operation. `spent` is the newest token that anybody still knows of: one that
    /// nobody knows any more may come again, nobody could tell.
    pub fn decide(
        &mut self,
        operation: Operation,
        spent: Option<FencingToken>,
        tick: u8,
        mutant: Mutant,
    ) -> Reply {
        let operation = self.mutate(operation, tick, mutant);
        if mutant == Mutant::SealTakesWhatIsInProgress
            && let Operation::Ask { .. } = operation
            && self.in_progress()
        {
            self.applied = Some(Row::Sealed { at: time(tick) });
        }
        let row = self.applied.as_ref().map(Row::record);
        let mut core = self.core();
        spend(&mut core, spent, self.incarnation);
        if let Some(record) = &row {
            // At the beginning of time no lease has lapsed: this only tells the core what is open.
            let adopted = core.adopt(record, Timestamp::default());
            assert_eq!(
                adopted, None,
                "a claim of this incarnation was put in doubt"
            );
        }
        let group = core.decide(vec![operation], &OneRow(row), time(tick));
        for Change { after, .. } in group.changes {
            self.applied = after.as_ref().map(Row::of);
        }
        if mutant != Mutant::ToldBeforeDurable {
            self.durable.clone_from(&self.applied);
        }
        if mutant == Mutant::ClaimNotDurable && self.in_progress() {
            self.durable = None;
        }
        if mutant == Mutant::LeasesNeverLapse {
            self.hold_for_ever();
        }
        let mut replies = group.replies;
        replies.pop().expect("one operation has one reply")
    }

    /// What a peek says.
    pub fn peek(&self, spent: Option<FencingToken>, tick: u8, mutant: Mutant) -> KeyState {
        let reply = self
            .clone()
            .decide(ask(Question::Peek, None), spent, tick, mutant);
        reply.into_state().expect("a row of this model can be read")
    }

    /// What was applied is durable from now on.
    pub fn sync(&mut self) {
        self.durable.clone_from(&self.applied);
    }

    /// Ends the store and opens it again, over what is durable.
    pub fn restart(&mut self, tick: u8) {
        self.incarnation += 1;
        if let Some(row) = &self.durable
            && let Some(doubted) = self.core().adopt(&row.record(), time(tick))
        {
            self.durable = Some(Row::of(&doubted));
        }
        self.applied.clone_from(&self.durable);
    }

    /// Removes what is past its retention or horizon: as the memory store does it, which has the
    /// same two questions for each record.
    pub fn sweep(&mut self, tick: u8, mutant: Mutant) {
        let Some(row) = &self.applied else { return };
        let record = row.record();
        let at = self.circumstances(tick);
        let answer_gone = record
            .call()
            .is_some_and(|call| transition::is_past_retention(call, &at));
        let without_tombstone = mutant == Mutant::TombstoneOff && answer_gone;
        let horizon = transition::is_past_horizon(&record, &at) || without_tombstone;
        if horizon && let Some(forgotten) = transition::forgotten_with(&record) {
            if mutant != Mutant::ForgottenWithoutNote {
                self.forgotten_until = self.forgotten_until.max(forgotten);
            }
            self.applied = None;
        } else if answer_gone
            && let Some(Row::Call { state, .. }) = &mut self.applied
            && let RowState::Completed { value, .. } = state
        {
            *value = None;
        }
        self.durable.clone_from(&self.applied);
    }

    fn core(&self) -> GroupCore {
        let limits = StoreLimits::default();
        GroupCore::new(self.incarnation, self.forgotten_until, retention(), limits)
    }

    fn circumstances(&self, tick: u8) -> Circumstances {
        Circumstances {
            now: time(tick),
            retention: retention(),
            forgotten_until: self.forgotten_until,
            sole_incarnation: Some(self.incarnation),
        }
    }

    /// Whether the row says so, whatever its lease.
    pub fn in_progress(&self) -> bool {
        let state = match &self.applied {
            Some(Row::Call { state, .. }) => state,
            _ => return false,
        };
        matches!(state, RowState::InProgress { .. })
    }

    fn hold_for_ever(&mut self) {
        for row in [&mut self.applied, &mut self.durable] {
            if let Some(Row::Call { state, .. }) = row
                && let RowState::InProgress { until } = state
            {
                *until = time(u8::MAX);
            }
        }
    }

    /// What a broken store makes of an operation.
    fn mutate(&mut self, operation: Operation, tick: u8, mutant: Mutant) -> Operation {
        match (mutant, operation) {
            (Mutant::FencingOff, operation) => match self.applied.as_ref().and_then(Row::token) {
                Some(token) => with_token(operation, token),
                None => operation,
            },
            (Mutant::DoubtIsAbsent, Operation::Claim(request)) => {
                let record = self.applied.as_ref().map(Row::record);
                let state = transition::state(record.as_ref(), None, &self.circumstances(tick));
                if matches!(state, KeyState::InDoubt(_)) {
                    self.applied = None;
                }
                Operation::Claim(request)
            }
            (_, operation) => operation,
        }
    }
}

/// A claim.
pub fn claim(body: Body, ticket: Ticket) -> Operation {
    let fingerprints = Fingerprints::new(fingerprint(body));
    Operation::Claim(ClaimRequest {
        key: key().clone(),
        fingerprints,
        // The store and its process lose nothing between them, so it never compares this.
        attempt: AttemptId::from_bytes([0; 16]),
        lease: LEASE,
        retention: None,
        rerun_of: None,
        first_sent: ticket.first_sent,
        session: None,
        journal: None,
    })
}

/// A question.
pub fn ask(question: Question, ticket: Option<Ticket>) -> Operation {
    Operation::Ask {
        question,
        key: key().clone(),
        first_sent: ticket.and_then(|ticket| ticket.first_sent),
    }
}

/// When a tick is, on the clock of every store.
pub fn time(tick: u8) -> Timestamp {
    Timestamp::default().plus(TICK * u32::from(tick))
}

/// Brings a new core to where the old one was: it counts every claim that it decides, and one of a
/// sealed key changes nothing else.
fn spend(core: &mut GroupCore, spent: Option<FencingToken>, incarnation: u64) {
    let Some(spent) = spent.filter(|token| token.incarnation() == incarnation) else {
        return;
    };
    let sealed = OneRow(Some(Record::Sealed {
        at: Timestamp::default(),
    }));
    let ticket = Ticket {
        store: 0,
        first_sent: None,
        sent_at: 0,
    };
    let claims = (0..spent.sequence()).map(|_| claim(0, ticket)).collect();
    let group = core.decide(claims, &sealed, Timestamp::default());
    assert!(group.changes.is_empty(), "a sealed key was changed");
}

fn with_token(operation: Operation, token: FencingToken) -> Operation {
    match operation {
        Operation::Complete { key, answer, .. } => Operation::Complete { key, token, answer },
        Operation::Doubt {
            key,
            reason,
            answer,
            ..
        } => Operation::Doubt {
            key,
            token,
            reason,
            answer,
        },
        Operation::Release { key, .. } => Operation::Release { key, token },
        Operation::Renew { key, lease, .. } => Operation::Renew { key, token, lease },
        other => other,
    }
}

fn retention() -> RetentionOptions {
    RetentionOptions::new(TICK, TICK * u32::from(HORIZON_TICKS))
        .expect("the horizon is longer than the retention")
}

/// Longer than clocks may differ, so that a record is not forgotten together with the next call.
const TICK: Duration = Duration::from_secs(10 * 60);

/// One tick.
pub const LEASE: Duration = TICK;

/// How many ticks a tombstone is kept.
pub const HORIZON_TICKS: u8 = 2;
