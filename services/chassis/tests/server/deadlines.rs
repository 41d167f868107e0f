use std::time::{Duration, Instant};

use chassis::problem;
use sagamesh_api::ledger::v1::SubscribeRequest;
use tonic::Code;

use crate::fake::{ask, ask_within, start, start_with};

const LIST: &str = "/shop.notifications.v1.NotificationService/ListNotifications";
const SUBSCRIBE: &str = "/ledger.v1.FeedService/Subscribe";

fn pending_stream() -> SubscribeRequest {
    SubscribeRequest {
        consumer: "pending".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_server_answers_deadline_exceeded_and_drops_the_handler() {
    let server = start();
    let raw = server
        .raw(LIST, &[("grpc-timeout", "50m")], ask("pending").get_ref())
        .await;
    assert_eq!(raw.status.code(), Code::DeadlineExceeded, "{raw:?}");
    assert_eq!(
        problem::reason(&raw.status).as_deref(),
        Some("DEADLINE_EXCEEDED")
    );
    server.fake.dropped.notified().await;
}

#[tokio::test]
async fn a_unary_call_without_a_deadline_gets_the_default() {
    let server = start_with(|config| config.server.default_deadline = Duration::from_millis(50));
    let raw = server.raw(LIST, &[], ask("pending").get_ref()).await;
    assert_eq!(raw.status.code(), Code::DeadlineExceeded, "{raw:?}");
    // A deadline of the caller's own is not shortened.
    let begun = Instant::now();
    let raw = server
        .raw(LIST, &[("grpc-timeout", "300m")], ask("pending").get_ref())
        .await;
    assert!(
        raw.status.code() == Code::DeadlineExceeded
            && begun.elapsed() >= Duration::from_millis(300)
    );
}

#[tokio::test]
async fn a_garbled_timeout_counts_as_none() {
    let server = start_with(|config| config.server.default_deadline = Duration::from_millis(50));
    let raw = server
        .raw(LIST, &[("grpc-timeout", "soon")], ask("pending").get_ref())
        .await;
    assert_eq!(raw.status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn streams_have_no_default_deadline_but_keep_one_of_their_own() {
    let server = start_with(|config| config.server.default_deadline = Duration::from_millis(1));
    let begun = Instant::now();
    let raw = server
        .raw(SUBSCRIBE, &[("grpc-timeout", "200m")], &pending_stream())
        .await;
    assert_eq!(raw.status.code(), Code::DeadlineExceeded, "{raw:?}");
    assert!(raw.data > 0, "the message before the deadline arrived");
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "the default did not apply"
    );
}

#[tokio::test]
async fn the_client_says_deadline_exceeded_too() {
    let server = start();
    for _ in 0..20 {
        let status = server
            .client()
            .list_notifications(ask_within("pending", Duration::from_millis(5)))
            .await
            .expect_err("too late");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
}

#[tokio::test]
async fn a_call_outside_of_any_request_has_a_default_deadline() {
    let server = start();
    let channel = chassis::channel(&chassis::Env::system(), &server.url())
        .with_default_deadline(Duration::from_millis(30));
    let mut client = sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient::new(channel);
    let status = client
        .list_notifications(ask("pending"))
        .await
        .expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_remaining_time_and_the_trace_travel_over_two_hops() {
    let (first, second) = (start(), start());
    let traceparent = chassis::trace::new_root(&chassis::env::OsEntropy);
    let mut request = ask_within(
        &format!("hop {} context", second.url()),
        Duration::from_secs(30),
    );
    request
        .metadata_mut()
        .insert("traceparent", traceparent.parse().expect("ascii"));
    let seen = first
        .client()
        .list_notifications(request)
        .await
        .expect("an answer")
        .into_inner()
        .next_page_token;
    let (remaining, trace) = seen.split_once(' ').expect("two words");
    let remaining: u64 = remaining
        .parse()
        .expect("milliseconds, so there was a deadline");
    assert!(
        (20_000..30_000).contains(&remaining),
        "{remaining} ms were left at the second hop"
    );
    assert_eq!(trace, traceparent);
}

#[tokio::test]
async fn a_deadline_that_passes_at_the_second_hop_is_told_as_such() {
    let (first, second) = (start(), start());
    let request = ask_within(
        &format!("hop {} pending", second.url()),
        Duration::from_millis(80),
    );
    let status = first
        .client()
        .list_notifications(request)
        .await
        .expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    second.fake.dropped.notified().await;
}
