//! Transactions in the core: claims that are held in memory, and what is committed under them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::core::{GroupCore, claimed};
use super::operation::{ClaimReply, Commit, CommitRefusal};
use super::overlay::Overlay;
use crate::record::{CallRecord, Record, State};
use crate::transaction::{KeyBounds, Row, RowRange, Table, Writes, merge};
use crate::transition::{self, Circumstances, ClaimStep, Settled};
use crate::{ClaimRequest, FencingToken, KeyDigest, StoreError};

/// The claims that are held in memory. Each is a record in progress that is written nowhere; their
/// number is bounded by the quotas of the scopes and the windows of the sessions, which they count
/// for.
#[derive(Debug, Default)]
pub(super) struct Held {
    calls: HashMap<KeyDigest, CallRecord>,
}

/// Rows that the operations of a group have written so far, over what is there.
#[derive(Debug, Default)]
pub(super) struct Written {
    writes: Writes,
}

// === impl GroupCore ===

impl GroupCore {
    /// The claim that is held of a key, unless it has lapsed.
    pub(super) fn held(&self, key: KeyDigest, at: &Circumstances) -> Option<&CallRecord> {
        self.held.calls.get(&key).filter(|call| match call.state {
            State::InProgress { lease } => !lease.is_lapsed(at.now),
            _ => false,
        })
    }

    /// The same, if it is this token's.
    pub(super) fn held_by(
        &self,
        key: KeyDigest,
        token: FencingToken,
        at: &Circumstances,
    ) -> Option<Record> {
        let held = self.held(key, at).filter(|call| call.token == token)?;
        Some(Record::Call(held.clone()))
    }

    /// Lets go of the claim that is held of a key: the key is what it was before.
    pub(super) fn let_go(&mut self, key: KeyDigest) {
        if self.held.calls.is_empty() {
            return;
        }
        if let Some(call) = self.held.calls.remove(&key) {
            let call = Record::Call(call);
            self.sessions.changed(key, Some(&call), None);
            self.open.changed(key, Some(&call), None);
        }
    }

    /// Writes what has become of a claim that was held. It keeps the claim's place in its session, if
    /// that still has it.
    fn write_held(&mut self, overlay: &mut Overlay<'_>, key: KeyDigest, after: CallRecord) {
        let after = self.sessions.settled(key, Record::Call(after));
        self.let_go(key);
        self.write_as_is(overlay, key, None, Some(after));
    }

    /// Holds a claim, or holds it for longer.
    pub(super) fn hold(&mut self, key: KeyDigest, call: CallRecord) {
        let after = Record::Call(call.clone());
        let before = self.held.calls.insert(key, call).map(Record::Call);
        self.sessions.changed(key, before.as_ref(), Some(&after));
        self.open.changed(key, before.as_ref(), Some(&after));
    }

    /// absent => held; whatever is there otherwise is told as to any claim.
    pub(super) fn begin(
        &mut self,
        overlay: &mut Overlay<'_>,
        mut request: ClaimRequest,
        at: &Circumstances,
    ) -> Result<ClaimReply, StoreError> {
        // A doubt is not ended by a guarantee that leaves none.
        request.rerun_of = None;
        // Nothing of it is kept before the commit.
        request.journal = None;
        let key = request.key.digest();
        let existing = match self.seen_in_session(overlay, &request, at)? {
            Ok(existing) => existing,
            Err(refusal) => return Ok(ClaimReply::Refused(refusal)),
        };
        let token = self.next_token();
        match transition::claim(existing.as_ref(), &request, token, at)? {
            ClaimStep::Claim(call) => {
                if !self.open.has_room(request.key.scope(), &self.limits) {
                    return Ok(ClaimReply::OverQuota);
                }
                overlay.rows.room()?;
                let reply = claimed(&call);
                self.hold(key, call);
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

    /// held => completed, with everything that was written; or nothing at all.
    pub(super) fn commit(
        &mut self,
        overlay: &mut Overlay<'_>,
        commit: Commit,
        at: &Circumstances,
    ) -> Result<(), CommitRefusal> {
        let Commit {
            key,
            token,
            work,
            answer,
        } = commit;
        let held = self.held_by(key, token, at).ok_or(CommitRefusal::Fenced)?;
        let (reads, writes) = work.into_parts();
        self.fits(&answer)?;
        for seen in &reads {
            let rows = overlay.read(seen.range())?;
            if !seen.is_still(&rows) && !crate::planted!(CommitWithoutCheck) {
                return Err(CommitRefusal::Conflict);
            }
        }
        // While it was held nobody else could write it.
        let existing = overlay.record(key)?;
        if existing.is_some() {
            return Err(CommitRefusal::Fenced);
        }
        overlay.rows.room()?;
        match overlay.written.with_tables_of(&writes) {
            None => overlay.rows.room_for(&writes)?,
            Some(both) => overlay.rows.room_for(&both)?,
        }
        let completed = transition::complete(Some(&held), token, answer, at)
            .map_err(|transition::Fenced| CommitRefusal::Fenced)?;
        self.write_held(overlay, key, completed);
        overlay.written.add(writes);
        Ok(())
    }

    /// Settles a claim that is held as `change` says. What comes of it is written like any other
    /// record; what is removed was never there.
    pub(super) fn settle_held(
        &mut self,
        overlay: &mut Overlay<'_>,
        key: KeyDigest,
        settled: Settled,
    ) {
        match settled {
            Settled::Remove => self.let_go(key),
            Settled::Write(call) => self.write_held(overlay, key, call),
        }
    }

    /// What claims and questions find: what is held, or what is there.
    pub(super) fn seen(
        &mut self,
        overlay: &Overlay<'_>,
        key: KeyDigest,
        at: &Circumstances,
    ) -> Result<Option<Record>, StoreError> {
        if let Some(held) = self.held(key, at) {
            return Ok(Some(Record::Call(held.clone())));
        }
        self.let_go(key);
        overlay.record(key)
    }
}

// === impl Held ===

impl Held {
    pub(super) fn contains(&self, key: KeyDigest) -> bool {
        self.calls.contains_key(&key)
    }
}

// === impl Written ===

impl Written {
    fn add(&mut self, writes: Writes) {
        for (table, rows) in writes {
            self.writes.entry(table).or_default().extend(rows);
        }
    }

    /// These writes and the tables that the group has written to before, where those are others: all
    /// of them are to have room.
    fn with_tables_of(&self, writes: &Writes) -> Option<Writes> {
        let mut others = self
            .writes
            .keys()
            .filter(|table| !writes.contains_key(table));
        let first = others.next()?;
        let mut both = writes.clone();
        both.entry(first.clone()).or_default();
        for table in others {
            both.entry(table.clone()).or_default();
        }
        Some(both)
    }

    pub(super) fn into_writes(self) -> Writes {
        self.writes
    }
}

// === impl Overlay ===

impl Overlay<'_> {
    /// Rows as the operations so far have left them.
    pub(super) fn read(&self, range: &RowRange) -> Result<Vec<Row>, StoreError> {
        read_over(&self.written.writes, range, |bounds| {
            self.rows.scan(range.table(), bounds)
        })
    }
}

/// Rows, one after the other as they are asked for.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// The rows of a range, with what was written over them.
fn read_over<'a>(
    writes: &'a Writes,
    range: &'a RowRange,
    below: impl FnOnce(KeyBounds<'a>) -> Scan<'a>,
) -> Result<Vec<Row>, StoreError> {
    let Some(bounds) = range.bounds() else {
        return Ok(Vec::new());
    };
    let rows = over(writes.get(range.table()), bounds, below(bounds));
    rows.take(range.rows_max()).collect()
}

/// Rows with others over them.
pub(crate) fn over<'a>(
    upper: Option<&'a BTreeMap<Bytes, Option<Bytes>>>,
    bounds: KeyBounds<'a>,
    lower: Scan<'a>,
) -> Scan<'a> {
    match upper {
        None => lower,
        Some(upper) => Box::new(merge(upper.range::<[u8], _>(bounds), lower)),
    }
}

/// What a store without tables answers.
pub(super) fn no_tables(table: &Table) -> StoreError {
    StoreError::Unavailable {
        reason: format!("it keeps no tables, and {table:?} was asked for"),
        retry_after: std::time::Duration::from_secs(60),
    }
}
