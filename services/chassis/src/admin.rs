//! The admin port: /live, /ready and /metrics over plain HTTP, apart from the requests' port, so that probes and
//! scrapers need no policy and are answered under overload.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::health::Readiness;

#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: PrometheusHandle,
}

impl Admin {
    pub(crate) fn answer<B>(
        &self,
        request: &Request<B>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/live") => (StatusCode::OK, "live\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/ready") if self.readiness.is_ready() => {
                (StatusCode::OK, "ready\n".to_owned())
            }
            (&Method::GET | &Method::HEAD, "/ready") => {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
            }
            (&Method::GET | &Method::HEAD, "/metrics") => (
                StatusCode::OK,
                self.metrics.render() + &crate::metrics::process(),
            ),
            (_, "/live" | "/ready" | "/metrics") => {
                (StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned())
            }
            _ => (
                StatusCode::NOT_FOUND,
                "here are /live, /ready and /metrics\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        Ok(response)
    }
}
