//! What somebody who can reach the coordinator can send it, for tests with random bytes and for fuzzers: each of these
//! takes any bytes, and panics when what must hold for all of them does not.
#![expect(clippy::expect_used, reason = "for tests alone")]

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chassis::Process;
use http_body_util::{BodyExt as _, Full};
use ledger::{SimulatedDisk, StoreConfig};
use prost::Message as _;
use sagamesh_api::saga::v1::definition_service_server::DefinitionService as _;
use sagamesh_api::saga::v1::participant_service_server::ParticipantServiceServer;
use sagamesh_api::saga::v1::saga_service_server::SagaService as _;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, Call, Definition, Hello, ParticipateRequest, ParticipateResponse,
    Phase, RegisterDefinitionRequest, StartSagaRequest, Step, participate_request,
    participate_response, step,
};
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::codegen::{Service as _, http};

use crate::Opened;
use crate::api;
use crate::engine::Engine;
use crate::saga::{Plan, hash, normalise, validate};

/// Far longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of an input that are looked at.
const LONGEST: usize = 64 * 1024;

/// An encoded definition: it is refused with violations that lead to their fields, or it compiles, and then its normal form
/// is one.
///
/// # Panics
/// If that does not hold.
pub fn definition(bytes: &[u8]) {
    let Ok(definition) = Definition::decode(bytes) else {
        return;
    };
    let found = validate(&definition, None);
    for violation in &found {
        assert!(!violation.description.is_empty(), "{violation:?}");
        assert!(violation.description.len() < 1_000, "{violation:?}");
    }
    match Plan::compile(&definition) {
        Ok(plan) => {
            assert_eq!(found, []);
            assert_eq!(plan.steps().len(), definition.steps.len());
            let normal = normalise(&definition);
            assert_eq!(normalise(&normal), normal);
            assert_eq!(validate(&normal, None), []);
            assert_eq!(hash(&normal), plan.hash());
            // What is on record is read again at the next start.
            let again = Definition::decode(normal.encode_to_vec().as_slice());
            let again = Plan::compile(&again.expect("its own encoding")).expect("valid still");
            assert_eq!(again.hash(), plan.hash());
        }
        Err(violations) => assert_eq!(violations, found),
    }
}

/// What a participant sends on its stream. The first byte says how the rest is read: as the bytes of the stream; or, after
/// a good Hello, as messages, each behind a byte with its length.
///
/// # Panics
/// If the stream does not end when its client has, or leaves something behind, or others cannot connect any more.
pub fn participant_stream(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let sent = if first & 1 == 0 {
        rest.to_vec()
    } else {
        let mut sent = frame(&hello("hostile"));
        let mut rest = rest;
        while let Some((length, after)) = rest.split_first() {
            let (message, after) = after.split_at(after.len().min(usize::from(*length)));
            sent.extend(framed(message));
            rest = after;
        }
        sent
    };
    let world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    world.runtime.block_on(async {
        world.stream(sent).await;
        let answer = world.stream(frame(&hello("honest"))).await;
        assert!(
            matches!(
                first_message(&answer),
                Some(participate_response::Message::Welcome(_))
            ),
            "an honest participant is not welcome any more"
        );
    });
    let left = world
        .engine
        .dispatch
        .look(|hub, now| hub.describe_participant(PARTICIPANT, now));
    let left = left.map(|participant| participant.instances);
    assert_eq!(left.unwrap_or_default(), [], "streams that are over");
    for task in ["owed-commands", "timers"] {
        assert!(world.engine.tasks.running().contains(&task), "{task} ended");
    }
}

const PARTICIPANT: &str = "payments";
const ACTION: &str = "payments.Take";

/// A coordinator on a simulated disk, with a saga that has something to be done.
struct World {
    runtime: Runtime,
    engine: Engine,
    participants: ParticipantServiceServer<api::Participants>,
    /// Kept open.
    _opened: Opened,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::new()));

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let opened = runtime.block_on(async {
            let process = Process::for_test("coordinator");
            let config = crate::Config {
                chassis: process.config.clone(),
                store: StoreConfig::simulated(&SimulatedDisk::new()),
                options: crate::Options::default(),
            };
            let opened = crate::open(&config, &process).await.expect("it opens");
            begin(&opened.engine).await;
            opened
        });
        let engine = opened.engine.clone();
        Self {
            runtime,
            participants: ParticipantServiceServer::new(api::Participants::new(engine.clone())),
            engine,
            _opened: opened,
        }
    }

    /// Sends a whole stream, and gives back what was answered until it ended.
    async fn stream(&self, sent: Vec<u8>) -> Vec<u8> {
        let body = tonic::body::Body::new(Full::new(Bytes::from(sent)));
        let request = http::Request::post("/saga.v1.ParticipantService/Participate")
            .header("content-type", "application/grpc")
            .body(body)
            .expect("a request");
        let mut participants = self.participants.clone();
        let answered = async {
            let response = participants.call(request).await.expect("infallible");
            let mut body = response.into_body();
            let mut answer = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                match frame.into_data() {
                    Ok(data) => answer.extend_from_slice(&data),
                    // Trailers are the end: a body that is asked again says them again.
                    Err(_) => break,
                }
            }
            answer
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.expect("a stream ends when its client has sent everything")
    }
}

/// Starts the saga.
async fn begin(engine: &Engine) {
    let step = Step {
        name: "take".to_owned(),
        phase: Phase::Compensatable.into(),
        kind: Some(step::Kind::Call(Call {
            participant: PARTICIPANT.to_owned(),
            action: ACTION.to_owned(),
            compensation: "payments.GiveBack".to_owned(),
            ..Call::default()
        })),
        ..Step::default()
    };
    let definition = Definition {
        name: "d".to_owned(),
        steps: vec![step],
        ..Definition::default()
    };
    let definitions = api::Definitions::new(engine.clone());
    let register = RegisterDefinitionRequest {
        definition: Some(definition),
    };
    let registered = definitions
        .register_definition(Request::new(register))
        .await;
    let version = registered.expect("registered").into_inner().version;
    let activate = ActivateDefinitionRequest {
        name: "d".to_owned(),
        hash: version.expect("a version").hash,
        expected_active_hash: String::new(),
    };
    let activated = definitions
        .activate_definition(Request::new(activate))
        .await;
    activated.expect("activated");
    let start = StartSagaRequest {
        definition: "d".to_owned(),
        saga_id: "s".to_owned(),
        ..StartSagaRequest::default()
    };
    let sagas = api::Sagas::new(engine.clone());
    sagas
        .start_saga(Request::new(start))
        .await
        .expect("started");
}

fn hello(instance: &str) -> ParticipateRequest {
    ParticipateRequest {
        message: Some(participate_request::Message::Hello(Hello {
            participant: PARTICIPANT.to_owned(),
            instance: instance.to_owned(),
            actions: vec![ACTION.to_owned()],
            credits: 1,
            ..Hello::default()
        })),
    }
}

fn frame(message: &ParticipateRequest) -> Vec<u8> {
    framed(&message.encode_to_vec())
}

/// As gRPC has it: not compressed, length, message.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

fn first_message(answer: &[u8]) -> Option<participate_response::Message> {
    let (length, rest) = answer.get(1..)?.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    ParticipateResponse::decode(rest.get(..length)?)
        .ok()?
        .message
}
