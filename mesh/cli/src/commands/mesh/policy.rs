//! What policy says: who may call what, and how calls are routed.

use std::process::ExitCode;

use sagamesh_api::mesh::v1::{
    ExplainRequest, ExplainResponse, GetPolicyStatusRequest, GetPolicyStatusResponse,
    ListRoutesRequest, ListRoutesResponse, PolicyError, Route,
};

use super::control;
use super::who::or_dash;
use crate::args::Common;
use crate::connect;
use crate::failure::{Exit, from_status};
use crate::output::{self, Format};
use crate::system::Mesh;

/// Without options: the policy in force, route by route. With them: one call, and why it is allowed or not.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Explain a call: who calls, as a service account (orders, operator); "" for somebody outside of the mesh
    #[arg(long, requires = "to", value_name = "CALLER")]
    from: Option<String>,
    /// Explain a call: the service that is called
    #[arg(long, requires = "method", value_name = "SERVICE")]
    to: Option<String>,
    /// Explain a call: package.Service/Method
    #[arg(long, requires = "from", value_name = "METHOD")]
    method: Option<String>,
}

pub(super) async fn run(
    common: &Common,
    mesh: &Mesh,
    options: Options,
) -> anyhow::Result<ExitCode> {
    match (options.from, options.to, options.method) {
        (Some(source), Some(service), Some(method)) => {
            let request = ExplainRequest {
                source,
                service,
                method,
                port: 0,
            };
            explain(common, mesh, request).await
        }
        _ => show(common, mesh).await,
    }
}

async fn explain(
    common: &Common,
    mesh: &Mesh,
    request: ExplainRequest,
) -> anyhow::Result<ExitCode> {
    let answer = control(mesh)
        .explain(connect::request(request.clone()))
        .await;
    let answer = answer
        .map_err(|status| from_status("meshd", "explaining the call", &status))?
        .into_inner();
    match common.output {
        Format::Json => output::line(&output::json("mesh.v1.ExplainResponse", &answer)?),
        Format::Table => output::line(&explained(&request, &answer)),
    }
    Ok(if answer.allowed {
        ExitCode::SUCCESS
    } else {
        Exit::EndedOtherwise.into()
    })
}

fn explained(request: &ExplainRequest, answer: &ExplainResponse) -> String {
    let verdict = if answer.allowed { "ALLOWED" } else { "DENIED" };
    let caller = if request.source.is_empty() {
        "somebody outside of the mesh"
    } else {
        &request.source
    };
    let mut text = format!(
        "{caller} -> {} {}: {verdict}\n{}",
        request.service, request.method, answer.reason
    );
    for (name, value) in [
        ("server", &answer.server),
        ("route", &answer.route),
        ("allowed by", &answer.authorization_policy),
        ("outbound route", &answer.outbound_route),
        ("behaviour", &answer.outbound_behaviour),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("\n  {name:<15} {value}"));
        }
    }
    text
}

async fn show(common: &Common, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let status = status(mesh).await?;
    if common.output == Format::Json {
        output::line(&output::json("mesh.v1.GetPolicyStatusResponse", &status)?);
    } else {
        output::line(&format!(
            "The policy in force is number {} since the control plane started, of {} UTC, from {}\n",
            status.generation,
            output::time(status.load_time.as_ref()),
            status.folder
        ));
        let routes = list(mesh).await?;
        output::line(&table(&routes.routes, "Server/", "callers"));
        if !status.current {
            output::line("\nThe files as they are now were refused:");
            status.errors.iter().for_each(|error| {
                output::line(&format!("  {}", sentence(error)));
            });
        }
    }
    Ok(if status.current {
        ExitCode::SUCCESS
    } else {
        Exit::Refused.into()
    })
}

/// The policy's state.
pub(super) async fn status(mesh: &Mesh) -> anyhow::Result<GetPolicyStatusResponse> {
    let answer = control(mesh)
        .get_policy_status(connect::request(GetPolicyStatusRequest {}))
        .await;
    let answer = answer.map_err(|status| from_status("meshd", "reading the policy", &status))?;
    Ok(answer.into_inner())
}

/// What is wrong with a policy file: where, and what.
pub(super) fn sentence(error: &PolicyError) -> String {
    let mut place = error.file.clone();
    if error.line > 0 {
        place.push_str(&format!(":{}", error.line));
    }
    if error.field.is_empty() {
        format!("{place}: {}", error.message)
    } else {
        format!("{place}: {}: {}", error.field, error.message)
    }
}

pub(super) async fn routes(common: &Common, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let routes = list(mesh).await?;
    match common.output {
        Format::Json => output::line(&output::json("mesh.v1.ListRoutesResponse", &routes)?),
        Format::Table => output::line(&table(&routes.routes, "Service/", "behaviour")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(mesh: &Mesh) -> anyhow::Result<ListRoutesResponse> {
    let answer = control(mesh)
        .list_routes(connect::request(ListRoutesRequest {}))
        .await;
    let answer = answer.map_err(|status| from_status("meshd", "listing routes", &status))?;
    Ok(answer.into_inner())
}

/// The routes of one kind of parent; one method on each line.
fn table(routes: &[Route], parents: &str, effects: &str) -> String {
    let mut table = output::table(&[parents.trim_end_matches('/'), "route", "method", effects]);
    for route in routes {
        let Some(parent) = route.parent.strip_prefix(parents) else {
            continue;
        };
        let name = route.name.rsplit('/').next().unwrap_or_default();
        for (at, method) in route.matches.iter().enumerate() {
            let once = |text: &str| {
                if at == 0 {
                    text.to_owned()
                } else {
                    String::new()
                }
            };
            table.add_row([
                once(parent),
                once(name),
                method.clone(),
                once(&or_dash(route.effects.join(", "))),
            ]);
        }
    }
    output::text(&table)
}
