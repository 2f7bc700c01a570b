//! What a core decides about sessions.

use super::core::GroupCore;
use super::overlay::Overlay;
use super::sessions::{SessionChange, scope_of};
use crate::record::{Record, State};
use crate::transition::{Circumstances, Refusal};
use crate::{
    ClaimRequest, KeyDigest, Scope, SessionCall, SessionRequest, SessionState, StoreError,
    Timestamp,
};

impl GroupCore {
    /// What a claim finds, whether it is to be written or held in memory; or why its session refuses
    /// it where it finds nothing. A record that is there says more than a session that is not.
    pub(super) fn seen_in_session(
        &mut self,
        overlay: &mut Overlay<'_>,
        request: &ClaimRequest,
        at: &Circumstances,
    ) -> Result<Result<Option<Record>, Refusal>, StoreError> {
        let key = request.key.digest();
        let session = request.session.map(|call| {
            let known = self.enter_session(overlay, request.key.scope(), call, at.now);
            (call, known)
        });
        let existing = self.seen(overlay, key, at)?;
        if existing.is_none()
            && let Some((call, known)) = session
            && let Err(refusal) = self.admit(key, call, known)
        {
            return Ok(Err(refusal));
        }
        Ok(Ok(existing))
    }

    /// What is known of the session of a call, which acknowledges others on its way.
    pub(super) fn enter_session(
        &mut self,
        overlay: &mut Overlay<'_>,
        scope: &Scope,
        call: SessionCall,
        now: Timestamp,
    ) -> SessionState {
        let known = self.sessions.used(call.session, scope_of(scope), now);
        // Who sends a call has not had its answer: what says otherwise acknowledges nothing.
        if matches!(known, SessionState::Live { .. }) && call.first_unanswered <= call.sequence {
            self.acknowledge(overlay, call.session, call.first_unanswered);
        }
        known
    }

    /// Whether a call in a session may be claimed, its key being absent.
    pub(super) fn admit(
        &self,
        key: KeyDigest,
        call: SessionCall,
        known: SessionState,
    ) -> Result<(), Refusal> {
        match known {
            _ if crate::planted!(AcknowledgedRunsAgain) => Ok(()),
            SessionState::Live { .. } => self.sessions.admit(key, call),
            SessionState::Expired => Err(Refusal::SessionExpired),
            _ => Err(Refusal::UnknownSession),
        }
    }

    /// Whether a call of which nothing is left may have been executed and acknowledged in a session
    /// of its principal. Who says when it was first sent asks about a call that was not answered to
    /// its caller, and was so never acknowledged; who does not may have the key from anywhere.
    pub(super) fn may_be_acknowledged(&self, scope: &Scope, first_sent: Option<Timestamp>) -> bool {
        first_sent.is_none() && self.sessions.acknowledge_for(scope_of(scope))
    }

    pub(super) fn session(
        &mut self,
        overlay: &mut Overlay<'_>,
        scope: &Scope,
        request: SessionRequest,
        now: Timestamp,
    ) -> SessionState {
        let scope = scope_of(scope);
        match request {
            SessionRequest::Open => {
                let opened = self.sessions.open(scope, &self.limits, now);
                if let SessionState::Live { session, .. } = opened {
                    let change = SessionChange::Opened { session, scope };
                    self.session_changes.push(change);
                }
                opened
            }
            SessionRequest::Resume { session } => self.sessions.used(session, scope, now),
            SessionRequest::Acknowledge {
                session,
                first_unanswered,
            } => {
                let known = self.sessions.used(session, scope, now);
                if matches!(known, SessionState::Live { .. }) {
                    self.acknowledge(overlay, session, first_unanswered);
                    return self.sessions.used(session, scope, now);
                }
                known
            }
        }
    }

    /// Forgets the calls below a number that have an answer. What is open stays, and is like any
    /// other call from now on: nobody can have had its answer.
    fn acknowledge(&mut self, overlay: &mut Overlay<'_>, session: u64, first_unanswered: u64) {
        let Some(keys) = self.sessions.raise(session, first_unanswered) else {
            return;
        };
        self.session_changes.push(SessionChange::Raised {
            session,
            first_unanswered,
        });
        for key in keys {
            // A row that cannot be read stays.
            if let Ok(Some(record)) = overlay.record(key)
                && record.is_held()
            {
                self.write(overlay, key, Some(record), None);
            }
        }
    }

    /// Ends sessions that were not used for too long, and makes what they held be like any other,
    /// as much as fits into a group.
    pub(super) fn expire_sessions(&mut self, overlay: &mut Overlay<'_>, now: Timestamp) {
        while let Some(session) = self.sessions.expire(self.limits.session_idle, now) {
            self.session_changes.push(SessionChange::Ended { session });
        }
        let (mut count, mut bytes) = (0, 0);
        while count < LEFT_PER_GROUP_MAX
            && bytes < LEFT_BYTES_PER_GROUP_MAX
            && let Some(key) = self.sessions.next_left()
        {
            let Ok(Some(record)) = overlay.record(key) else {
                continue;
            };
            if record.is_held() {
                count += 1;
                bytes += answer_bytes(&record);
                // No session holds it: it is written without one.
                self.write(overlay, key, Some(record.clone()), Some(record));
            }
        }
    }
}

fn answer_bytes(record: &Record) -> usize {
    use crate::record::AnswerKept;
    match record.call().map(|call| &call.state) {
        Some(State::Completed { answer, .. }) => match answer {
            AnswerKept::Beside { length, .. } => *length as usize,
            AnswerKept::Gone => 0,
            AnswerKept::Here(answer) => answer.body().len(),
        },
        _ => 0,
    }
}

/// So that a session that ends does not hold up the calls of one group.
const LEFT_PER_GROUP_MAX: usize = 256;
const LEFT_BYTES_PER_GROUP_MAX: usize = 256 * 1024;
