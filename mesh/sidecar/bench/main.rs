//! `bench-mesh`: what two sidecars with mTLS add to a gRPC call on this machine.
//!
//! The app and the sidecars are processes of their own, so that each one's CPU time can be read; the control plane and
//! the load are here. Judge by CPU per request: it holds still on a busy machine, latencies do not.

mod app;
mod load;
mod processes;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use load::{Load, Measured};
use mesh_sidecar::testing::{ControlPlane, identity_of, linkerd, policies};
use processes::Sidecars;

const DESTINATION: &str = "app.sagamesh.svc.cluster.local:50051";
/// The same app, with timeouts, a breaker and retries: their price.
const WITH_ALL: &str = "all.sagamesh.svc.cluster.local:50051";
const WARM_UP: Duration = Duration::from_millis(500);

/// Names Linkerd's proxy.
const LINKERD: &str = "LINKERD2_PROXY";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    if std::env::var_os(LINKERD).is_some() && !linkerd::is_inside() {
        // All of it, so that what is compared goes over the same network.
        let status = linkerd::in_namespace(&std::env::current_exe()?)
            .args(args)
            .status()?;
        anyhow::ensure!(
            status.success(),
            "the bench in a network of its own: {status}"
        );
        return Ok(());
    }
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
    let pods: [IpAddr; 2] = if linkerd::is_inside() {
        ["10.99.0.1".parse()?, "10.99.0.2".parse()?]
    } else {
        ["127.0.91.1".parse()?, "127.0.91.2".parse()?]
    };
    let app = SocketAddr::new(pods[1], linkerd::free_port(pods[1])?);
    let app_process = processes::App::start(&here, app).await?;
    control.set_policy(
        DESTINATION,
        policies::grpc(vec![policies::grpc_rule("", DESTINATION)], None),
    );
    let all = linkerd2_proxy_api::outbound::grpc_route::Rule {
        timeouts: policies::timeouts(
            Some(Duration::from_secs(10)),
            Some(Duration::from_secs(10)),
            None,
        ),
        retry: policies::retry(2, Some(Duration::from_secs(5))),
        ..policies::grpc_rule("", DESTINATION)
    };
    let accrual = policies::accrual(7, Duration::from_secs(1));
    control.set_policy(WITH_ALL, policies::grpc(vec![all], accrual));
    control.set_server(
        "app",
        app.port(),
        policies::grpc_server(vec![], vec![policies::authz("all", &[])]),
    );

    println!("directly");
    let mut direct = Vec::new();
    for load in LOADS {
        let measured = load.run(app, WARM_UP, time).await?;
        println!("  {}", row(load, &measured, None));
        direct.push(measured);
    }

    let sidecar = std::env::var_os("SAGAMESH_SIDECAR")
        .map_or_else(|| here.with_file_name("sidecar"), PathBuf::from);
    let figures = through("sidecar", &sidecar, &control, pods, app, time).await?;
    if let Some(proxy) = std::env::var_os(LINKERD).map(PathBuf::from) {
        through("linkerd2-proxy", &proxy, &control, pods, app, time).await?;
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
        destination: DESTINATION,
        streams: 1,
        connections: 1,
        bidi: None,
    },
    Load {
        name: "unary 16 x 1",
        destination: DESTINATION,
        streams: 16,
        connections: 1,
        bidi: None,
    },
    Load {
        name: "  with retries",
        destination: WITH_ALL,
        streams: 16,
        connections: 1,
        bidi: None,
    },
    Load {
        name: "unary 64 x 4",
        destination: DESTINATION,
        streams: 16,
        connections: 4,
        bidi: None,
    },
    Load {
        name: "stream, 1 in flight",
        destination: DESTINATION,
        streams: 1,
        connections: 1,
        bidi: Some(1),
    },
    Load {
        name: "stream, 64 in flight",
        destination: DESTINATION,
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
    let outbound = if linkerd::is_inside() {
        // Another one for each pair, whose rule is the only one for it.
        let [high, low] = sidecars.outbound.port().to_be_bytes();
        let service = Ipv4Addr::new(10, 96, high, low);
        linkerd::redirect(&service.to_string(), sidecars.outbound.port())?;
        [DESTINATION, WITH_ALL].map(|destination| {
            let port = if destination == DESTINATION {
                50051
            } else {
                50052
            };
            let service = SocketAddr::new(service.into(), port);
            control.set_service(service, destination);
            service
        })
    } else {
        [sidecars.outbound; 2]
    };
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
        let outbound = outbound[usize::from(load.destination != DESTINATION)];
        load.run(outbound, Duration::ZERO, WARM_UP).await?;
        let before = sidecars.cpu();
        let measured = load.run(outbound, Duration::ZERO, time).await?;
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
