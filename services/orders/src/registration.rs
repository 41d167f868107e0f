//! Registers and activates the shop's two sagas, until the coordinator has them.

use std::time::Duration;

use anyhow::Context as _;
use chassis::{Backoff, Env, PeerChannel};
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, Definition, DefinitionVersion, GetDefinitionRequest,
    RegisterDefinitionRequest,
};
use tonic::{Code, Status};

use crate::coordinator::Coordinator;
use crate::domain::{REVISION, definitions, revision_of};

/// Registers both definitions and makes them the active ones. Tries until the coordinator answers.
///
/// # Errors
/// If the coordinator refuses a definition: trying again would not help.
pub async fn register(coordinator: &Coordinator, env: &Env) -> anyhow::Result<()> {
    for definition in definitions() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            match once(&mut coordinator.definitions(), &definition).await {
                Ok(()) => break,
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(status).with_context(|| {
                        format!("the coordinator refuses the definition {}", definition.name)
                    });
                }
                Err(status) => {
                    let wait = backoff.next(env);
                    let definition = definition.name.as_str();
                    tracing::warn!(definition, code = ?status.code(), message = status.message(), ?wait, "not registered yet");
                    tokio::time::sleep(wait).await;
                }
            }
        }
        tracing::info!(definition = definition.name, "registered");
    }
    Ok(())
}

/// One try. Replicas that race are fine: whoever loses the compare-and-set looks again.
async fn once(
    client: &mut DefinitionServiceClient<PeerChannel>,
    definition: &Definition,
) -> Result<(), Status> {
    let request = RegisterDefinitionRequest {
        definition: Some(definition.clone()),
    };
    let registered = client
        .register_definition(request)
        .await?
        .into_inner()
        .version
        .unwrap_or_default();
    let active = active(client, &definition.name).await?;
    if let Some(active) = &active {
        if active.hash == registered.hash {
            return Ok(());
        }
        let theirs = revision_of(
            active
                .definition
                .as_ref()
                .map_or("", |definition| definition.description.as_str()),
        );
        if theirs > REVISION {
            tracing::info!(
                definition = definition.name,
                theirs,
                ours = REVISION,
                "a newer revision is active: it stays"
            );
            return Ok(());
        }
    }
    let request = ActivateDefinitionRequest {
        name: definition.name.clone(),
        hash: registered.hash,
        expected_active_hash: active.map(|active| active.hash).unwrap_or_default(),
    };
    client.activate_definition(request).await.map(|_| ())
}

async fn active(
    client: &mut DefinitionServiceClient<PeerChannel>,
    name: &str,
) -> Result<Option<DefinitionVersion>, Status> {
    let request = GetDefinitionRequest {
        name: name.to_owned(),
        hash: String::new(),
    };
    match client.get_definition(request).await {
        Ok(answer) => Ok(answer.into_inner().version),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}
