//! The saga that is measured: three steps one after the other, each at a participant of its own.

use anyhow::Context as _;
use chassis::PeerChannel;
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, Call, Definition, GetDefinitionRequest, Phase,
    RegisterDefinitionRequest, StartSagaRequest, Step, Value, step, value::Kind,
};

/// Name of the definition.
pub(crate) const NAME: &str = "bench";
/// The participants, in the order of the steps.
pub(crate) const PARTICIPANTS: [&str; 3] = ["bench-1", "bench-2", "bench-3"];
/// What each does.
pub(crate) const ACTION: &str = "bench.Do";
/// What each undoes.
pub(crate) const COMPENSATION: &str = "bench.Undo";
/// The input field that makes the last step say no.
pub(crate) const REJECT: &str = "reject";
/// The input field that every step gets.
const ORDER: &str = "order";

/// Registers and activates the definition.
pub(crate) async fn register(channel: PeerChannel) -> anyhow::Result<()> {
    let mut client = DefinitionServiceClient::new(channel);
    let register = RegisterDefinitionRequest {
        definition: Some(definition()),
    };
    let registered = client
        .register_definition(register)
        .await
        .context("registering the definition")?
        .into_inner();
    let hash = registered
        .version
        .context("the coordinator answered without the version")?
        .hash;
    let active = client
        .get_definition(GetDefinitionRequest {
            name: NAME.into(),
            hash: String::new(),
        })
        .await;
    let active = active
        .ok()
        .and_then(|answer| answer.into_inner().version)
        .map(|version| version.hash)
        .unwrap_or_default();
    if active != hash {
        let activate = ActivateDefinitionRequest {
            name: NAME.into(),
            hash,
            expected_active_hash: active,
        };
        client
            .activate_definition(activate)
            .await
            .context("activating the definition")?;
    }
    Ok(())
}

fn definition() -> Definition {
    let steps = PARTICIPANTS.iter().enumerate().map(|(index, participant)| {
        let last = index + 1 == PARTICIPANTS.len();
        let mut input_fields = vec![ORDER.to_owned()];
        if last {
            input_fields.push(REJECT.to_owned());
        }
        Step {
            name: format!("step-{}", index + 1),
            phase: if last {
                Phase::Pivot
            } else {
                Phase::Compensatable
            }
            .into(),
            after: if index == 0 {
                Vec::new()
            } else {
                vec![format!("step-{index}")]
            },
            kind: Some(step::Kind::Call(Call {
                participant: (*participant).to_owned(),
                action: ACTION.to_owned(),
                compensation: if last {
                    String::new()
                } else {
                    COMPENSATION.to_owned()
                },
                input_fields,
                ..Call::default()
            })),
        }
    });
    Definition {
        name: NAME.to_owned(),
        steps: steps.collect(),
        ..Definition::default()
    }
}

/// One saga to start, answered at its end or after `wait_seconds`.
pub(crate) fn start(reject: bool, wait_seconds: i64) -> StartSagaRequest {
    let text = |text: &str| Value {
        kind: Some(Kind::Text(text.to_owned())),
    };
    let mut request = StartSagaRequest {
        saga_id: uuid::Uuid::now_v7().to_string(),
        definition: NAME.to_owned(),
        wait: (wait_seconds > 0).then_some(prost_types::Duration {
            seconds: wait_seconds,
            nanos: 0,
        }),
        ..StartSagaRequest::default()
    };
    request.input.insert(
        ORDER.to_owned(),
        text(r#"{"customer":"c-1024","sku":"SKU-1","quantity":2,"total_minor":4200}"#),
    );
    if reject {
        request.input.insert(REJECT.to_owned(), text("1"));
    }
    request
}
