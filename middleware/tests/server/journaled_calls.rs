//! Handlers whose effects are steps, and the peers that the steps have them with.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use onlyonce_middleware::server::{Refusal, StepError, StepRun, Steps, Unfinished};
use parking_lot::Mutex;

use crate::protocol::{Ask, Handler, NoAnswer, Told};

/// A handler that is given the number of its run, from 0, and its steps.
pub fn journaled<F, Fut>(handle: F) -> Handler
where
    F: Fn(u32, Steps, Ask) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Told, NoAnswer>> + Send + 'static,
{
    let runs = AtomicU32::new(0);
    Handler::new(move |ask: Ask| {
        let steps = ask.steps.clone().unwrap();
        handle(runs.fetch_add(1, Ordering::SeqCst), steps, ask)
    })
}

impl From<StepError> for NoAnswer {
    fn from(_: StepError) -> Self {
        Self
    }
}

/// What a step comes to that has no effect.
pub fn result(text: &'static str) -> Ready<Result<Bytes, Unfinished>> {
    ready(Ok(Bytes::from_static(text.as_bytes())))
}

pub fn unknown() -> Unfinished {
    Unfinished::Unknown("the peer did not answer".to_owned())
}

/// A peer that dedupes by key, and how often it was asked with each.
#[derive(Clone, Debug, Default)]
pub struct Peer(Arc<Mutex<BTreeMap<String, u32>>>);

impl Peer {
    /// Asks it for an effect: its answer is the same whenever it is asked with the same key.
    pub fn ask(&self, run: &StepRun) -> Bytes {
        let key = run.key.as_str().to_owned();
        let mut asked = self.0.lock();
        *asked.entry(key.clone()).or_default() += 1;
        key.into()
    }

    /// How many effects it had.
    pub fn effects(&self) -> usize {
        self.0.lock().len()
    }

    /// How often it was asked.
    pub fn asked(&self) -> u32 {
        self.0.lock().values().sum()
    }
}

pub fn is_in_progress(told: &Told) -> bool {
    matches!(told, Told::Refused(Refusal::InProgress { .. }))
}
