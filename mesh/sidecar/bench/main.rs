//! `bench-mesh`: what two sidecars with mTLS add to a gRPC call on this machine.
//!
//! The app and the sidecars are processes of their own, so that each one's CPU time can be read; the control plane and
//! the load are here. Judge by CPU per request: it holds still on a busy machine, latencies do not.

mod app;
mod load;
mod processes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use load::{Load, Measured};
use mesh_sidecar::testing::{ControlPlane, identity_of, policies};
use processes::{Sidecars, free_port};

const DESTINATION: &str = "app.sagamesh.svc.cluster.local:50051";
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("app") => {
            let address = args.next().context("app ADDRESS")?.parse()?;
            runtime()?.block_on(app::serve(address))
        }
        None => runtime()?.block_on(run(Duration::from_secs(3))),
        Some(seconds) => runtime()?.block_on(run(Duration::from_secs(
            seconds.parse().context("bench-mesh [SECONDS]")?,
        ))),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn run(time: Duration) -> anyhow::Result<()> {
    let here = std::env::current_exe()?;
    let control = ControlPlane::start().await?;
    let pods: [std::net::IpAddr; 2] = ["127.0.91.1".parse()?, "127.0.91.2".parse()?];
    let app = SocketAddr::new(pods[1], free_port(pods[1])?);
    let app_process = processes::App::start(&here, app).await?;
    control.set_policy(
        DESTINATION,
        policies::grpc(vec![policies::grpc_rule("", DESTINATION)], None),
    );
    control.set_server(
        "app",
        app.port(),
        policies::grpc_server(vec![], vec![policies::authz("all", &[])]),
    );

    println!("directly");
    let mut direct = Vec::new();
    for load in LOADS {
        let measured = load.run(app, DESTINATION, WARM_UP, time).await?;
        println!("  {}", row(load, &measured, None));
        direct.push(measured);
    }

    let sidecar = std::env::var_os("SAGAMESH_SIDECAR")
        .map_or_else(|| here.with_file_name("sidecar"), PathBuf::from);
    let figures = through("sidecar", &sidecar, &control, pods, app, time).await?;
    if let Some(linkerd) = std::env::var_os("LINKERD2_PROXY").map(PathBuf::from) {
        through("linkerd2-proxy", &linkerd, &control, pods, app, time).await?;
    }
    drop(app_process);
    let at = LOADS
        .iter()
        .position(|load| (load.streams, load.connections) == (16, 1))
        .context("16 x 1")?;
    let (mesh, out_us, in_us) = &figures.rows[at];
    let direct = &direct[at];
    println!(
        "mesh_bench direct_rps={:.0} mesh_rps={:.0} added_p50_us={} added_p99_us={} \
         cpu_us_per_request_out={out_us:.1} cpu_us_per_request_in={in_us:.1} rss_mb={:.1}",
        direct.rate,
        mesh.rate,
        mesh.p50_us.saturating_sub(direct.p50_us),
        mesh.p99_us.saturating_sub(direct.p99_us),
        figures.idle_mb,
    );
    Ok(())
}

const LOADS: &[Load] = &[
    Load {
        name: "unary 1 x 1",
        streams: 1,
        connections: 1,
        bidi: None,
    },
    Load {
        name: "unary 16 x 1",
        streams: 16,
        connections: 1,
        bidi: None,
    },
    Load {
        name: "unary 64 x 4",
        streams: 16,
        connections: 4,
        bidi: None,
    },
    Load {
        name: "stream, 1 in flight",
        streams: 1,
        connections: 1,
        bidi: Some(1),
    },
    Load {
        name: "stream, 64 in flight",
        streams: 1,
        connections: 1,
        bidi: Some(64),
    },
];

struct Figures {
    /// With the CPU per request of the outbound and the inbound sidecar, in microseconds.
    rows: Vec<(Measured, f64, f64)>,
    idle_mb: f64,
}

async fn through(
    name: &str,
    binary: &std::path::Path,
    control: &ControlPlane,
    pods: [std::net::IpAddr; 2],
    app: SocketAddr,
    time: Duration,
) -> anyhow::Result<Figures> {
    let sidecars = Sidecars::start(binary, control, pods, app.port()).await?;
    control.set_endpoints(
        DESTINATION,
        vec![policies::endpoint(
            app,
            sidecars.inbound.port(),
            &identity_of("app"),
        )],
    );
    let idle_mb = sidecars.rss_mb();
    println!("through two of {name} ({idle_mb:.1} MB idle, each at most)");
    let mut rows = Vec::new();
    for load in LOADS {
        // Connections are made and code is warm before the CPU time counts.
        load.run(sidecars.outbound, DESTINATION, Duration::ZERO, WARM_UP)
            .await?;
        let before = sidecars.cpu();
        let measured = load
            .run(sidecars.outbound, DESTINATION, Duration::ZERO, time)
            .await?;
        let after = sidecars.cpu();
        let cost =
            |at: usize| (after[at] - before[at]).as_secs_f64() * 1e6 / measured.count.max(1) as f64;
        let costs = (cost(0), cost(1));
        println!("  {}", row(load, &measured, Some(costs)));
        rows.push((measured, costs.0, costs.1));
    }
    Ok(Figures { rows, idle_mb })
}

fn row(load: &Load, measured: &Measured, cpu: Option<(f64, f64)>) -> String {
    let cpu = cpu
        .map(|(out, inn)| format!("  cpu out {out:5.1} µs  in {inn:5.1} µs"))
        .unwrap_or_default();
    format!(
        "{:<22}{:>8.0}/s  p50 {:>6} µs  p99 {:>6} µs{cpu}",
        load.name, measured.rate, measured.p50_us, measured.p99_us
    )
}
