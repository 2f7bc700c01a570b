//! A handler that does not ask for the steps that runs before it have finished is stopped before it does
//! anything else.

use std::sync::Arc;

use onlyonce_middleware::server::{Served, StepError, Unfinished};
use onlyonce_storage::MemoryStore;

use crate::journaled_calls::{Peer, is_in_progress, journaled, result, unknown};
use crate::protocol::{Ask, Effects, Told, done, send};

fn order() -> Ask {
    Ask::new("k", "order")
}

fn executed(body: &str) -> Told {
    Told::Done(body.to_owned(), Served::Executed)
}

// J4: a deployment renames a step while calls stand still.
#[tokio::test(start_paused = true)]
async fn a_step_by_another_name_does_not_run_where_the_old_one_is_finished() {
    let charged = Effects::default();
    let seen = charged.clone();
    let server = journaled(move |run, steps, _| {
        let charged = charged.clone();
        async move {
            let charge = async |_| {
                charged.apply("charge");
                Ok("1".into())
            };
            // The second run is of the changed program.
            let name = if run == 1 { "charge-card" } else { "charge" };
            let answer = steps.run_once(name, charge).await;
            if run == 1 {
                let error = answer.clone().unwrap_err();
                assert!(matches!(error, StepError::OutOfOrder { .. }), "{error:?}");
            }
            answer?;
            let closed = async |_| match run {
                2 => Ok("shipped".into()),
                _ => Err(Unfinished::NotExecuted("closed".to_owned())),
            };
            steps.run_once("ship", closed).await?;
            Ok(done("ordered"))
        }
    })
    .over(Arc::new(MemoryStore::default()));
    for run in 0..2 {
        assert!(is_in_progress(&send(&server, order()).await), "run {run}");
        assert_eq!(seen.total(), 1, "run {run}");
    }
    assert_eq!(send(&server, order()).await, executed("ordered"));
    assert_eq!(seen.total(), 1);
}

// J4
#[tokio::test]
async fn an_answer_that_knows_nothing_of_a_finished_step_is_not_the_calls() {
    let server = journaled(|run, steps, _| async move {
        if run == 1 {
            return Ok(done("nothing to do"));
        }
        steps.run_keyed("charge", |_| result("1")).await?;
        let ship = async |_| match run {
            0 => Err(unknown()),
            _ => Ok("shipped".into()),
        };
        steps.run_keyed("ship", ship).await?;
        Ok(done("ordered"))
    })
    .over(Arc::new(MemoryStore::default()));
    for run in 0..2 {
        assert!(is_in_progress(&send(&server, order()).await), "run {run}");
    }
    assert_eq!(send(&server, order()).await, executed("ordered"));
}

#[tokio::test(start_paused = true)]
async fn steps_that_are_asked_for_at_the_same_time_go_on_whichever_of_them_was_finished() {
    for failing in ["left", "right"] {
        let peer = Peer::default();
        let server = {
            let peer = peer.clone();
            journaled(move |run, steps, _| {
                let peer = peer.clone();
                async move {
                    let ask = async |name: &'static str| {
                        let code = async |step| match run == 0 && name == failing {
                            true => Err(unknown()),
                            false => Ok(peer.ask(&step)),
                        };
                        steps.run_keyed(name, code).await
                    };
                    // As a spawned reader of two shops would: neither stops the other.
                    let (left, right) = tokio::join!(ask("left"), ask("right"));
                    left.and(right)?;
                    Ok(done("both"))
                }
            })
            .over(Arc::new(MemoryStore::default()))
        };
        let first = send(&server, order()).await;
        assert!(is_in_progress(&first), "{failing}: {first:?}");
        assert_eq!(send(&server, order()).await, executed("both"), "{failing}");
        assert_eq!((peer.asked(), peer.effects()), (2, 2), "{failing}");
    }
}
