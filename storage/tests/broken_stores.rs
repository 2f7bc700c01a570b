//! The suite can fail: stores that are broken on purpose, and the claims that catch them.
#![cfg(all(feature = "memory", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::conformance::{
    self, Harness, claims, doubt, fencing, forgetting, inspecting, reruns, sealing,
};
use onlyonce_storage::{
    Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason, FencingToken,
    IdempotencyKey, Inspect, KeyState, KeyView, Lease, ListPage, ListRequest, ManualClock,
    MemoryOptions, MemoryStore, Operator, Question, Resolution, Scope, ScopedKey, SettleError,
    StateView, Store, StoreError, StoreFuture, StoreId, StoreStats, Swept, Timestamp,
};
use parking_lot::Mutex;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A claim that is dropped is as if it had never been given.
    ForgetsDroppedClaims,
    /// Another request under the key is answered with the first one's answer.
    ForgetsMismatch,
    /// Of a forgotten call it says that nobody has used its key.
    ForgetsThatItForgot,
    /// What is past its retention can be executed again.
    ForgetsTombstones,
    /// Principal, operation and key are put together without anything in between.
    GluesNames,
    /// The operation is no part of the name.
    IgnoresOperations,
    /// Who completes is not asked for which claim.
    IgnoresTokens,
    /// Who finds a call in progress is given the claim as well.
    GrantsTwo,
    /// What is in doubt is counted with what is settled.
    CountsWrongly,
    /// Every resolution is somebody's.
    ForgetsWhoResolved,
    /// Whatever is asked for, everything is listed.
    IgnoresFilters,
    /// What is in doubt is on no list.
    ListsNoDoubts,
    /// A list ends with its first page.
    ListsOnePage,
    /// A full page is followed by itself.
    ListsSomeTwice,
    /// Whoever looks at a key gets its answer as well.
    ShowsAnswersUnasked,
    /// Nobody who resolves is told that another was first.
    TellsEveryResolverYes,
    /// Keys are compared as some databases do.
    IgnoresCase,
    /// A key is as long as some column is.
    CutsKeys,
    /// Who names a doubt is given a claim, whichever it names.
    RerunsAnyDoubt,
    /// A seal looks first and writes then.
    SealsInTwoSteps,
    /// A look at an absent key seals it.
    SealsWhenPeeking,
    None,
}

/// A store in memory with a fault in front.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    inner: MemoryStore,
    completed: Mutex<HashMap<ScopedKey, Completion>>,
}

struct BrokenHarness {
    clock: Arc<ManualClock>,
    store: Arc<Broken>,
}

// === impl Broken ===

impl Broken {
    /// The name under which the store keeps what is called so.
    fn name(&self, key: ScopedKey) -> ScopedKey {
        let (scope, text) = (key.scope(), key.key().as_str());
        let (principal, operation) = (scope.principal_name(), scope.operation_name());
        let global =
            |text: &str| ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap());
        let renamed =
            |text: &str| ScopedKey::new(scope.clone(), IdempotencyKey::parse(text).unwrap());
        match self.fault {
            Fault::CutsKeys => renamed(&text[..text.len().min(64)]),
            Fault::GluesNames => global(&format!(
                "{}{}{text}",
                principal.unwrap_or_default(),
                operation.unwrap_or_default()
            )),
            Fault::IgnoresCase => renamed(&text.to_lowercase()),
            Fault::IgnoresOperations => {
                let scope =
                    principal.map_or_else(Scope::global, |name| Scope::principal(name).unwrap());
                ScopedKey::new(scope, key.key().clone())
            }
            _ => key,
        }
    }

    async fn seal_in_two_steps(&self, key: ScopedKey) -> Result<KeyState, StoreError> {
        match self.inner.peek(key.clone()).await? {
            KeyState::Absent => {
                for _ in 0..32 {
                    tokio::task::yield_now().await;
                }
                self.inner.seal(key).await?;
                Ok(KeyState::Sealed {
                    at: self.inner.now(),
                })
            }
            other => Ok(other),
        }
    }

    async fn claim_broken(&self, mut request: ClaimRequest) -> ClaimOutcome {
        request.key = self.name(request.key);
        let key = request.key.clone();
        let outcome = self.inner.claim(request.clone()).await.unwrap();
        let forged = || Claim::new(key.clone(), FencingToken::new(9, 9), lease(), None);
        match (self.fault, outcome) {
            (Fault::GrantsTwo, ClaimOutcome::InProgress { .. })
            | (Fault::ForgetsTombstones, ClaimOutcome::Stale) => ClaimOutcome::Claimed(forged()),
            (Fault::ForgetsMismatch, ClaimOutcome::Mismatch) => {
                match self.inner.peek(key).await.unwrap() {
                    KeyState::Completed(completion) => ClaimOutcome::Completed(completion),
                    _ => ClaimOutcome::Mismatch,
                }
            }
            (Fault::IgnoresTokens, outcome) => match self.completed.lock().get(&key) {
                Some(completion) => ClaimOutcome::Completed(completion.clone()),
                None => outcome,
            },
            (Fault::ForgetsDroppedClaims, ClaimOutcome::InDoubt(doubt))
                if doubt.reason == DoubtReason::OwnerGone =>
            {
                ClaimOutcome::Claimed(forged())
            }
            (Fault::RerunsAnyDoubt, ClaimOutcome::InDoubt(_)) if request.rerun_of.is_some() => {
                ClaimOutcome::Claimed(forged())
            }
            (_, outcome) => outcome,
        }
    }
}

fn lease() -> Lease {
    Lease::until(Timestamp::from_millis(u64::MAX))
}

impl Store for Broken {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(async move { Ok(self.claim_broken(request).await) })
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        self.inner.renew(claim, lease)
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        if self.fault != Fault::IgnoresTokens {
            return self.inner.complete(claim, answer);
        }
        let completion = Completion {
            answer,
            completed_at: self.inner.now(),
            token: claim.token(),
        };
        self.completed
            .lock()
            .insert(claim.key().clone(), completion);
        claim.spend();
        Box::pin(async { Ok(()) })
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        self.inner.release(claim)
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.inner.doubt(claim, reason, answer)
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        let key = self.name(key);
        match (self.fault, question) {
            (Fault::ForgetsThatItForgot, _) => self.inner.ask(question, key, None),
            (Fault::SealsInTwoSteps, Question::Seal) => Box::pin(self.seal_in_two_steps(key)),
            (Fault::SealsWhenPeeking, _) => self.inner.seal(key),
            _ => self.inner.ask(question, key, first_sent),
        }
    }
}

impl Inspect for Broken {
    fn list(&self, mut request: ListRequest) -> StoreFuture<'_, ListPage> {
        let after = request.after;
        if self.fault == Fault::IgnoresFilters {
            request = ListRequest::new();
            request.after = after;
        }
        Box::pin(async move {
            let wanted = request.records_max;
            let mut page = self.inner.list(request).await?;
            match self.fault {
                Fault::ListsOnePage => page.next = None,
                Fault::ListsSomeTwice if page.records.len() == wanted => page.next = after,
                Fault::ListsNoDoubts => page
                    .records
                    .retain(|view| matches!(view.state, StateView::InProgress { .. })),
                _ => {}
            }
            Ok(page)
        })
    }

    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView> {
        Box::pin(async move {
            match self.fault {
                Fault::SealsWhenPeeking => drop(self.inner.seal(key.clone()).await?),
                Fault::ShowsAnswersUnasked => {
                    return self.inner.show(key, AnswerBytes::Show).await;
                }
                _ => {}
            }
            self.inner.show(key, answer).await
        })
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async move {
            let mut stats = self.inner.stats().await?;
            if self.fault == Fault::CountsWrongly {
                stats.open.in_doubt += stats.settled;
            }
            Ok(stats)
        })
    }

    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError> {
        let by = match self.fault {
            Fault::ForgetsWhoResolved => Operator::parse("somebody").unwrap(),
            _ => by,
        };
        if self.fault != Fault::TellsEveryResolverYes {
            return self.inner.resolve(key, token, resolution, by);
        }
        Box::pin(async move {
            let _ = self.inner.resolve(key, token, resolution, by).await;
            Ok(())
        })
    }

    fn sweep(&self) -> StoreFuture<'_, Swept> {
        self.inner.sweep()
    }

    fn confirm_clock(&self) -> StoreFuture<'_, ()> {
        self.inner.confirm_clock()
    }
}

// === impl BrokenHarness ===

impl Harness for BrokenHarness {
    fn store(&self) -> Arc<dyn Inspect> {
        self.store.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn reopen(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { false })
    }
}

fn with(fault: Fault) -> BrokenHarness {
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions::new()
        .clock(clock.clone())
        .limits(conformance::limits());
    let store = Arc::new(Broken {
        fault,
        inner: MemoryStore::with_options(options),
        completed: Mutex::default(),
    });
    BrokenHarness { clock, store }
}

/// The claim holds without the fault and does not hold with it.
fn catches<F: Future<Output = ()>>(fault: Fault, claim: impl Fn(BrokenHarness) -> F) {
    conformance::run(claim(with(Fault::None)));
    let held = catch_unwind(AssertUnwindSafe(|| conformance::run(claim(with(fault)))));
    assert!(
        held.is_err(),
        "the suite does not see that a store {fault:?}"
    );
}

#[test]
fn a_store_that_grants_two_claims_fails() {
    catches(
        Fault::GrantsTwo,
        claims::of_64_concurrent_claims_one_is_given,
    );
    catches(
        Fault::GrantsTwo,
        claims::a_refused_duplicate_leaves_the_owner_undisturbed,
    );
}

#[test]
fn a_store_that_ignores_tokens_fails() {
    catches(
        Fault::IgnoresTokens,
        fencing::a_late_completion_after_a_takeover_is_refused,
    );
    catches(
        Fault::IgnoresTokens,
        doubt::a_doubt_resolved_as_applied_is_replayed,
    );
}

#[test]
fn a_store_that_forgets_the_mismatch_fails() {
    catches(
        Fault::ForgetsMismatch,
        claims::a_refused_mismatch_leaves_the_answer_in_place,
    );
    catches(
        Fault::ForgetsMismatch,
        claims::a_mismatch_is_refused_in_every_state,
    );
}

#[test]
fn a_store_that_forgets_tombstones_fails() {
    catches(
        Fault::ForgetsTombstones,
        forgetting::after_retention_a_call_is_stale_and_never_executed,
    );
    catches(
        Fault::ForgetsTombstones,
        forgetting::after_the_horizon_an_older_call_is_stale,
    );
}

#[test]
fn a_store_that_forgets_dropped_claims_fails() {
    catches(
        Fault::ForgetsDroppedClaims,
        doubt::a_claim_that_nobody_took_is_in_doubt,
    );
}

#[test]
fn a_store_that_runs_again_what_nobody_has_looked_at_fails() {
    catches(
        Fault::RerunsAnyDoubt,
        reruns::only_the_doubt_that_was_seen_can_be_claimed_anew,
    );
}

#[test]
fn a_store_that_confuses_names_fails() {
    for fault in [
        Fault::CutsKeys,
        Fault::GluesNames,
        Fault::IgnoresCase,
        Fault::IgnoresOperations,
    ] {
        catches(fault, claims::names_that_look_alike_do_not_meet);
    }
}

#[test]
fn a_store_that_seals_in_two_steps_fails() {
    catches(
        Fault::SealsInTwoSteps,
        sealing::of_a_seal_and_64_claims_one_side_wins,
    );
}

#[test]
fn a_store_that_forgets_that_it_forgot_fails() {
    catches(
        Fault::ForgetsThatItForgot,
        sealing::a_forgotten_call_is_neither_absent_nor_sealed_for_who_says_when_it_was_sent,
    );
}

#[test]
fn a_store_that_seals_when_peeking_fails() {
    catches(Fault::SealsWhenPeeking, sealing::a_peek_changes_nothing);
}

#[test]
fn a_store_whose_lists_miss_or_repeat_something_fails() {
    catches(
        Fault::ListsNoDoubts,
        inspecting::what_is_open_is_listed_and_what_is_settled_is_not,
    );
    for fault in [Fault::ListsOnePage, Fault::ListsSomeTwice] {
        catches(
            fault,
            inspecting::a_list_in_small_pages_shows_every_doubt_once_while_calls_come_and_go,
        );
    }
    catches(
        Fault::IgnoresFilters,
        inspecting::a_list_leaves_out_other_states_scopes_and_ages,
    );
}

#[test]
fn a_store_that_shows_answers_unasked_fails() {
    catches(
        Fault::ShowsAnswersUnasked,
        inspecting::an_answer_is_shown_only_to_who_asks_for_it,
    );
}

#[test]
fn a_store_that_forgets_who_resolved_fails() {
    catches(
        Fault::ForgetsWhoResolved,
        inspecting::who_resolved_and_when_is_kept,
    );
}

#[test]
fn a_store_that_tells_both_of_two_operators_yes_fails() {
    catches(
        Fault::TellsEveryResolverYes,
        inspecting::of_two_operators_at_once_one_resolves_and_the_other_is_told,
    );
}

#[test]
fn a_store_that_counts_wrongly_fails() {
    catches(
        Fault::CountsWrongly,
        inspecting::the_figures_count_what_is_open_and_what_is_settled,
    );
}

#[test]
fn a_store_that_changes_what_it_shows_fails() {
    catches(Fault::SealsWhenPeeking, inspecting::looking_changes_nothing);
}
