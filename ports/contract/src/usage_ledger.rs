//! Contract of [`UsageLedger`]: every event once, whatever is sent again, and sums that are the sums of the events.

mod appending;
mod budgets;
mod fixture;
mod holders;
mod recovering;
mod reports;
mod sums;

use std::sync::Arc;

use ai4free_ports::usage_ledger::UsageLedger;
use async_trait::async_trait;

pub use self::{appending::*, budgets::*, holders::*, recovering::*, reports::*, sums::*};

/// A ledger of its own for each clause.
#[async_trait]
pub trait Harness: Sized + Send + Sync {
    /// An empty ledger; `None` when the service that it needs is not configured, which skips the clause.
    async fn fresh() -> Option<Self>;

    fn ledger(&self) -> Arc<dyn UsageLedger>;

    /// Takes the ledger away.
    async fn end(self);
}

/// Turns all clauses into tests of one adapter: `usage_ledger_contract!(MyHarness)`; with `budgets` before it, those that are
/// about money and reports.
#[macro_export]
macro_rules! usage_ledger_contract {
    ($harness:ty) => {
        $crate::usage_ledger_contract!($harness:
            an_event_is_read_as_it_was_appended
            a_batch_sent_twice_is_stored_once
            a_batch_from_elsewhere_is_told_where_the_spool_stands
            an_empty_batch_changes_nothing
            a_full_batch_is_appended
            attaching_fences_whoever_held_the_spool
            an_attachment_that_the_database_lost_is_made_good
            racing_senders_of_one_batch_store_it_once
            a_zombie_and_its_successor_store_each_event_once
            an_event_that_two_spools_hold_is_stored_and_summed_once
            spools_that_share_sums_do_not_get_in_each_others_way
            an_aborted_append_is_whole_or_nothing
            sums_are_those_of_the_events
            a_request_is_counted_once_with_its_last_attempt
            each_outcome_is_counted_as_what_it_is
            a_correction_adds_money_and_no_request
            a_release_takes_back_its_hold
            a_report_has_whole_hours
            a_report_groups_by_utc_day
            nobody_sees_the_usage_of_another_key
            the_gateways_own_usage_has_an_audience
            sums_exceed_64_bits_of_pico
            an_unpriced_event_stays_unpriced
            nonsense_from_a_provider_does_not_block_the_ledger
            events_of_any_day_find_a_place
            the_newest_events_come_first
            hostile_text_is_only_text
            a_ledger_that_nobody_touched_is_verified
            what_others_remember_is_stored_and_summed_once
            all_attempts_of_a_remembered_request_are_one_request
            what_a_journal_has_charged_otherwise_is_charged_once
            a_hold_is_released_with_the_charge_of_its_journal
            a_hold_is_released_with_a_charge_that_others_remember
            nothing_is_held_of_a_request_that_was_charged
            nothing_is_held_of_a_process_that_was_just_heard_of
            what_was_never_sent_is_not_held_any_more
            a_missed_process_goes_on_as_before
            holds_and_charges_that_race_come_to_the_charges
        );
        $crate::usage_ledger_contract!(budgets $harness);
    };
    (budgets $harness:ty) => {
        $crate::usage_ledger_contract!($harness:
            a_grant_is_a_part_of_the_room_or_lasts_for_some_claims
            what_others_were_granted_is_not_granted_again
            a_grant_tells_what_others_have_settled_of_theirs
            what_a_holder_has_is_listed_in_order
            what_a_holder_gives_back_is_granted_to_others
            a_grant_that_is_recorded_is_told_to_who_does_not_know_it
            windows_and_scopes_are_budgets_of_their_own
            racing_holders_share_out_a_budget_to_the_last_pico
            a_holder_of_the_past_is_granted_nothing
            what_events_cost_is_added_to_their_budgets
            spools_that_share_budgets_do_not_get_in_each_others_way
            what_was_spent_beyond_a_grant_counts
            the_first_grant_counts_what_was_spent_before
            what_is_charged_before_the_first_grant_counts_once
            the_largest_budget_is_granted_to_the_pico
            an_epoch_ends_when_the_limiter_is_another_or_has_lost_data
            who_attests_the_same_at_once_gets_the_same_epoch
            closing_the_holders_of_a_spool_frees_what_they_did_not_spend
            a_shared_holder_closes_when_no_process_has_money_of_it
            nobody_waits_for_the_beat_of_a_process_that_is_over
            a_retired_process_gives_back_what_it_was_granted
            a_breakdown_is_by_what_is_asked_for
            charges_come_in_pages_with_their_corrections
        );
    };
    ($harness:ty: $($clause:ident)+) => {
        $(
            #[tokio::test]
            async fn $clause() {
                if let Some(harness) = <$harness as $crate::usage_ledger::Harness>::fresh().await {
                    $crate::usage_ledger::$clause(&harness).await;
                    $crate::usage_ledger::Harness::end(harness).await;
                }
            }
        )+
    };
}
