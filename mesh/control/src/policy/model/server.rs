//! Servers: what answers, and who is let in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Key, Match, Port, RouteKind};

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
