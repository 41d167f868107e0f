//! Policy as it is understood: checked values, references resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All of the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What may be called.
    pub services: BTreeMap<Key, Service>,
    /// Who may call.
    pub service_accounts: BTreeSet<Key>,
    /// What answers, and to whom.
    pub servers: BTreeMap<Key, Server>,
}

/// The identity of a service account, as certificates carry it.
pub fn identity_of(account: &Key) -> String {
    format!(
        "{}.{}.serviceaccount.identity.linkerd.cluster.local",
        account.name, account.namespace
    )
}

/// A Service: what callers name.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub key: Key,
    /// Labels of its pods; none selects none.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// When endpoints are taken out.
    pub accrual: Option<Accrual>,
    /// Retries of routes that have none of their own.
    pub retry: Option<Retry>,
    /// Outbound routes, by name.
    pub routes: Vec<Route>,
}

impl Service {
    /// Whether it selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty()
            && self
                .selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Its port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }

    /// The routes that hold for a port.
    pub fn routes_for(&self, port: u16) -> impl Iterator<Item = &Route> {
        self.routes
            .iter()
            .filter(move |route| route.port.is_none_or(|attached| attached == port))
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, or its number when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The pods' port.
    pub target: Port,
    /// What is spoken there.
    pub protocol: AppProtocol,
}

/// A port of a pod, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By the name that the workload gives it.
    Name(String),
}

impl Port {
    /// Its number in a workload with these ports.
    pub fn number(&self, ports: &BTreeMap<String, u16>) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => ports.get(name).copied(),
        }
    }
}

/// What a Service's port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    /// Found out per connection.
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2 without TLS; gRPC.
    Http2,
    /// Bytes.
    Opaque,
}

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

/// A condition on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that must be so.
    pub labels: BTreeMap<String, String>,
    /// Further conditions.
    pub expressions: Vec<Expression>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// What of it.
    pub is: Is,
}

/// What is asked of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is {
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these, or not there.
    NotIn(Vec<String>),
    /// It is there.
    There,
    /// It is not there.
    Missing,
}

impl Selector {
    /// Whether it selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = |(key, value)| labels.get(key) == Some(value);
        self.labels.iter().all(equal)
            && self.expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                match &expression.is {
                    Is::In(values) => value.is_some_and(|value| values.contains(value)),
                    Is::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                    Is::There => value.is_some(),
                    Is::Missing => value.is_none(),
                }
            })
    }
}

/// A Server: a port of pods, and who may call what there.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its name.
    pub key: Key,
    /// Its pods.
    pub selector: Selector,
    /// Their port.
    pub port: Port,
    /// What is spoken there.
    pub protocol: ServerProtocol,
    /// Who may call everything there.
    pub authorizations: Vec<Authorization>,
    /// Inbound routes, by name. With any, what none matches is refused.
    pub routes: Vec<InboundRoute>,
    /// How often.
    pub rate_limit: Option<RateLimit>,
}

/// What a Server's port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProtocol {
    /// Found out per connection.
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2: HTTPRoutes and rate limits.
    Http2,
    /// gRPC: GRPCRoutes, no rate limits.
    Grpc,
    /// Bytes.
    Opaque,
    /// TLS of the application's own.
    Tls,
}

/// An inbound route, as attached to one Server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRoute {
    /// Which kind.
    pub kind: RouteKind,
    /// Its name.
    pub key: Key,
    /// Its rules' conditions, in their order.
    pub rules: Vec<Vec<Match>>,
    /// Who may call it, besides those who may call the whole Server.
    pub authorizations: Vec<Authorization>,
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The AuthorizationPolicy; `None` for a Server's own access policy.
    pub policy: Option<Key>,
    /// The name of a default, when there is no policy.
    pub default: &'static str,
    /// From where.
    pub networks: Vec<Network>,
    /// Who.
    pub clients: Clients,
}

/// A network and what is not of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The network.
    pub net: Cidr,
    /// Without these.
    pub except: Vec<Cidr>,
}

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the prefix.
    pub prefix: u8,
}

/// Every network there is.
pub fn all_networks() -> Vec<Network> {
    [
        Cidr {
            ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            prefix: 0,
        },
        Cidr {
            ip: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            prefix: 0,
        },
    ]
    .map(|net| Network {
        net,
        except: Vec::new(),
    })
    .to_vec()
}

/// Which callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Anybody.
    Unauthenticated,
    /// Those with one of these identities.
    Identities {
        /// Whole identities.
        names: Vec<String>,
        /// Their last parts; the empty suffix is every identity.
        suffixes: Vec<Vec<String>>,
    },
}

impl Clients {
    /// Every identity of the mesh.
    pub fn any_identity() -> Self {
        Self::Identities {
            names: Vec::new(),
            suffixes: vec![Vec::new()],
        }
    }

    /// Whether a caller with this identity, or with none, is one of them.
    pub fn include(&self, identity: Option<&str>) -> bool {
        match (self, identity) {
            (Self::Unauthenticated, _) => true,
            (Self::Identities { .. }, None) => false,
            (Self::Identities { names, suffixes }, Some(identity)) => {
                names.iter().any(|name| name == identity)
                    || suffixes.iter().any(|suffix| {
                        let parts: Vec<&str> = identity.split('.').collect();
                        parts.len() > suffix.len()
                            && parts
                                .iter()
                                .rev()
                                .zip(suffix.iter().rev())
                                .all(|(part, wanted)| part == wanted)
                    })
            }
        }
    }
}

/// How often a Server may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Its name.
    pub key: Key,
    /// By all together, requests a second.
    pub total: Option<u32>,
    /// By each identity, requests a second.
    pub identity: Option<u32>,
    /// By these identities instead, requests a second each.
    pub overrides: Vec<(u32, Vec<String>)>,
}
