//! Logs to stderr as text or JSON, and traces to an OTLP collector when one is configured.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::{LogFormat, TelemetryConfig};

/// The process's telemetry; [`Telemetry::shutdown`] sends what is still held.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up logs and traces. Needs a tokio runtime when a collector is configured. A second call in one process
    /// (tests) keeps the first subscriber.
    ///
    /// # Errors
    /// If the filter or the collector's address is not valid.
    pub fn init(service: &'static str, config: &TelemetryConfig) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&config.log_filter)
            .with_context(|| format!("the log filter (RUST_LOG or --log-filter) `{}` is not valid: write for example info,orders=debug", config.log_filter))?;
        let logs = match config.log_format {
            LogFormat::Text => fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .boxed(),
            LogFormat::Json => fmt::layer()
                .with_writer(std::io::stderr)
                .json()
                .flatten_event(true)
                .boxed(),
        };
        let provider = config
            .otlp_endpoint
            .as_deref()
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| exporter(service, endpoint))
            .transpose()?;
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("sagamesh"))
                .with_filter(filter_fn(|metadata| !is_transport(metadata.target())))
        });
        let installed = tracing_subscriber::registry()
            .with(filter)
            .with(logs)
            .with(traces)
            .try_init()
            .is_ok();
        if provider.is_some() && installed {
            crate::trace::set_exporting();
        }
        Ok(Self { provider })
    }

    /// Sends the spans that are still held, for at most 2 s.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // Off this thread: the exporter's connection needs the runtime to go on.
        let flushed = tokio::task::spawn_blocking(move || {
            provider.shutdown_with_timeout(Duration::from_secs(2))
        })
        .await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("some traces could not be sent to the collector before the end");
        }
    }
}

/// The transport's own spans are never exported, whatever the filter says: sending them would make more of them.
fn is_transport(target: &str) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    matches!(
        krate,
        "h2" | "hyper"
            | "hyper_util"
            | "tonic"
            | "tower"
            | "opentelemetry"
            | "opentelemetry_sdk"
            | "opentelemetry_otlp"
    )
}

fn exporter(service: &'static str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()
        .with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT `{endpoint}` is not usable: write for example http://127.0.0.1:4317"))?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}
