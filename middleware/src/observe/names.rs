//! All metrics, in one table.

use metrics::Unit;

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it counts in.
    pub unit: Unit,
    /// The labels that it has, each with a small and fixed set of values.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub description: &'static str,
}

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It keeps how values are distributed.
    Histogram,
}

/// Every metric of this crate, by name.
pub const TABLE: &[Metric] = &[
    CLIENT_ATTEMPTS_TOTAL,
    CLIENT_CALLS_TOTAL,
    CLIENT_CALL_SECONDS,
    CLIENT_IN_FLIGHT,
    CLIENT_RETRIES_TOTAL,
    CLIENT_SENT_ONCE_TOTAL,
    CLIENT_STOPPED_TOTAL,
    SERVER_CALLS_TOTAL,
    SERVER_HANDLER_SECONDS,
    SERVER_IN_FLIGHT,
    SERVER_RECONCILED_TOTAL,
    SERVER_REPLAYS_TOTAL,
    SERVER_RERUNS_TOTAL,
    SERVER_STEPS_TOTAL,
    SERVER_TRANSACTION_CONFLICTS_TOTAL,
    SERVER_UNRECORDED_TOTAL,
    SERVER_WAITERS,
];

/// Attempts, by what became of them: `accepted`, `in_doubt`, `refused`, `retryable`.
pub const CLIENT_ATTEMPTS_TOTAL: Metric = Metric {
    name: "onlyonce_client_attempts_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["result"],
    description: "Attempts made, by what their results meant",
};

/// Calls, by how they ended: `answered`, `cancelled`, `in_doubt`, `not_executed`, `unknown`.
pub const CLIENT_CALLS_TOTAL: Metric = Metric {
    name: "onlyonce_client_calls_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["outcome"],
    description: "Calls that ended, by outcome",
};

/// How long calls took, all their attempts together.
pub const CLIENT_CALL_SECONDS: Metric = Metric {
    name: "onlyonce_client_call_seconds",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &["outcome"],
    description: "Time from the start of a call to its end, by outcome",
};

/// Calls that have begun and not ended.
pub const CLIENT_IN_FLIGHT: Metric = Metric {
    name: "onlyonce_client_in_flight",
    kind: Kind::Gauge,
    unit: Unit::Count,
    labels: &[],
    description: "Calls begun and not ended",
};

/// Attempts made after an earlier one, by cost: `attempt`, `only_time`.
pub const CLIENT_RETRIES_TOTAL: Metric = Metric {
    name: "onlyonce_client_retries_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["cost"],
    description: "Attempts scheduled after an earlier one, by what they cost",
};

/// Attempts whose request could not be copied, so that no other can follow.
pub const CLIENT_SENT_ONCE_TOTAL: Metric = Metric {
    name: "onlyonce_client_sent_once_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &[],
    description: "Requests that can only be sent once: streaming, or too large to keep a copy of",
};

/// Calls that the retry layer ended without an answer, by why no further attempt was made.
pub const CLIENT_STOPPED_TOTAL: Metric = Metric {
    name: "onlyonce_client_stopped_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["reason"],
    description: "Calls ended without an answer, by why no further attempt was made",
};

/// Calls that the server has answered, by outcome.
pub const SERVER_CALLS_TOTAL: Metric = Metric {
    name: "onlyonce_server_calls_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["outcome"],
    description: "Calls answered, by outcome",
};

/// How long handlers ran.
pub const SERVER_HANDLER_SECONDS: Metric = Metric {
    name: "onlyonce_server_handler_seconds",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &[],
    description: "Time that handlers ran",
};

/// Handlers that are running.
pub const SERVER_IN_FLIGHT: Metric = Metric {
    name: "onlyonce_server_in_flight",
    kind: Kind::Gauge,
    unit: Unit::Count,
    labels: &[],
    description: "Handlers that are running",
};

/// Calls in doubt that the outside world was asked about, by what came of it: `applied`,
/// `not_applied` (the call may run again), `owner_not_known_gone` (it was not applied, and its
/// owner may still apply it), `still_unknown`; `failed`, `panicked` and `timed_out` of the hook;
/// `crowded` (its turn did not come), `superseded` (somebody else was faster) and `unrecorded` (the
/// store did not take the answer).
pub const SERVER_RECONCILED_TOTAL: Metric = Metric {
    name: "onlyonce_server_reconciled_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["result"],
    description: "Calls in doubt that the outside world was asked about, by result",
};

/// Answers given from the record, without the handler.
pub const SERVER_REPLAYS_TOTAL: Metric = Metric {
    name: "onlyonce_server_replays_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &[],
    description: "Answers given from the record",
};

/// Handlers that ran again for a call in doubt.
pub const SERVER_RERUNS_TOTAL: Metric = Metric {
    name: "onlyonce_server_reruns_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &[],
    description: "Handlers that ran again for a call in doubt",
};

/// Steps of journaled calls, by what became of them: `run`, `replayed` (a run before has left its
/// result), `not_executed` and `unknown` (their own code says so). What was cut off is in none.
pub const SERVER_STEPS_TOTAL: Metric = Metric {
    name: "onlyonce_server_steps_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["result"],
    description: "Steps of journaled calls, by what became of them",
};

/// Runs of transactional handlers that were rolled back because somebody else committed a change of
/// what they had read, by what followed: `run_again`, or `given_up` where the call had run as often as
/// it may and ends as not executed. So `given_up` counts calls.
pub const SERVER_TRANSACTION_CONFLICTS_TOTAL: Metric = Metric {
    name: "onlyonce_server_transaction_conflicts_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &["result"],
    description: "Transactional runs that lost to another commit, by what followed",
};

/// Answers that were delivered and could not be recorded.
pub const SERVER_UNRECORDED_TOTAL: Metric = Metric {
    name: "onlyonce_server_unrecorded_total",
    kind: Kind::Counter,
    unit: Unit::Count,
    labels: &[],
    description: "Answers delivered that could not be recorded",
};

/// Duplicates that wait for the call in progress.
pub const SERVER_WAITERS: Metric = Metric {
    name: "onlyonce_server_waiters",
    kind: Kind::Gauge,
    unit: Unit::Count,
    labels: &[],
    description: "Duplicates waiting for a call in progress",
};

/// Tells the recorder the unit and the description of every metric. Call it once, after the
/// recorder is installed.
pub fn describe() {
    for metric in TABLE {
        let Metric {
            name,
            unit,
            description,
            ..
        } = *metric;
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(name, unit, description),
            Kind::Gauge => metrics::describe_gauge!(name, unit, description),
            Kind::Histogram => metrics::describe_histogram!(name, unit, description),
        }
    }
}
