//! Calls as a server makes them of a store.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::transaction::Table;
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Scope, ScopedKey, Store, StoreLimits,
};

/// Makes calls that each have a number.
#[derive(Clone, Debug)]
pub struct Calls {
    store: Arc<dyn Store>,
    scope: Scope,
    print: Fingerprint,
}

impl Calls {
    /// Calls to `store`.
    ///
    /// # Panics
    ///
    /// Never: its scope is valid.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            scope: Scope::global().operation("shop.pay").expect("a scope"),
            print: Fingerprint::builder(FingerprintAlgorithm::new(1)).finish(),
        }
    }

    /// Limits that no program here reaches.
    #[must_use]
    pub fn limits() -> StoreLimits {
        StoreLimits::default().in_progress_max(1_000_000)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The claim of call `number`.
    ///
    /// # Panics
    ///
    /// Never: its key is valid.
    #[must_use]
    pub fn request(&self, number: u64) -> ClaimRequest {
        let key = IdempotencyKey::parse(&format!("0199f1c2-7a3e-7b21-{number:016x}"));
        let key = ScopedKey::new(self.scope.clone(), key.expect("a key"));
        ClaimRequest::new(key, Fingerprints::new(self.print), Duration::from_secs(30))
    }

    /// Claims and completes call `number`, which is new.
    ///
    /// # Panics
    ///
    /// When the store does not do its work.
    pub async fn first(&self, number: u64) {
        let request = self.request(number);
        let claim = match self.store.claim(request).await.expect("the store answers") {
            ClaimOutcome::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        };
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let recorded = self.store.complete(claim, answer).await;
        recorded.expect("the answer is recorded");
    }

    /// Makes call `number`, which is new, in a transaction that writes a row of its own: its effect.
    ///
    /// # Panics
    ///
    /// When the store keeps no tables or does not do its work.
    pub async fn first_in_transaction(&self, number: u64) {
        let tables = self.store.transactions().expect("the store keeps tables");
        let request = self.request(number);
        let claim = match tables.begin(request).await.expect("the store answers") {
            ClaimOutcome::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        };
        let transaction = tables.start(&claim);
        let row = number.to_be_bytes();
        let put = transaction.put(&EFFECTS, &row, &bytes(64));
        put.expect("the row fits");
        let work = transaction.end().expect("it has not failed");
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let committed = tables.commit(claim, work, answer).await;
        committed.expect("effect and answer are recorded");
    }
}

/// Bytes that cannot be made smaller.
#[must_use]
pub fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::fill(&mut bytes);
    bytes
}

const EFFECTS: Table = Table::new("effects");
