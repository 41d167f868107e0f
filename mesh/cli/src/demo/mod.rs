//! `sagamesh demo`: plays the shop's scenarios on temporary systems of their own, draws each saga, and checks how each ends,
//! the books and the stock.

mod act;
mod checks;
mod load;
mod mesh;
mod postgres;
mod replicas;
mod scenarios;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::args::Demo;
use crate::failure::{Exit, Failure};
use crate::launcher::mesh::Sidecar;
use crate::launcher::{Options, namespace};
use crate::output;
use act::Outcome;
use postgres::Server;
use scenarios::Scenario;

/// What is said where PostgreSQL is not.
const WITHOUT: &str =
    "needs PostgreSQL's server, which is not on this machine (Debian: apt-get install postgresql)";
/// What is said where it cannot run.
const NO_ROOT: &str = "needs PostgreSQL's server, which refuses to run as root, and in a network of its own everybody is root";

pub(crate) async fn run(demo: Demo) -> anyhow::Result<ExitCode> {
    let own_network = matches!(demo.mesh.sidecar, Sidecar::Linkerd(_));
    if own_network && !namespace::is_inside() {
        return namespace::enter(0).await;
    }
    let has_mesh = demo.mesh.sidecar != Sidecar::None;
    let only = demo.only.as_deref().unwrap_or_default();
    let wanted = |one: &Scenario| one.name.contains(only) && (has_mesh || !one.needs_mesh());
    let scenarios: Vec<_> = scenarios::all().into_iter().filter(wanted).collect();
    if scenarios.is_empty() {
        return Err(Failure::new(Exit::Usage, "no scenario has such a name").into());
    }
    let (shared, single): (Vec<_>, Vec<_>) =
        scenarios.into_iter().partition(Scenario::needs_postgres);
    let folder = std::env::temp_dir().join(format!("sagamesh-demo-{}", std::process::id()));
    let options = Options {
        data_dir: folder.clone(),
        bin_dir: demo.binaries.bin_dir.clone(),
        port: 0,
        postgres: None,
        database_prefix: String::new(),
        only: vec![],
        replicas: vec![("gateway".into(), 2)],
        sidecar: demo.mesh.sidecar.clone(),
        policy_dir: demo.mesh.policy_dir.clone(),
        certificate_lifetime: Some("20s"),
        start_timeout: demo.binaries.start_timeout,
    };
    let mut outcomes = Vec::new();
    if !single.is_empty() {
        act::play(&options, &single, demo.keep, &mut outcomes).await?;
    }
    if !shared.is_empty() {
        match postgres::find() {
            None => leave_out(&shared, WITHOUT),
            Some(_) if own_network => leave_out(&shared, NO_ROOT),
            Some(bin) => on_postgres(&options, &bin, &shared, demo.keep, &mut outcomes).await?,
        }
    }
    if outcomes.is_empty() {
        return Err(Failure::new(Exit::Failed, "nothing was played").into());
    }
    output::line(&format!("\n{}", act::summary(&outcomes)));
    if outcomes.iter().all(Outcome::is_well) {
        output::line(
            "\nEvery scenario ended as it should, the books balance and no stock is lost.",
        );
        return Ok(ExitCode::SUCCESS);
    }
    output::line("\nTHE DEMO FAILED.");
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_well()) {
        output::line(&format!(
            "Logs and data of \"{}\" are in {}.",
            outcome.name,
            outcome.folder.display()
        ));
    }
    Ok(Exit::EndedOtherwise.into())
}

fn leave_out(scenarios: &[Scenario], why: &str) {
    for scenario in scenarios {
        output::line(&format!("\nLeft out: \"{}\" {why}.", scenario.name));
    }
}

/// Plays what needs replicas that share a database, on a second system with a server of its own.
async fn on_postgres(
    options: &Options,
    bin: &Path,
    scenarios: &[Scenario],
    keep: bool,
    outcomes: &mut Vec<Outcome>,
) -> anyhow::Result<()> {
    let beside = |what: &str| {
        let mut path = options.data_dir.clone().into_os_string();
        path.push(what);
        PathBuf::from(path)
    };
    output::line("\nThe next one needs PostgreSQL: a server of the demo's own is started");
    let server = Server::start(bin, &beside("-postgres")).await?;
    let options = Options {
        data_dir: beside("-replicas"),
        postgres: Some(server.url.clone()),
        database_prefix: "demo".into(),
        replicas: vec![("payments".into(), 2)],
        certificate_lifetime: None,
        ..options.clone()
    };
    let played = act::play(&options, scenarios, keep, outcomes).await;
    server.stop().await?;
    played
}
