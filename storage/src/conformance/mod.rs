//! The suite that every store must pass, as one named test a claim.
//!
//! A store proves the contract of [`Store`](crate::Store) by standing behind a [`Harness`] and
//! running the suite from one of its own test files:
//!
//! ```text
//! onlyonce_storage::conformance!(MyHarness::start().await);
//! ```
//!
//! The expression is evaluated anew for every test, in async code, and makes a harness with a
//! fresh store. The store must take its time from the harness' clock, and have the bounds of
//! [`limits`] and the default [`RetentionOptions`](crate::RetentionOptions): the suite fills
//! quotas and outlives horizons.
//!
//! The claims are functions, so that a store which is broken on purpose can show that they fail.

pub mod answers;
pub mod claims;
pub mod doubt;
pub mod dropped;
pub mod fencing;
pub mod forgetting;
pub mod inspecting;
pub mod journal;
pub mod journal_bounds;
mod journal_kit;
mod kit;
pub mod outbox;
pub mod quota;
pub mod refused;
pub mod reruns;
pub mod sealing;
pub mod sessions;
pub mod transactions;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::{Inspect, ManualClock, StoreLimits};

/// A fresh store, the clock it runs on, and a way to open it again.
pub trait Harness: Send {
    /// The store that is open now.
    fn store(&self) -> Arc<dyn Inspect>;

    /// The clock of the store.
    fn clock(&self) -> &ManualClock;

    /// Whether other processes may hold claims of the store: an opening then says nothing about
    /// who owns a claim, and only the lapse of its lease does.
    fn is_shared(&self) -> bool {
        false
    }

    /// Ends the store as a crash would and opens it again on what it made durable. `false` where
    /// nothing is durable; the suite then leaves out what comes after.
    fn reopen(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// The bounds that the store under test must have: small enough to be filled.
#[must_use]
pub fn limits() -> StoreLimits {
    StoreLimits::default()
        .in_progress_max(IN_PROGRESS_MAX)
        .in_doubt_max(IN_DOUBT_MAX)
        .sessions_max(SESSIONS_MAX)
}

/// Runs one claim of the suite on a runtime of its own.
///
/// # Panics
///
/// When the claim does not hold.
pub fn run(claim: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test may start threads")
        .block_on(claim);
}

/// Makes one `#[test]` of every claim of the suite, for the store behind `$harness`: an expression
/// that makes a fresh [`Harness`](crate::conformance::Harness), in async code.
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance_claims! { $harness =>
            answers: answers_come_back_byte_for_byte
            answers: a_too_large_answer_leaves_its_key_in_doubt
            answers: a_doubt_is_written_also_where_its_answer_is_too_large
            answers: a_too_large_resolution_changes_nothing
            claims: of_64_concurrent_claims_one_is_given
            claims: one_attempt_asking_64_times_holds_one_claim
            claims: a_refused_duplicate_leaves_the_owner_undisturbed
            claims: a_refused_mismatch_leaves_the_answer_in_place
            claims: a_mismatch_is_refused_in_every_state
            claims: a_completed_record_keeps_the_first_fingerprint
            claims: a_record_of_an_unknown_fingerprint_is_refused_not_absent
            claims: a_refusal_is_never_recorded
            claims: a_released_key_can_be_claimed_again_with_any_request
            claims: two_tenants_with_the_same_key_do_not_meet
            claims: names_that_look_alike_do_not_meet
            doubt: a_lapsed_claim_is_in_doubt_and_never_given_again
            doubt: a_renewed_claim_holds_on
            doubt: a_lapsed_claim_cannot_be_renewed
            doubt: the_owner_of_a_lapsed_claim_may_still_say_what_happened
            doubt: a_dropped_claim_is_in_doubt
            doubt: a_claim_that_nobody_took_is_in_doubt
            doubt: what_was_in_progress_is_in_doubt_at_once_after_reopening
            doubt: a_doubt_keeps_its_answer
            doubt: a_doubt_resolved_as_applied_is_replayed
            doubt: a_doubt_resolved_as_not_applied_can_be_claimed_again
            doubt: what_is_acknowledged_is_there_after_reopening
            fencing: a_late_completion_after_a_takeover_is_refused
            fencing: a_late_release_after_a_takeover_is_refused
            fencing: delayed_words_of_one_claim_do_not_touch_the_next
            fencing: a_resolution_needs_the_token_that_was_seen
            fencing: a_resolution_after_the_owner_completed_is_refused
            fencing: of_many_resolvers_one_wins_and_one_claim_is_given
            fencing: a_claim_in_progress_cannot_be_resolved
            fencing: tokens_grow_after_release_and_after_reopening
            forgetting: after_retention_a_call_is_stale_and_never_executed
            forgetting: a_shorter_retention_is_kept_and_a_longer_one_is_not
            forgetting: a_sweep_takes_no_answer_before_its_retention
            forgetting: after_the_horizon_an_older_call_is_stale
            forgetting: retention_counts_from_the_completion_not_from_the_start
            forgetting: at_the_end_of_its_retention_or_horizon_no_call_runs_twice
            forgetting: doubts_outlive_horizons_sweeps_and_openings
            forgetting: calls_made_while_the_days_change_are_all_remembered
            forgetting: what_is_open_is_never_forgotten
            forgetting: nothing_is_forgotten_while_the_clock_is_not_trusted
            forgetting: a_call_first_sent_before_the_store_was_made_is_stale
            forgetting: a_call_first_sent_too_far_ahead_is_refused
            forgetting: a_call_first_sent_at_the_time_the_store_tells_is_never_refused
            inspecting: what_is_open_is_listed_and_what_is_settled_is_not
            inspecting: what_a_transaction_holds_is_in_progress_for_operators
            inspecting: a_list_in_small_pages_shows_every_doubt_once_while_calls_come_and_go
            inspecting: a_list_leaves_out_other_states_scopes_and_ages
            inspecting: an_answer_is_shown_only_to_who_asks_for_it
            inspecting: who_resolved_and_when_is_kept
            inspecting: of_two_operators_at_once_one_resolves_and_the_other_is_told
            inspecting: the_figures_count_what_is_open_and_what_is_settled
            inspecting: looking_changes_nothing
            quota: a_scope_with_too_much_in_progress_is_refused
            quota: a_scope_with_too_much_in_doubt_is_refused
            quota: quotas_count_what_an_earlier_opening_left
            reruns: a_rerun_is_claimed_under_a_larger_token_and_fences_the_run_before
            reruns: only_the_doubt_that_was_seen_can_be_claimed_anew
            reruns: of_many_reruns_of_one_doubt_one_is_given
            reruns: a_rerun_that_crashes_is_in_doubt_under_its_own_token
            reruns: after_reopening_the_owner_of_a_lapsed_lease_is_known_to_be_gone
            reruns: of_a_doubts_owner_and_those_who_ask_outside_one_says_what_happened
            reruns: what_was_learned_and_is_too_large_changes_nothing
            reruns: a_call_older_than_what_is_remembered_does_not_run_again
            reruns: a_full_quota_of_doubts_keeps_none_of_them_from_running_again
            sealing: a_sealed_key_is_stale_for_ever
            sealing: a_seal_outlives_the_horizon_for_calls_that_say_when_they_were_sent
            sealing: sealing_a_used_key_reports_its_state
            sealing: of_a_seal_and_64_claims_one_side_wins
            sealing: a_forgotten_call_is_neither_absent_nor_sealed_for_who_says_when_it_was_sent
            sealing: a_peek_changes_nothing
            sessions: an_acknowledged_call_is_forgotten_and_its_duplicate_is_stale
            sessions: what_is_not_acknowledged_is_replayed
            sessions: what_is_open_is_not_forgotten_by_an_acknowledgement
            sessions: no_transaction_executes_what_was_acknowledged
            sessions: a_transaction_is_forgotten_once_it_is_acknowledged
            sessions: a_run_that_is_held_takes_its_number_in_the_window
            sessions: what_was_acknowledged_is_never_said_not_to_have_happened
            sessions: a_call_cannot_acknowledge_itself
            sessions: without_an_acknowledgement_retention_frees
            sessions: an_expired_session_is_told_from_one_that_was_never_given
            sessions: a_session_in_use_lives_on
            sessions: a_full_window_refuses_and_forgets_nothing
            sessions: two_principals_never_share_a_session
            sessions: a_principal_with_too_many_sessions_gets_no_more
            sessions: a_thousand_acknowledged_calls_leave_nothing
        }
    };
}

/// The same for a store that keeps handlers' tables: one `#[test]` of every claim about its
/// transactions.
#[macro_export]
macro_rules! conformance_transactions {
    ($harness:expr) => {
        $crate::conformance_claims! { $harness =>
            transactions: what_is_committed_is_there_with_its_answer_after_reopening
            transactions: nothing_of_a_run_is_there_before_its_commit
            transactions: a_key_that_is_held_is_in_progress_for_everybody
            transactions: a_key_that_was_claimed_begins_no_transaction
            transactions: a_run_that_is_dropped_or_released_leaves_its_key_free
            transactions: a_run_whose_claim_has_lapsed_cannot_be_committed
            transactions: an_update_is_never_lost
            transactions: two_that_decide_by_each_others_rows_do_not_both_commit
            transactions: a_row_that_comes_changes_or_goes_within_a_range_is_a_conflict
            transactions: of_two_that_find_nothing_and_book_it_one_commits
            transactions: what_others_write_elsewhere_is_no_conflict
            transactions: a_run_sees_its_own_writes_and_nobody_else_does
            refused: an_answer_whose_writes_were_discarded_has_no_effect
            refused: who_writes_after_writes_were_refused_changes_nothing
            transactions: a_run_that_has_failed_once_never_ends_well
            dropped: a_run_that_drops_a_read_commits_nothing
            transactions: a_row_that_is_read_twice_and_differs_is_a_conflict_at_once
            transactions: a_too_large_answer_commits_nothing
            transactions: many_transactions_on_the_same_rows_add_up
            transactions: more_tables_than_may_be_are_refused_also_where_all_come_at_once
        }
    };
}

/// The same for a store that [keeps journals](crate::journal::Journal): one `#[test]` of every claim about
/// them.
#[macro_export]
macro_rules! conformance_journal {
    ($harness:expr) => {
        $crate::conformance_claims! { $harness =>
            journal: a_request_and_its_notes_outlive_a_crash
            journal: each_run_goes_on_where_the_one_before_it_stopped
            journal: a_run_that_was_superseded_notes_nothing
            journal: a_run_whose_lease_has_lapsed_begins_nothing
            journal: a_step_that_was_begun_is_finished_also_after_the_lease
            journal: a_call_with_a_begun_step_is_not_given_to_the_next_run
            journal: a_resolved_step_lets_its_call_go_on
            journal: a_step_is_resolved_only_where_it_was_begun_and_seen
            journal: what_its_handler_has_ended_is_not_given_to_the_next_run
            journal: a_call_claimed_without_a_journal_is_not_given_to_a_run_with_one
            journal: a_journal_goes_with_its_call
            journal: a_mismatch_is_told_before_anything_of_a_journal
            journal: a_note_that_is_made_twice_is_made_once
            journal: of_many_that_go_on_with_a_call_one_is_given_its_journal
            journal: what_a_transaction_holds_keeps_no_journal
            journal_bounds: a_resolution_that_is_too_large_changes_nothing
            journal_bounds: a_request_beyond_the_bound_claims_nothing
            journal_bounds: a_note_beyond_a_bound_changes_nothing
            journal_bounds: every_abandoned_call_is_listed_once_in_small_pages
            journal_bounds: a_lapsed_run_is_listed_until_somebody_goes_on
            journal_bounds: a_page_of_abandoned_calls_is_bounded
            journal_bounds: a_call_that_goes_on_is_counted_once
            journal_bounds: a_call_that_is_older_than_what_is_remembered_goes_on_no_more
            journal_bounds: a_call_that_goes_on_says_when_it_was_begun
            journal_bounds: sessions_and_first_sent_times_hold_for_a_call_that_goes_on
            journal_bounds: operators_see_the_steps_and_none_of_their_results
        }
    };
}

/// The same for an outbox behind `$place`, an expression that makes a fresh
/// [`OutboxHarness`](crate::conformance::outbox::OutboxHarness).
#[macro_export]
macro_rules! conformance_outbox {
    ($place:expr) => {
        $crate::conformance_claims! { $place =>
            outbox: calls_with_their_bytes_and_states_outlive_the_process
            outbox: a_second_opening_is_refused_until_the_first_is_closed
            outbox: an_outbox_of_another_principal_is_refused_for_its_keys_are_new_there
            outbox: a_key_that_is_there_is_the_same_call_or_refused
            outbox: what_may_have_been_executed_is_neither_cancelled_nor_sent_anew
            outbox: at_every_bound_a_call_is_refused_and_what_is_kept_stays
            outbox: many_at_once_are_all_kept
            outbox: a_change_that_nobody_waits_for_is_made_in_its_turn_or_not_at_all
        }
    };
}

/// Writes the tests of [`conformance!`] and [`conformance_transactions!`].
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_claims {
    ($harness:expr => $($subject:ident: $claim:ident)*) => {
        $(
            #[test]
            fn $claim() {
                $crate::conformance::run(async {
                    $crate::conformance::$subject::$claim($harness).await;
                });
            }
        )*
    };
}

const IN_PROGRESS_MAX: usize = 100;
const IN_DOUBT_MAX: usize = 50;
const SESSIONS_MAX: usize = 20;
