//! A coordinator in this process, with its own runtime that can be killed, and participants that do as they are told.

use std::path::Path;
use std::result::Result;
use std::sync::mpsc as blocking;
use std::time::Duration;

use chassis::Process;
use coordinator::{Config, Options};
use ledger::StoreConfig;
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::participant_service_client::ParticipantServiceClient;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::*;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
pub(crate) use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

pub(crate) use crate::shapes::*;

/// Far longer than anything takes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Fails a test that waits for what does not come.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A coordinator on its own thread.
pub(crate) struct System {
    pub(crate) channel: Channel,
    pub(crate) sagas: SagaServiceClient<Channel>,
    pub(crate) definitions: DefinitionServiceClient<Channel>,
    pub(crate) operators: OperatorServiceClient<Channel>,
    tasks: chassis::Tasks,
    runtime: tokio::runtime::Handle,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Settings that suit tests: participants a, b and c.
pub(crate) fn options() -> Options {
    Options {
        participants: ["a", "b", "c"].map(str::to_owned).to_vec(),
        ..Options::default()
    }
}

impl System {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, options()).await
    }

    pub(crate) async fn start_with(dir: &Path, options: Options) -> Self {
        Self::start_on(StoreConfig::sqlite(dir, "coordinator"), options).await
    }

    pub(crate) async fn start_on(store: StoreConfig, options: Options) -> Self {
        let (kill, killed) = oneshot::channel();
        let (ready, started) = blocking::channel();
        let thread = std::thread::spawn(move || serve(store, options, ready, killed));
        let (address, tasks, runtime) = tokio::task::spawn_blocking(move || started.recv())
            .await
            .expect("a thread")
            .expect("the coordinator starts");
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_lazy();
        // Big answers and big refusals must come through.
        let sagas = SagaServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let system = Self {
            sagas,
            definitions: DefinitionServiceClient::new(channel.clone()),
            operators: OperatorServiceClient::new(channel.clone()),
            channel,
            tasks,
            runtime,
            kill: Some(kill),
            thread: Some(thread),
        };
        soon("the coordinator to serve", async {
            let mut definitions = system.definitions.clone();
            while definitions
                .list_definitions(ListDefinitionsRequest::default())
                .await
                .is_err()
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        system
    }

    /// Drops everything where it stands, as kill -9 does.
    pub(crate) async fn kill(mut self) {
        let _ = self.kill.take().map(|kill| kill.send(()));
        self.join().await;
    }

    /// Everything stands still for this long, as between SIGSTOP and SIGCONT.
    pub(crate) async fn freeze(&self, time: Duration) {
        let (standing, stands) = oneshot::channel();
        self.runtime.spawn(async move {
            // The test waits for it.
            let _ = standing.send(());
            std::thread::sleep(time);
        });
        stands.await.expect("it stands still");
    }

    pub(crate) fn tasks(&self) -> &chassis::Tasks {
        &self.tasks
    }

    /// Stops as on SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.tasks.begin_drain();
        self.join().await;
    }

    async fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            soon(
                "the coordinator to end",
                tokio::task::spawn_blocking(move || thread.join()),
            )
            .await
            .expect("a thread")
            .expect("no panic");
        }
    }

    /// Registers and activates.
    pub(crate) async fn define(&self, definition: Definition) -> String {
        let mut client = self.definitions.clone();
        let name = definition.name.clone();
        let registered = client
            .register_definition(RegisterDefinitionRequest {
                definition: Some(definition),
            })
            .await
            .expect("a valid definition");
        let hash = registered.into_inner().version.expect("a version").hash;
        let active = client
            .get_definition(GetDefinitionRequest {
                name: name.clone(),
                hash: String::new(),
            })
            .await;
        let expected_active_hash = active
            .ok()
            .and_then(|active| active.into_inner().version)
            .map_or(String::new(), |version| version.hash);
        let activate = ActivateDefinitionRequest {
            name,
            hash: hash.clone(),
            expected_active_hash,
        };
        client
            .activate_definition(activate)
            .await
            .expect("activated");
        hash
    }

    pub(crate) async fn start_saga(&self, definition: &str, id: &str) -> Saga {
        self.try_start(start(definition, id))
            .await
            .expect("started")
            .saga
            .expect("a saga")
    }

    pub(crate) async fn try_start(
        &self,
        request: StartSagaRequest,
    ) -> Result<StartSagaResponse, Status> {
        soon("a start", self.sagas.clone().start_saga(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub(crate) async fn get(&self, id: &str) -> Saga {
        self.try_get(id).await.expect("a saga")
    }

    pub(crate) async fn try_get(&self, id: &str) -> Result<Saga, Status> {
        let request = GetSagaRequest {
            saga_id: id.to_owned(),
        };
        soon("a saga", self.sagas.clone().get_saga(request))
            .await
            .map(|response| response.into_inner().saga.expect("a saga"))
    }

    /// What it says of itself, from now on.
    pub(crate) async fn health(&self) -> Health {
        let mut client = HealthClient::new(self.channel.clone());
        let watching = client.watch(HealthCheckRequest::default());
        Health(
            soon("health", watching)
                .await
                .expect("a stream")
                .into_inner(),
        )
    }

    pub(crate) async fn watch(&self, id: &str, after_version: u64) -> Watch {
        self.try_watch(id, after_version).await.expect("a stream")
    }

    pub(crate) async fn try_watch(&self, id: &str, after_version: u64) -> Result<Watch, Status> {
        let request = WatchSagaRequest {
            saga_id: id.to_owned(),
            after_version,
        };
        self.sagas
            .clone()
            .watch_saga(request)
            .await
            .map(|response| Watch(response.into_inner()))
    }

    /// The saga once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Saga {
        self.watch(id, 0).await.all().await;
        self.get(id).await
    }

    /// Waits until an event with such a transition is durable, and returns the saga.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&transition::Kind) -> bool) -> Saga {
        let mut watch = self.watch(id, 0).await;
        while let Some(event) = watch.next().await {
            if event
                .transitions
                .iter()
                .filter_map(|transition| transition.kind.as_ref())
                .any(&wanted)
            {
                return self.get(id).await;
            }
        }
        panic!("saga {id} ended before");
    }

    pub(crate) async fn link(
        &self,
        participant: &str,
        instance: &str,
        actions: &[&str],
        credits: u32,
    ) -> Link {
        self.link_with(hello(participant, instance, actions, credits))
            .await
            .expect("welcome")
    }

    pub(crate) async fn link_with(&self, hello: Hello) -> Result<Link, Status> {
        let mut link = self
            .raw_link(participate_request::Message::Hello(hello))
            .await?;
        match link.next().await? {
            Some(participate_response::Message::Welcome(_)) => Ok(link),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    pub(crate) async fn raw_link(
        &self,
        first: participate_request::Message,
    ) -> Result<Link, Status> {
        self.link_as(first, None).await
    }

    /// A stream whose sidecar says who opened it.
    pub(crate) async fn link_as(
        &self,
        first: participate_request::Message,
        identity: Option<&'static str>,
    ) -> Result<Link, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender
            .send(ParticipateRequest {
                message: Some(first),
            })
            .expect("open");
        let mut client =
            ParticipantServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let mut request = tonic::Request::new(UnboundedReceiverStream::new(receiver));
        if let Some(identity) = identity {
            let value = tonic::metadata::MetadataValue::from_static(identity);
            request.metadata_mut().insert("l5d-client-id", value);
        }
        let response = soon("a stream", client.participate(request)).await?;
        Ok(Link {
            sender,
            inbound: response.into_inner(),
        })
    }

    /// A participant that answers every command by a function.
    pub(crate) async fn worker(
        &self,
        participant: &str,
        actions: &[&str],
        answer: impl Fn(&Command) -> Option<result::Outcome> + Send + 'static,
    ) {
        let mut link = self
            .link(
                participant,
                &format!("{participant}-worker"),
                actions,
                1_000,
            )
            .await;
        tokio::spawn(async move {
            while let Ok(Some(message)) = link.next().await {
                if let participate_response::Message::Command(command) = message {
                    if let Some(outcome) = answer(&command) {
                        link.answer(&command, outcome);
                    }
                    link.credit(1);
                }
            }
        });
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.kill.take().map(|kill| kill.send(()));
    }
}

type Ready = (std::net::SocketAddr, chassis::Tasks, tokio::runtime::Handle);

fn serve(
    store: StoreConfig,
    options: Options,
    ready: blocking::Sender<Ready>,
    mut killed: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        loop {
            let process = Process::for_test("coordinator");
            let mut config = Config {
                chassis: process.config.clone(),
                store: store.clone(),
                options: options.clone(),
            };
            config.options.replica_address = format!("http://{}", process.grpc_addr());
            let (address, tasks) = (process.grpc_addr(), process.tasks.clone());
            let running = async {
                let run = coordinator::run(config, process);
                tokio::pin!(run);
                // Listening begins before the log is open: clients wait in the backlog.
                tokio::select! {
                    ended = &mut run => return ended,
                    () = tokio::task::yield_now() => {}
                }
                let runtime = tokio::runtime::Handle::current();
                drop(ready.send((address, tasks.clone(), runtime)));
                run.await
            };
            tokio::select! {
                ended = running => match ended {
                    Ok(()) => {
                        drop(tasks.shutdown(Duration::from_secs(5)).await);
                        return;
                    }
                    // The one that was killed lets go of its file a moment later.
                    Err(error) if format!("{error:#}").contains("in use") => continue,
                    Err(error) => panic!("{error:#}"),
                },
                _ = &mut killed => return,
            }
        }
    });
    runtime.shutdown_background();
}

/// A saga's history.
pub(crate) struct Watch(Streaming<WatchSagaResponse>);

impl Watch {
    pub(crate) async fn next(&mut self) -> Option<SagaEvent> {
        loop {
            let response = soon("an event", self.0.message())
                .await
                .expect("no error")?;
            if response.event.is_some() {
                return response.event;
            }
        }
    }

    pub(crate) async fn all(mut self) -> Vec<SagaEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Whether a coordinator takes new work.
pub(crate) struct Health(Streaming<HealthCheckResponse>);

impl Health {
    /// What it says next.
    pub(crate) async fn next(&mut self) -> ServingStatus {
        let response = soon("health", self.0.message()).await;
        response.expect("no error").expect("no end").status()
    }
}

/// One stream of a participant.
pub(crate) struct Link {
    sender: mpsc::UnboundedSender<ParticipateRequest>,
    inbound: Streaming<ParticipateResponse>,
}

impl Link {
    /// The next message that is not a heartbeat.
    pub(crate) async fn next(&mut self) -> Result<Option<participate_response::Message>, Status> {
        loop {
            match self.inbound.message().await? {
                Some(ParticipateResponse {
                    message: Some(participate_response::Message::Heartbeat(_)),
                }) => {}
                Some(ParticipateResponse { message }) => return Ok(message),
                None => return Ok(None),
            }
        }
    }

    pub(crate) async fn command(&mut self) -> Command {
        loop {
            match soon("a command", self.next()).await.expect("no error") {
                Some(participate_response::Message::Command(command)) => return command,
                Some(
                    participate_response::Message::ResultAck(_)
                    | participate_response::Message::Peers(_),
                ) => {}
                other => panic!("not a command: {other:?}"),
            }
        }
    }

    pub(crate) async fn ack(&mut self) -> ResultAck {
        loop {
            match soon("an ack", self.next()).await.expect("no error") {
                Some(participate_response::Message::ResultAck(ack)) => return ack,
                Some(participate_response::Message::Peers(_)) => {}
                other => panic!("not an ack: {other:?}"),
            }
        }
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match soon("the end of the stream", self.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }

    pub(crate) fn send(&self, message: participate_request::Message) {
        drop(self.sender.send(ParticipateRequest {
            message: Some(message),
        }));
    }

    pub(crate) fn credit(&self, commands: u32) {
        self.send(participate_request::Message::Credit(Credit { commands }));
    }

    pub(crate) fn answer(&self, command: &Command, outcome: result::Outcome) {
        self.send(participate_request::Message::Result(result_of(
            command, outcome,
        )));
    }
}
