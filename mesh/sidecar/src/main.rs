//! The sidecar: see the library.

use std::process::ExitCode;

use anyhow::Context as _;
use chassis::config::{LogFormat, TelemetryConfig};
use chassis::telemetry::Telemetry;
use mesh_sidecar::{Config, Sidecar};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What linkerd2-proxy ends with when its environment is unusable.
const BAD_ENVIRONMENT: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(BAD_ENVIRONMENT);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let telemetry = TelemetryConfig {
        log_filter: config.log.clone(),
        log_format: if config.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        otlp_endpoint: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let telemetry = Telemetry::init("sidecar", &telemetry)?;
        let exit_with_parent = config.exit_with_parent;
        let sidecar = Sidecar::start(config).await?;
        let parent_gone = CancellationToken::new();
        if exit_with_parent {
            on_stdin_end(parent_gone.clone())?;
        }
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        tokio::select! {
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "shutting down"),
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "shutting down"),
            () = parent_gone.cancelled() => tracing::info!("stdin ended: the parent is gone, shutting down"),
        }
        tokio::select! {
            () = sidecar.shutdown() => {}
            _ = interrupt.recv() => tracing::warn!("second signal: ending at once"),
            _ = terminate.recv() => tracing::warn!("second signal: ending at once"),
        }
        telemetry.shutdown().await;
        anyhow::Ok(())
    });
    runtime.shutdown_background();
    result
}

/// The end of stdin begins the drain. A plain thread: it may wait for ever, and ends with the process.
fn on_stdin_end(gone: CancellationToken) -> anyhow::Result<()> {
    let wait = move || {
        // An error means the same: nobody holds the other end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        gone.cancel();
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(wait)
        .context("cannot watch stdin")?;
    Ok(())
}
