//! What operators do to sagas: cancel, retry, skip, resolve; one saga, or all that match a filter.

use std::process::ExitCode;

use clap::Args;
use sagamesh_api::saga::v1::act_on_steps_request::Target;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::{ActOnStepsRequest, CancelSagasRequest, OperatorAction, Refused};

use super::filter::Filter;
use super::{Client, operator, text_value};
use crate::connect;
use crate::failure::{Exit, Failure, from_status};
use crate::output::{self, short};
use crate::system::System;

/// Which steps, who and why.
#[derive(Debug, Args)]
pub(crate) struct Act {
    /// One saga; without it the filters say which
    saga_id: Option<String>,
    /// Only this step [default: every parked or stalled one]
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Why, for the saga's history
    #[arg(long)]
    reason: String,
    /// Who does it [default: the user]
    #[arg(long)]
    operator: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

/// Which sagas to undo, who and why.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// One saga; without it the filters say which
    saga_id: Option<String>,
    /// Why, for the saga's history
    #[arg(long, default_value = "cancelled from the command line")]
    reason: String,
    /// Who does it [default: the user]
    #[arg(long)]
    operator: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

/// What was found out about a step.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Outcome {
    /// It happened.
    Succeeded,
    /// It did not happen.
    Rejected,
}

pub(super) async fn retry(system: &System, act: Act) -> anyhow::Result<ExitCode> {
    send(system, OperatorAction::Retry, None, act).await
}

pub(super) async fn skip(system: &System, act: Act) -> anyhow::Result<ExitCode> {
    send(system, OperatorAction::Skip, None, act).await
}

pub(super) async fn resolve(
    system: &System,
    outcome: Outcome,
    result: Option<String>,
    act: Act,
) -> anyhow::Result<ExitCode> {
    let action = match outcome {
        Outcome::Succeeded => OperatorAction::ResolveSucceeded,
        Outcome::Rejected => OperatorAction::ResolveRejected,
    };
    send(system, action, result, act).await
}

pub(super) async fn cancel(
    system: &System,
    client: &mut Client,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    if let Some(saga_id) = one(cancel.saga_id.as_deref(), &cancel.filter)? {
        let saga = super::cancel(client, saga_id, cancel.reason).await?;
        output::line(&format!(
            "saga {saga_id} is {}",
            short(saga.state().as_str_name(), "SAGA_STATE_")
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let mut operators = operators(system)?;
    let request = CancelSagasRequest {
        filter: Some(cancel.filter.message()),
        operator: operator(cancel.operator),
        reason: cancel.reason,
    };
    let answer = operators.cancel_sagas(connect::request(request)).await;
    let answer = answer
        .map_err(|status| from_status("coordinator", "cancelling sagas", &status))?
        .into_inner();
    Ok(report("being undone", &answer.saga_ids, &answer.refused))
}

async fn send(
    system: &System,
    action: OperatorAction,
    result: Option<String>,
    act: Act,
) -> anyhow::Result<ExitCode> {
    let target = match one(act.saga_id.as_deref(), &act.filter)? {
        Some(saga_id) => Target::SagaId(saga_id.to_owned()),
        None => Target::Filter(act.filter.message()),
    };
    let request = ActOnStepsRequest {
        target: Some(target),
        step: act.step.unwrap_or_default(),
        action: action.into(),
        operator: operator(act.operator),
        reason: act.reason,
        output: result.map(text_value),
    };
    let answer = operators(system)?
        .act_on_steps(connect::request(request))
        .await;
    let answer = answer
        .map_err(|status| from_status("coordinator", "acting on steps", &status))?
        .into_inner();
    Ok(report("acted on", &answer.saga_ids, &answer.refused))
}

fn operators(system: &System) -> anyhow::Result<OperatorServiceClient<connect::Channel>> {
    Ok(OperatorServiceClient::new(connect::service(
        system,
        "coordinator",
    )?))
}

/// The one saga, or none when the filters choose. Exactly one of the two must be given.
fn one<'a>(saga_id: Option<&'a str>, filter: &Filter) -> Result<Option<&'a str>, Failure> {
    match (saga_id, filter.is_empty()) {
        (Some(saga_id), true) => Ok(Some(saga_id)),
        (None, false) => Ok(None),
        (None, true) => Err(Failure::new(
            Exit::Usage,
            "which sagas? Name one by its id, or give filters such as --state parked",
        )),
        (Some(_), false) => Err(Failure::new(
            Exit::Usage,
            "name one saga or give filters, not both",
        )),
    }
}

fn report(done: &str, saga_ids: &[String], refused: &[Refused]) -> ExitCode {
    for saga_id in saga_ids {
        output::line(&format!("{saga_id}  {done}"));
    }
    for one in refused {
        let failure = one.failure.clone().unwrap_or_default();
        output::line(&format!(
            "{}  refused: {} ({})",
            one.saga_id, failure.message, failure.reason
        ));
    }
    if saga_ids.is_empty() && refused.is_empty() {
        output::line("no saga matches");
    }
    if refused.is_empty() {
        ExitCode::SUCCESS
    } else {
        Exit::Refused.into()
    }
}
