//! A process from start to end: telemetry, signals, listeners, then the service's own body, then the way down.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tonic::service::Routes;

use crate::config::ChassisConfig;
use crate::env::Env;
use crate::health::Readiness;
use crate::listener::Listener;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::{metrics, server};

/// How long tasks may take to stop once the server has drained.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// A whole `main`: [`run`], and its error in one line on stderr. A backtrace of ours would say nothing to an operator.
pub fn main<F, Fut>(service: &'static str, config: ChassisConfig, body: F) -> ExitCode
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    match run(service, config, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a process: a current-thread runtime, telemetry, signals, bound listeners, then `body`. Returns when the body
/// has returned and every task has stopped.
///
/// # Errors
/// The body's, or why it could not start, or which tasks did not stop.
pub fn run<F, Fut>(service: &'static str, config: ChassisConfig, body: F) -> anyhow::Result<()>
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let telemetry = Telemetry::init(service, &config.telemetry)?;
        let exit_with_parent = config.server.exit_with_parent;
        let env = Env::system().through(config.mesh.mesh_outbound);
        let process = Process::bind(service, env, config)?;
        let tasks = process.tasks.clone();
        on_signals(&tasks)?;
        if exit_with_parent {
            on_stdin_end(&tasks)?;
        }
        let result = body(process).await;
        let stopped = tasks.shutdown(TASKS_TIMEOUT).await;
        telemetry.shutdown().await;
        result?;
        if let Some(name) = tasks.panicked() {
            anyhow::bail!(
                "{service} ended because its task {name:?} panicked; its log says where: report it"
            );
        }
        stopped.map_err(|names| {
            anyhow::anyhow!(
                "{service} ended, but these tasks did not stop in time: {}",
                names.join(", ")
            )
        })
    });
    // Not waiting for blocking threads: what must be durable was waited for above.
    runtime.shutdown_background();
    result
}

/// A process that is bound and about to serve.
#[derive(Debug)]
pub struct Process {
    /// Its name: `orders`, `coordinator`, ...
    pub service: &'static str,
    /// Clock, randomness, connector.
    pub env: Env,
    /// Its tasks.
    pub tasks: Tasks,
    /// Its configuration.
    pub config: ChassisConfig,
    pub(crate) grpc: Listener,
    pub(crate) admin: Listener,
    /// Whether it is ready, as all who ask are told.
    pub readiness: Readiness,
}

impl Process {
    /// Binds the configured addresses and starts the admin server (live, not yet ready).
    ///
    /// # Errors
    /// If an address is taken, or the addresses file cannot be written.
    pub fn bind(service: &'static str, env: Env, config: ChassisConfig) -> anyhow::Result<Self> {
        let grpc = Listener::bind(config.server.listen)?;
        let admin = Listener::bind(config.server.admin_listen)?;
        Self::with_listeners(service, env, config, grpc, admin)
    }

    /// A process on the given listeners (for simulations). Starts the admin server.
    ///
    /// # Errors
    /// If the addresses file cannot be written.
    pub fn with_listeners(
        service: &'static str,
        env: Env,
        config: ChassisConfig,
        grpc: Listener,
        admin: Listener,
    ) -> anyhow::Result<Self> {
        if let Some(path) = &config.server.addresses_file {
            write_addresses(path, grpc.address(), admin.address())?;
        }
        let process = Self {
            service,
            env,
            tasks: Tasks::new(),
            config,
            grpc,
            admin,
            readiness: Readiness::new(),
        };
        server::serve_admin(&process, metrics::install());
        tracing::info!(service, grpc = %process.grpc_addr(), admin = %process.admin_addr(), "listening");
        Ok(process)
    }

    /// A process for a test: free ports on 127.0.0.1, the real clock. Needs a tokio runtime.
    ///
    /// # Panics
    /// If no port is free.
    pub fn for_test(service: &'static str) -> Self {
        let mut config = ChassisConfig::default();
        config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.server.admin_listen = config.server.listen;
        Self::for_test_with(service, config)
    }

    /// As [`Process::for_test`], with this configuration.
    ///
    /// # Panics
    /// If the addresses cannot be bound.
    #[expect(clippy::expect_used, reason = "for tests alone")]
    pub fn for_test_with(service: &'static str, config: ChassisConfig) -> Self {
        Self::bind(service, Env::system(), config).expect("a free port on 127.0.0.1")
    }

    /// Where requests are served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// Where /live, /ready and /metrics are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves gRPC until shutdown begins, then drains. `services` are the full names (`shop.orders.v1.OrderService`)
    /// that health reports; health and reflection are added here. Ready from now on.
    ///
    /// # Errors
    /// If reflection cannot be built.
    pub async fn serve(self, routes: Routes, services: &[&'static str]) -> anyhow::Result<()> {
        server::serve(self, routes, services).await
    }

    /// Serves HTTP/1.1 and HTTP/2 with what `make` gives for each connection, until shutdown begins, then drains. For
    /// an edge with layers of its own; everything else takes [`Process::serve`].
    pub async fn serve_http<M, S, B>(self, make: M)
    where
        M: Fn(SocketAddr) -> S,
        S: tower::Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let streams_end = tokio_util::sync::CancellationToken::new();
        server::serve_connections(self, server::Protocol::Any, make, &[], streams_end).await;
    }
}

/// SIGINT and SIGTERM begin the drain; a second one ends the process at once.
fn on_signals(tasks: &Tasks) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let owner = tasks.clone();
    let token = tasks.token();
    tasks.spawn_essential("signals", async move {
        let mut first = true;
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = token.cancelled() => return,
            };
            if !first {
                tracing::warn!(signal = name, "second signal: ending at once");
                std::process::exit(130);
            }
            first = false;
            tracing::info!(signal = name, "shutting down");
            owner.begin_drain();
        }
    });
    Ok(())
}

/// The end of stdin begins the drain. A plain thread: it may wait for ever, and ends with the process.
fn on_stdin_end(tasks: &Tasks) -> anyhow::Result<()> {
    let tasks = tasks.clone();
    let wait = move || {
        let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tracing::info!(?ended, "stdin ended: the parent is gone, shutting down");
        tasks.begin_drain();
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(wait)
        .context("cannot watch stdin")?;
    Ok(())
}

/// Written beside and renamed, so that a reader never sees half of it.
fn write_addresses(path: &Path, grpc: SocketAddr, admin: SocketAddr) -> anyhow::Result<()> {
    let text =
        serde_json::json!({ "grpc": grpc.to_string(), "admin": admin.to_string() }).to_string();
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("cannot write the addresses file {}", path.display()))
}
