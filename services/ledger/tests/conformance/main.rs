//! One suite for all stores.

mod accounts;
mod bench;
mod suite;

/// Every case on every store.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod simulated {
            $(#[tokio::test] async fn $case() { super::suite::$case(crate::bench::Bench::simulated()).await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::suite::$case(crate::bench::Bench::sqlite()).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::bench::Bench::postgres().await {
                    super::suite::$case(bench).await;
                }
            })*
        }
    };
}

on_every_store! {
    events_are_appended_and_read_back,
    a_rejection_appends_nothing,
    two_streams_change_together_or_not_at_all,
    a_request_is_carried_out_once,
    a_projection_follows,
}
