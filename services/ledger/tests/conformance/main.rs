//! One suite for all stores.

mod accounts;
mod bench;
mod cases;
mod proxy;

/// Every case on every store.
macro_rules! on_every_store {
    ($($file:ident: $($case:ident),+;)*) => {
        mod simulated {
            $($(#[tokio::test] async fn $case() { super::cases::$file::$case(crate::bench::Bench::simulated()).await; })+)*
        }
        mod simulated_database {
            $($(#[tokio::test] async fn $case() { super::cases::$file::$case(crate::bench::Bench::database()).await; })+)*
        }
        mod sqlite {
            $($(#[tokio::test] async fn $case() { super::cases::$file::$case(crate::bench::Bench::sqlite()).await; })+)*
        }
        mod postgres {
            $($(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::bench::Bench::postgres().await {
                    super::cases::$file::$case(bench).await;
                }
            })+)*
        }
    };
}

on_every_store! {
    writing:
        events_are_appended_and_read_back,
        a_rejection_appends_nothing,
        two_streams_change_together_or_not_at_all,
        many_callers_get_dense_positions_in_commit_order,
        a_stream_wrongly_thought_new_is_read_and_decided_again,
        whoever_comes_after_a_stream_wrongly_thought_new_waits_for_it_too,
        states_that_left_memory_are_read_again,
        a_snapshot_stands_for_the_events_before_it,
        a_decision_may_touch_only_what_it_named,
        the_observer_sees_what_is_durable_before_the_caller,
        names_of_streams_are_listed_in_order,
        a_name_that_no_store_can_keep_is_refused_alone;
    requests:
        a_request_is_carried_out_once,
        concurrent_repeats_of_a_request_are_carried_out_once,
        a_cursor_is_stored_with_the_effects;
    failing:
        a_failed_commit_is_answered_and_forgotten,
        a_full_disk_is_said_and_survived,
        a_crash_loses_nothing_that_was_answered,
        a_subscriber_sees_only_what_survives_a_crash;
    projecting:
        a_projection_follows_and_is_rebuilt,
        a_new_version_rebuilds_the_tables,
        a_rebuild_while_commands_run_ends_right,
        waiting_for_a_projection_is_bounded,
        the_reader_cannot_write,
        a_transaction_that_is_dropped_leaves_nothing,
        values_survive_both_dialects,
        a_text_that_postgresql_does_not_know_stops_nothing;
}

/// Every case on every store that several processes may share.
macro_rules! on_every_shared_store {
    ($($file:ident: $($case:ident),+;)*) => {
        mod shared_simulated {
            $($(#[tokio::test] async fn $case() { super::cases::$file::$case(crate::bench::Bench::database()).await; })+)*
        }
        mod shared_postgres {
            $($(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::bench::Bench::postgres().await {
                    super::cases::$file::$case(bench).await;
                }
            })+)*
        }
    };
}

on_every_shared_store! {
    racing:
        a_rejection_is_decided_on_what_another_writer_has_written,
        only_the_losers_of_a_race_are_decided_again,
        writers_that_race_lose_no_update_and_positions_stay_dense;
    feeding:
        a_consumer_may_know_more_than_the_replica_that_it_comes_to;
    leasing:
        what_was_checked_is_committed_before_its_lease_is_taken,
        what_comes_during_a_takeover_is_not_written,
        a_renewal_that_is_under_way_keeps_its_shards,
        a_lease_that_has_run_out_writes_nothing_although_nobody_took_it,
        a_reader_never_sees_a_position_before_an_earlier_one,
        a_process_takes_over_from_an_earlier_one_of_its_name_at_once,
        a_shard_goes_to_whoever_stays_and_back_to_its_home;
}
