//! Clients: they start sagas until they are told so, watch them, cancel some, and send signals.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, CancelSagaRequest, Definition, GetSagaRequest,
    RegisterDefinitionRequest, SignalSagaRequest, StartSagaRequest, WatchSagaRequest,
};
use tonic::{Code, Status};

use crate::dice::{Dice, fnv};
use crate::graphs::{self, SIGNAL};
use crate::history::What;
use crate::setup::url;
use crate::world::World;

/// Host of all clients.
const HOST: &str = "clients";
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Clients of the coordinator, each call to any of its replicas.
#[derive(Clone)]
pub struct Clients {
    world: Arc<World>,
    channels: Vec<chassis::PeerChannel>,
    dice: Arc<Dice>,
}

impl Clients {
    /// Clients on a host of their own.
    pub fn new(world: &Arc<World>) -> Self {
        let env = world.env_of_client(HOST);
        let coordinators = world.setup.coordinators();
        let channels = coordinators.iter();
        Self {
            world: Arc::clone(world),
            channels: channels
                .map(|machine| chassis::channel(&env, &url(machine)))
                .collect(),
            dice: Arc::new(Dice::named(world.seed, "replicas that are called")),
        }
    }

    fn channel(&self) -> chassis::PeerChannel {
        let at = self.dice.below(self.channels.len() as u64);
        self.channels[usize::try_from(at).unwrap_or(0)].clone()
    }

    fn sagas(&self) -> SagaServiceClient<chassis::PeerChannel> {
        SagaServiceClient::new(self.channel())
    }

    fn definitions(&self) -> DefinitionServiceClient<chassis::PeerChannel> {
        DefinitionServiceClient::new(self.channel())
    }

    /// Registers and activates a definition, however often it takes.
    pub async fn define(&self, definition: Definition) {
        let name = definition.name.clone();
        let hash = loop {
            let request = RegisterDefinitionRequest {
                definition: Some(definition.clone()),
            };
            match self.definitions().register_definition(request).await {
                Ok(response) => {
                    break response
                        .into_inner()
                        .version
                        .map(|version| version.hash)
                        .unwrap_or_default();
                }
                Err(status) => self.expected(&name, &status).await,
            }
        };
        loop {
            let request = sagamesh_api::saga::v1::GetDefinitionRequest {
                name: name.clone(),
                hash: String::new(),
            };
            let active = match self.definitions().get_definition(request).await {
                Ok(response) => response.into_inner().version.map(|version| version.hash),
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => {
                    self.expected(&name, &status).await;
                    continue;
                }
            };
            let request = ActivateDefinitionRequest {
                name: name.clone(),
                hash: hash.clone(),
                expected_active_hash: active.unwrap_or_default(),
            };
            match self.definitions().activate_definition(request).await {
                Ok(_) => return,
                Err(status) => self.expected(&name, &status).await,
            }
        }
    }

    /// Upgrades definitions now and then, while their sagas run.
    pub async fn upgrade(self, names: Vec<String>) {
        let dice = Dice::named(self.world.seed, "upgrades");
        while !self.world.is_calm() {
            tokio::time::sleep(dice.millis(5_000, 30_000)).await;
            let Some(name) = dice.pick(&names) else {
                return;
            };
            self.world.fault(format!("{name} is upgraded"));
            let definition = graphs::random(name, &self.world.setup.participants, &dice);
            self.define(definition).await;
        }
    }

    /// Starts a saga and sees to it, from `after` on.
    pub async fn saga(self, number: u64, definition: String, after: Duration) {
        let dice = Dice::named(self.world.seed, &format!("client {number}"));
        tokio::time::sleep(after).await;
        let saga = format!("s{number}");
        // A saga whose end is written down beforehand has all the time it needs.
        let hurried = dice.happens(150) && self.world.setup.script.is_none();
        let deadline =
            hurried.then(|| chassis::timestamp::from_duration(dice.millis(3_000, 30_000)));
        let watchers = dice.below(3);
        for watcher in 0..watchers {
            let (clients, saga) = (self.clone(), saga.clone());
            let from = dice.millis(0, 5_000);
            tokio::spawn(async move {
                tokio::time::sleep(from).await;
                clients
                    .watch(usize::try_from(watcher).unwrap_or(0), saga)
                    .await;
            });
        }
        self.world.begins();
        loop {
            let request = StartSagaRequest {
                saga_id: saga.clone(),
                definition: definition.clone(),
                deadline,
                ..StartSagaRequest::default()
            };
            match self.sagas().start_saga(request).await {
                Ok(_) => break,
                Err(status) => self.expected(&saga, &status).await,
            }
        }
        self.world
            .history
            .add(What::Acknowledged { saga: saga.clone() });
        if dice.happens(500) && self.world.setup.script.is_none() {
            tokio::time::sleep(dice.millis(0, 3_000)).await;
            self.get(&saga).await;
        }
        if dice.happens(700) {
            tokio::time::sleep(dice.millis(0, 6_000)).await;
            self.signal(&saga).await;
        }
        if self.world.setup.faults.people && dice.happens(150) {
            tokio::time::sleep(dice.millis(0, 6_000)).await;
            let request = CancelSagaRequest {
                saga_id: saga.clone(),
                reason: "the client changed its mind".to_owned(),
            };
            let answer = self.sagas().cancel_saga(request).await;
            self.note(format!("cancel {saga}: {}", in_short(&answer)));
        }
    }

    /// Whoever is asked knows a saga whose start was acknowledged.
    async fn get(&self, saga: &str) {
        let request = GetSagaRequest {
            saga_id: saga.to_owned(),
        };
        let answer = self.sagas().get_saga(request).await;
        if let Err(status) = &answer
            && status.code() == Code::NotFound
        {
            let text = format!("{saga} was started, and is not found");
            self.world.history.add(What::Broken(text));
        }
        self.note(format!("get {saga}: {}", in_short(&answer)));
    }

    async fn signal(&self, saga: &str) {
        for _ in 0..20 {
            let request = SignalSagaRequest {
                saga_id: saga.to_owned(),
                name: SIGNAL.to_owned(),
                signal_id: "1".to_owned(),
                payload: None,
            };
            let answer = self.sagas().signal_saga(request).await;
            self.note(format!("signal {saga}: {}", in_short(&answer)));
            match answer {
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(PAUSE).await
                }
                _ => return,
            }
        }
    }

    /// Watches a saga to its end, from after what was seen last, whatever happens to the stream.
    async fn watch(&self, watcher: usize, saga: String) {
        let mut seen = 0;
        loop {
            let request = WatchSagaRequest {
                saga_id: saga.clone(),
                after_version: seen,
            };
            let stream = match self.sagas().watch_saga(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    if status.code() == Code::OutOfRange {
                        let text = format!("watcher {watcher} of {saga}: {}", status.message());
                        self.world.history.add(What::Broken(text));
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let mut stream = stream;
            loop {
                match stream.message().await {
                    Ok(Some(response)) => {
                        let Some(event) = response.event else {
                            continue;
                        };
                        seen = event.version;
                        let hash = hash_of(&event);
                        self.world.history.add(What::Watched {
                            watcher,
                            saga: saga.clone(),
                            version: event.version,
                            hash,
                        });
                    }
                    Ok(None) => {
                        self.world
                            .history
                            .add(What::WatchedToTheEnd { watcher, saga });
                        return;
                    }
                    Err(_) => break,
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits before another try. Some answers are never right.
    async fn expected(&self, what: &str, status: &Status) {
        let broken = matches!(
            status.code(),
            Code::Internal | Code::InvalidArgument | Code::Unimplemented | Code::DataLoss
        );
        let text = format!("{what}: {:?} {}", status.code(), status.message());
        if broken {
            self.world.history.add(What::Broken(text));
        } else {
            self.note(text);
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn note(&self, text: String) {
        self.world.history.add(What::Note(text));
    }
}

/// Hash of an event as it is on record, where it has no version.
pub fn hash_of(event: &sagamesh_api::saga::v1::SagaEvent) -> u64 {
    let mut event = event.clone();
    event.version = 0;
    fnv(0, &event.encode_to_vec())
}

fn in_short<T>(answer: &Result<T, Status>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?}", status.code()),
    }
}
