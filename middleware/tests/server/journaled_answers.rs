//! What becomes of the answers of journaled handlers that cannot be kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use onlyonce_middleware::server::Served;
use onlyonce_storage::{DoubtReason, MemoryOptions, MemoryStore, StoreLimits};

use crate::doubts::in_doubt;
use crate::journaled_calls::{is_in_progress, journaled, result};
use crate::protocol::{Ask, Told, done, send};
use crate::watched::Watched;

fn order() -> Ask {
    Ask::new("k", "order")
}

// I2: an answer that nobody is known to have recorded may not be what the next run answers.
#[tokio::test]
async fn an_answer_that_is_not_known_to_be_recorded_is_given_to_nobody() {
    let watched = Watched::new(Arc::new(MemoryStore::default()));
    watched.journals.store(true, Ordering::SeqCst);
    let server = journaled(|run, steps, _| async move {
        steps.run_once("ship", |_| result("1")).await?;
        Ok(done(&format!("run {run}")))
    });
    watched.refuse_completions.store(true, Ordering::SeqCst);
    let server = server.over(watched.clone());
    let told = send(&server, order()).await;
    assert!(is_in_progress(&told), "{told:?}");
}

// B14: nobody goes on with it, so its caller is given what nobody will be given again.
#[tokio::test]
async fn an_answer_that_is_too_large_to_be_kept_is_given_once_and_its_call_is_in_doubt() {
    let limits = StoreLimits::default().answer_bytes_max(16);
    let store = MemoryStore::with_options(MemoryOptions::new().limits(limits));
    let large = "a receipt of many words";
    let server = journaled(move |_, steps, _| async move {
        steps.run_once("ship", |_| result("1")).await?;
        Ok(done(large))
    })
    .over(Arc::new(store));
    let told = send(&server, order()).await;
    let once = Told::Done(large.to_owned(), Served::ExecutedUnrecorded);
    assert_eq!(told, once);
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::Unrecorded), "{told:?}");
}
