//! What can be seen of the server's layers from outside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use onlyonce_middleware::observe::ServeSpanLayer;
use onlyonce_middleware::observe::names;
use onlyonce_storage::MemoryStore;
use tower::{Layer, ServiceExt};

use crate::protocol::{Ask, Effects, Handler, send};
use crate::watched::Watched;

type Seen = Vec<(String, Vec<(String, String)>, DebugValue)>;

/// One call of each kind, and what a recorder has seen of them.
fn record() -> Seen {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let effects = Effects::default();
            let store = Watched::new(Arc::new(MemoryStore::default()));
            let server = Handler::applying(&effects).over(store.clone());
            let (a, b) = (
                send(&server, Ask::new("k", "pay")),
                send(&server, Ask::new("k", "pay")),
            );
            tokio::join!(a, b);
            send(&server, Ask::new("k", "pay")).await;
            send(&server, Ask::new("k", "other")).await;
            store.refuse_completions.store(true, Ordering::SeqCst);
            send(&server, Ask::new("u", "pay")).await;
            let observed = ServeSpanLayer.layer(server);
            observed.oneshot(Ask::new("k", "pay")).await.unwrap();
        });
    });
    let seen = snapshotter.snapshot().into_vec().into_iter();
    seen.map(|(key, _, _, value)| {
        let key = key.key();
        let label = |label: &metrics::Label| (label.key().to_owned(), label.value().to_owned());
        (
            key.name().to_owned(),
            key.labels().map(label).collect(),
            value,
        )
    })
    .collect()
}

fn calls(seen: &Seen, outcome: &str) -> u64 {
    let label = ("outcome".to_owned(), outcome.to_owned());
    let counted = seen.iter().find(|(name, labels, _)| {
        name == names::SERVER_CALLS_TOTAL.name && labels.contains(&label)
    });
    match counted {
        Some((_, _, DebugValue::Counter(count))) => *count,
        _ => 0,
    }
}

#[test]
fn every_metric_that_the_server_emits_stands_in_the_table_and_every_one_there_is_emitted() {
    let seen: BTreeSet<String> = record().into_iter().map(|(name, ..)| name).collect();
    let table: BTreeSet<String> = names::TABLE
        .iter()
        .map(|metric| metric.name.to_owned())
        .filter(|name| name.contains("_server_"))
        .collect();
    assert_eq!(seen, table);
}

#[test]
fn each_response_is_counted_once_by_how_its_caller_got_it() {
    let seen = record();
    let expected = [
        ("executed", 1),
        ("attached", 1),
        ("replayed", 2),
        ("mismatch", 1),
        ("executed_unrecorded", 1),
    ];
    for (outcome, count) in expected {
        assert_eq!(calls(&seen, outcome), count, "{outcome}");
    }
}

// F9
#[test]
fn a_replay_is_never_counted_as_executed_and_runs_no_handler() {
    let seen = record();
    let handled = seen
        .iter()
        .find(|(name, ..)| name == names::SERVER_HANDLER_SECONDS.name);
    let Some((_, _, DebugValue::Histogram(runs))) = handled else {
        panic!("no handler ran")
    };
    assert_eq!(runs.len(), 2);
}

#[test]
fn gauges_return_to_zero() {
    for gauge in [names::SERVER_IN_FLIGHT, names::SERVER_WAITERS] {
        let seen = record();
        let value = seen
            .into_iter()
            .find(|(name, ..)| name == gauge.name)
            .map(|(.., value)| value);
        assert_eq!(value, Some(DebugValue::Gauge(0.0.into())), "{}", gauge.name);
    }
}

// I3
#[test]
fn no_label_shows_a_key_or_a_body() {
    for (name, labels, _) in record() {
        for (label, value) in labels {
            assert_eq!(label, "outcome", "{name}");
            assert!(
                value.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{name}: {value}"
            );
        }
    }
}
