//! Logs to stderr as text or JSON, and traces to an OTLP collector when one is configured.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogFormat, TelemetryConfig};
use crate::env::Env;
use crate::trace;

/// The semantic conventions that names and attributes follow.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.45.0";

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
        let provider = config
            .otlp_endpoint
            .as_deref()
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| exporter(service, endpoint))
            .transpose()?;
        let registry = tracing_subscriber::registry();
        let Some(provider) = provider else {
            // Once for all: nobody else wants what the log does not.
            let _ = registry
                .with(filter)
                .with(logs(config.log_format))
                .try_init();
            return Ok(Self { provider });
        };
        let scope = InstrumentationScope::builder("sagamesh")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(CONVENTIONS);
        let tracer = provider.tracer_with_scope(scope.build());
        let wanted = |metadata: &tracing::Metadata<'_>| {
            *metadata.level() <= Level::INFO && !is_transport(metadata.target())
        };
        // What is logged does not decide what is a span: a quiet log has whole traces.
        let traces = tracing_opentelemetry::layer()
            .with_tracer(tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Nobody asks for the context but through the span.
            .with_context_activation(false)
            // A logged error is not the end of a span; what fails says so itself.
            .with_error_events_to_status(false)
            .with_filter(filter_fn(wanted).with_max_level_hint(LevelFilter::INFO));
        let installed = registry
            .with(logs(config.log_format).with_filter(filter))
            .with(traces)
            .try_init()
            .is_ok();
        if installed {
            trace::set_tracer(tracer);
            trace::set_exporting();
        }
        let provider = Some(provider);
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

fn logs<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
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
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_id_generator(trace::Ids::default())
        .with_resource(resource(service))
        .build())
}

/// Who sends the spans: what `OTEL_RESOURCE_ATTRIBUTES` says, and otherwise a name for this process that no other has.
fn resource(service: &'static str) -> Resource {
    let given = Resource::builder().build();
    let mut resource = Resource::builder().with_service_name(service);
    let more = [
        ("service.namespace", "sagamesh".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance()),
    ];
    for (key, value) in more {
        if given.get(&Key::new(key)).is_none() {
            resource = resource.with_attribute(KeyValue::new(key, value));
        }
    }
    resource.build()
}

/// A random UUID (version 4).
fn instance() -> String {
    let entropy = Env::system().entropy;
    let (high, low) = (entropy.next_u64(), entropy.next_u64());
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0x0fff);
    let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}
