//! The feed over gRPC.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chassis::Env;
use ledger::{BoxFuture, Consumer, Error, Handler, Received};
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Server};

use crate::accounts::{Command, account};
use crate::bench::{Bench, Open};

/// Serves a feed on any port until the token is cancelled.
async fn serve(
    open: &Open,
    listener: TcpListener,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let service = open.ledger.feed().into_server();
    let tasks = open.tasks().clone();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(async move {
        // Ends feeds and connections, as the end of the process would.
        let ended = async {
            stop.cancelled().await;
            tasks.begin_drain();
        };
        Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended)
            .await
            .expect("served");
    })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn connect(address: SocketAddr) -> FeedServiceClient<Channel> {
    FeedServiceClient::connect(format!("http://{address}"))
        .await
        .expect("connected")
}

fn request(after: u64) -> SubscribeRequest {
    SubscribeRequest {
        after_position: after,
        consumer: "test".into(),
        ..SubscribeRequest::default()
    }
}

#[tokio::test]
async fn a_feed_is_dense_filtered_and_says_where_it_is() {
    let bench = Bench::sqlite();
    let open = bench.open().await;
    for number in 0..1200 {
        open.ledger.post(Command::AddTo(
            account(&format!(
                "{}{number}",
                if number % 3 == 0 { "x" } else { "y" }
            )),
            number,
        ));
    }
    open.ledger
        .execute(Command::Add("last", 1))
        .await
        .expect("added");
    let (listener, address) = listen().await;
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;
    let mut client = connect(address).await;

    let mut all = client
        .subscribe(request(0))
        .await
        .expect("subscribed")
        .into_inner();
    let mut positions = Vec::new();
    while positions.len() < 1201 {
        let response = all.message().await.expect("open").expect("more");
        assert!(response.events.len() <= 512);
        assert_eq!(response.log_id, *open.ledger.log_id());
        assert_eq!(response.head_position, 1201);
        positions.extend(response.events.iter().map(|event| event.position));
        assert_eq!(response.position, positions.last().copied().unwrap_or(0));
    }
    assert!(positions.iter().copied().eq(1..=1201));
    // Caught up: what is committed now comes now.
    open.ledger
        .execute(Command::Add("last", 1))
        .await
        .expect("added");
    let response = all.message().await.expect("open").expect("more");
    assert_eq!((response.events.len(), response.position), (1, 1202));
    assert_eq!(response.events[0].r#type, "test.Added");
    assert_eq!(
        (
            response.events[0].stream.as_str(),
            response.events[0].version
        ),
        ("account/last", 2)
    );
    assert!(response.events[0].commit_time.is_some());

    let filter = SubscribeRequest {
        stream_prefix: "account/x".into(),
        ..request(600)
    };
    let mut filtered = client
        .subscribe(filter)
        .await
        .expect("subscribed")
        .into_inner();
    let (mut found, mut position) = (0, 600);
    while position < 1202 {
        let response = filtered.message().await.expect("open").expect("more");
        assert!(
            response
                .events
                .iter()
                .all(|event| event.stream.starts_with("account/x") && event.position > 600)
        );
        found += response.events.len();
        assert!(
            response.position >= position,
            "positions of what was left out advance"
        );
        position = response.position;
    }
    assert_eq!(found, 200);
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
}

#[tokio::test]
async fn wrong_positions_logs_and_names_are_refused() {
    let bench = Bench::sqlite();
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    let (listener, address) = listen().await;
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;
    let mut client = connect(address).await;
    let log_id = open.ledger.log_id().to_string();
    let cases = [
        (request(2), Code::OutOfRange, "POSITION_OUT_OF_RANGE"),
        (
            SubscribeRequest {
                log_id: "other".into(),
                ..request(0)
            },
            Code::FailedPrecondition,
            "LOG_REPLACED",
        ),
        (
            SubscribeRequest {
                consumer: "Not Good".into(),
                ..request(0)
            },
            Code::InvalidArgument,
            "",
        ),
        (
            SubscribeRequest {
                consumer: String::new(),
                ..request(0)
            },
            Code::InvalidArgument,
            "",
        ),
    ];
    for (request, code, reason) in cases {
        let status = client.subscribe(request).await.expect_err("refused");
        assert_eq!(status.code(), code);
        if !reason.is_empty() {
            assert_eq!(chassis::problem::reason(&status).as_deref(), Some(reason));
        }
    }
    let mut at_head = client
        .subscribe(SubscribeRequest {
            log_id: log_id.clone(),
            ..request(1)
        })
        .await
        .expect("fine")
        .into_inner();
    let first = at_head
        .message()
        .await
        .expect("open")
        .expect("the log id, at once");
    assert_eq!(
        (
            first.log_id,
            first.events.len(),
            first.position,
            first.head_position
        ),
        (log_id, 0, 1, 1)
    );
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
}

#[tokio::test]
async fn a_feed_ends_when_the_process_drains() {
    let open = Bench::simulated().open().await;
    let (listener, address) = listen().await;
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;
    let mut feed = connect(address)
        .await
        .subscribe(request(0))
        .await
        .expect("subscribed")
        .into_inner();
    assert!(feed.message().await.expect("open").is_some());
    open.tasks().begin_drain();
    assert!(feed.message().await.expect("a clean end").is_none());
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
}

/// Where it is, what it handled, how often the log was replaced.
type Kept = (Option<(String, u64)>, Vec<u64>, u32);

/// Keeps positions, as a consumer's database would.
#[derive(Clone)]
struct Keeper {
    kept: Arc<Mutex<Kept>>,
    position: watch::Sender<u64>,
    /// Fails at this position, once.
    fail_at: Arc<Mutex<Option<u64>>>,
}

impl Handler for Keeper {
    fn position(&mut self) -> BoxFuture<'_, Result<Option<(String, u64)>, Error>> {
        Box::pin(async { Ok(self.kept.lock().expect("kept").0.clone()) })
    }

    fn handle(&mut self, received: Received) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let failing = self
                .fail_at
                .lock()
                .expect("fails")
                .take_if(|at| received.position >= *at)
                .is_some();
            if failing {
                return Err(Error::Contract("failed once".into()));
            }
            let mut kept = self.kept.lock().expect("kept");
            kept.1
                .extend(received.events.iter().map(|event| event.position));
            kept.0 = Some((received.log_id, received.position));
            self.position.send_replace(received.position);
            Ok(())
        })
    }

    fn log_replaced(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let mut kept = self.kept.lock().expect("kept");
            *kept = (None, Vec::new(), kept.2 + 1);
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_consumer_comes_back_after_failures_restarts_and_a_replaced_log() {
    let bench = Bench::sqlite();
    let open = bench.open().await;
    let (listener, address) = listen().await;
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;

    let keeper = Keeper {
        kept: Arc::default(),
        position: watch::Sender::new(0),
        fail_at: Arc::new(Mutex::new(Some(3))),
    };
    let mut reached = keeper.position.subscribe();
    let ended = CancellationToken::new();
    let channel = chassis::channel(&Env::system(), &format!("http://{address}"));
    let following =
        tokio::spawn(Consumer::new("keeper", channel).run(keeper.clone(), ended.clone()));
    for _ in 0..5 {
        open.ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added");
    }
    reached
        .wait_for(|position| *position == 5)
        .await
        .expect("followed");
    assert_eq!(
        keeper.kept.lock().expect("kept").1,
        [1, 2, 3, 4, 5],
        "once each, a failure in between"
    );

    // The service restarts on the same address.
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
    let open = bench.open().await;
    let listener = TcpListener::bind(address).await.expect("the same port");
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;
    open.ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    reached
        .wait_for(|position| *position == 6)
        .await
        .expect("followed");
    assert_eq!(keeper.kept.lock().expect("kept").1, [1, 2, 3, 4, 5, 6]);

    // It comes back with another log.
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
    let other = Bench::sqlite();
    let open = other.open().await;
    let listener = TcpListener::bind(address).await.expect("the same port");
    let stop = CancellationToken::new();
    let serving = serve(&open, listener, stop.clone()).await;
    for _ in 0..7 {
        open.ledger
            .execute(Command::Add("b", 1))
            .await
            .expect("added");
    }
    reached
        .wait_for(|position| *position == 7)
        .await
        .expect("followed");
    assert_eq!(keeper.kept.lock().expect("kept").1, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        keeper.kept.lock().expect("kept").2,
        1,
        "told once that the log is another"
    );
    ended.cancel();
    tokio::time::timeout(Duration::from_secs(5), following)
        .await
        .expect("it stops")
        .expect("no panic");
    stop.cancel();
    serving.await.expect("served");
    open.close().await;
}

pub(crate) async fn a_consumer_may_know_more_than_the_replica_that_it_comes_to(bench: Bench) {
    let options = ledger::CommitterOptions {
        poll: Duration::from_secs(3600),
        ..ledger::CommitterOptions::default()
    };
    let (ahead, behind) = (bench.open().await, bench.open_with(options, 1).await);
    for _ in 0..3 {
        let added = ahead.ledger.execute(Command::Add("a", 1)).await;
        added.expect("added");
    }
    assert_eq!(behind.ledger.head(), 0);
    let (listener, address) = listen().await;
    let stop = CancellationToken::new();
    let serving = serve(&behind, listener, stop.clone()).await;
    let mut client = connect(address).await;
    let beyond = client.subscribe(request(4)).await.expect_err("beyond");
    assert_eq!(beyond.code(), Code::OutOfRange);
    for after in [2, 3] {
        let feed = client.subscribe(request(after)).await.expect("it is there");
        let first = feed.into_inner().message().await.expect("open");
        assert_eq!(first.expect("a message").head_position, 3);
    }
    stop.cancel();
    serving.await.expect("ended");
    behind.close().await;
    ahead.close().await;
}
