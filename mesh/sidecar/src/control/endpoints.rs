//! The endpoints of a destination, as the Destination API names them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use linkerd2_proxy_api::destination::{self as proto, WeightedAddr};

use crate::metrics::Labels;
use crate::policy::convert::Invalid;

/// A set of endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Endpoints {
    /// The control plane has answered.
    pub(crate) known: bool,
    /// By address.
    pub(crate) by_address: BTreeMap<SocketAddr, Arc<EndpointSpec>>,
}

/// How an endpoint is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EndpointSpec {
    /// The name in its certificate; without one it is reached in plain text.
    pub(crate) identity: Option<Arc<str>>,
    /// It speaks HTTP/2, also for requests that came as HTTP/1.
    pub(crate) h2: bool,
    /// Its sidecar's port, where a transport header names the app's.
    pub(crate) inbound_port: Option<u16>,
    /// Pings on its connections: interval and timeout.
    pub(crate) keep_alive: Option<(Duration, Duration)>,
    /// What metrics say of it.
    pub(crate) labels: Labels,
}

impl EndpointSpec {
    /// What the control plane says.
    pub(crate) fn from_proto(
        endpoint: WeightedAddr,
        set_labels: &HashMap<String, String>,
    ) -> Result<(SocketAddr, Self), Invalid> {
        use proto::protocol_hint::Protocol;
        use proto::tls_identity::Strategy;
        let address = endpoint
            .addr
            .ok_or(Invalid::missing("address of an endpoint"))?;
        let port = u16::try_from(address.port).ok().filter(|port| *port != 0);
        if port.is_none() {
            return Err(Invalid::value("port of an endpoint", address.port));
        }
        let address = SocketAddr::try_from(address)
            .map_err(|error| Invalid::value("address of an endpoint", error))?;
        let identity = match endpoint.tls_identity {
            None => None,
            Some(tls) => match tls.strategy {
                Some(Strategy::DnsLikeIdentity(id)) => {
                    if tls.server_name.is_some_and(|name| name.name != id.name) {
                        return Err(Invalid::Unsupported(
                            "a server name that is not the identity",
                        ));
                    }
                    Some(Arc::from(id.name))
                }
                _ => return Err(Invalid::Unsupported("an identity that is not a DNS name")),
            },
        };
        let hint = endpoint.protocol_hint.unwrap_or_default();
        let inbound_port = hint
            .opaque_transport
            .map(|transport| {
                u16::try_from(transport.inbound_port)
                    .map_err(|_| Invalid::value("inbound port", transport.inbound_port))
            })
            .transpose()?;
        let keep_alive = endpoint
            .http2
            .and_then(|http2| http2.keep_alive)
            .and_then(|keep_alive| {
                Some((
                    keep_alive.interval?.try_into().ok()?,
                    keep_alive.timeout?.try_into().ok()?,
                ))
            });
        let mut labels: BTreeMap<&String, &String> = set_labels.iter().collect();
        labels.extend(&endpoint.metric_labels);
        let labels = labels
            .into_iter()
            .fold(Labels::new(), |all, (name, value)| {
                all.with(&format!("dst_{name}"), value)
            });
        Ok((
            address,
            Self {
                identity,
                h2: matches!(hint.protocol, Some(Protocol::H2(_))),
                inbound_port,
                keep_alive,
                labels,
            },
        ))
    }
}

impl Endpoints {
    /// The set after an update. The first update of a stream replaces what an earlier stream said.
    pub(crate) fn apply(&self, update: proto::update::Update, first: bool) -> Self {
        use proto::update::Update;
        let mut next = if first { Self::default() } else { self.clone() };
        next.known = true;
        match update {
            Update::Add(set) => {
                for endpoint in set.addrs {
                    match EndpointSpec::from_proto(endpoint, &set.metric_labels) {
                        Ok((address, spec)) => {
                            next.by_address.insert(address, Arc::new(spec));
                        }
                        Err(error) => tracing::warn!(%error, "an endpoint is left out"),
                    }
                }
            }
            Update::Remove(set) => {
                for address in set.addrs {
                    if let Ok(address) = SocketAddr::try_from(address) {
                        next.by_address.remove(&address);
                    }
                }
            }
            Update::NoEndpoints(_) => next.by_address.clear(),
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd2_proxy_api::net::TcpAddress;
    use proto::update::Update;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 1, 5], port).into()
    }

    fn add(ports: &[u16]) -> Update {
        let endpoint = |port: &u16| WeightedAddr {
            addr: Some(address(*port).into()),
            ..Default::default()
        };
        Update::Add(proto::WeightedAddrSet {
            addrs: ports.iter().map(endpoint).collect(),
            ..Default::default()
        })
    }

    fn ports(endpoints: &Endpoints) -> Vec<u16> {
        endpoints.by_address.keys().map(SocketAddr::port).collect()
    }

    #[test]
    fn updates_are_incremental_within_a_stream() {
        let endpoints = Endpoints::default()
            .apply(add(&[1, 2]), true)
            .apply(add(&[3]), false);
        assert_eq!(ports(&endpoints), [1, 2, 3]);
        let removed = proto::AddrSet {
            addrs: vec![TcpAddress::from(address(2))],
        };
        let endpoints = endpoints.apply(Update::Remove(removed), false);
        assert_eq!(ports(&endpoints), [1, 3]);
        // A new stream says everything again.
        assert_eq!(ports(&endpoints.apply(add(&[4]), true)), [4]);
        assert!(
            ports(&endpoints.apply(
                Update::NoEndpoints(proto::NoEndpoints { exists: true }),
                false
            ))
            .is_empty()
        );
    }

    #[test]
    fn unusable_endpoints_are_left_out() {
        assert_eq!(ports(&Endpoints::default().apply(add(&[0, 7]), true)), [7]);
    }
}
