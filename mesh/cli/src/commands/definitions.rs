//! `sagamesh definitions`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use sagamesh_api::saga::v1::definition_service_client::DefinitionServiceClient;
use sagamesh_api::saga::v1::step::Kind;
use sagamesh_api::saga::v1::{
    ActivateDefinitionRequest, Definition, DefinitionVersion, DeleteDefinitionRequest,
    GetDefinitionRequest, ListDefinitionsRequest, ListDefinitionsResponse, PauseDefinitionRequest,
    RegisterDefinitionRequest, ResumeDefinitionRequest,
};

use crate::args::Common;
use crate::connect::{self, Channel};
use crate::failure::{Exit, Failure, from_status};
use crate::output::{self, Format, short};
use crate::system::System;

/// Register and steer definitions of sagas.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all versions
    List {
        /// Only versions of this name
        name: Option<String>,
    },
    /// Show one version, the active one by default
    Get {
        /// Name of the definition
        name: String,
        /// Hash of the version, or its beginning
        hash: Option<String>,
    },
    /// Register a version from a file of protobuf JSON; it is not active yet
    Register {
        /// The file
        file: PathBuf,
    },
    /// Make a version the one that new sagas run
    Activate {
        /// Name of the definition
        name: String,
        /// Hash of the version, or its beginning
        hash: String,
        /// Hash of the version that must be active now [default: the one that is]
        #[arg(long)]
        expected: Option<String>,
    },
    /// Refuse new sagas of this name; running ones go on
    Pause {
        /// Name of the definition
        name: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Accept new sagas again
    Resume {
        /// Name of the definition
        name: String,
    },
    /// Delete a version that is neither active nor in use
    Delete {
        /// Name of the definition
        name: String,
        /// Hash of the version, or its beginning
        hash: String,
    },
}

type Client = DefinitionServiceClient<Channel>;

pub(crate) async fn run(common: &Common, command: Command) -> anyhow::Result<ExitCode> {
    let system = System::find(&common.data_dir)?;
    let mut client = Client::new(connect::service(&system, "coordinator")?);
    match command {
        Command::List { name } => {
            let versions = list(&mut client, name.as_deref().unwrap_or_default()).await?;
            match common.output {
                Format::Json => {
                    let response = ListDefinitionsResponse {
                        versions,
                        next_page_token: String::new(),
                    };
                    output::line(&output::json("saga.v1.ListDefinitionsResponse", &response)?);
                }
                Format::Table => output::line(&table(&versions)),
            }
        }
        Command::Get { name, hash } => {
            let hash = match hash {
                Some(beginning) => whole(&mut client, &name, &beginning).await?,
                None => String::new(),
            };
            let answer = client
                .get_definition(connect::request(GetDefinitionRequest { name, hash }))
                .await;
            show(
                common,
                answer
                    .map_err(|status| {
                        from_status("coordinator", "reading the definition", &status)
                    })?
                    .into_inner()
                    .version,
            )?;
        }
        Command::Register { file } => {
            let definition: Definition = read(&file)?;
            let request = RegisterDefinitionRequest {
                definition: Some(definition),
            };
            let answer = client.register_definition(connect::request(request)).await;
            show(
                common,
                answer
                    .map_err(|status| {
                        from_status("coordinator", "registering the definition", &status)
                    })?
                    .into_inner()
                    .version,
            )?;
        }
        Command::Activate {
            name,
            hash,
            expected,
        } => {
            let hash = whole(&mut client, &name, &hash).await?;
            let expected_active_hash = match expected {
                Some(hash) => hash,
                None => active(&mut client, &name).await?,
            };
            let request = ActivateDefinitionRequest {
                name: name.clone(),
                hash: hash.clone(),
                expected_active_hash,
            };
            client
                .activate_definition(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "activating", &status))?;
            output::line(&format!(
                "new sagas of {name} run version {}",
                &hash[..12.min(hash.len())]
            ));
        }
        Command::Pause { name, reason } => {
            let request = PauseDefinitionRequest {
                name: name.clone(),
                reason,
            };
            client
                .pause_definition(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "pausing", &status))?;
            output::line(&format!(
                "new sagas of {name} are refused until `sagamesh definitions resume {name}`"
            ));
        }
        Command::Resume { name } => {
            let request = ResumeDefinitionRequest { name: name.clone() };
            client
                .resume_definition(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "resuming", &status))?;
            output::line(&format!("new sagas of {name} are accepted again"));
        }
        Command::Delete { name, hash } => {
            let hash = whole(&mut client, &name, &hash).await?;
            let request = DeleteDefinitionRequest { name, hash };
            client
                .delete_definition(connect::request(request))
                .await
                .map_err(|status| from_status("coordinator", "deleting", &status))?;
            output::line("deleted");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &mut Client, name: &str) -> anyhow::Result<Vec<DefinitionVersion>> {
    let mut versions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDefinitionsRequest {
            page_size: 1_000,
            page_token,
            name: name.to_owned(),
        };
        let page = client.list_definitions(connect::request(request)).await;
        let page = page
            .map_err(|status| from_status("coordinator", "listing definitions", &status))?
            .into_inner();
        versions.extend(page.versions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(versions);
        }
    }
}

/// The hash that begins so.
async fn whole(client: &mut Client, name: &str, beginning: &str) -> anyhow::Result<String> {
    let versions = list(client, name).await?;
    let mut matching = versions
        .iter()
        .filter(|version| version.hash.starts_with(beginning));
    match (matching.next(), matching.next()) {
        (Some(version), None) => Ok(version.hash.clone()),
        (None, _) => Err(Failure::new(
            Exit::Refused,
            format!("{name} has no version whose hash begins with {beginning}"),
        )
        .hint(format!("`sagamesh definitions list {name}` shows them."))
        .into()),
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Refused,
            format!("{name} has several versions whose hash begins with {beginning}"),
        )
        .hint("Write more of the hash.")
        .into()),
    }
}

async fn active(client: &mut Client, name: &str) -> anyhow::Result<String> {
    Ok(list(client, name)
        .await?
        .into_iter()
        .find(|version| version.active)
        .map(|version| version.hash)
        .unwrap_or_default())
}

fn read(file: &PathBuf) -> anyhow::Result<Definition> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    output::from_json("saga.v1.Definition", &text)
        .with_context(|| format!("{} is no definition in protobuf's JSON", file.display()))
}

fn show(common: &Common, version: Option<DefinitionVersion>) -> anyhow::Result<()> {
    let version = version.context("the coordinator's answer names no version")?;
    if common.output == Format::Json {
        output::line(&output::json("saga.v1.DefinitionVersion", &version)?);
        return Ok(());
    }
    output::line(&table(std::slice::from_ref(&version)));
    let mut steps = output::table(&["step", "phase", "after", "does", "undone by"]);
    let definition = version.definition.unwrap_or_default();
    for step in &definition.steps {
        let (does, undone_by) = match &step.kind {
            Some(Kind::Call(call)) => (call.action.clone(), call.compensation.clone()),
            Some(Kind::Delay(_)) => ("waits for a time".into(), String::new()),
            Some(Kind::Signal(signal)) => {
                (format!("waits for signal {}", signal.name), String::new())
            }
            None => Default::default(),
        };
        let phase = short(step.phase().as_str_name(), "PHASE_")
            .to_lowercase()
            .replace('_', "-");
        steps.add_row([
            step.name.clone(),
            phase,
            step.after.join(", "),
            does,
            undone_by,
        ]);
    }
    output::line(&format!("\n{}", output::text(&steps)));
    for warning in &version.warnings {
        output::line(&format!("warning: {warning}"));
    }
    Ok(())
}

fn table(versions: &[DefinitionVersion]) -> String {
    let mut table = output::table(&[
        "definition",
        "version",
        "state",
        "open sagas",
        "registered",
        "warnings",
    ]);
    for version in versions {
        let name = version
            .definition
            .as_ref()
            .map(|definition| definition.name.clone())
            .unwrap_or_default();
        let state = match (version.active, version.paused) {
            (true, true) => "active, paused",
            (true, false) => "active",
            (false, _) => "-",
        };
        table.add_row([
            name,
            version.hash.get(..12).unwrap_or_default().to_owned(),
            state.to_owned(),
            version.open_sagas.to_string(),
            output::time(version.register_time.as_ref()),
            version.warnings.join("; "),
        ]);
    }
    output::text(&table)
}
