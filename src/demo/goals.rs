//! What a run must have met before it proves anything.
//!
//! A server that answers *in doubt* to every call breaks no promise. So a run in which nothing was
//! answered, no server was killed or no naive retry did harm is not fine: it has missed its goals.

use std::fmt;

use super::work::WORKERS;

/// What both columns met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Calls in each column.
    pub(super) calls: u64,
    /// Kills that were asked for in each column.
    pub(super) kills: u64,
    /// Restarts after a kill: of both columns the fewer.
    pub(super) restarts: u64,
    /// Keyed calls that were answered or declined.
    pub(super) answered: u64,
    /// Keyed calls that are in doubt, or were on the way where that may not be either: what becomes of
    /// them can be known, so that none may be.
    pub(super) in_doubt: u64,
    /// Keyed calls that were in doubt on the way, where an outside system is asked about them.
    pub(super) doubts_asked: Option<u64>,
    /// Naive calls whose effect happened more than once.
    pub(super) duplicated: u64,
}

/// A goal that a run has missed, in words when displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissedGoal {
    Answers { answered: u64, least: u64 },
    Doubts,
    Duplicates,
    NoDoubts { in_doubt: u64 },
    Restarts { restarts: u64, kills: u64 },
}

/// A goal that a small run need not reach, in words when displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaivedGoal {
    Answers { kills: u64, least: u64 },
    Duplicates,
}

/// Whether the naive column, in which nothing has happened twice in so many rounds of `calls`
/// calls, goes on for another one.
pub(super) const fn asks_for_another_round(calls: u64, rounds: u64) -> bool {
    calls >= DUPLICATES_FROM && rounds < ROUNDS_MAX
}

// === impl Coverage ===

impl Coverage {
    /// The goals that this run had to reach and did not.
    pub(super) fn missed(self) -> Vec<MissedGoal> {
        let mut missed = Vec::new();
        let (answered, least) = (self.answered, self.answers_least());
        if answered < least {
            missed.push(MissedGoal::Answers { answered, least });
        }
        if self.duplicated == 0 && self.asks_for_duplicates() {
            missed.push(MissedGoal::Duplicates);
        }
        if self.doubts_asked == Some(0) && self.kills > 0 && self.asks_for_duplicates() {
            missed.push(MissedGoal::Doubts);
        }
        let in_doubt = self.in_doubt;
        if in_doubt > 0 {
            missed.push(MissedGoal::NoDoubts { in_doubt });
        }
        let (restarts, kills) = (self.restarts, self.kills);
        if restarts < kills {
            missed.push(MissedGoal::Restarts { restarts, kills });
        }
        missed
    }

    /// The goals that a larger run would have had to reach.
    pub(super) fn waived(self) -> Vec<WaivedGoal> {
        let mut waived = Vec::new();
        let least = self.answers_least();
        if least < self.calls - self.calls / 10 {
            let kills = self.kills;
            waived.push(WaivedGoal::Answers { kills, least });
        }
        if !self.asks_for_duplicates() {
            waived.push(WaivedGoal::Duplicates);
        }
        waived
    }

    /// Nine calls of ten; fewer where the kills alone may leave more in doubt, since each kill may
    /// meet as many calls as there are workers. But never none.
    fn answers_least(self) -> u64 {
        let open_most = (self.calls / 10).max(self.kills.saturating_mul(WORKERS));
        self.calls.saturating_sub(open_most).max(1)
    }

    const fn asks_for_duplicates(self) -> bool {
        self.calls >= DUPLICATES_FROM
    }
}

// === impl MissedGoal ===

impl fmt::Display for MissedGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { answered, least } => write!(
                f,
                "only {answered} calls were answered, {least} is the least that shows anything"
            ),
            Self::Doubts => f.write_str(
                "no call was in doubt on the way: the servers were stopped where it did no harm",
            ),
            Self::Duplicates => f.write_str(
                "the naive column has no duplicate: this run met nothing that retries have to fear",
            ),
            Self::NoDoubts { in_doubt } => write!(
                f,
                "{in_doubt} calls are in doubt, or were on the way, although what becomes of them \
                 can be known"
            ),
            Self::Restarts { restarts, kills } => write!(
                f,
                "the server was killed and restarted {restarts} times of {kills}"
            ),
        }
    }
}

// === impl WaivedGoal ===

impl fmt::Display for WaivedGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { kills, least } => write!(
                f,
                "answers to 90 % of the calls ({kills} kills may leave {WORKERS} in doubt each; \
                 {least} will do)"
            ),
            Self::Duplicates => write!(
                f,
                "a duplicate in the naive column (from {DUPLICATES_FROM} calls on)"
            ),
        }
    }
}

/// Without a kill the network alone doubles about two naive calls in a thousand; a smaller run may
/// have none by chance.
const DUPLICATES_FROM: u64 = 1_000;

/// The smallest run that is asked for a duplicate has none in one of seven such rounds; in five of
/// them, less than once in ten thousand. A network that does no harm ends as a missed goal.
const ROUNDS_MAX: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Coverage = Coverage {
        calls: 2_000,
        kills: 3,
        restarts: 3,
        answered: 1_980,
        in_doubt: 0,
        doubts_asked: None,
        duplicated: 20,
    };

    #[test]
    fn a_run_with_kills_duplicates_and_answers_misses_nothing() {
        assert_eq!(FINE.missed(), []);
        assert_eq!(FINE.waived(), []);
    }

    #[test]
    fn a_server_that_is_always_in_doubt_misses_the_answers() {
        let coverage = Coverage {
            answered: 0,
            ..FINE
        };
        let (answered, least) = (0, 1_800);
        assert_eq!(coverage.missed(), [MissedGoal::Answers { answered, least }]);
    }

    #[test]
    fn one_call_in_doubt_is_a_missed_goal() {
        let coverage = Coverage {
            in_doubt: 1,
            ..FINE
        };
        let in_doubt = 1;
        assert_eq!(coverage.missed(), [MissedGoal::NoDoubts { in_doubt }]);
    }

    #[test]
    fn one_answer_less_than_nine_in_ten_is_too_few() {
        for (answered, missed) in [(1_800, false), (1_799, true)] {
            let coverage = Coverage { answered, ..FINE };
            assert_eq!(!coverage.missed().is_empty(), missed, "{answered}");
        }
    }

    #[test]
    fn a_kill_that_did_not_happen_is_a_missed_goal() {
        let coverage = Coverage {
            restarts: 2,
            ..FINE
        };
        let (restarts, kills) = (2, 3);
        assert_eq!(
            coverage.missed(),
            [MissedGoal::Restarts { restarts, kills }]
        );
    }

    #[test]
    fn a_naive_column_without_duplicates_is_a_missed_goal() {
        let coverage = Coverage {
            duplicated: 0,
            ..FINE
        };
        assert_eq!(coverage.missed(), [MissedGoal::Duplicates]);
    }

    /// By chance no duplicate is no reason to fail, and no reason to go on for ever.
    #[test]
    fn a_naive_column_without_duplicates_goes_on_for_some_rounds_where_one_is_asked_for() {
        for (calls, rounds, goes_on) in [
            (2_000, 1, true),
            (2_000, 4, true),
            (2_000, 5, false),
            (999, 1, false),
        ] {
            assert_eq!(
                asks_for_another_round(calls, rounds),
                goes_on,
                "{calls}, {rounds}"
            );
        }
    }

    #[test]
    fn a_tiny_run_needs_one_answer_and_its_kills_and_says_what_it_was_spared() {
        let tiny = Coverage {
            calls: 50,
            answered: 1,
            duplicated: 0,
            ..FINE
        };
        assert_eq!(tiny.missed(), []);
        let (kills, least) = (3, 1);
        assert_eq!(
            tiny.waived(),
            [WaivedGoal::Answers { kills, least }, WaivedGoal::Duplicates]
        );
        let tiny = Coverage {
            answered: 0,
            ..tiny
        };
        assert_eq!(tiny.missed().len(), 1);
    }
}
