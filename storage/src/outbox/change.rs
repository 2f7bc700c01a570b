//! The legal changes of a call. Pure, the same for every outbox.

use super::{Body, FirstSent, NewCall, OutboxChange, OutboxEntry, OutboxError, OutboxState};

/// What a change makes of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is kept no more.
    Gone,
    /// Nothing changes.
    Not,
    To(OutboxState),
}

// === impl OutboxEntry ===

impl OutboxEntry {
    /// What `change` makes of it, or why it may not be made.
    pub(crate) fn change(&self, change: &OutboxChange) -> Result<Changed, OutboxError> {
        use OutboxState as Is;
        let not_now = || OutboxError::NotNow {
            state: self.state.name(),
            asked: change.name(),
        };
        Ok(match (change, &self.state) {
            (OutboxChange::Acknowledge, Is::Answered { .. })
            | (OutboxChange::Cancel, Is::Unsent) => Changed::Gone,
            (OutboxChange::Cancel, Is::Sent(_) | Is::InDoubt(_) | Is::Unknown { .. }) => {
                return Err(OutboxError::MaybeExecuted);
            }
            (
                OutboxChange::ForgetMaybeExecuted,
                Is::Sent(_) | Is::InDoubt(_) | Is::Unknown { .. },
            ) => Changed::Gone,
            (OutboxChange::Answer(bytes), Is::Sent(sent) | Is::InDoubt(sent)) => {
                Changed::To(Is::Answered {
                    sent: *sent,
                    answer: Body::of(bytes),
                })
            }
            (OutboxChange::Doubt, Is::Sent(sent)) => Changed::To(Is::InDoubt(*sent)),
            (OutboxChange::GiveUp(because), Is::Sent(sent) | Is::InDoubt(sent)) => {
                Changed::To(Is::Unknown {
                    sent: *sent,
                    because: *because,
                })
            }
            (OutboxChange::MarkSent(sent), Is::Unsent) => Changed::To(Is::Sent(*sent)),
            (OutboxChange::NotExecuted, Is::Sent(_)) => Changed::To(Is::Unsent),
            // A first attempt that differs would be a second first attempt.
            (OutboxChange::MarkSent(new), Is::Sent(sent) | Is::InDoubt(sent)) if new == sent => {
                Changed::Not
            }
            // What was sent to a server without a store is bound to the first one that it meets.
            (OutboxChange::MarkSent(new), Is::Sent(sent)) if new.binds(*sent) => {
                Changed::To(Is::Sent(*new))
            }
            (OutboxChange::MarkSent(new), Is::InDoubt(sent)) if new.binds(*sent) => {
                Changed::To(Is::InDoubt(*new))
            }
            (OutboxChange::Doubt, Is::InDoubt(_)) | (OutboxChange::NotExecuted, Is::Unsent) => {
                Changed::Not
            }
            _ => return Err(not_now()),
        })
    }

    /// How many bytes of bodies it keeps.
    pub(crate) fn bytes(&self) -> u64 {
        let answer = match &self.state {
            OutboxState::Answered { answer, .. } => answer.bytes,
            _ => 0,
        };
        u64::from(self.request.bytes) + u64::from(answer)
    }

    /// Whether it is the same call as `new`, which has its key.
    pub(crate) fn is(&self, new: &NewCall) -> bool {
        self.method == new.method && self.request == Body::of(&new.request)
    }
}

// === impl FirstSent ===

impl FirstSent {
    /// Whether it is `earlier`, which had met no store yet.
    fn binds(self, earlier: Self) -> bool {
        self.at == earlier.at && earlier.store.is_none()
    }
}

// === impl Body ===

impl Body {
    /// What `bytes` are told by.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            // OK because larger ones are refused before they come here; a wrong length would be
            // found by the digest.
            bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            digest: *blake3::hash(bytes).as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::outbox::Unknown;
    use crate::{IdempotencyKey, StoreId, Timestamp};

    const SENT: FirstSent = FirstSent {
        at: Timestamp::from_millis(5),
        store: None,
    };

    fn entry(state: OutboxState) -> OutboxEntry {
        OutboxEntry {
            number: 1,
            key: IdempotencyKey::parse("k").unwrap(),
            method: "m".to_owned(),
            maybe_sent_elsewhere: false,
            written_at: Timestamp::from_millis(1),
            timeout: None,
            request: Body::of(b"r"),
            state,
        }
    }

    fn states() -> [OutboxState; 5] {
        let answer = Body::of(b"a");
        let because = Unknown::Aged;
        [
            OutboxState::Unsent,
            OutboxState::Sent(SENT),
            OutboxState::InDoubt(SENT),
            OutboxState::Answered { sent: SENT, answer },
            OutboxState::Unknown {
                sent: SENT,
                because,
            },
        ]
    }

    #[test]
    fn only_what_was_never_sent_may_be_cancelled_and_only_an_answer_acknowledged() {
        let gone = |change: OutboxChange| {
            states().map(|state| entry(state).change(&change) == Ok(Changed::Gone))
        };
        assert_eq!(
            gone(OutboxChange::Cancel),
            [true, false, false, false, false]
        );
        assert_eq!(
            gone(OutboxChange::Acknowledge),
            [false, false, false, true, false]
        );
        assert_eq!(
            gone(OutboxChange::ForgetMaybeExecuted),
            [false, true, true, false, true]
        );
    }

    #[test]
    fn a_call_that_was_sent_keeps_its_first_attempt() {
        let mark = |at| OutboxChange::MarkSent(FirstSent { at, ..SENT });
        let later = mark(Timestamp::from_millis(6));
        for state in [OutboxState::Sent(SENT), OutboxState::InDoubt(SENT)] {
            let entry = entry(state);
            assert_eq!(entry.change(&mark(SENT.at)), Ok(Changed::Not));
            assert!(entry.change(&later).is_err());
            let store = Some(StoreId::from_bytes([1; 16]));
            let bound = FirstSent { store, ..SENT };
            let changed = entry.change(&OutboxChange::MarkSent(bound)).unwrap();
            let Changed::To(state) = changed else {
                panic!("it is bound to a store now: {changed:?}");
            };
            assert_eq!(state.sent(), Some(bound));
            assert_eq!(state.name(), entry.state.name());
        }
        let first = entry(OutboxState::Unsent).change(&later).unwrap();
        assert!(matches!(first, Changed::To(OutboxState::Sent(_))));
    }

    #[test]
    fn what_has_ended_is_neither_sent_again_nor_changed() {
        let [_, _, _, answered, unknown] = states();
        for state in [answered, unknown] {
            for change in [
                OutboxChange::MarkSent(SENT),
                OutboxChange::Answer(Bytes::from_static(b"other")),
                OutboxChange::Doubt,
                OutboxChange::NotExecuted,
                OutboxChange::GiveUp(Unknown::Forgotten),
                OutboxChange::Cancel,
            ] {
                let refused = entry(state.clone()).change(&change);
                assert!(refused.is_err(), "{state:?}: {change:?}");
            }
        }
    }

    #[test]
    fn an_answer_is_of_a_call_that_was_sent() {
        let answer = OutboxChange::Answer(Bytes::from_static(b"a"));
        let taken = states().map(|state| entry(state).change(&answer).is_ok());
        assert_eq!(taken, [false, true, true, false, false]);
    }
}
