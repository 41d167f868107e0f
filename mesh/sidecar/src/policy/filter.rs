//! What a rule does to a request before it goes on: headers, injected failures, redirects.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use linkerd2_proxy_api::http_types::Headers;
use linkerd2_proxy_api::{grpc_route, http_route};
use rand::RngExt as _;
use tonic::Code;

use super::convert::Invalid;
use crate::error::ProxyError;

/// A filter of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderChange),
    /// Changes the response's headers.
    ResponseHeaders(HeaderChange),
    /// Fails some of the requests.
    Inject {
        /// The failure.
        error: ProxyError,
        /// Of so many ...
        numerator: u32,
        /// ... requests out of these.
        denominator: u32,
    },
    /// Answers with a redirect.
    Redirect(Redirect),
}

/// Changes of headers, in this order: remove, set, add.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderChange {
    add: Vec<(HeaderName, HeaderValue)>,
    set: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// A redirect: what it leaves out stays as in the request.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    status: StatusCode,
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
}

impl Filter {
    /// Applies it to a request.
    pub(crate) fn request(&self, uri: &Uri, headers: &mut HeaderMap) -> Result<(), ProxyError> {
        match self {
            Self::RequestHeaders(change) => change.apply(headers),
            Self::ResponseHeaders(_) => {}
            Self::Inject {
                error,
                numerator,
                denominator,
            } => {
                if rand::rng().random_range(0..*denominator) < *numerator {
                    return Err(error.clone());
                }
            }
            Self::Redirect(redirect) => {
                return Err(ProxyError::Redirect {
                    status: redirect.status,
                    location: redirect.location(uri).into(),
                });
            }
        }
        Ok(())
    }

    /// Applies it to a response.
    pub(crate) fn response(&self, headers: &mut HeaderMap) {
        if let Self::ResponseHeaders(change) = self {
            change.apply(headers);
        }
    }
}

impl HeaderChange {
    /// What the control plane says.
    pub(crate) fn new(
        add: Option<Headers>,
        set: Option<Headers>,
        remove: Vec<String>,
    ) -> Result<Self, Invalid> {
        Ok(Self {
            add: pairs(add)?,
            set: pairs(set)?,
            remove: remove
                .iter()
                .map(|name| header_name(name))
                .collect::<Result<_, _>>()?,
        })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

impl Redirect {
    /// What the control plane says.
    pub(crate) fn new(redirect: http_route::RequestRedirect) -> Result<Self, Invalid> {
        use linkerd2_proxy_api::http_types::scheme::{Registered, Type};
        let scheme = match redirect.scheme.and_then(|scheme| scheme.r#type) {
            None => None,
            Some(Type::Registered(1)) => Some(Registered::Https.as_str_name().to_lowercase()),
            Some(Type::Registered(_)) => Some(Registered::Http.as_str_name().to_lowercase()),
            Some(Type::Unregistered(name)) => Some(name),
        };
        let path = match redirect.path.and_then(|path| path.replace) {
            None => None,
            Some(http_route::path_modifier::Replace::Full(path)) => Some(path),
            Some(http_route::path_modifier::Replace::Prefix(_)) => {
                return Err(Invalid::Unsupported("a redirect that replaces a prefix"));
            }
        };
        let status = if redirect.status == 0 {
            302
        } else {
            redirect.status
        };
        Ok(Self {
            status: status_code(status)?,
            scheme,
            host: Some(redirect.host).filter(|host| !host.is_empty()),
            port: u16::try_from(redirect.port).ok().filter(|port| *port != 0),
            path,
        })
    }

    fn location(&self, uri: &Uri) -> String {
        let scheme = self
            .scheme
            .as_deref()
            .or(uri.scheme_str())
            .unwrap_or("http");
        let host = self.host.as_deref().or(uri.host()).unwrap_or_default();
        let port = self.port.or(uri.port_u16().filter(|_| self.host.is_none()));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = self
            .path
            .as_deref()
            .or(uri.path_and_query().map(|path| path.as_str()))
            .unwrap_or("/");
        format!("{scheme}://{host}{port}{path}")
    }
}

/// A failure for requests that are not gRPC.
pub(crate) fn inject_http(injector: http_route::HttpFailureInjector) -> Result<Filter, Invalid> {
    let status = status_code(injector.status)?;
    let code = match status.as_u16() {
        403 => Code::PermissionDenied,
        429 => Code::ResourceExhausted,
        404 => Code::NotFound,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    inject(status, code, injector.message, injector.ratio)
}

/// A failure for gRPC requests.
pub(crate) fn inject_grpc(injector: grpc_route::GrpcFailureInjector) -> Result<Filter, Invalid> {
    let code = Code::from_i32(i32::try_from(injector.code).unwrap_or(i32::MAX));
    inject(
        StatusCode::INTERNAL_SERVER_ERROR,
        code,
        injector.message,
        injector.ratio,
    )
}

fn inject(
    status: StatusCode,
    code: Code,
    message: String,
    ratio: Option<http_route::Ratio>,
) -> Result<Filter, Invalid> {
    let ratio = ratio.unwrap_or(http_route::Ratio {
        numerator: 1,
        denominator: 1,
    });
    if ratio.denominator == 0 {
        return Err(Invalid::value("failure injector", "a ratio of 0 requests"));
    }
    Ok(Filter::Inject {
        error: ProxyError::Injected {
            status,
            code,
            message: message.into(),
        },
        numerator: ratio.numerator,
        denominator: ratio.denominator,
    })
}

fn status_code(status: u32) -> Result<StatusCode, Invalid> {
    u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| Invalid::value("status", status))
}

fn header_name(name: &str) -> Result<HeaderName, Invalid> {
    name.parse()
        .map_err(|error| Invalid::value("header name", error))
}

fn pairs(headers: Option<Headers>) -> Result<Vec<(HeaderName, HeaderValue)>, Invalid> {
    let headers = headers.unwrap_or_default().headers;
    headers
        .into_iter()
        .map(|header| {
            let value = HeaderValue::from_bytes(&header.value)
                .map_err(|error| Invalid::value("header value", error))?;
            Ok((header_name(&header.name)?, value))
        })
        .collect()
}
