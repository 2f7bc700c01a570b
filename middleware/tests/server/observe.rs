//! What can be seen of the server's layers from outside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use onlyonce_middleware::observe::ServeSpanLayer;
use onlyonce_middleware::observe::names;
use onlyonce_middleware::server::{InDoubtPolicy, Reconciled, Unfinished};
use onlyonce_storage::MemoryStore;
use tower::{Layer, ServiceExt};

use crate::doubts::{Frozen, Outside, after_a_panic, answer, finding, reconcile};
use crate::journaled_calls::{journaled, result};
use crate::protocol::{Ask, Effects, Handler, done, send};
use crate::transacting::losing;
use crate::watched::Watched;

type Seen = Vec<(String, Vec<(String, String)>, DebugValue)>;

/// One call of each kind, and what a recorder has seen of them.
fn record() -> Seen {
    record_of(async {
        tokio::time::pause();
        let effects = Effects::default();
        let store = Watched::new(Arc::new(MemoryStore::default()));
        let server = Handler::slow(&effects, Duration::from_millis(1)).over(store.clone());
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
    })
}

/// Calls in doubt that are reconciled, with every result that needs no trouble of the store's.
fn record_reconciling() -> Seen {
    record_of(async {
        tokio::time::pause();
        let outside = Outside::new();
        let frozen = Frozen::applying(&outside).await;
        frozen.lapses();
        let mut hooks = vec![
            finding(Reconciled::StillUnknown).0,
            finding(Reconciled::NotApplied).0,
            InDoubtPolicy::Reconcile(reconcile(|_| async { Err("no route".to_owned()) })),
            InDoubtPolicy::Reconcile(reconcile(|_| async { panic!("in the hook") })),
            InDoubtPolicy::Reconcile(reconcile(|_| std::future::pending())),
            finding(Reconciled::Applied(answer(&"x".repeat(2 * 1024 * 1024)))).0,
            finding(Reconciled::Applied(answer("paid"))).0,
        ];
        for policy in hooks.drain(..) {
            let server = outside.handler().over_policy(frozen.store.clone(), policy);
            send(&server, Ask::new("k", "pay")).await;
        }
        let store = after_a_panic(&Effects::default(), false).await;
        let policy = finding(Reconciled::NotApplied).0;
        let server = outside.handler().over_policy(store, policy);
        send(&server, Ask::new("k", "pay")).await;
    })
}

/// A transaction that loses twice, and one that loses as often as it may run.
fn record_losing() -> Seen {
    record_of(async {
        tokio::time::pause();
        for (key, lost) in [("k", 2), ("l", u32::MAX)] {
            let store = MemoryStore::default();
            let server = losing(&store, lost).over(Arc::new(store));
            send(&server, Ask::new(key, "book")).await;
        }
    })
}

/// A call whose second step is not executed at first, and then does not know.
fn record_journaling() -> Seen {
    record_of(async {
        let server = journaled(|run, steps, _| async move {
            steps.run_once("first", |_| result("1")).await?;
            let second = steps.run_keyed("second", |_| async move {
                match run {
                    0 => Err(Unfinished::NotExecuted("the peer is full".to_owned())),
                    1 => Err(Unfinished::Unknown("the peer is silent".to_owned())),
                    _ => Ok("2".into()),
                }
            });
            second.await?;
            steps.run_once("third", |_| result("3")).await?;
            Ok(done("ordered"))
        })
        .over(Arc::new(MemoryStore::default()));
        for _ in 0..3 {
            send(&server, Ask::new("k", "order")).await;
        }
    })
}

fn record_of(calls: impl Future<Output = ()>) -> Seen {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(calls));
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
    count(seen, names::SERVER_CALLS_TOTAL, Some(outcome))
}

fn count(seen: &Seen, metric: names::Metric, label: Option<&str>) -> u64 {
    let counted = seen.iter().find(|(name, labels, _)| {
        let labelled = |wanted| labels.iter().any(|(_, value)| value == wanted);
        name == metric.name && label.is_none_or(labelled)
    });
    match counted {
        Some((_, _, DebugValue::Counter(count))) => *count,
        _ => 0,
    }
}

#[test]
fn every_metric_that_the_server_emits_stands_in_the_table_and_every_one_there_is_emitted() {
    let all = record().into_iter().chain(record_reconciling());
    let all = all.chain(record_losing()).chain(record_journaling());
    let seen: BTreeSet<String> = all.map(|(name, ..)| name).collect();
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
fn what_came_of_asking_the_outside_world_is_counted_by_result() {
    let seen = record_reconciling();
    for result in [
        "still_unknown",
        "owner_not_known_gone",
        "failed",
        "panicked",
        "timed_out",
        "unrecorded",
        "applied",
        "not_applied",
    ] {
        let counted = count(&seen, names::SERVER_RECONCILED_TOTAL, Some(result));
        assert_eq!(counted, 1, "{result}");
    }
    assert_eq!(count(&seen, names::SERVER_RERUNS_TOTAL, None), 1);
}

#[test]
fn each_run_that_lost_is_counted_and_the_last_one_of_a_call_that_gave_up_as_such() {
    let seen = record_losing();
    let lost = |result| {
        count(
            &seen,
            names::SERVER_TRANSACTION_CONFLICTS_TOTAL,
            Some(result),
        )
    };
    // Of eight runs that a call may have, seven are followed by another.
    assert_eq!((lost("run_again"), lost("given_up")), (2 + 7, 1));
}

#[test]
fn each_step_is_counted_by_what_became_of_it() {
    let seen = record_journaling();
    for (result, expected) in [
        ("run", 3),
        ("replayed", 2),
        ("not_executed", 1),
        ("unknown", 1),
    ] {
        let counted = count(&seen, names::SERVER_STEPS_TOTAL, Some(result));
        assert_eq!(counted, expected, "{result}");
    }
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
    let all = record().into_iter().chain(record_reconciling());
    for (name, labels, _) in all.chain(record_losing()).chain(record_journaling()) {
        let known = names::TABLE.iter().find(|metric| metric.name == name);
        let known = known.unwrap().labels;
        for (label, value) in labels {
            assert!(known.contains(&&*label), "{name}: {label}");
            assert!(
                value.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{name}: {value}"
            );
        }
    }
}
