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
        states_that_left_memory_are_read_again,
        a_snapshot_stands_for_the_events_before_it,
        a_decision_may_touch_only_what_it_named,
        the_observer_sees_what_is_durable_before_the_caller,
        names_of_streams_are_listed_in_order;
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
        values_survive_both_dialects;
}
