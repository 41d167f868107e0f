//! The sidecar: see the library.

use std::process::ExitCode;

use anyhow::Context as _;
use mesh_sidecar::{Config, Sidecar};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

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
    log_to_stderr(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
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
        anyhow::Ok(())
    });
    runtime.shutdown_background();
    result
}

/// Logs alone: traces pass through a sidecar untouched, and it sends none of its own.
fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).with_context(|| {
        format!(
            "the log filter LINKERD2_PROXY_LOG `{}` is not valid: write for example info,h2=warn",
            config.log
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let installed = if config.log_json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("cannot set up logs: {error}"))
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
