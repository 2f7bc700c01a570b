//! What can be seen from outside.

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshot};
use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptTimeoutLayer, EnforceDeadlineLayer, Pushback, StampLayer, Verdict,
};
use onlyonce_middleware::observe::ObserveLayer;
use onlyonce_middleware::observe::names::{self, Kind, Metric};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::protocol::*;

/// One call through everything, observed.
async fn observed(peer: &Peer, request: Request) -> Result {
    ServiceBuilder::new()
        .layer(ObserveLayer::new())
        .layer(AttachKeyLayer::new(MockAdapter))
        .layer(EnforceDeadlineLayer::new())
        .layer(retry())
        .layer(AttemptTimeoutLayer::new())
        .layer(StampLayer::new(MockAdapter))
        .service(peer.clone())
        .oneshot(request)
        .await
}

/// Runs one call of each kind, and answers what a recorder has seen.
fn record() -> Snapshot {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        names::describe();
        runtime.block_on(async {
            let _ = observed(&Peer::new([refused(), accepted()]), Request::new("a")).await;
            let waits = Peer::new([answers(in_progress(Pushback::Silent)), accepted()]);
            let _ = observed(&waits, Request::new("b")).await;
            let _ = observed(&Peer::new([lost()]), Request::new("c")).await;
            let once = Request::new("d").streaming();
            let _ = observed(&Peer::new([refused()]), once).await;
            let _ = observed(&Peer::new([answers(Verdict::InDoubt)]), Request::new("e")).await;
            let silent = Peer::new([silence()]);
            let cancelled = observed(&silent, Request::new("f"));
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), cancelled).await;
        });
    });
    snapshotter.snapshot()
}

/// The value of the metric with this name and, if it has one, this value of its label.
fn value(seen: Snapshot, metric: &Metric, label: Option<&str>) -> DebugValue {
    seen.into_vec()
        .into_iter()
        .find(|(key, ..)| {
            key.key().name() == metric.name
                && key.key().labels().next().map(metrics::Label::value) == label
        })
        .map(|(.., value)| value)
        .unwrap()
}

#[test]
fn every_metric_that_the_client_emits_stands_in_the_table_and_every_one_there_is_emitted() {
    let seen = record().into_vec();
    for (key, unit, description, _) in &seen {
        let row = names::TABLE
            .iter()
            .find(|row| row.name == key.key().name())
            .unwrap();
        let kind = match row.kind {
            Kind::Counter => MetricKind::Counter,
            Kind::Gauge => MetricKind::Gauge,
            Kind::Histogram => MetricKind::Histogram,
        };
        assert_eq!(key.kind(), kind, "{}", row.name);
        assert_eq!(*unit, Some(row.unit), "{}", row.name);
        assert_eq!(description.as_deref(), Some(row.description));
        let labels: Vec<_> = key.key().labels().map(metrics::Label::key).collect();
        assert_eq!(labels, row.labels, "{}", row.name);
    }
    for row in names::TABLE {
        let emitted = seen.iter().any(|(key, ..)| key.key().name() == row.name);
        assert_eq!(emitted, row.name.contains("_client_"), "{}", row.name);
    }
}

#[test]
fn the_names_of_the_table_differ_and_stand_in_order() {
    let consts = names::TABLE.iter().map(|row| row.name);
    let distinct: std::collections::HashSet<_> = consts.collect();
    assert_eq!(distinct.len(), names::TABLE.len());
    let (client, server): (Vec<_>, Vec<_>) = names::TABLE
        .iter()
        .map(|row| row.name)
        .partition(|name| name.starts_with("onlyonce_client_"));
    assert!(server.iter().all(|n| n.starts_with("onlyonce_server_")));
    assert_eq!(client.len() + server.len(), names::TABLE.len());
}

#[test]
fn calls_are_counted_by_outcome_and_none_stays_in_flight() {
    for (outcome, calls) in [
        ("answered", 2),
        ("unknown", 1),
        ("not_executed", 1),
        ("in_doubt", 1),
        ("cancelled", 1),
    ] {
        let counted = value(record(), &names::CLIENT_CALLS_TOTAL, Some(outcome));
        assert_eq!(counted, DebugValue::Counter(calls), "{outcome}");
    }
    let in_flight = value(record(), &names::CLIENT_IN_FLIGHT, None);
    assert_eq!(in_flight, DebugValue::Gauge(0.0.into()));
}

// H8
#[test]
fn a_request_that_is_sent_once_is_counted() {
    let counted = value(record(), &names::CLIENT_SENT_ONCE_TOTAL, None);
    assert_eq!(counted, DebugValue::Counter(1));
}

// I3
#[test]
fn no_label_shows_a_key_or_a_body() {
    let fixed = [
        "accepted",
        "answered",
        "attempt",
        "budget",
        "cancelled",
        "final",
        "in_doubt",
        "lost",
        "not_executed",
        "one_shot",
        "only_time",
        "peer_not_known_to_dedupe",
        "refused",
        "retryable",
        "unknown",
    ];
    for (key, ..) in record().into_vec() {
        for label in key.key().labels() {
            assert!(fixed.contains(&label.value()), "{label:?}");
        }
    }
}
