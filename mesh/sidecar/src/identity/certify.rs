//! Gets a certificate from the control plane, and a new one at 70 % of its life.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use linkerd2_proxy_api::identity::CertifyRequest;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::Identity;
use crate::control::backoff::Retry;
use crate::control::metrics::ControlMetrics;
use crate::metrics::{Counter, Gauge, Labels, Registry};

/// The shortest and the longest time between two renewals.
const REFRESH: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));
/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps `identity` certified until `stop`.
pub(crate) async fn run(
    identity: Arc<Identity>,
    token_file: PathBuf,
    mut client: IdentityClient<Channel>,
    requests: ControlMetrics,
    registry: Registry,
    stop: CancellationToken,
) {
    let metrics = CertMetrics::new(&registry);
    let mut retry = Retry::new();
    loop {
        let again = match certify(&identity, &token_file, &mut client, &requests).await {
            Ok((made, expires)) => {
                metrics.refreshed(expires);
                retry.reset();
                let life = expires.duration_since(made).unwrap_or_default();
                let left = expires
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                // Of its life, but never more than what is left of it: a certificate may be made in the past.
                let pause = (life.mul_f64(0.7))
                    .min(left.mul_f64(0.7))
                    .clamp(REFRESH.0.min(left / 2), REFRESH.1);
                tracing::info!(identity = %identity.name, valid_s = left.as_secs(), renew_s = pause.as_secs(), "certified");
                SystemTime::now() + pause
            }
            Err(error) => {
                metrics.failures.increment();
                let pause = retry.next();
                tracing::warn!(
                    error = format!("{error:#}"),
                    retry_ms = pause.as_millis() as u64,
                    "cannot get a certificate"
                );
                SystemTime::now() + pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(again, SystemTime::now) => {}
        }
    }
}

/// Sleeps until the wall clock says `time`: the clock of timers stands still while a machine is suspended, and certificates
/// run out all the same.
async fn sleep_until(time: SystemTime, now: impl Fn() -> SystemTime) {
    while let Ok(left) = time.duration_since(now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

async fn certify(
    identity: &Identity,
    token_file: &std::path::Path,
    client: &mut IdentityClient<Channel>,
    requests: &ControlMetrics,
) -> anyhow::Result<(SystemTime, SystemTime)> {
    use anyhow::Context as _;
    let token = tokio::fs::read(token_file)
        .await
        .with_context(|| format!("cannot read the token file {}", token_file.display()))?;
    anyhow::ensure!(
        !token.is_empty(),
        "the token file {} is empty",
        token_file.display()
    );
    let mut request = tonic::Request::new(CertifyRequest {
        identity: identity.name.to_string(),
        token,
        certificate_signing_request: identity.csr(),
    });
    request.set_timeout(TIMEOUT);
    let began = requests.begin();
    let response = tokio::time::timeout(TIMEOUT, client.certify(request)).await;
    requests.end(
        began,
        match &response {
            Ok(Ok(_)) => Code::Ok,
            Ok(Err(status)) => status.code(),
            Err(_) => Code::DeadlineExceeded,
        },
    );
    let response = response
        .context("the control plane did not answer in time")?
        .map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?
        .into_inner();
    let mut chain = vec![response.leaf_certificate];
    chain.extend(response.intermediate_certificates);
    let (made, expires) = identity.install(chain)?;
    Ok((made, expires))
}

struct CertMetrics {
    refreshes: Counter,
    failures: Counter,
    refreshed_at: Gauge,
    expires_at: Gauge,
}

impl CertMetrics {
    fn new(registry: &Registry) -> Self {
        let none = Labels::new();
        let refreshes = |result: &str| {
            registry.counter(
                "control_identity_cert_refreshes_total",
                "Certificates that were asked for.",
                &Labels::new().with("result", result),
            )
        };
        Self {
            refreshes: refreshes("ok"),
            failures: refreshes("error"),
            refreshed_at: registry.gauge(
                "control_identity_cert_refresh_timestamp_seconds",
                "When the certificate was installed.",
                &none,
            ),
            expires_at: registry.gauge(
                "control_identity_cert_expiration_timestamp_seconds",
                "When the certificate runs out.",
                &none,
            ),
        }
    }

    fn refreshed(&self, expires: SystemTime) {
        self.refreshes.increment();
        self.refreshed_at.set(unix(SystemTime::now()));
        self.expires_at.set(unix(expires));
    }
}

fn unix(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The wall clock of a machine that sleeps through all but the first seconds of a certificate's life.
    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_renews_when_it_wakes() {
        let begin = SystemTime::UNIX_EPOCH;
        let looks = AtomicU64::new(0);
        let suspended = || {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            begin + Duration::from_secs(if look == 0 { 0 } else { 100_000 })
        };
        let started = tokio::time::Instant::now();
        sleep_until(begin + Duration::from_secs(60_000), suspended).await;
        assert_eq!(started.elapsed(), LOOK);

        let started = tokio::time::Instant::now();
        let awake = || begin + started.elapsed();
        sleep_until(begin + Duration::from_secs(100), awake).await;
        assert!(started.elapsed() >= Duration::from_secs(100));
        assert!(started.elapsed() < Duration::from_secs(101));
    }
}
