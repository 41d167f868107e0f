//! A coordinator whose every message a test writes itself: for tests of participants, over real streams.

use std::net::SocketAddr;
use std::time::Duration;

use sagamesh_api::saga::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use sagamesh_api::saga::v1::{
    Command, Direction, Hello, ParticipateRequest, ParticipateResponse, Result as StepResult,
    ResultAck, ResultStatus, Value, Welcome, participate_request as to,
    participate_response as from, result, value::Kind,
};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for a message before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A scripted coordinator on a port of 127.0.0.1. Its methods panic when something else happens than the test expects.
#[derive(Debug)]
pub struct ScriptedCoordinator {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<ScriptedStream>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "for tests alone"
)]
impl ScriptedCoordinator {
    /// On a free port.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// On this address, for example that of one that was stopped.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound address");
        let (accepted, streams) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let service = ParticipantServiceServer::new(Service {
            accepted,
            stop: stop.clone(),
        });
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            let serving = tonic::transport::Server::builder().add_service(service);
            let incoming = TcpListenerStream::new(listener);
            let served = serving
                .serve_with_incoming_shutdown(incoming, stopped)
                .await;
            served.expect("the scripted coordinator serves");
        });
        Self {
            address,
            streams,
            stop,
            server,
        }
    }

    /// Where participants connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream, whose Hello has come and is not answered yet.
    pub async fn accept(&mut self) -> ScriptedStream {
        let stream = tokio::time::timeout(PATIENCE, self.streams.recv()).await;
        stream
            .expect("a participant connects")
            .expect("the scripted coordinator runs")
    }

    /// The next stream, answered with a Welcome.
    pub async fn welcome(&mut self) -> ScriptedStream {
        let stream = self.accept().await;
        stream.welcome(Welcome {
            coordinator: "scripted".into(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
            max_payload_bytes: 1024 * 1024,
            peers: Vec::new(),
            protocol_version: 0,
        });
        stream
    }

    /// Ends all streams, and the server; returns its address.
    pub async fn stop(self) -> SocketAddr {
        self.stop.cancel();
        self.server.await.expect("the scripted coordinator stops");
        self.address
    }
}

/// A stream to one participant.
#[derive(Debug)]
pub struct ScriptedStream {
    /// What the participant said first.
    pub hello: Hello,
    outbox: mpsc::UnboundedSender<Result<ParticipateResponse, Status>>,
    inbound: Mutex<Streaming<ParticipateRequest>>,
}

#[expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "for tests alone"
)]
impl ScriptedStream {
    /// Sends any message.
    pub fn send(&self, message: from::Message) {
        // A participant that has gone away is noticed by the next message that is waited for.
        let _ = self.outbox.send(Ok(ParticipateResponse {
            message: Some(message),
        }));
    }

    /// Sends a message without content.
    pub fn send_empty(&self) {
        let _ = self.outbox.send(Ok(ParticipateResponse { message: None }));
    }

    /// Ends the stream with an error.
    pub fn fail(&self, status: Status) {
        let _ = self.outbox.send(Err(status));
    }

    /// Answers Hello.
    pub fn welcome(&self, welcome: Welcome) {
        self.send(from::Message::Welcome(welcome));
    }

    /// Sends a command.
    pub fn command(&self, command: Command) {
        self.send(from::Message::Command(command));
    }

    /// Acknowledges a result.
    pub fn ack(&self, result: &StepResult, status: ResultStatus) {
        let message = String::new();
        self.send(from::Message::ResultAck(ResultAck {
            lease_token: result.lease_token,
            status: status.into(),
            message,
        }));
    }

    /// The next message; `None` when the participant has closed the stream.
    pub async fn next(&self) -> Option<to::Message> {
        let mut inbound = self.inbound.lock().await;
        let message = tokio::time::timeout(PATIENCE, inbound.message())
            .await
            .expect("a message of the participant");
        message.ok().flatten().and_then(|message| message.message)
    }

    /// The next result; credits and heartbeats before it are passed over.
    pub async fn result(&self) -> StepResult {
        loop {
            match self.next().await {
                Some(to::Message::Result(result)) => return result,
                Some(to::Message::Credit(_) | to::Message::Heartbeat(_)) => {}
                other => panic!("expected a result, got {other:?}"),
            }
        }
    }

    /// Runs one command to its acknowledged result.
    pub async fn run(&self, command: Command) -> result::Outcome {
        self.command(command);
        let result = self.result().await;
        self.ack(&result, ResultStatus::Accepted);
        result.outcome.expect("a result has an outcome")
    }
}

/// A command for step `step` of saga `saga`, with a timeout of 10 s.
#[must_use]
pub fn command(
    lease_token: u64,
    saga_id: &str,
    action: &str,
    direction: Direction,
    input: &[(&str, &str)],
) -> Command {
    let value = |text: &str| Value {
        kind: Some(Kind::Text(text.to_owned())),
    };
    Command {
        lease_token,
        saga_id: saga_id.to_owned(),
        step: "step".to_owned(),
        direction: direction.into(),
        action: action.to_owned(),
        attempt: 1,
        timeout: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
        input: input
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)))
            .collect(),
        ..Command::default()
    }
}

struct Service {
    accepted: mpsc::UnboundedSender<ScriptedStream>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl ParticipantService for Service {
    type ParticipateStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<ParticipateResponse, Status>> + Send>,
    >;

    async fn participate(
        &self,
        request: Request<Streaming<ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        let mut inbound = request.into_inner();
        let Some(ParticipateRequest {
            message: Some(to::Message::Hello(hello)),
        }) = inbound.message().await?
        else {
            return Err(Status::invalid_argument("the first message was not Hello"));
        };
        let (outbox, responses) = mpsc::unbounded_channel();
        let stream = ScriptedStream {
            hello,
            outbox,
            inbound: Mutex::new(inbound),
        };
        self.accepted
            .send(stream)
            .map_err(|_| Status::unavailable("the test is over"))?;
        let responses = UnboundedReceiverStream::new(responses);
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(
            futures_util::StreamExt::take_until(responses, stop),
        )))
    }
}
