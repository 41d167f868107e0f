//! The gateway put together: what every handler shares, and the one ordered list of what a request passes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use http::{HeaderName, HeaderValue, Method, header};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::anonymous::Anonymous;
use crate::backends::Backends;
use crate::config::Config;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::{door, grpc, rest};

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) backends: Backends,
    pub(crate) keys: Keys,
    pub(crate) limits: Arc<Limits>,
    pub(crate) entropy: Arc<dyn chassis::Entropy>,
    pub(crate) timeout: Duration,
    pub(crate) trust_forwarded_for: bool,
    /// Cancelled when shutdown begins: long answers end.
    pub(crate) draining: CancellationToken,
    /// Places for callers' requests under way.
    pub(crate) places: Arc<Semaphore>,
    /// Places for everybody else's.
    pub(crate) anonymous: Arc<Anonymous>,
}

impl Gateway {
    /// A gateway to the services named by `config`.
    pub fn new(config: &Config, keys: Keys, env: &chassis::Env) -> Self {
        Self {
            backends: Backends::new(config, env),
            keys,
            limits: Arc::new(Limits::new(&config.limits)),
            entropy: Arc::clone(&env.entropy),
            timeout: config.limits.request_timeout,
            trust_forwarded_for: config.limits.trust_forwarded_for,
            draining: CancellationToken::new(),
            places: Arc::new(Semaphore::new(
                config.chassis.server.max_concurrent_requests,
            )),
            anonymous: Arc::new(Anonymous::new(&config.limits)),
        }
    }

    /// The same gateway, whose streams end and whose clients are told to go when `draining` is cancelled.
    #[must_use]
    pub fn draining_with(mut self, draining: CancellationToken) -> Self {
        self.draining = draining;
        self
    }

    /// REST, gRPC and gRPC-Web as one service.
    ///
    /// # Errors
    /// Reflection cannot be built.
    pub fn app(&self, config: &Config) -> anyhow::Result<Router> {
        let grpc = grpc::routes(self, config)?.layer(tonic_web::GrpcWebLayer::new());
        // Inside the door: callers alone, and how often.
        let protected = rest::protected()
            .method_not_allowed_fallback(rest::method_not_allowed)
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                door::subject,
            ))
            .layer(DefaultBodyLimit::max(config.limits.max_body_bytes));
        let rest = rest::open()
            .merge(protected)
            .fallback(rest::not_found)
            .with_state(self.clone());

        // From the outside in; every request passes them from the top to the bottom.
        let stack = ServiceBuilder::new()
            // First, so that every answer has one, refusals included: request id, trace, metrics, log line.
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                door::observe,
            ))
            // Around refusals too: whoever is refused comes again.
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                door::farewell,
            ))
            // Browsers ask without a token: before anything that wants one.
            .layer(cors(&config.limits.cors_origins)?)
            // Before tokens are checked, which costs: a flood from one address ends here.
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                door::address,
            ))
            // Around everything that takes time or memory: who calls, and so many at one time, streams counted until they
            // end. Strangers have few places of their own.
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                door::place,
            ))
            // Innermost, so that its place, its metrics and its log line are in order all the same: a panic is a problem.
            .layer(axum::middleware::from_fn(door::panics));
        Ok(rest.merge(grpc).layer(stack))
    }
}

fn cors(origins: &[String]) -> anyhow::Result<CorsLayer> {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Any)
    } else {
        let parse = |origin: &String| {
            HeaderValue::from_str(origin).map_err(|_| anyhow::anyhow!("--cors-origins: `{origin}` is not an origin: write for example https://shop.example"))
        };
        AllowOrigin::list(origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?)
    };
    let names = |names: &[&'static str]| {
        names
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect::<Vec<_>>()
    };
    Ok(CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(
            [
                vec![header::AUTHORIZATION, header::CONTENT_TYPE],
                names(&[
                    "idempotency-key",
                    "prefer",
                    "x-request-id",
                    "x-grpc-web",
                    "x-user-agent",
                    "grpc-timeout",
                    "traceparent",
                ]),
            ]
            .concat(),
        )
        .expose_headers(names(&[
            "location",
            "retry-after",
            "x-request-id",
            rest::POSITION,
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
        ]))
        .max_age(Duration::from_secs(3600)))
}
