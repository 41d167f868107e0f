//! Operators: they look at what needs attention and act. They know the truth, as one does who looks into the participants' databases.

use std::sync::Arc;

use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    ActOnStepsRequest, ListSagasRequest, OperatorAction, PauseParticipantRequest,
    ResumeParticipantRequest, Saga, SagaFilter, act_on_steps_request::Target,
};

use crate::dice::Dice;
use crate::history::What;
use crate::world::{COORDINATOR, World};

const OPERATOR: &str = "operator";

/// An operator at work until the simulation ends.
pub async fn operate(world: Arc<World>) {
    let dice = Dice::named(world.seed, OPERATOR);
    let env = world.env_of_client(OPERATOR);
    let channel = chassis::channel(&env, &format!("http://{COORDINATOR}:50051"));
    let sagas = SagaServiceClient::new(channel.clone());
    let operators = OperatorServiceClient::new(channel);
    loop {
        tokio::time::sleep(dice.millis(1_000, 8_000)).await;
        let request = ListSagasRequest {
            filter: Some(SagaFilter {
                needs_attention: true,
                ..SagaFilter::default()
            }),
            page_size: 100,
            page_token: String::new(),
        };
        if let Ok(list) = sagas.clone().list_sagas(request).await {
            for saga in list.into_inner().sagas {
                act(&world, &dice, &operators, &saga).await;
            }
        }
        if world.setup.faults.people && !world.is_calm() && dice.happens(80) {
            pause(&world, &dice, &operators).await;
        }
    }
}

type Operators = OperatorServiceClient<chassis::PeerChannel>;

async fn act(world: &World, dice: &Dice, operators: &Operators, saga: &Saga) {
    for step in &saga.attention {
        let action = choose(world, dice, saga, step);
        let request = ActOnStepsRequest {
            target: Some(Target::SagaId(saga.saga_id.clone())),
            step: step.clone(),
            action: action.into(),
            operator: OPERATOR.to_owned(),
            reason: "it needs attention".to_owned(),
            output: None,
        };
        let answer = operators.clone().act_on_steps(request).await;
        let refused = match &answer {
            Ok(answer) => format!("{} refused", answer.get_ref().refused.len()),
            Err(status) => format!("{:?}", status.code()),
        };
        world.history.add(What::Note(format!(
            "{action:?} {}/{step}: {refused}",
            saga.saga_id
        )));
    }
}

/// Mostly another try. A skip or a ruling where it is true, or where it is allowed to be wrong: what is skipped is listed as left over.
fn choose(world: &World, dice: &Dice, saga: &Saga, step: &str) -> OperatorAction {
    let done = crate::truth::was_done(world, &saga.saga_id, step);
    match dice.below(10) {
        0 | 1 if saga.aborted.is_some() || step.starts_with('r') => OperatorAction::Skip,
        2..4 if saga.aborted.is_none() && done => OperatorAction::ResolveSucceeded,
        _ => OperatorAction::Retry,
    }
}

/// A participant is paused for a while.
async fn pause(world: &Arc<World>, dice: &Dice, operators: &Operators) {
    let Some(name) = dice.pick(&world.setup.participants).cloned() else {
        return;
    };
    let request = PauseParticipantRequest {
        name: name.clone(),
        operator: OPERATOR.to_owned(),
        reason: "to have a look".to_owned(),
    };
    if operators.clone().pause_participant(request).await.is_err() {
        return;
    }
    world.fault(format!("{name} is paused"));
    tokio::time::sleep(dice.millis(500, 10_000)).await;
    loop {
        let request = ResumeParticipantRequest {
            name: name.clone(),
            operator: OPERATOR.to_owned(),
        };
        if operators.clone().resume_participant(request).await.is_ok() {
            return;
        }
        tokio::time::sleep(dice.millis(100, 1_000)).await;
    }
}
