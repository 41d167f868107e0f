use std::time::{Duration, Instant};

use chassis::problem;
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fake::{SERVICES, ask, start, start_with};

fn health(server: &crate::fake::Running) -> HealthClient<chassis::PeerChannel> {
    HealthClient::new(chassis::channel(&chassis::Env::system(), &server.url()))
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn health_answers_per_service_and_watch_hears_of_the_shutdown_first() {
    let server = start();
    let mut client = health(&server);
    for service in ["", SERVICES[0], SERVICES[1]] {
        let status = client
            .check(about(service))
            .await
            .expect("known")
            .into_inner()
            .status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    assert_eq!(
        client
            .check(about("nobody"))
            .await
            .expect_err("unknown")
            .code(),
        Code::NotFound
    );

    let mut watch = client
        .watch(about(SERVICES[0]))
        .await
        .expect("a watch")
        .into_inner();
    assert_eq!(
        watch
            .message()
            .await
            .expect("ok")
            .expect("a message")
            .status(),
        ServingStatus::Serving
    );
    let mut busy = server.client();
    let under_way = tokio::spawn(async move { busy.list_notifications(ask("wait")).await });
    server.fake.begun.acquire().await.expect("open").forget();

    server.tasks.begin_drain();
    assert_eq!(
        watch
            .message()
            .await
            .expect("ok")
            .expect("a message")
            .status(),
        ServingStatus::NotServing
    );
    assert!(
        watch.message().await.expect("a clean end").is_none(),
        "the watch ends, so that the drain can"
    );
    assert!(!server.served.is_finished(), "a request is under way");
    server.fake.gate.add_permits(1);
    under_way
        .await
        .expect("no panic")
        .expect("requests under way are answered");
    server.served.await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn watching_an_unknown_service_says_so_and_goes_on() {
    let server = start();
    let mut watch = health(&server)
        .watch(about("nobody"))
        .await
        .expect("a watch")
        .into_inner();
    assert_eq!(
        watch
            .message()
            .await
            .expect("ok")
            .expect("a message")
            .status(),
        ServingStatus::ServiceUnknown
    );
}

#[tokio::test]
async fn the_drain_has_a_hard_deadline() {
    let server = start_with(|config| config.server.drain_timeout = Duration::from_millis(200));
    let mut client = server.client();
    let stuck = tokio::spawn(async move { client.list_notifications(ask("pending")).await });
    server.fake.begun.acquire().await.expect("open").forget();
    let begun = Instant::now();
    server.tasks.begin_drain();
    server.served.await.expect("no panic").expect("ended");
    assert!(
        begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(5)
    );
    assert!(
        stuck.await.expect("no panic").is_err(),
        "the stuck request was cut off"
    );
    server.fake.dropped.notified().await;
}

#[tokio::test]
async fn streams_are_told_to_connect_again() {
    let server = start_with(|config| config.server.drain_timeout = Duration::from_millis(400));
    let mut feed = FeedServiceClient::new(chassis::channel(&chassis::Env::system(), &server.url()));
    let request = SubscribeRequest {
        consumer: "pending".to_owned(),
        ..Default::default()
    };
    let mut stream = feed
        .subscribe(request)
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("ok")
        .expect("the first message");
    server.tasks.begin_drain();
    let status = stream.message().await.expect_err("shutting down");
    assert_eq!(
        (status.code(), problem::reason(&status).as_deref()),
        (Code::Unavailable, Some("SHUTTING_DOWN"))
    );
    server.served.await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn after_the_drain_tasks_are_told_to_stop_and_named_if_they_do_not() {
    let server = start();
    let token = server.tasks.token();
    let worker = server.tasks.spawn("worker", {
        let token = token.clone();
        async move { token.cancelled().await }
    });
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let stubborn = server.tasks.spawn("stubborn", {
        let release = release.clone();
        async move { release.notified().await }
    });
    server.tasks.begin_drain();
    server.served.await.expect("no panic").expect("drained");
    worker.await.expect("stopped");
    assert_eq!(
        server.tasks.shutdown(Duration::from_millis(300)).await,
        Err(vec!["stubborn"])
    );
    release.notify_one();
    stubborn.await.expect("ended");
    assert_eq!(server.tasks.shutdown(Duration::from_secs(5)).await, Ok(()));
}

#[test]
fn a_whole_process_runs_and_writes_its_addresses() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("addresses.json");
    let mut config = chassis::ChassisConfig::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_listen = config.server.listen;
    config.server.addresses_file = Some(file.clone());
    let ran = chassis::run("whole", config, |process| async move {
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        assert_eq!(written["grpc"], process.grpc_addr().to_string());
        assert_eq!(written["admin"], process.admin_addr().to_string());
        process.tasks.begin_drain();
        process.serve(tonic::service::Routes::default(), &[]).await
    });
    ran.expect("a clean end");
}

#[tokio::test]
async fn a_taken_address_is_explained() {
    let server = start();
    let mut config = chassis::ChassisConfig::default();
    config.server.listen = server.address;
    let error =
        chassis::Process::bind("second", chassis::Env::system(), config).expect_err("taken");
    assert!(
        error.to_string().contains("something else listens there"),
        "{error}"
    );
}
