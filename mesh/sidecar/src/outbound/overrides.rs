//! Timeouts and retries that a request says for itself, in `l5d-*` headers, on routes that allow it.

use std::time::Duration;

use http::HeaderMap;
use tower::Layer;

use crate::error::ProxyError;
use crate::http::{Request, Response, Serve};
use crate::policy::outbound::{Conditions, Retry, Timeouts};

/// What a request says for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Overrides {
    request_timeout: Option<Duration>,
    response_timeout: Option<Duration>,
    retry_limit: Option<usize>,
    retry_timeout: Option<Duration>,
    retry_grpc: Option<u32>,
    retry_http: Option<Vec<(u16, u16)>>,
}

/// The largest body that is kept for a retry that only the request asked for.
const MAX_BYTES: usize = 64 * 1024;

impl Overrides {
    /// Takes them out of the headers. `None` if there are none.
    fn take(headers: &mut HeaderMap) -> Option<Self> {
        if !headers.keys().any(|name| name.as_str().starts_with("l5d-")) {
            return None;
        }
        let mut text = |name: &str| {
            headers
                .remove(name)
                .and_then(|value| value.to_str().ok().map(str::to_owned))
        };
        let timeout = text("l5d-timeout");
        let overrides = Self {
            request_timeout: text("l5d-request-timeout")
                .or(timeout)
                .as_deref()
                .and_then(duration),
            response_timeout: text("l5d-response-timeout").as_deref().and_then(duration),
            retry_limit: text("l5d-retry-limit").and_then(|limit| limit.parse().ok()),
            retry_timeout: text("l5d-retry-timeout").as_deref().and_then(duration),
            retry_grpc: text("l5d-retry-grpc").map(|list| grpc_conditions(&list)),
            retry_http: text("l5d-retry-http").map(|list| http_conditions(&list)),
        };
        (overrides != Self::default()).then_some(overrides)
    }

    /// A route's timeouts with the request's own in their place.
    pub(crate) fn timeouts(&self, route: Timeouts) -> Timeouts {
        Timeouts {
            request: self.request_timeout.or(route.request),
            response: self.response_timeout.or(route.response),
            idle: route.idle,
        }
    }

    /// A route's retries with the request's own in their place.
    pub(crate) fn retry(&self, route: Option<&Retry>) -> Option<Retry> {
        let asks =
            self.retry_limit.is_some() || self.retry_grpc.is_some() || self.retry_http.is_some();
        let mut retry = match route {
            Some(retry) => retry.clone(),
            None if asks => Retry {
                max_retries: 1,
                max_request_bytes: MAX_BYTES,
                conditions: Conditions::default(),
                timeout: None,
                backoff: None,
            },
            None => return None,
        };
        retry.max_retries = self.retry_limit.unwrap_or(retry.max_retries);
        retry.timeout = self.retry_timeout.or(retry.timeout);
        retry.conditions.grpc = self.retry_grpc.unwrap_or(retry.conditions.grpc);
        retry.conditions.http = self.retry_http.clone().unwrap_or(retry.conditions.http);
        Some(retry)
    }
}

fn duration(text: &str) -> Option<Duration> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..at].parse().ok()?;
    let millis = match &text[at..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .filter(|time| !time.is_zero())
}

fn grpc_conditions(list: &str) -> u32 {
    let code = |name: &str| match name {
        "cancelled" => 1 << 1,
        "deadline-exceeded" => 1 << 4,
        "resource-exhausted" => 1 << 8,
        "internal" => 1 << 13,
        "unavailable" => 1 << 14,
        _ => 0,
    };
    list.split(',')
        .map(str::trim)
        .map(code)
        .fold(0, |bits, bit| bits | bit)
}

fn http_conditions(list: &str) -> Vec<(u16, u16)> {
    let range = |item: &str| match item {
        "5xx" => Some((500, 599)),
        "gateway-error" => Some((502, 504)),
        _ => match item.split_once('-') {
            Some((from, to)) => Some((from.parse().ok()?, to.parse().ok()?)),
            None => item.parse().ok().map(|status| (status, status)),
        },
    };
    list.split(',').map(str::trim).filter_map(range).collect()
}

/// Makes [`TakeOverrides`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverridesLayer {
    /// The route allows them.
    pub(crate) allowed: bool,
}

/// Takes the headers out of a request, for the layers below.
#[derive(Debug)]
pub(crate) struct TakeOverrides<S> {
    inner: S,
    allowed: bool,
}

impl<S> Layer<S> for OverridesLayer {
    type Service = TakeOverrides<S>;

    fn layer(&self, inner: S) -> TakeOverrides<S> {
        TakeOverrides {
            inner,
            allowed: self.allowed,
        }
    }
}

impl<S: Serve> Serve for TakeOverrides<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        if self.allowed
            && let Some(overrides) = Overrides::take(request.headers_mut())
        {
            request.extensions_mut().insert(overrides);
        }
        self.inner.call(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_taken_out() {
        let mut headers = HeaderMap::new();
        headers.insert("l5d-timeout", "300ms".parse().unwrap());
        headers.insert("l5d-retry-limit", "3".parse().unwrap());
        headers.insert("l5d-retry-grpc", "unavailable,internal".parse().unwrap());
        headers.insert("l5d-retry-http", "5xx,429".parse().unwrap());
        headers.insert("l5d-dst-canonical", "x".parse().unwrap());
        let overrides = Overrides::take(&mut headers).unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!(
            overrides.timeouts(Timeouts::default()).request,
            Some(Duration::from_millis(300))
        );
        let retry = overrides.retry(None).unwrap();
        assert_eq!(
            (retry.max_retries, retry.conditions.grpc),
            (3, 1 << 14 | 1 << 13)
        );
        assert_eq!(retry.conditions.http, [(500, 599), (429, 429)]);
        assert_eq!(Overrides::take(&mut headers), None);
    }
}
