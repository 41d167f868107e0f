//! The process as it runs: a coordinator's stream on one side, gRPC reads and the feed on the other.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use clap::Parser as _;
use futures_util::Stream;
use payments::Config;
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use sagamesh_api::saga::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use sagamesh_api::saga::v1::{
    self as saga, participate_request, participate_response, result, value::Kind,
};
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// A coordinator that sends each of its commands once, acknowledges every result and passes it on.
struct Coordinator {
    commands: Vec<saga::Command>,
    results: mpsc::UnboundedSender<saga::Result>,
}

#[tonic::async_trait]
impl ParticipantService for Coordinator {
    type ParticipateStream =
        Pin<Box<dyn Stream<Item = Result<saga::ParticipateResponse, Status>> + Send>>;

    async fn participate(
        &self,
        request: Request<Streaming<saga::ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let (commands, results) = (self.commands.clone(), self.results.clone());
        tokio::spawn(async move {
            let say = |message| {
                Ok(saga::ParticipateResponse {
                    message: Some(message),
                })
            };
            while let Some(Ok(request)) = incoming.next().await {
                let answers = match request.message {
                    Some(participate_request::Message::Hello(hello)) => {
                        assert_eq!(hello.participant, "payments");
                        let welcome = saga::Welcome {
                            coordinator: "test".into(),
                            heartbeat_interval: Some(chassis::timestamp::from_duration(
                                Duration::from_secs(5),
                            )),
                            max_payload_bytes: 1 << 20,
                            peers: Vec::new(),
                            protocol_version: 0,
                        };
                        let commands = commands
                            .iter()
                            .cloned()
                            .map(participate_response::Message::Command);
                        [participate_response::Message::Welcome(welcome)]
                            .into_iter()
                            .chain(commands)
                            .collect()
                    }
                    Some(participate_request::Message::Result(result)) => {
                        let status = saga::ResultStatus::Accepted as i32;
                        let ack = saga::ResultAck {
                            lease_token: result.lease_token,
                            status,
                            ..Default::default()
                        };
                        let _ = results.send(result);
                        vec![participate_response::Message::ResultAck(ack)]
                    }
                    _ => Vec::new(),
                };
                for answer in answers {
                    let _ = sender.send(say(answer)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn command(token: u64, saga_id: &str, action: &str, direction: saga::Direction) -> saga::Command {
    let text = |text: &str| saga::Value {
        kind: Some(Kind::Text(text.into())),
    };
    let input = [
        ("order_id", saga_id),
        ("customer_id", "alice"),
        ("total", r#"{"minor_units":1250,"currency":"EUR"}"#),
        ("payment_method", "pm_ok"),
    ];
    saga::Command {
        lease_token: token,
        saga_id: saga_id.into(),
        step: "authorize-payment".into(),
        direction: direction as i32,
        action: action.into(),
        attempt: 1,
        timeout: Some(chassis::timestamp::from_duration(Duration::from_secs(10))),
        input: input
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(value)))
            .collect::<BTreeMap<_, _>>(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_process_does_what_the_coordinator_says_serves_reads_and_its_feed_and_stops() {
    let commands = vec![
        command(
            1,
            "one",
            "payments.AuthorizePayment",
            saga::Direction::Action,
        ),
        command(
            2,
            "two",
            "payments.VoidAuthorization",
            saga::Direction::Compensation,
        ),
    ];
    let (results, mut seen) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let coordinator = format!("http://{}", listener.local_addr().unwrap());
    let service = ParticipantServiceServer::new(Coordinator { commands, results });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let folder = tempfile::tempdir().unwrap();
    let process = chassis::Process::for_test("payments");
    let (address, tasks, env) = (
        process.grpc_addr(),
        process.tasks.clone(),
        process.env.clone(),
    );
    let data_dir = folder.path().to_str().unwrap();
    let config = Config::try_parse_from([
        "payments",
        "--data-dir",
        data_dir,
        "--coordinator",
        &coordinator,
    ])
    .unwrap();
    let running = tokio::spawn(payments::run(config, process));

    for _ in 0..2 {
        let result = seen.recv().await.expect("a result");
        assert!(
            matches!(result.outcome, Some(result::Outcome::Success(_))),
            "{result:?}"
        );
    }
    let channel = chassis::channel(&env, &format!("http://{address}"));
    let mut client = PaymentServiceClient::new(channel.clone());
    let request = api::GetPaymentRequest {
        payment_id: "one".into(),
        min_position: 2,
    };
    let payment = client
        .get_payment(request)
        .await
        .unwrap()
        .into_inner()
        .payment
        .unwrap();
    assert_eq!(payment.state(), api::PaymentState::Authorized);
    assert!(
        client
            .get_trial_balance(api::GetTrialBalanceRequest {})
            .await
            .unwrap()
            .into_inner()
            .balanced
    );

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
    while types.len() < 2 {
        let batch = feed
            .next()
            .await
            .expect("the feed goes on")
            .expect("a batch");
        types.extend(batch.events.into_iter().map(|event| event.r#type));
    }
    assert_eq!(
        types,
        [
            "shop.payments.v1.IntentRecorded",
            "shop.payments.v1.PaymentAuthorized"
        ]
    );

    drop(feed);
    tasks.begin_drain();
    running.await.unwrap().unwrap();
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}
