//! Answering duplicates of settled calls without the writer.

use std::sync::Weak;

use parking_lot::RwLock;

use super::{Known, Settled, answer_in, read_settled_record};
use crate::commit::ClaimReply;
use crate::commit::disk::Replays;
use crate::record::{CallRecord, Record, State};
use crate::sled::page::Wait;
use crate::transition::{self, Circumstances, ClaimStep};
use crate::{Answer, ClaimRequest, Completion, FencingToken, KeyDigest};

/// Reads what is settled and durable. Such a record never changes: it is there until it is
/// forgotten, so whoever reads it beside the writer is told what the writer would say.
pub(in crate::sled) struct SettledReader {
    /// Not a strong one: it must not keep the directory from being freed.
    rows: Weak<RwLock<Known>>,
}

// === impl SettledReader ===

impl SettledReader {
    pub(super) const fn new(rows: Weak<RwLock<Known>>) -> Self {
        Self { rows }
    }
}

impl Replays for SettledReader {
    fn replay(&self, request: &ClaimRequest, at: &Circumstances) -> Option<ClaimReply> {
        let rows = self.rows.upgrade()?;
        // While a group is applied the writer is asked, which waits without blocking a runtime.
        let rows = rows.try_read()?;
        let key = request.key.digest();
        let record = rows.durable_record(key)?;
        // What it cannot compare or read the writer says in words.
        match transition::claim(Some(&record), request, NO_TOKEN, at).ok()? {
            ClaimStep::Refuse(refusal) => Some(ClaimReply::Refused(refusal)),
            ClaimStep::Replay(call) => {
                let answer = rows.answer_in_memory(key, &call)?;
                let State::Completed { at, .. } = call.state else {
                    return None;
                };
                Some(ClaimReply::Completed(Completion {
                    answer,
                    completed_at: at,
                    token: call.token,
                }))
            }
            ClaimStep::Claim(_) | ClaimStep::OwnClaim(_) | ClaimStep::Doubt(_) => None,
        }
    }
}

// === impl Known ===

impl Known {
    fn durable_record(&self, key: KeyDigest) -> Option<Record> {
        for settled in self.settled.values().rev() {
            let Settled {
                pages,
                located,
                durable,
                ..
            } = settled;
            for at in located.candidates(key).filter(|at| at < durable) {
                let record = read_settled_record(key, pages, at, Wait::ForNothing).ok()?;
                if record.is_some() {
                    return record;
                }
            }
        }
        None
    }

    fn answer_in_memory(&self, key: KeyDigest, call: &CallRecord) -> Option<Answer> {
        let time = transition::forgotten_with(&Record::Call(call.clone()))?;
        let mut pages = self.answers.iter().filter(|(at, _)| at.contains(time));
        pages.find_map(|(_, pages)| answer_in(pages, key, call, Wait::ForNothing).ok()?)
    }
}

/// A settled record is never claimed again.
const NO_TOKEN: FencingToken = FencingToken::new(0, 0);
