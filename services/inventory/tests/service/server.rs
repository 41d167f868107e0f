//! The process as it runs: gRPC over a socket, the seeded catalogue, the feed, a clean shutdown.

use std::time::Duration;

use clap::Parser as _;
use inventory::Config;
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use tokio_stream::StreamExt as _;

#[tokio::test]
async fn a_process_serves_its_catalogue_and_its_feed_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let process = chassis::Process::for_test("inventory");
    let (address, tasks, env) = (
        process.grpc_addr(),
        process.tasks.clone(),
        process.env.clone(),
    );
    let data_dir = folder.path().to_str().unwrap();
    let arguments = [
        "inventory",
        "--data-dir",
        data_dir,
        "--seed-catalogue",
        "--coordinator",
        "http://127.0.0.1:1",
    ];
    let config = Config::try_parse_from(arguments).unwrap();
    let running = tokio::spawn(inventory::run(config, process));

    let channel = chassis::channel(&env, &format!("http://{address}"));
    let mut client = InventoryServiceClient::new(channel.clone());
    let request = api::GetItemRequest {
        sku: "limited-print".into(),
        min_position: 1,
    };
    // Until it is up, calls fail with UNAVAILABLE.
    let item = loop {
        match client.get_item(request.clone()).await {
            Ok(response) => break response.into_inner().item.unwrap(),
            Err(status)
                if status.code() == tonic::Code::Unavailable
                    || status.code() == tonic::Code::NotFound =>
            {
                tokio::task::yield_now().await;
            }
            Err(status) => panic!("{status}"),
        }
    };
    assert_eq!(
        (item.available, item.name.as_str()),
        (3, "Limited art print")
    );
    let listed = client
        .list_items(api::ListItemsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.items.len(), 6);

    let subscribe = SubscribeRequest {
        consumer: "test".into(),
        ..Default::default()
    };
    let mut feed = FeedServiceClient::new(channel)
        .subscribe(subscribe)
        .await
        .unwrap()
        .into_inner();
    let mut types = Vec::new();
    while types.len() < 6 {
        let batch = feed
            .next()
            .await
            .expect("the feed goes on")
            .expect("a batch");
        types.extend(batch.events.into_iter().map(|event| event.r#type));
    }
    assert!(
        types
            .iter()
            .all(|name| name == "shop.inventory.v1.ItemRestocked"),
        "{types:?}"
    );

    drop(feed);
    tasks.begin_drain();
    running.await.unwrap().unwrap();
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}
