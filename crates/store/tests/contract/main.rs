//! What every store does, with any engine.
//!
//! Adding a test: a function in the file of its topic, and its name in [`contract!`]. Adding an engine or a decorator:
//! a [`Fixture`] and a line at the end of this file.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod accounts;
mod background;
mod background_conversations;
mod backing_up;
mod cache;
mod chains;
mod charts;
mod conversations;
mod copying;
mod damage;
mod deletion;
mod fixture;
mod items;
mod keys;
mod limits;
mod locking;
mod log;
mod model;
mod pooling;
mod postgres;
mod purging;
mod records;
mod replicas;
mod searching;
mod sessions;
mod sign_ins;
mod silence;
mod sqlite;
mod usage;
mod verifying;
mod writes;

use self::fixture::{BehindPooler, Fixture, InFile, InMemory, InPostgres};

/// Instantiates every test of the contract for a fixture.
macro_rules! contract {
    ($engine:ident, $fixture:ty, [$($topic:ident: $($test:ident),+;)+]) => {
        mod $engine {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $topic::$test(<$fixture>::new()).await;
                }
            )+)+
        }
    };
    ($($engine:ident: $fixture:ty),+ $(,)?) => {
        $(contract!($engine, $fixture, [
            records: a_record_comes_back_byte_for_byte, an_unknown_id_is_no_response,
                projects_do_not_see_each_others_responses, one_id_in_two_projects_is_two_responses,
                concurrent_records_are_all_there, a_turn_without_the_parent_that_it_needs_is_not_recorded,
                a_reopened_store_has_everything, a_closed_store_refuses;
            chains: a_chain_comes_newest_first, a_chain_of_a_thousand_turns_loads_whole,
                a_turn_of_a_megabyte_is_the_same_from_memory_and_from_the_store,
                a_chain_of_ten_thousand_turns_loads_whole, forks_share_their_trunk, part_of_a_chain_can_be_loaded,
                a_gap_is_an_error, a_cached_chain_is_the_stored_one;
            deletion: a_deleted_response_is_hidden_at_once, a_deleted_response_is_still_replayed_by_its_descendants,
                an_expired_response_is_hidden_and_replayed, a_deleted_response_stays_hidden_when_the_clock_goes_back,
                the_cache_hides_what_is_deleted_or_expired, deleting_twice_deletes_once;
            purging: live_responses_stay, a_dead_ancestor_of_a_live_response_stays, a_dead_chain_is_purged_in_few_calls,
                a_purge_goes_on_where_it_was,
                a_dead_branch_is_purged_and_its_live_trunk_stays, a_dead_trunk_is_purged_after_its_branches,
                items_are_purged_with_their_response, old_log_rows_are_purged;
            items: an_item_is_found_by_its_id, the_newest_recording_of_an_item_wins, a_derived_id_finds_an_input_item,
                a_copy_of_an_output_item_is_still_an_upstreams,
                items_are_loaded_only_if_all_of_them_together_are_small_enough,
                items_of_hidden_responses_are_not_found, many_items_come_in_the_order_asked_for,
                items_of_many_large_responses_are_found,
                projects_do_not_see_each_others_items;
            log: a_record_adds_its_log_row, an_appended_row_is_written_soon, the_newest_rows_come_first,
                closing_writes_what_was_appended, stats_are_by_project;
            writes: one_bad_record_does_not_fail_its_neighbours, a_dropped_caller_harms_nothing,
                a_deadline_is_kept, a_working_store_is_available;
            accounts: the_latest_account_state_is_kept,
                a_replica_neither_shortens_a_limit_nor_enables_an_account_of_another, a_pause_stays_until_the_account_is_resumed,
                one_holder_at_a_time_may_refresh_a_credential, one_of_many_concurrent_callers_gets_the_lock,
                the_first_admin_token_stays_until_it_is_replaced;
            sessions: a_session_is_found_by_its_hash_until_it_expires, an_ended_session_is_gone,
                another_token_ends_the_sessions_of_its_role, a_replaced_token_opens_no_session,
                no_session_outlives_the_token_that_it_was_opened_with,
                the_oldest_of_too_many_sessions_of_an_operator_are_surplus;
            sign_ins: a_sign_in_ends_once_and_not_after_its_time, the_oldest_of_too_many_sign_ins_make_room;
            keys: an_added_key_comes_back_unchanged, two_keys_never_share_a_name, a_rotated_key_keeps_its_previous_secret,
                a_revoked_key_is_neither_rotated_nor_revoked_again, a_deleted_key_is_gone,
                a_change_of_a_key_changes_the_version, a_change_of_a_key_leaves_its_other_terms_alone, keys_come_page_by_page, the_latest_use_of_a_key_is_kept,
                the_latest_clients_of_a_key_are_kept_until_it_is_deleted,
                a_change_and_its_audit_entry_are_one_transaction, audit_entries_come_newest_first,
                audit_entries_are_found_by_time_actor_action_and_target;
            usage: written_rows_count_at_once, counts_of_any_size_can_be_rolled_up,
                a_late_row_counts_once_its_hour_is_rolled_up_again, purged_rows_still_count,
                old_sums_are_purged, groups_come_in_order_and_in_pages, random_rows_in_random_order_count_once;
            charts: charts_show_the_same_before_and_after_rolling_up_and_purging;
            searching: a_search_finds_what_was_asked_for_newest_first, a_search_skips_hours_without_such_turns,
                operators_see_turns_of_every_project;
            limits: a_reservation_is_held_whole_or_not_at_all, a_turn_that_is_settled_twice_counts_once,
                a_record_settles_its_reservation, concurrent_reservations_exceed_no_limit_and_leak_nothing,
                a_reservation_of_a_dropped_caller_is_released, an_expired_reservation_is_released_and_its_turn_still_counts,
                old_counters_are_purged, random_histories_of_reservations_add_up;
            replicas: a_replica_is_listed_until_it_is_forgotten, what_a_dead_replica_held_is_released_once,
                a_replica_that_is_alone_releases_what_all_others_held;
            background: a_queued_turn_comes_back_unchanged, a_project_has_so_many_queued_turns_at_most,
                a_project_has_so_many_queued_bytes_at_most,
                a_lost_lease_writes_nothing, an_expired_lease_is_claimed_once, a_released_lease_is_not_renewed, an_owner_lists_its_turns_until_they_end, the_log_comes_back_in_order_and_from_any_number,
                an_ended_turn_and_its_record_are_one_transaction, one_of_two_ends_wins, an_unstored_response_is_kept_for_a_while,
                a_cancellation_reaches_the_owner, the_reservation_of_a_background_turn_outlives_its_owner;
            background_conversations: a_queued_turn_keeps_its_lock_until_its_deadline_or_its_end,
                an_end_that_can_not_append_writes_nothing, an_end_without_the_parent_that_it_needs_writes_nothing,
                an_end_is_stored_without_its_deleted_conversation;
            conversations: a_turn_moves_the_head_and_adds_its_items, what_was_posted_is_no_response,
                an_append_to_another_version_changes_nothing, a_lock_keeps_others_out_until_its_lease_ends,
                a_deleted_item_is_left_out_from_then_on, items_come_in_pages_both_ways,
                an_id_that_comes_again_is_replaced, turns_of_a_conversation_live_as_long_as_it_does,
                conversations_are_listed_by_project, a_conversation_counts_its_items_and_bytes,
                an_unused_conversation_expires_with_its_trunk;
            model: random_histories_match_the_model;
        ]);)+
    };
}

contract! {
    in_file: InFile,
    in_memory: InMemory,
    in_postgres: InPostgres,
    behind_pgbouncer: BehindPooler,
}
