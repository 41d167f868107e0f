//! A service that does what its request says.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chassis::{ChassisConfig, Env, Process, Tasks, channel};
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sagamesh_api::ledger::v1::feed_service_server::{FeedService, FeedServiceServer};
use sagamesh_api::ledger::v1::{SubscribeRequest, SubscribeResponse};
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_server::{
    NotificationService, NotificationServiceServer,
};
use sagamesh_api::shop::notifications::v1::{ListNotificationsRequest, ListNotificationsResponse};
use tokio::sync::{Notify, Semaphore};
use tonic::{Request, Response, Status};

pub const SERVICES: [&str; 2] = [
    "shop.notifications.v1.NotificationService",
    "ledger.v1.FeedService",
];

/// What the fake does: `text` picks it.
#[derive(Clone)]
pub struct Fake {
    pub env: Env,
    /// Signalled when a handler was dropped before it ended.
    pub dropped: Arc<Notify>,
    /// Signalled when a handler has begun.
    pub begun: Arc<Semaphore>,
    /// Ends the handlers that wait for it.
    pub gate: Arc<Semaphore>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            env: Env::system(),
            dropped: Arc::default(),
            begun: Arc::new(Semaphore::new(0)),
            gate: Arc::new(Semaphore::new(0)),
        }
    }
}

/// Tells that it was dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn answer(text: impl Into<String>) -> Result<Response<ListNotificationsResponse>, Status> {
    Ok(Response::new(ListNotificationsResponse {
        next_page_token: text.into(),
        ..Default::default()
    }))
}

#[tonic::async_trait]
impl NotificationService for Fake {
    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let text = request.get_ref().order_id.clone();
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("ok", _) => answer("ok"),
            ("pending", _) => {
                let _dropped = Dropped(Arc::clone(&self.dropped));
                self.begun.add_permits(1);
                std::future::pending().await
            }
            ("wait", _) => {
                self.begun.add_permits(1);
                self.gate.acquire().await.expect("open").forget();
                answer("waited")
            }
            ("panic", _) => panic!("on purpose"),
            ("fail", _) => Err(chassis::Domain("fake.sagamesh")
                .invalid_field("order_id", "is wrong on purpose")
                .into()),
            ("headers", bytes) => {
                let mut long = Status::not_found("with long headers");
                let value = "x".repeat(bytes.parse().expect("a number"));
                long.metadata_mut()
                    .insert("x-long", value.parse().expect("ascii"));
                Err(long)
            }
            ("context", _) => {
                let remaining = chassis::deadline::remaining()
                    .map_or(-1, |left| i64::try_from(left.as_millis()).expect("short"));
                answer(format!(
                    "{remaining} {}",
                    chassis::trace::current().unwrap_or_default()
                ))
            }
            // Asks the peer for the rest of the text.
            ("hop", rest) => {
                let (peer, text) = rest.split_once(' ').expect("hop <peer> <text>");
                let mut client = NotificationServiceClient::new(channel(&self.env, peer));
                client.list_notifications(ask(text)).await
            }
            other => Err(Status::invalid_argument(format!("{other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl FeedService for Fake {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let one = futures_util::stream::once(async {
            Ok(SubscribeResponse {
                position: 1,
                ..Default::default()
            })
        });
        Ok(Response::new(match request.get_ref().consumer.as_str() {
            "pending" => one.chain(futures_util::stream::pending()).boxed(),
            "panic" => one
                .chain(futures_util::stream::once(async {
                    // So that what came before is flushed.
                    tokio::task::yield_now().await;
                    panic!("on purpose, in a stream")
                }))
                .boxed(),
            _ => one.boxed(),
        }))
    }
}

pub fn ask(text: &str) -> Request<ListNotificationsRequest> {
    Request::new(ListNotificationsRequest {
        order_id: text.to_owned(),
        ..Default::default()
    })
}

pub fn ask_within(text: &str, timeout: Duration) -> Request<ListNotificationsRequest> {
    let mut request = ask(text);
    request.set_timeout(timeout);
    request
}

/// What came over the wire.
#[derive(Debug)]
pub struct Raw {
    pub status: Status,
    pub data: usize,
}

/// A server that is running.
pub struct Running {
    pub fake: Fake,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub tasks: Tasks,
    pub served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client through the chassis's channel.
    pub fn client(&self) -> NotificationServiceClient<chassis::PeerChannel> {
        NotificationServiceClient::new(channel(&Env::system(), &self.url()))
    }

    /// A call without the chassis and without any timer of its own: what the server says, and nothing else.
    pub async fn raw(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: &impl prost::Message,
    ) -> Raw {
        let stream = tokio::net::TcpStream::connect(self.address)
            .await
            .expect("connected");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = http::Request::post(format!("{}{path}", self.url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut bytes = vec![0];
        bytes.extend_from_slice(
            &u32::try_from(message.encoded_len())
                .expect("short")
                .to_be_bytes(),
        );
        bytes.extend_from_slice(&message.encode_to_vec());
        let body = Full::new(bytes::Bytes::from(bytes));
        let response = sender
            .send_request(request.body(body).expect("a request"))
            .await
            .expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body");
        let trailers = body.trailers().cloned().unwrap_or(parts.headers);
        Raw {
            status: Status::from_header_map(&trailers).expect("a status"),
            data: body.to_bytes().len(),
        }
    }

    /// `GET path` of the admin port: the whole answer.
    pub async fn admin(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.admin)
            .await
            .expect("the admin port");
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }
}

pub fn start() -> Running {
    start_with(|_| ())
}

pub fn start_with(change: impl FnOnce(&mut ChassisConfig)) -> Running {
    let mut config = ChassisConfig::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_listen = config.server.listen;
    change(&mut config);
    let process = Process::for_test_with("fake", config);
    let fake = Fake::default();
    let routes = tonic::service::Routes::new(NotificationServiceServer::new(fake.clone()))
        .add_service(FeedServiceServer::new(fake.clone()));
    let (address, admin, tasks) = (
        process.grpc_addr(),
        process.admin_addr(),
        process.tasks.clone(),
    );
    let served = tokio::spawn(process.serve(routes, &SERVICES));
    Running {
        fake,
        address,
        admin,
        tasks,
        served,
    }
}
