//! Operators: they look at what needs attention and act. They know the truth, as one does who looks into the participants' databases.

use std::sync::Arc;

use participant::Direction;
use participant::barrier::RecordedOutcome;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    ActOnStepsRequest, ListSagasRequest, OperatorAction, PauseParticipantRequest,
    ResumeParticipantRequest, Saga, SagaFilter, act_on_steps_request::Target,
};

use crate::dice::Dice;
use crate::history::What;
use crate::setup::url;
use crate::truth;
use crate::world::World;

const OPERATOR: &str = "operator";
/// Steps that send mails.
const MAILS: [&str; 2] = ["send-confirmation", "notify-refund"];
/// Steps that are points of no return.
const PIVOTS: [&str; 3] = ["pivot", "capture-payment", "refund-payment"];

/// An operator at work until the simulation ends.
pub async fn operate(world: Arc<World>) {
    let dice = Dice::named(world.seed, OPERATOR);
    let env = world.env_of_client(OPERATOR);
    let coordinators = world.setup.coordinators();
    let channels: Vec<_> = coordinators
        .iter()
        .map(|machine| chassis::channel(&env, &url(machine)))
        .collect();
    loop {
        tokio::time::sleep(dice.millis(1_000, 8_000)).await;
        let Some(channel) = dice.pick(&channels) else {
            return;
        };
        let sagas = SagaServiceClient::new(channel.clone());
        let operators = OperatorServiceClient::new(channel.clone());
        let request = ListSagasRequest {
            filter: Some(SagaFilter {
                needs_attention: true,
                ..SagaFilter::default()
            }),
            page_size: 100,
            page_token: String::new(),
        };
        if let Ok(list) = { sagas }.list_sagas(request).await {
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

/// A ruling where the participants' records say what is true; otherwise mostly another try. What is skipped needs no reason.
fn choose(world: &World, dice: &Dice, saga: &Saga, step: &str) -> OperatorAction {
    let undoing = saga.aborted.is_some();
    let direction = match undoing {
        true => Direction::Compensation,
        false => Direction::Action,
    };
    let pivot = PIVOTS.contains(&step);
    // In the shop nothing is given up but a mail: what operators skip, customers pay for.
    let may_skip = world.setup.orders == 0 || MAILS.contains(&step);
    match truth::recorded(world, &saga.saga_id, step, direction) {
        Some(RecordedOutcome::Success(_)) if dice.happens(500) => OperatorAction::ResolveSucceeded,
        Some(RecordedOutcome::Rejected(_) | RecordedOutcome::Void) if pivot => {
            OperatorAction::ResolveRejected
        }
        Some(RecordedOutcome::Rejected(_) | RecordedOutcome::Void) if may_skip => {
            OperatorAction::Skip
        }
        _ if may_skip && !pivot && dice.happens(200) => OperatorAction::Skip,
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
    // Without an answer it may be paused all the same.
    drop(operators.clone().pause_participant(request).await);
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
