//! Health checks as they run.

use std::time::Duration;

use chassis::Env;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Registry;
use super::spec::{CheckKind, CheckSpec, Health, InstanceSpec};

/// Runs a check of an instance at its interval, for ever.
pub(super) async fn run(
    registry: Registry,
    env: Env,
    instance: InstanceSpec,
    generation: u64,
    check: CheckSpec,
) {
    let mut tick = tokio::time::interval(check.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (health, output) = match tokio::time::timeout(check.timeout, once(&env, &check)).await {
            Ok(result) => result,
            Err(_) => (
                Health::Critical,
                format!("no answer within {:?}", check.timeout),
            ),
        };
        registry
            .report(&instance.id, generation, &check.id, health, &output)
            .await;
    }
}

async fn once(env: &Env, check: &CheckSpec) -> (Health, String) {
    let critical = |output: String| (Health::Critical, output);
    match &check.kind {
        CheckKind::Grpc { target, service } => grpc(env, target, service, check.timeout).await,
        CheckKind::Http { url } => match http(env, url).await {
            Ok(status) if status.is_success() => (Health::Passing, status.to_string()),
            Ok(StatusCode::TOO_MANY_REQUESTS) => (Health::Warning, "429".to_owned()),
            Ok(status) => critical(status.to_string()),
            Err(error) => critical(error.to_string()),
        },
        CheckKind::Tcp { target } => match connect(env, target).await {
            Ok(_) => (Health::Passing, "connected".to_owned()),
            Err(error) => critical(error.to_string()),
        },
        // Not run: reported.
        CheckKind::Ttl { .. } => (Health::Passing, String::new()),
    }
}

async fn grpc(env: &Env, target: &str, service: &str, timeout: Duration) -> (Health, String) {
    let mut client = HealthClient::new(chassis::channel(env, target));
    let mut request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    request.set_timeout(timeout);
    match client.check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => (Health::Passing, "SERVING".to_owned()),
            other => (Health::Critical, other.as_str_name().to_owned()),
        },
        Err(status) => (
            Health::Critical,
            format!(
                "{}: {}",
                chassis::methods::code_name(status.code()),
                status.message()
            ),
        ),
    }
}

async fn connect(env: &Env, target: &str) -> anyhow::Result<chassis::env::BoxIo> {
    let uri: Uri = format!("http://{target}").parse()?;
    Ok(env.connector.connect(uri).await?)
}

async fn http(env: &Env, url: &str) -> anyhow::Result<StatusCode> {
    let uri: Uri = url.parse()?;
    let io = env.connector.connect(uri.clone()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "meshd")
        .body(Empty::<hyper::body::Bytes>::new())?;
    // Both end here: the connection lives no longer than its one request. The body is not read.
    tokio::select! {
        answer = sender.send_request(request) => Ok(answer?.status()),
        ended = connection => {
            ended?;
            anyhow::bail!("the connection ended without an answer")
        }
    }
}
