//! `sagamesh up`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::args::{Common, Up};
use crate::failure::{Exit, Failure};
use crate::launcher::mesh::Sidecar;
use crate::launcher::plan::SERVICES;
use crate::launcher::progress::Progress;
use crate::launcher::{Options, Running, catalogue, interrupted, namespace};
use crate::output;
use crate::system::{Mesh, Role, System};
use crate::token;

/// How long the token that is shown lives.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3_600);

pub(crate) async fn run(common: &Common, up: Up) -> anyhow::Result<ExitCode> {
    if let Sidecar::Linkerd(_) = up.mesh.sidecar {
        if up.postgres.is_some() {
            let message = "--sidecar linkerd runs in a network of its own, from which no PostgreSQL server is reached";
            return Err(Failure::new(Exit::Usage, message)
                .hint("Leave --postgres away, or use --sidecar embedded.")
                .into());
        }
        if !namespace::is_inside() {
            return namespace::enter(up.port).await;
        }
    }
    let options = Options {
        data_dir: common.data_dir.clone(),
        bin_dir: up.binaries.bin_dir,
        port: up.port,
        postgres: up.postgres,
        database_prefix: up.database_prefix,
        only: up.services,
        replicas: up.replicas,
        sidecar: up.mesh.sidecar,
        policy_dir: up.mesh.policy_dir,
        certificate_lifetime: None,
        start_timeout: up.binaries.start_timeout,
    };
    let mut progress = Progress::new();
    let mut running = Running::start(&options, &mut progress).await?;
    progress.clear();
    greet(&running, up.empty, &common.data_dir).await;
    let mut interrupt = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            line = running.next_line() => eprintln!("{line}"),
            () = &mut interrupt => break,
        }
    }
    eprintln!("\nending the system, within 10 s; Ctrl-C again ends it at once");
    running.stop(&mut Progress::new(), interrupted()).await;
    Ok(ExitCode::SUCCESS)
}

/// What a user sees once everything is ready.
async fn greet(running: &Running, empty: bool, data_dir: &std::path::Path) {
    let system = &running.system;
    let runs = |service: &str| system.services().any(|process| process.service == service);
    let mut filled = String::new();
    if runs("inventory") && !empty {
        match catalogue::fill(system).await {
            Ok(0) => {}
            Ok(items) => filled = format!(" The shop is new: {items} items were put in stock."),
            Err(error) => eprintln!("the shop could not be filled: {error}"),
        }
    }
    output::line(&format!(
        "sagamesh is up after {:.1} s.{filled}\n",
        running.start_time.as_secs_f64()
    ));
    output::line(&endpoints(system));
    if let Some(line) = system.public_line() {
        output::line(&format!("\n{line}"));
    }
    if let Some(mesh) = &system.mesh {
        output::line(&mesh_line(system, mesh));
    }
    let missing: Vec<&str> = SERVICES
        .into_iter()
        .filter(|service| !runs(service))
        .collect();
    if !missing.is_empty() {
        output::line(&format!(
            "\nNot started: {}. The others wait for them.",
            missing.join(", ")
        ));
    }
    if runs("gateway") {
        match token::make(
            data_dir,
            &token::Names::from_environment(),
            "alice",
            token::CUSTOMER_SCOPES,
            TOKEN_TTL,
        ) {
            Ok(token) => output::line(&format!(
                "\nA token of customer alice, for 12 hours:\n\n{token}"
            )),
            Err(error) => eprintln!("no token could be made: {error}"),
        }
        output::line(&try_these(system, data_dir));
    }
    output::line("\nCtrl-C ends the system.");
}

fn endpoints(system: &System) -> String {
    let mut table = output::table(&["service", "address", "metrics", "pid", "log"]);
    for process in system.services() {
        table.add_row([
            process.label.clone(),
            process.url.clone(),
            format!("{}/metrics", process.admin),
            process
                .pid
                .map_or_else(|| "-".into(), |pid| pid.to_string()),
            shorten(&process.log),
        ]);
    }
    output::text(&table)
}

/// What a user is to know of the mesh.
fn mesh_line(system: &System, mesh: &Mesh) -> String {
    let sidecars = system.processes.iter();
    let sidecars = sidecars.filter(|process| process.role == Role::Sidecar);
    format!(
        "\nEvery call between them goes through {} sidecars, over mTLS and under the policies in {}.\nControl plane: {}   Consul API: {}   Ask it: `{} mesh check`",
        sidecars.count(),
        shorten(&mesh.policy_dir),
        mesh.control,
        mesh.consul,
        program(),
    )
}

/// A path relative to where the user is, when it lies below.
fn shorten(path: &std::path::Path) -> String {
    let here = std::env::current_dir().ok();
    let inside = here.and_then(|here| path.strip_prefix(here).ok().map(std::path::Path::to_owned));
    inside
        .unwrap_or_else(|| path.to_owned())
        .display()
        .to_string()
}

fn try_these(system: &System, data_dir: &std::path::Path) -> String {
    let program = program();
    let folder = if data_dir == std::path::Path::new("./data") {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    };
    let bold = |text: String| {
        if std::io::stdout().is_terminal() {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text
        }
    };
    let order = bold(format!(
        "{program}{folder} order place keyboard=1 mouse=2 --wait"
    ));
    let sagas = bold(format!("{program}{folder} saga list"));
    let curl = bold(format!(
        "curl -s {}/v1/orders -H \"Authorization: Bearer $({program}{folder} token)\"",
        system.gateway
    ));
    format!("\nTry, in another terminal:\n\n  {order}\n  {sagas}\n  {curl}")
}

/// How this program was called, for commands to copy.
fn program() -> String {
    std::env::args()
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "sagamesh".into())
}
