//! Routes, and what they do to a call.

use std::fmt;
use std::time::Duration;

use super::Key;

/// GRPCRoute or HTTPRoute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Matches services and methods.
    Grpc,
    /// Matches paths.
    Http,
}

impl RouteKind {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }
}

/// An outbound route, as attached to one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// Its name.
    pub key: Key,
    /// The Service's port that it is for; `None` for all.
    pub port: Option<u16>,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
    /// How long a call may take.
    pub timeouts: Timeouts,
    /// Retries of its own.
    pub retry: Option<Retry>,
}

/// A rule of an outbound route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Any of these; none matches everything.
    pub matches: Vec<Match>,
    /// Where to; none is the Service itself.
    pub backends: Vec<Backend>,
}

/// A Service that a rule sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
}

/// A condition on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// On what is called.
    pub call: CallMatch,
    /// On headers: all of these names and values.
    pub headers: Vec<(String, String)>,
}

/// A condition on what is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallMatch {
    /// gRPC: the service, the method, or both; neither is anything.
    Rpc {
        /// Full name of the service.
        service: Option<String>,
        /// Name of the method.
        method: Option<String>,
    },
    /// HTTP: the path, the method, or both; neither is anything.
    Http {
        /// The path.
        path: Option<PathMatch>,
        /// The method.
        method: Option<&'static str>,
    },
}

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Its first elements.
    Prefix(String),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.call {
            CallMatch::Rpc {
                service: None,
                method: None,
            }
            | CallMatch::Http {
                path: None,
                method: None,
            } => f.write_str("*"),
            CallMatch::Rpc { service, method } => write!(
                f,
                "/{}/{}",
                service.as_deref().unwrap_or("*"),
                method.as_deref().unwrap_or("*")
            ),
            CallMatch::Http { path, method } => {
                if let Some(method) = method {
                    write!(f, "{method} ")?;
                }
                match path {
                    Some(PathMatch::Exact(path)) => f.write_str(path),
                    Some(PathMatch::Prefix(path)) => {
                        write!(f, "{}/*", path.trim_end_matches('/'))
                    }
                    None => f.write_str("*"),
                }
            }
        }?;
        for (name, value) in &self.headers {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole call, retries and streams included.
    pub request: Option<Duration>,
    /// From the end of the request to the end of the response.
    pub response: Option<Duration>,
    /// Between two frames.
    pub idle: Option<Duration>,
}

/// What is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// gRPC codes after which a call is repeated.
    pub grpc: GrpcConditions,
    /// Ranges of HTTP statuses after which a request is repeated, both ends included.
    pub http: Vec<(u16, u16)>,
    /// How often.
    pub limit: u16,
    /// How long one try may take.
    pub timeout: Option<Duration>,
}

/// gRPC codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of five codes")]
pub struct GrpcConditions {
    /// CANCELLED.
    pub cancelled: bool,
    /// DEADLINE_EXCEEDED.
    pub deadline_exceeded: bool,
    /// INTERNAL.
    pub internal: bool,
    /// RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// UNAVAILABLE.
    pub unavailable: bool,
}

/// When an endpoint is taken out: after so many failures in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accrual {
    /// Failures in a row.
    pub max_failures: u32,
    /// The first time out.
    pub min_penalty: Duration,
    /// The longest time out.
    pub max_penalty: Duration,
    /// How much longer a time out may be, at random.
    pub jitter: f32,
}
