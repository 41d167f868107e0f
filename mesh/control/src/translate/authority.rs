//! What proxies look up: a Service by its DNS name, or an address.

use std::net::{IpAddr, SocketAddr};

use linkerd2_proxy_api::net::TcpAddress;

use crate::policy::Key;

/// The end of every Service's DNS name.
const SUFFIX: &str = ".svc.cluster.local";

/// A target of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Service's port by name.
    Service(Key, u16),
    /// An address: a ClusterIP, a pod's, or a stranger's.
    Address(SocketAddr),
}

/// The DNS name of a Service's port.
pub fn name(service: &Key, port: u16) -> String {
    format!("{}.{}{SUFFIX}:{port}", service.name, service.namespace)
}

/// Parses `NAME.NAMESPACE.svc.cluster.local:PORT` and `IP:PORT`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse(text: &str) -> Result<Target, String> {
    let wrong = || {
        format!(
            "`{}` is not a target: write NAME.NAMESPACE{SUFFIX}:PORT or IP:PORT",
            text.chars().take(300).collect::<String>()
        )
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(wrong())
        } else {
            Ok(Target::Address(address))
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let (name, namespace) = host
        .strip_suffix(SUFFIX)
        .and_then(|host| host.split_once('.'))
        .filter(|(name, namespace)| {
            !name.is_empty() && !namespace.is_empty() && !namespace.contains('.')
        })
        .ok_or_else(wrong)?;
    if port == 0 || host.len() > 253 {
        return Err(wrong());
    }
    Ok(Target::Service(Key::new(namespace, name), port))
}

/// The address in a proxy's question.
///
/// # Errors
/// A sentence, if there is none in it.
pub fn address(address: TcpAddress) -> Result<Target, String> {
    let ip = address
        .ip
        .and_then(|ip| IpAddr::try_from(ip).ok())
        .ok_or("the address has no IP")?;
    let port = u16::try_from(address.port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or("the address has no port from 1 to 65535")?;
    Ok(Target::Address(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let orders = Target::Service(Key::new("sagamesh", "orders"), 50051);
        assert_eq!(
            parse("orders.sagamesh.svc.cluster.local:50051"),
            Ok(orders.clone())
        );
        assert_eq!(
            parse("Orders.sagamesh.svc.cluster.local.:50051"),
            Ok(orders)
        );
        assert_eq!(
            parse("10.96.0.10:50051"),
            Ok(Target::Address(SocketAddr::from(([10, 96, 0, 10], 50051))))
        );
        for wrong in [
            "",
            "orders",
            "orders:50051",
            "orders.sagamesh.svc.cluster.local",
            "orders.sagamesh.svc.cluster.local:0",
            "a.b.c.svc.cluster.local:1",
            ".svc.cluster.local:1",
            "10.96.0.10:0",
            "example.com:443",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_read_back() {
        let key = Key::new("sagamesh", "coordinator-0");
        assert_eq!(
            parse(&name(&key, 50051)),
            Ok(Target::Service(key.clone(), 50051))
        );
    }
}
