//! What the result of an attempt proves. Pure.

use crate::client::{Advice, AttemptError, Cost, Executed, Verdict};

/// The verdict on the result of an attempt. `classify` is asked for what came from the peer or its
/// transport; what is known without asking cannot be overruled by it: that a request which was
/// never handed over was not executed, and that an error is no answer.
pub(super) fn read<Res, Err>(
    result: Result<&Res, &AttemptError<Err>>,
    classify: impl FnOnce(Result<&Res, &Err>) -> Verdict,
) -> Verdict {
    match result {
        Ok(response) => classify(Ok(response)),
        Err(AttemptError::Elapsed { sent: true }) => Verdict::RETRY_UNKNOWN,
        Err(AttemptError::Elapsed { sent: false }) => Verdict::RETRY_NOT_EXECUTED,
        Err(AttemptError::Inner(error)) => match classify(Err(error)) {
            Verdict::Accept => Verdict::Refuse(Executed::Unknown),
            verdict => verdict,
        },
        Err(AttemptError::NotReady(error)) => match classify(Err(error)) {
            Verdict::Accept | Verdict::InDoubt | Verdict::Refuse(_) => {
                Verdict::Refuse(Executed::NotThisAttempt)
            }
            Verdict::Retry(advice) => Verdict::Retry(Advice {
                executed: Executed::NotThisAttempt,
                cost: Cost::Attempt,
                ..advice
            }),
        },
    }
}

/// What a verdict proves of execution.
pub(super) const fn proof(verdict: Verdict) -> Executed {
    match verdict {
        Verdict::Accept | Verdict::InDoubt => Executed::Unknown,
        Verdict::Refuse(executed) => executed,
        // Whoever is to wait for the answer is told that the call is being executed.
        Verdict::Retry(Advice {
            cost: Cost::OnlyTime,
            ..
        }) => Executed::Unknown,
        Verdict::Retry(advice) => advice.executed,
    }
}

/// Whether a call may have been executed after an attempt that proves `proof`, if it may have been
/// `before`. An attempt that was not executed says nothing of the earlier ones, and none says
/// anything of what was sent before this call began (`sent_before`): that may have been other bytes.
pub(super) const fn maybe_executed(sent_before: bool, before: bool, proof: Executed) -> bool {
    match proof {
        Executed::Never => sent_before,
        Executed::NotThisAttempt => before,
        Executed::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn executed() -> impl Strategy<Value = Executed> {
        prop_oneof![
            Just(Executed::Never),
            Just(Executed::NotThisAttempt),
            Just(Executed::Unknown)
        ]
    }

    proptest! {
        /// Folded over any sequence: true exactly if it was at the start, or anything is unknown
        /// after the last proof that nothing ever was executed.
        #[test]
        fn unknown_is_never_washed_away_by_a_later_refusal(
            at_first in any::<bool>(),
            proofs in prop::collection::vec(executed(), 0..12),
        ) {
            let folded = proofs
                .iter()
                .fold(at_first, |before, p| maybe_executed(at_first, before, *p));
            let last_never = proofs.iter().rposition(|p| *p == Executed::Never);
            let since = last_never.map_or(0, |at| at + 1);
            let expected = at_first || proofs[since..].contains(&Executed::Unknown);
            prop_assert_eq!(folded, expected);
        }
    }

    #[test]
    fn what_was_never_handed_over_was_not_executed_whatever_the_adapter_says() {
        let not_ready = AttemptError::NotReady("breaker open");
        for said in [
            Verdict::Accept,
            Verdict::InDoubt,
            Verdict::Refuse(Executed::Unknown),
            Verdict::RETRY_UNKNOWN,
        ] {
            let verdict = read::<(), _>(Err(&not_ready), |_| said);
            assert_eq!(proof(verdict), Executed::NotThisAttempt, "{said:?}");
        }
    }

    #[test]
    fn an_error_is_no_answer() {
        let error = AttemptError::Inner("reset");
        let verdict = read::<(), _>(Err(&error), |_| Verdict::Accept);
        assert_eq!(verdict, Verdict::Refuse(Executed::Unknown));
    }
}
