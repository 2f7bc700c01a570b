//! The figures of a proxy, beside those of the layers in it.

use std::time::Duration;

use http::StatusCode;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::ConfigError;
use crate::http::Status;

/// Answers, by the class of their code and their `Idempotency-Status`.
pub(super) const REQUESTS: &str = "onlyonce_proxy_requests_total";
/// Time from the head of a request to the head of its answer, by `Idempotency-Status`.
pub(super) const SECONDS: &str = "onlyonce_proxy_request_seconds";
/// Connections of clients that are open.
pub(super) const CONNECTIONS: &str = "onlyonce_proxy_connections";
/// Connections over the bound, told 503 and closed.
pub(super) const CONNECTIONS_REFUSED: &str = "onlyonce_proxy_connections_refused_total";
/// Lines of the access log for which there was no room.
pub(super) const LOG_LINES_LOST: &str = "onlyonce_proxy_access_log_lost_total";
/// Calls of earlier runs of an egress that have ended, by how.
pub(super) const DRIVEN_ON: &str = "onlyonce_proxy_driven_on_total";
/// Calls of earlier runs of an egress that have not ended yet.
pub(super) const LEFT_BY_EARLIER_RUNS: &str = "onlyonce_proxy_left_by_earlier_runs";
/// Calls in doubt in the store, as last counted.
pub(super) const IN_DOUBT: &str = "onlyonce_proxy_in_doubt";

/// Makes this process keep its figures, once.
///
/// # Errors
///
/// When something else keeps them already.
pub(super) fn keep() -> Result<PrometheusHandle, ConfigError> {
    let buckets = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(buckets, &BUCKETS);
    let failed = |error: &dyn std::fmt::Display| {
        ConfigError::new("admin", format!("no figures can be kept: {error}"))
    };
    let recorder = builder.map_err(|error| failed(&error))?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| failed(&error))?;
    describe_counter!(
        REQUESTS,
        Unit::Count,
        "Answers, by class of code and status"
    );
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time to the head of the answer, by status"
    );
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Connections of clients that are open"
    );
    describe_counter!(
        CONNECTIONS_REFUSED,
        Unit::Count,
        "Connections over the bound"
    );
    describe_counter!(
        LOG_LINES_LOST,
        Unit::Count,
        "Lines of the access log that were lost"
    );
    describe_counter!(
        DRIVEN_ON,
        Unit::Count,
        "Calls of earlier runs that have ended, by how"
    );
    describe_gauge!(
        LEFT_BY_EARLIER_RUNS,
        Unit::Count,
        "Calls of earlier runs that have not ended"
    );
    describe_gauge!(IN_DOUBT, Unit::Count, "Calls in doubt in the store");
    Ok(handle)
}

pub(super) fn answered(code: StatusCode, status: Option<Status>, took: Duration) {
    let class = match code.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    let status = status.map_or("none", Status::as_str);
    counter!(REQUESTS, "code" => class, "status" => status).increment(1);
    histogram!(SECONDS, "status" => status).record(took.as_secs_f64());
}

/// One connection that is open, for as long as it is held.
pub(super) struct Connected(());

impl Connected {
    pub(super) fn new() -> Self {
        gauge!(CONNECTIONS).increment(1.0);
        Self(())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1.0);
    }
}

/// From half a millisecond to the time after which calls are given up.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 30.0,
];
