//! Policy as it is understood: checked values, references resolved.

mod route;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use route::*;
pub use server::*;

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
