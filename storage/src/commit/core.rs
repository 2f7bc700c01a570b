//! Decides a group of operations: pure, so that a simulation can run it over a simulated disk.

use std::time::Duration;

use super::inspecting;
use super::journaling;
use super::open_calls::OpenCalls;
use super::operation::{Change, ClaimReply, Group, Operation, Reply};
use super::overlay::{Overlay, Rows};
use super::sessions::{SessionChange, SessionRow, Sessions};
use super::transact::Held;
use crate::inspect::OpenStats;
use crate::record::{CallRecord, KeyState, Record, State};
use crate::transaction::Writes;
use crate::transition::{self, Circumstances, ClaimStep, Fenced, Settled};
use crate::{
    Answer, ClaimRequest, DoubtReason, FencingToken, KeyDigest, Lease, Operator, Question,
    Resolution, RetentionOptions, ScopedKey, SettleError, StoreError, StoreLimits, Timestamp,
};

/// Decides groups of operations for a store that one process owns alone.
///
/// It counts tokens, knows what is forgotten and what is open. It assumes that the changes which it
/// decides are applied: after a failed write a core is not asked again, the store is poisoned.
#[derive(Debug)]
pub struct GroupCore {
    incarnation: u64,
    sequence: u64,
    forgotten_until: Timestamp,
    retention: RetentionOptions,
    pub(super) limits: StoreLimits,
    pub(super) open: OpenCalls,
    pub(super) sessions: Sessions,
    /// Since the last group.
    pub(super) session_changes: Vec<SessionChange>,
    pub(super) held: Held,
}

// === impl GroupCore ===

impl GroupCore {
    /// The core of an opening. `incarnation` was raised durably and is larger than every earlier
    /// one.
    #[must_use]
    pub fn new(
        incarnation: u64,
        forgotten_until: Timestamp,
        retention: RetentionOptions,
        limits: StoreLimits,
    ) -> Self {
        Self {
            incarnation,
            sequence: 0,
            forgotten_until,
            // Fields can be set to anything; these two bounds hold whatever was set.
            retention: RetentionOptions {
                horizon: retention.horizon.max(retention.answer),
                ..retention
            },
            limits: limits.answer_bytes_max(limits.answer_bytes_max),
            open: OpenCalls::default(),
            sessions: Sessions::default(),
            session_changes: Vec::new(),
            held: Held::default(),
        }
    }

    /// Takes in the sessions that an earlier incarnation left, and the last id that was given.
    /// Before the records.
    pub fn adopt_sessions(
        &mut self,
        last: u64,
        rows: impl IntoIterator<Item = (u64, SessionRow)>,
        now: Timestamp,
    ) {
        self.sessions.adopt(last, rows, now);
    }

    /// Takes in what an earlier incarnation left open: a call in progress is now in doubt, and the
    /// record to be written is returned; a call in doubt is counted.
    pub fn adopt(&mut self, record: &Record, now: Timestamp) -> Option<Record> {
        let call = record.call()?;
        let key = call.key.digest();
        self.sessions.adopt_record(key, call);
        let doubted = transition::lapse(Some(record), &self.circumstances(now)).map(Record::Call);
        let left = doubted.as_ref().unwrap_or(record);
        self.open.changed(key, None, Some(left));
        doubted
    }

    /// Calls first sent at or before this time may have been forgotten.
    #[must_use]
    pub const fn forgotten_until(&self) -> Timestamp {
        self.forgotten_until
    }

    /// The number of this opening.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How much is open.
    #[must_use]
    pub fn open_stats(&self) -> OpenStats {
        self.open.stats()
    }

    /// How long settled calls are remembered.
    #[must_use]
    pub const fn retention(&self) -> RetentionOptions {
        self.retention
    }

    /// Notes that calls first sent at or before `until` are about to be forgotten. The caller has
    /// made the same note durable before, and removes the records only afterwards.
    pub fn forget_until(&mut self, until: Timestamp) {
        self.forgotten_until = self.forgotten_until.max(until);
    }

    /// Decides `operations` in their order, each seeing what those before it have changed. Calls
    /// whose leases have lapsed are put in doubt first, at most 256 a group. So do sessions end that
    /// were not used for too long, and what they held is made to be like any other, some of it at a
    /// time: a group without operations that changes nothing has found all of that done.
    pub fn decide(&mut self, operations: Vec<Operation>, rows: &dyn Rows, now: Timestamp) -> Group {
        let mut overlay = self.begin_group(rows, operations.len(), now);
        let replies = operations
            .into_iter()
            .map(|operation| self.decide_one(operation, &mut overlay, now))
            .collect();
        let (changes, rows) = overlay.into_changes();
        Group {
            changes,
            rows,
            sessions: std::mem::take(&mut self.session_changes),
            replies,
        }
    }

    /// Decides a group of one operation, for a store that has no others.
    #[cfg(feature = "memory")]
    pub(crate) fn decide_alone(
        &mut self,
        operation: Operation,
        rows: &dyn Rows,
        now: Timestamp,
    ) -> (Vec<Change>, Writes, Reply) {
        let mut overlay = self.begin_group(rows, 1, now);
        let reply = self.decide_one(operation, &mut overlay, now);
        let (changes, rows) = overlay.into_changes();
        // Such a store has nowhere to write them.
        self.session_changes.clear();
        (changes, rows, reply)
    }

    fn begin_group<'a>(
        &mut self,
        rows: &'a dyn Rows,
        operations: usize,
        now: Timestamp,
    ) -> Overlay<'a> {
        let mut overlay = Overlay::new(rows, operations);
        self.doubt_lapsed(&mut overlay, now);
        self.expire_sessions(&mut overlay, now);
        overlay
    }

    fn decide_one(
        &mut self,
        operation: Operation,
        overlay: &mut Overlay<'_>,
        now: Timestamp,
    ) -> Reply {
        let at = self.circumstances(now);
        match operation {
            Operation::Abandon { key, token } => {
                Reply::Settle(self.abandon(overlay, key, token, &at))
            }
            Operation::Begin(request) => Reply::Claim(self.begin(overlay, request, &at)),
            Operation::Claim(request) => Reply::Claim(self.claim(overlay, &request, &at)),
            Operation::Commit(commit) => Reply::Commit(self.commit(overlay, *commit, &at)),
            Operation::Complete { key, token, answer } => {
                Reply::Settle(self.complete(overlay, key, token, answer, &at))
            }
            Operation::Doubt {
                key,
                token,
                reason,
                answer,
            } => Reply::Settle(self.doubt(overlay, (key, token), reason, answer, &at)),
            Operation::Ask {
                question,
                key,
                first_sent,
            } => Reply::State(self.ask(overlay, question, &key, first_sent, &at)),
            Operation::Read { range, .. } => Reply::Rows(overlay.read(&range)),
            Operation::Release { key, token } => {
                Reply::Settle(self.settle(overlay, (key, token), &at, |existing| {
                    transition::release(existing, token)
                }))
            }
            Operation::Renew { key, token, lease } => {
                Reply::Renew(self.renew(overlay, key, token, lease, &at))
            }
            Operation::Resolve {
                key,
                token,
                resolution,
                by,
            } => Reply::Settle(self.resolve(overlay, (&key, token), resolution, by, &at)),
            Operation::Note { key, token, note } => {
                Reply::Noted(self.note(overlay, (key, token), &note, &at))
            }
            Operation::Abandoned { after, calls_max } => {
                Reply::Abandoned(journaling::abandoned(self, overlay, after, calls_max, &at))
            }
            Operation::ResolveStep {
                key,
                token,
                name,
                resolution,
            } => Reply::Settle(self.resolve_step(overlay, (key, token), &name, resolution, &at)),
            Operation::List(request) => Reply::Page(inspecting::list(self, overlay, &request, &at)),
            Operation::Show { key, answer } => {
                Reply::View(inspecting::show(self, overlay, key.digest(), answer, &at))
            }
            Operation::Session { scope, request } => {
                Reply::Session(Ok(self.session(overlay, &scope, request, now)))
            }
        }
    }

    pub(super) fn next_token(&mut self) -> FencingToken {
        if !crate::planted!(TokenReused) {
            self.sequence += 1;
        }
        FencingToken::new(self.incarnation, self.sequence)
    }

    fn claim(
        &mut self,
        overlay: &mut Overlay<'_>,
        request: &ClaimRequest,
        at: &Circumstances,
    ) -> Result<ClaimReply, StoreError> {
        let key = request.key.digest();
        let existing = match self.seen_in_session(overlay, request, at)? {
            Ok(existing) => existing,
            Err(refusal) => return Ok(ClaimReply::Refused(refusal)),
        };
        let token = self.next_token();
        match transition::claim(existing.as_ref(), request, token, at)? {
            ClaimStep::Claim(call) => {
                // The re-run of a doubt is counted already, and must not be kept from ending it.
                if existing.is_none() {
                    if !self.open.has_room(request.key.scope(), &self.limits) {
                        return Ok(ClaimReply::OverQuota);
                    }
                    transition::check_journal(request, self.limits.journal())?;
                    self.room_for_journal(request)?;
                    overlay.rows.room()?;
                }
                let reply = claimed(&call);
                self.write(overlay, key, existing, Some(Record::Call(call)));
                reply
            }
            ClaimStep::OwnClaim(call) => claimed(&call),
            ClaimStep::Doubt(call) => {
                let reply = overlay.replay(key, call.clone());
                self.write(overlay, key, existing, Some(Record::Call(call)));
                reply
            }
            ClaimStep::Refuse(refusal) => Ok(ClaimReply::Refused(refusal)),
            ClaimStep::Replay(call) => overlay.replay(key, call),
        }
    }

    fn complete(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        token: FencingToken,
        answer: Answer,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        if let Err(too_large) = self.fits(&answer) {
            // The effect happened and its answer will not be known: that is a doubt.
            self.doubt_in_progress(overlay, key, token, DoubtReason::Unrecorded, at)?;
            return Err(too_large.into());
        }
        self.settle(overlay, (key, token), at, |existing| {
            transition::complete(existing, token, answer, at).map(Settled::Write)
        })
    }

    fn doubt(
        &mut self,
        overlay: &mut Overlay<'_>,
        (key, token): (KeyDigest, FencingToken),
        reason: DoubtReason,
        answer: Option<Answer>,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        // The doubt matters more than the answer: it is written also where the answer is too large.
        let too_large = answer.as_ref().and_then(|answer| self.fits(answer).err());
        let answer = answer.filter(|_| too_large.is_none());
        self.settle(overlay, (key, token), at, |existing| {
            transition::doubt(existing, token, reason, answer, at).map(Settled::Write)
        })?;
        too_large.map_or(Ok(()), |error| Err(error.into()))
    }

    fn abandon(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        token: FencingToken,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        if self.held_by(key, token, at).is_some() {
            // Nothing of it was ever applied.
            self.let_go(key);
            return Ok(());
        }
        if crate::planted!(HandlerTiedToConnection) {
            return self.settle(overlay, (key, token), at, |_| Ok(Settled::Remove));
        }
        self.doubt_in_progress(overlay, key, token, DoubtReason::OwnerGone, at)
    }

    /// A doubt that is already written stays as it is: it says more than "it was dropped", and who
    /// completes it may have learned the answer from outside and know nothing of the owner.
    fn doubt_in_progress(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        token: FencingToken,
        reason: DoubtReason,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        self.settle(overlay, (key, token), at, |existing| {
            let doubted = transition::doubt(existing, token, reason, None, at)?;
            match existing.and_then(Record::call) {
                Some(call) if matches!(call.state, State::InDoubt { .. }) => {
                    Ok(Settled::Write(call.clone()))
                }
                _ => Ok(Settled::Write(doubted)),
            }
        })
    }

    fn renew(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        token: FencingToken,
        lease: Duration,
        at: &Circumstances,
    ) -> Result<Lease, SettleError> {
        let held = self.held_by(key, token, at);
        let is_held = held.is_some();
        let existing = match held {
            Some(held) => Some(held),
            None => overlay.record(key)?,
        };
        let call = transition::renew(existing.as_ref(), token, lease, at)
            .map_err(|Fenced| SettleError::Fenced)?;
        let State::InProgress { lease } = call.state else {
            return Err(SettleError::Fenced);
        };
        if is_held {
            self.hold(key, call);
            return Ok(lease);
        }
        self.write(overlay, key, existing, Some(Record::Call(call)));
        Ok(lease)
    }

    fn resolve(
        &mut self,
        overlay: &mut Overlay<'_>,
        (key, token): (&ScopedKey, FencingToken),
        resolution: Resolution,
        by: Operator,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        if let Resolution::Applied(answer) = &resolution {
            self.fits(answer)?;
        }
        self.settle(overlay, (key.digest(), token), at, |existing| {
            transition::resolve(existing, token, resolution, by, at)
        })
    }

    fn ask(
        &mut self,
        overlay: &mut Overlay<'_>,
        question: Question,
        scoped: &ScopedKey,
        first_sent: Option<Timestamp>,
        at: &Circumstances,
    ) -> Result<KeyState, StoreError> {
        let key = scoped.digest();
        if let Some(held) = self.held(key, at) {
            let held = Record::Call(held.clone());
            return Ok(transition::state(Some(&held), first_sent, at));
        }
        if question == Question::Seal && overlay.record(key)?.is_none() {
            overlay.rows.room()?;
            self.write(overlay, key, None, Some(Record::Sealed { at: at.now }));
        }
        let state = overlay.state(key, first_sent, at)?;
        if matches!(state, KeyState::Absent | KeyState::Sealed { .. })
            && self.may_be_acknowledged(scoped.scope(), first_sent)
        {
            return Ok(KeyState::Stale);
        }
        Ok(state)
    }

    fn settle(
        &mut self,
        overlay: &mut Overlay<'_>,
        (key, token): (KeyDigest, FencingToken),
        at: &Circumstances,
        change: impl FnOnce(Option<&Record>) -> Result<Settled, Fenced>,
    ) -> Result<(), SettleError> {
        if let Some(held) = self.held_by(key, token, at) {
            let settled = change(Some(&held)).map_err(|Fenced| SettleError::Fenced)?;
            self.settle_held(overlay, key, settled);
            return Ok(());
        }
        let existing = overlay.record(key)?;
        let after = match change(existing.as_ref()).map_err(|Fenced| SettleError::Fenced)? {
            Settled::Remove => None,
            Settled::Write(call) => Some(Record::Call(call)),
        };
        self.write(overlay, key, existing, after);
        Ok(())
    }

    fn doubt_lapsed(&mut self, overlay: &mut Overlay<'_>, now: Timestamp) {
        let at = self.circumstances(now);
        let mut journals = 0;
        for key in self.open.lapsed(now, LAPSED_PER_GROUP_MAX) {
            // What is written anew of each.
            journals += self.journal_bytes(key);
            if journals > LAPSED_BYTES_PER_GROUP && journals > self.journal_bytes(key) {
                break;
            }
            if self.held.contains(key) {
                self.let_go(key);
                continue;
            }
            // A row that cannot be read says so to whoever asks for it.
            let Ok(existing) = overlay.record(key) else {
                continue;
            };
            if let Some(call) = transition::lapse(existing.as_ref(), &at) {
                self.write(overlay, key, existing, Some(Record::Call(call)));
            }
        }
    }

    pub(super) fn write(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        before: Option<Record>,
        after: Option<Record>,
    ) {
        let after = after.map(|record| self.sessions.settled(key, record));
        self.write_as_is(overlay, key, before, after);
    }

    /// The same of a record that is known to be held by its session, or by none.
    pub(super) fn write_as_is(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        before: Option<Record>,
        after: Option<Record>,
    ) {
        self.sessions.changed(key, before.as_ref(), after.as_ref());
        self.open.changed(key, before.as_ref(), after.as_ref());
        overlay.write(key, before, after);
    }

    pub(super) fn fits(&self, answer: &Answer) -> Result<(), StoreError> {
        let (size, limit) = (answer.body().len(), self.limits.answer_bytes_max);
        if size > limit {
            return Err(StoreError::AnswerTooLarge { size, limit });
        }
        Ok(())
    }

    const fn circumstances(&self, now: Timestamp) -> Circumstances {
        Circumstances {
            now,
            retention: self.retention,
            forgotten_until: self.forgotten_until,
            sole_incarnation: Some(self.incarnation),
        }
    }
}

pub(super) fn claimed(call: &CallRecord) -> Result<ClaimReply, StoreError> {
    let State::InProgress { lease } = call.state else {
        return Err(StoreError::Corrupt(
            "a claim that was just made is not in progress".to_owned(),
        ));
    };
    Ok(ClaimReply::Claimed {
        key: call.key.clone(),
        token: call.token,
        lease,
        journal: call.journal.clone(),
    })
}

/// So that a crowd of lapsed leases does not hold up the calls of one group. The rest is found by
/// the next, and whoever asks for such a key is told the truth in any case.
const LAPSED_PER_GROUP_MAX: usize = 256;

/// The same of their journals: what a group brings at most by default.
const LAPSED_BYTES_PER_GROUP: usize = 1024 * 1024;
