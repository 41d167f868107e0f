//! Policy and endpoints as Linkerd's proxies are told of them. Pure: the same input gives the same messages.
//!
//! A message that a proxy cannot convert fails every request with INTERNAL, so each is the least that is valid: metadata
//! everywhere, `rpc` in every gRPC match, queue and load in every backend, conditions in every retry, backoff in every
//! failure accrual.

pub mod authority;
pub mod destination;
pub mod inbound;
mod matching;
pub mod outbound;

use std::net::IpAddr;
use std::time::Duration;

use linkerd2_proxy_api::{meta, net};

use crate::policy::Key;

/// What Linkerd writes for the group of a route.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// The group of Linkerd's own kinds.
const LINKERD: &str = "policy.linkerd.io";

fn duration(duration: Duration) -> prost_types::Duration {
    chassis::timestamp::from_duration(duration)
}

fn resource(group: &str, kind: &str, key: &Key, port: u16) -> meta::Metadata {
    meta::Metadata {
        kind: Some(meta::metadata::Kind::Resource(meta::Resource {
            group: group.to_owned(),
            kind: kind.to_owned(),
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            section: String::new(),
            port: u32::from(port),
        })),
    }
}

fn default(name: &str) -> meta::Metadata {
    meta::Metadata {
        kind: Some(meta::metadata::Kind::Default(name.to_owned())),
    }
}

fn tcp_address(ip: IpAddr, port: u16) -> net::TcpAddress {
    net::TcpAddress {
        ip: Some(net::IpAddress::from(ip)),
        port: u32::from(port),
    }
}
