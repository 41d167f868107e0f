//! `sagamesh participants`.

use std::process::ExitCode;

use clap::Subcommand;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::{
    BreakerState, ListParticipantsRequest, Participant, PauseParticipantRequest,
    PutParticipantRequest, ResumeParticipantRequest,
};

use crate::args::Common;
use crate::commands::sagas::operator;
use crate::connect;
use crate::failure::from_status;
use crate::output::{self, Format, short};
use crate::system::System;

/// See and steer the services that carry out steps.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them with their streams, queues and circuit breakers
    List,
    /// Make one known, or set its limit
    Put {
        /// Its name
        name: String,
        /// Most commands under way at once; 0 for no limit
        #[arg(long, default_value = "0")]
        max_concurrency: u32,
    },
    /// Hold all commands to one back
    Pause {
        /// Its name
        name: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
        /// Who does it [default: the user]
        #[arg(long)]
        operator: Option<String>,
    },
    /// Release its commands again
    Resume {
        /// Its name
        name: String,
        /// Who does it [default: the user]
        #[arg(long)]
        operator: Option<String>,
    },
}

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mut client = OperatorServiceClient::new(connect::service(&system, "coordinator")?);
    match command {
        Command::List => {
            let answer = client
                .list_participants(connect::request(ListParticipantsRequest {}))
                .await;
            let list = answer
                .map_err(|status| from_status("coordinator", "listing participants", &status))?
                .into_inner();
            match common.output {
                Format::Json => {
                    output::line(&output::json("saga.v1.ListParticipantsResponse", &list)?)
                }
                Format::Table => output::line(&table(&list.participants)),
            }
        }
        Command::Put {
            name,
            max_concurrency,
        } => {
            let answer = client
                .put_participant(connect::request(PutParticipantRequest {
                    name,
                    max_concurrency,
                }))
                .await;
            let participant = answer
                .map_err(|status| from_status("coordinator", "setting the participant", &status))?
                .into_inner()
                .participant;
            output::line(&table(&participant.into_iter().collect::<Vec<_>>()));
        }
        Command::Pause {
            name,
            reason,
            operator: who,
        } => {
            let request = PauseParticipantRequest {
                name: name.clone(),
                operator: operator(who),
                reason,
            };
            client
                .pause_participant(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "pausing", &status))?;
            output::line(&format!(
                "{name} gets no commands until `sagamesh participants resume {name}`"
            ));
        }
        Command::Resume {
            name,
            operator: who,
        } => {
            let request = ResumeParticipantRequest {
                name: name.clone(),
                operator: operator(who),
            };
            client
                .resume_participant(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "resuming", &status))?;
            output::line(&format!("{name} gets commands again"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(participants: &[Participant]) -> String {
    let mut table = output::table(&[
        "participant",
        "instances",
        "in flight",
        "queued",
        "limit",
        "state",
    ]);
    for participant in participants {
        let mut state = vec![];
        if participant.paused {
            state.push("paused".to_owned());
        }
        if participant.instances.is_empty() {
            state.push("not connected".to_owned());
        }
        for breaker in &participant.breakers {
            if breaker.state() != BreakerState::Closed {
                let name = short(breaker.state().as_str_name(), "BREAKER_STATE_").to_lowercase();
                state.push(format!("breaker of {} {name}", breaker.action));
            }
        }
        table.add_row([
            participant.name.clone(),
            participant.instances.len().to_string(),
            participant.in_flight.to_string(),
            participant.queued.to_string(),
            if participant.max_concurrency == 0 {
                "-".into()
            } else {
                participant.max_concurrency.to_string()
            },
            if state.is_empty() {
                "ok".into()
            } else {
                state.join(", ")
            },
        ]);
    }
    output::text(&table)
}
