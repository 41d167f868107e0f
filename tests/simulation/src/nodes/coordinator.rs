//! The real coordinator, with its own server, on a simulated machine. What it writes to streams is noted on the way out.

use std::pin::Pin;

use anyhow::Result;
use coordinator::{Config, Options, api};
use futures_util::{Stream, StreamExt as _, stream};
use ledger::StoreConfig;
use sagamesh_api::saga::v1::definition_service_server::DefinitionServiceServer;
use sagamesh_api::saga::v1::operator_service_server::OperatorServiceServer;
use sagamesh_api::saga::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use sagamesh_api::saga::v1::peer_service_server::PeerServiceServer;
use sagamesh_api::saga::v1::saga_service_server::SagaServiceServer;
use sagamesh_api::saga::v1::{ParticipateRequest, ParticipateResponse, participate_response};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::bugs::hasty::Hasty;
use crate::bugs::streams::Meddler;
use crate::bugs::{self, Bug};
use crate::history::{Told, What};
use crate::world::Life;

/// Runs it.
pub(super) async fn run(life: Life, options: Options) -> Result<()> {
    let process = super::process("coordinator", &life)?;
    let config = Config {
        chassis: process.config.clone(),
        store: StoreConfig::simulated(&life.disk),
        options,
    };
    let bug = life.world.setup.bug;
    let opened = coordinator::open_deciding(&config, &process, bugs::decide(bug)).await?;
    let engine = opened.engine.clone();
    life.note(What::Known {
        by: life.by(),
        position: engine.ledger.head(),
    });
    life.serves(&engine);
    let tapped = Tapped {
        inner: api::Participants::new(engine.clone()),
        life: life.clone(),
    };
    let sagas = api::Sagas::new(engine.clone());
    let routes = match bug {
        Some(bug @ (Bug::AcknowledgeBeforeCommit | Bug::WatchWithGap)) => {
            let hasty = Hasty::new(sagas, bug == Bug::AcknowledgeBeforeCommit);
            Routes::new(SagaServiceServer::new(hasty))
        }
        _ => Routes::new(SagaServiceServer::new(sagas)),
    };
    let routes = routes
        .add_service(DefinitionServiceServer::new(api::Definitions::new(
            engine.clone(),
        )))
        .add_service(OperatorServiceServer::new(api::Operators::new(
            engine.clone(),
        )))
        .add_service(PeerServiceServer::new(api::Replicas::new(engine.clone())))
        .add_service(ParticipantServiceServer::new(tapped));
    drop(engine);
    coordinator::serve(&config, process, opened, routes).await
}

/// Notes the commands that go out.
struct Tapped {
    inner: api::Participants,
    life: Life,
}

type Outbound = Pin<Box<dyn Stream<Item = Result<ParticipateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ParticipantService for Tapped {
    type ParticipateStream = Outbound;

    async fn participate(
        &self,
        request: Request<Streaming<ParticipateRequest>>,
    ) -> Result<Response<Outbound>, Status> {
        let life = self.life.clone();
        let response = self.inner.participate(request).await?;
        Ok(response.map(|outbound| {
            let (bug, mut meddler) = (life.world.setup.bug, Meddler::default());
            let sent = outbound.flat_map(move |response| {
                let responses = match response {
                    Ok(response) => meddler.meddle(bug, response).into_iter().map(Ok).collect(),
                    Err(status) => vec![Err(status)],
                };
                stream::iter(responses)
            });
            Box::pin(sent.inspect(move |response| note(&life, response))) as Outbound
        }))
    }
}

fn note(life: &Life, response: &Result<ParticipateResponse, Status>) {
    let Ok(ParticipateResponse {
        message: Some(participate_response::Message::Command(command)),
    }) = response
    else {
        return;
    };
    life.note(What::Released {
        by: life.by(),
        told: Told {
            saga: command.saga_id.clone(),
            step: command.step.clone(),
            direction: command.direction(),
            token: command.lease_token,
        },
    });
}
