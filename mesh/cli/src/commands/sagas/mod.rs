//! `sagamesh saga`.

mod act;
mod filter;
pub(crate) mod history;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{
    CancelSagaRequest, GetSagaRequest, ListSagasRequest, ListSagasResponse, Saga, SagaState,
    SignalSagaRequest, StartSagaRequest, Value, value,
};

use crate::args::{Common, pair};
use crate::connect::{self, Channel};
use crate::failure::{Exit, from_status};
use crate::output::{self, Format, millis, short, span};
use crate::system::System;
use crate::timeline;
use filter::Filter;

/// Start, see and mend sagas.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List sagas, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Most sagas to show
        #[arg(long, default_value = "50")]
        limit: usize,
    },
    /// Show one saga: where it stands, and its timeline
    Get {
        /// Its id; for an order's saga the id of the order
        saga_id: String,
    },
    /// Follow a saga until it ends
    Watch {
        /// Its id
        saga_id: String,
    },
    /// Start a saga
    Start {
        /// Name of its definition
        definition: String,
        /// Its id [default: a new UUID]
        #[arg(long)]
        saga_id: Option<String>,
        /// Input fields, as NAME=TEXT
        #[arg(long = "input", short, value_parser = pair, value_name = "NAME=TEXT")]
        input: Vec<(String, String)>,
        /// Attributes to find it by, as KEY=VALUE
        #[arg(long = "attribute", value_parser = pair, value_name = "KEY=VALUE")]
        attributes: Vec<(String, String)>,
        /// Follow it until it ends
        #[arg(long)]
        wait: bool,
    },
    /// Send a signal to a saga
    Signal {
        /// Id of the saga
        saga_id: String,
        /// Name of the signal
        name: String,
        /// What it carries
        #[arg(long)]
        payload: Option<String>,
        /// Id of the signal: the same one counts once [default: a new UUID]
        #[arg(long)]
        signal_id: Option<String>,
    },
    /// Undo a running saga, or all that match
    Cancel(act::Cancel),
    /// Try parked or stalled steps again
    Retry(act::Act),
    /// Give parked or stalled steps up
    Skip(act::Act),
    /// Say what became of parked or stalled steps
    Resolve {
        /// What was found out
        #[arg(long = "as", value_enum)]
        outcome: act::Outcome,
        /// Output of a step that succeeded
        #[arg(long = "result", value_name = "TEXT")]
        result: Option<String>,
        #[command(flatten)]
        act: act::Act,
    },
}

/// A client of the coordinator.
pub(crate) type Client = SagaServiceClient<Channel>;

/// A client of the system's coordinator.
pub(crate) fn client(system: &System) -> anyhow::Result<Client> {
    Ok(Client::new(connect::service(system, "coordinator")?))
}

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mut client = client(&system)?;
    match command {
        Command::List { filter, limit } => {
            let (sagas, next_page_token) = list(&mut client, &filter, limit).await?;
            match common.output {
                Format::Json => {
                    output::line(&output::json(
                        "saga.v1.ListSagasResponse",
                        &ListSagasResponse {
                            sagas,
                            next_page_token,
                        },
                    )?);
                }
                Format::Table => {
                    output::line(&table(&sagas));
                    if !next_page_token.is_empty() {
                        output::line(&format!(
                            "There are more than these {limit}: see --limit and the filters."
                        ));
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Get { saga_id } => {
            let saga = get(&mut client, &saga_id).await?;
            show(common, &mut client, &saga).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { saga_id } => watch(common, &mut client, &saga_id).await,
        Command::Start {
            definition,
            saga_id,
            input,
            attributes,
            wait,
        } => {
            let request = StartSagaRequest {
                saga_id: saga_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
                definition,
                input: input
                    .into_iter()
                    .map(|(name, text)| (name, text_value(text)))
                    .collect(),
                search_attributes: attributes.into_iter().collect(),
                ..Default::default()
            };
            let answer = client.start_saga(connect::request(request)).await;
            let saga = answer
                .map_err(|status| from_status("coordinator", "starting the saga", &status))?
                .into_inner()
                .saga
                .unwrap_or_default();
            if wait {
                return watch(common, &mut client, &saga.saga_id).await;
            }
            match common.output {
                Format::Json => output::line(&output::json("saga.v1.Saga", &saga)?),
                Format::Table => output::line(&table(&[saga])),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Signal {
            saga_id,
            name,
            payload,
            signal_id,
        } => {
            let signal_id = signal_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            let request = SignalSagaRequest {
                saga_id,
                name,
                signal_id,
                payload: payload.map(text_value),
            };
            let answer = client.signal_saga(connect::request(request)).await;
            let accepted = answer
                .map_err(|status| from_status("coordinator", "sending the signal", &status))?
                .into_inner()
                .accepted;
            output::line(if accepted {
                "the signal is on record"
            } else {
                "this signal had come before: nothing changes"
            });
            Ok(ExitCode::SUCCESS)
        }
        Command::Cancel(cancel) => act::cancel(&system, &mut client, cancel).await,
        Command::Retry(act) => act::retry(&system, act).await,
        Command::Skip(act) => act::skip(&system, act).await,
        Command::Resolve {
            outcome,
            result,
            act,
        } => act::resolve(&system, outcome, result, act).await,
    }
}

/// Who acts when --operator is not given.
pub(crate) fn operator(given: Option<String>) -> String {
    given
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "operator".into())
}

/// Text as a saga carries it.
pub(crate) fn text_value(text: String) -> Value {
    Value {
        kind: Some(value::Kind::Text(text)),
    }
}

/// One saga as it is.
pub(crate) async fn get(client: &mut Client, saga_id: &str) -> anyhow::Result<Saga> {
    let answer = client
        .get_saga(connect::request(GetSagaRequest {
            saga_id: saga_id.to_owned(),
        }))
        .await;
    let answer = answer.map_err(|status| {
        from_status("coordinator", &format!("reading saga {saga_id}"), &status)
    })?;
    Ok(answer.into_inner().saga.unwrap_or_default())
}

/// Asks for one saga to be undone.
pub(crate) async fn cancel(
    client: &mut Client,
    saga_id: &str,
    reason: String,
) -> anyhow::Result<Saga> {
    let request = CancelSagaRequest {
        saga_id: saga_id.to_owned(),
        reason,
    };
    let answer = client.cancel_saga(connect::request(request)).await;
    let answer = answer.map_err(|status| {
        from_status(
            "coordinator",
            &format!("cancelling saga {saga_id}"),
            &status,
        )
    })?;
    Ok(answer.into_inner().saga.unwrap_or_default())
}

async fn show(common: &Common, client: &mut Client, saga: &Saga) -> anyhow::Result<()> {
    match common.output {
        Format::Json => output::line(&output::json("saga.v1.Saga", saga)?),
        Format::Table => {
            let events = history::until(client, &saga.saga_id, saga.version).await?;
            output::line(&timeline::draw(saga, &events));
            let waits = waits(saga);
            if !waits.is_empty() {
                output::line(&format!("\n{waits}"));
            }
        }
    }
    Ok(())
}

/// What the open steps of a saga wait for.
fn waits(saga: &Saga) -> String {
    let mut lines = Vec::new();
    for step in &saga.steps {
        let what = short(step.waits_on().as_str_name(), "WAITS_ON_").to_lowercase();
        if what != "unspecified" {
            let until = step
                .until_time
                .as_ref()
                .map(|at| format!(" until {}", output::time(Some(at))))
                .unwrap_or_default();
            lines.push(format!("  {} waits on: {what}{until}", step.name));
        }
    }
    if saga.state() == SagaState::Parked {
        lines.push(format!(
            "It is parked: decide with `sagamesh saga retry|skip|resolve {} --step NAME --reason WHY`.",
            saga.saga_id
        ));
    }
    lines.join("\n")
}

async fn watch(common: &Common, client: &mut Client, saga_id: &str) -> anyhow::Result<ExitCode> {
    let mut begin = None;
    history::follow(client, saga_id, |event| match common.output {
        Format::Json => {
            output::json_line("saga.v1.SagaEvent", event).map(|line| output::line(&line))
        }
        Format::Table => {
            let begin = *begin.get_or_insert_with(|| timeline::begin(std::slice::from_ref(event)));
            timeline::event_lines(event, begin)
                .iter()
                .for_each(|line| output::line(line));
            Ok(())
        }
    })
    .await?;
    let saga = get(client, saga_id).await?;
    if common.output == Format::Table {
        output::line(&format!(
            "saga {saga_id} is {}",
            short(saga.state().as_str_name(), "SAGA_STATE_")
        ));
    }
    Ok(if saga.state() == SagaState::Completed {
        ExitCode::SUCCESS
    } else {
        Exit::EndedOtherwise.into()
    })
}

async fn list(
    client: &mut Client,
    filter: &Filter,
    limit: usize,
) -> anyhow::Result<(Vec<Saga>, String)> {
    let mut sagas: Vec<Saga> = Vec::new();
    let mut page_token = String::new();
    while sagas.len() < limit {
        let page_size = i32::try_from((limit - sagas.len()).min(500))?;
        let request = ListSagasRequest {
            filter: Some(filter.message()),
            page_size,
            page_token,
        };
        let page = client
            .list_sagas(connect::request(request))
            .await
            .map_err(|status| from_status("coordinator", "listing sagas", &status))?
            .into_inner();
        sagas.extend(page.sagas);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok((sagas, page_token))
}

fn table(sagas: &[Saga]) -> String {
    let mut table = output::table(&[
        "saga",
        "definition",
        "state",
        "started",
        "took",
        "attention",
    ]);
    for saga in sagas {
        let took = match (&saga.start_time, &saga.end_time) {
            (Some(start), Some(end)) => span(millis(end) - millis(start)),
            _ => "-".into(),
        };
        table.add_row([
            saga.saga_id.clone(),
            saga.definition.clone(),
            short(saga.state().as_str_name(), "SAGA_STATE_").to_owned(),
            output::time(saga.start_time.as_ref()),
            took,
            saga.attention.join(", "),
        ]);
    }
    output::text(&table)
}

/// The longest that a follower waits for a coordinator that is away.
pub(crate) const AWAY: Duration = Duration::from_secs(30);
