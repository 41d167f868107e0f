//! What an instance says of itself, checked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chassis::Violations;
use serde::{Deserialize, Serialize};

/// Most tags of an instance.
pub const MAX_TAGS: usize = 32;
/// Most pairs of an instance's meta.
pub const MAX_META: usize = 64;
/// Most checks of an instance.
pub const MAX_CHECKS: usize = 8;
/// Most characters of a check's output; more are cut off.
pub const MAX_OUTPUT: usize = 256;

/// How well an instance, or a check, is. The order is from well to ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Well.
    Passing,
    /// Well enough to be discovered.
    Warning,
    /// Not to be discovered.
    Critical,
}

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Its service.
    pub service: String,
    /// Its id, unique in the registry.
    pub id: String,
    /// An IP address or a host name.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Labels to choose by.
    pub tags: Vec<String>,
    /// What else is to be known.
    pub meta: BTreeMap<String, String>,
    /// When it counts as healthy.
    pub checks: Vec<CheckSpec>,
    /// Its pod; `None` outside of the mesh.
    pub pod: Option<String>,
    /// How long it stays without a renewal; `None` for ever.
    pub lease: Option<Duration>,
}

/// A condition of health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// Its id within the instance.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Between two runs.
    pub interval: Duration,
    /// Of one run.
    pub timeout: Duration,
    /// What it counts as before its first result.
    #[serde(default = "critical")]
    pub initial: Health,
    /// How long it may be critical until the instance is removed; `None` for ever.
    #[serde(default)]
    pub critical_limit: Option<Duration>,
    /// What is checked.
    pub kind: CheckKind,
}

fn critical() -> Health {
    Health::Critical
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// `grpc.health.v1` at HOST:PORT, of this service.
    Grpc {
        /// HOST:PORT.
        target: String,
        /// The service; empty for the process.
        service: String,
    },
    /// A page.
    Http {
        /// Its address.
        url: String,
    },
    /// A connection to HOST:PORT.
    Tcp {
        /// HOST:PORT.
        target: String,
    },
    /// Reports.
    Ttl {
        /// How long one counts.
        ttl: Duration,
    },
}

impl InstanceSpec {
    /// Its address, if it is an IP address.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.address.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }

    /// HOST:PORT, for a check that names no target of its own.
    pub fn own_target(address: &str, port: u16) -> String {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    /// Everything that is wrong with it.
    pub fn violations(&self) -> Violations {
        let mut wrong = Violations::new();
        let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !fits(&self.service, 63, name) {
            wrong.add("service", "must have 1 to 63 characters of [A-Za-z0-9._-]");
        }
        if !fits(&self.id, 128, |c| name(c) || c == ':') {
            wrong.add(
                "instance_id",
                "must have 1 to 128 characters of [A-Za-z0-9._:-]",
            );
        }
        if !is_host(&self.address) {
            wrong.add("address", "must be an IP address or a host name");
        }
        if self.port == 0 {
            wrong.add("port", "must be from 1 to 65535");
        }
        if self.tags.len() > MAX_TAGS || self.tags.iter().any(|tag| !text(tag, 128)) {
            wrong.add(
                "tags",
                format!("must be at most {MAX_TAGS}, of 1 to 128 characters"),
            );
        }
        let pair = |(key, value): (&String, &String)| {
            text(key, 128) && value.len() <= 512 && !value.contains(char::is_control)
        };
        if self.meta.len() > MAX_META || !self.meta.iter().all(pair) {
            wrong.add(
                "meta",
                format!("must have at most {MAX_META} pairs, keys of 1 to 128 and values of at most 512 characters"),
            );
        }
        if self.checks.len() > MAX_CHECKS {
            wrong.add("checks", format!("must be at most {MAX_CHECKS}"));
        }
        if let Some(lease) = self.lease
            && !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&lease)
        {
            wrong.add("lease_ttl", "must be from 1 second to 1 hour");
        }
        for (index, check) in self.checks.iter().enumerate() {
            let field = |name: &str| format!("checks[{index}].{name}");
            if !text(&check.id, 128)
                || self.checks[..index]
                    .iter()
                    .any(|other| other.id == check.id)
            {
                wrong.add(
                    field("check_id"),
                    "must have 1 to 128 characters and differ from the others",
                );
            }
            check.violations(&field, &mut wrong);
        }
        wrong
    }
}

impl CheckSpec {
    fn violations(&self, field: &dyn Fn(&str) -> String, wrong: &mut Violations) {
        let target = |target: &str| {
            target.rsplit_once(':').is_some_and(|(host, port)| {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        match &self.kind {
            CheckKind::Ttl { ttl } => {
                if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(ttl) {
                    wrong.add(field("ttl"), "must be from 1 second to 24 hours");
                }
                return;
            }
            CheckKind::Grpc {
                target: at,
                service,
            } => {
                if !target(at) {
                    wrong.add(field("grpc.target"), "must be HOST:PORT");
                }
                if service.len() > 256 || service.contains(char::is_control) {
                    wrong.add(field("grpc.service"), "must have at most 256 characters");
                }
            }
            CheckKind::Tcp { target: at } => {
                if !target(at) {
                    wrong.add(field("tcp.target"), "must be HOST:PORT");
                }
            }
            CheckKind::Http { url } => {
                let parsed = url.parse::<http::Uri>().ok().filter(|uri| {
                    uri.scheme_str() == Some("http")
                        && uri.host().is_some_and(|host| !host.is_empty())
                });
                if url.len() > 512 || parsed.is_none() {
                    wrong.add(
                        field("http.url"),
                        "must be an http:// URL of at most 512 characters",
                    );
                }
            }
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.interval) {
            wrong.add(field("interval"), "must be from 100 milliseconds to 1 hour");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.timeout) {
            wrong.add(field("timeout"), "must be from 10 milliseconds to 1 minute");
        }
    }
}

fn fits(value: &str, most: usize, allowed: impl Fn(char) -> bool) -> bool {
    (1..=most).contains(&value.len()) && value.chars().all(allowed)
}

fn text(value: &str, most: usize) -> bool {
    (1..=most).contains(&value.len()) && !value.contains(char::is_control)
}

fn is_host(value: &str) -> bool {
    value.parse::<IpAddr>().is_ok()
        || fits(value, 253, |c| {
            c.is_ascii_alphanumeric() || "-.".contains(c)
        })
}
