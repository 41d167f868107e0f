//! The addresses of one system: a block that no other system has, recorded in the data folder so that a restart keeps it.
//!
//! A workload is an address of its own, as a pod is in a cluster, so that everybody listens on the same ports as there.
//! Linux answers on all of 127.0.0.0/8; elsewhere, and where another program holds one of those ports on every address, a
//! workload is a range of ports on 127.0.0.1.

mod choice;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::launcher::plan::SERVICES;

pub(crate) use choice::Claim;

/// Ports of a workload, the same as in a cluster: its own two, and its sidecar's three.
const GRPC: u16 = 50_051;
const HTTP: u16 = 8_080;
const ADMIN: u16 = 9_090;
const OUTBOUND: u16 = 4_140;
const INBOUND: u16 = 4_143;
const SIDECAR_ADMIN: u16 = 4_191;
const PORTS_PER_WORKLOAD: u16 = 5;
/// Where the control plane serves.
const CONTROL: u16 = 8_086;
/// Where the control plane serves Consul's API.
const CONSUL: u16 = 8_500;

/// Workloads are numbered from 1: the control plane, the operator, then ten for each service.
const CONTROL_NUMBER: u8 = 1;
const OPERATOR_NUMBER: u8 = 2;
/// A listener of this number is a system's claim to its block.
const CLAIM_NUMBER: u8 = 70;

/// Where a system's workloads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    /// An address each: 127.B.C.n.
    Loopback { b: u8, c: u8 },
    /// Ports each, from this one on.
    Ports { first: u16 },
    /// An address each in a network of the system's own: 10.99.0.n.
    Namespace,
}

/// The addresses of one system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    place: Place,
    /// Where users find the gateway.
    public: SocketAddr,
}

/// Where one workload and its sidecar listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The app's requests.
    pub(crate) grpc: SocketAddr,
    /// The same of one of several gateways.
    pub(crate) http: SocketAddr,
    /// The app's /live, /ready and /metrics.
    pub(crate) admin: SocketAddr,
    /// What the app hands to its sidecar.
    pub(crate) outbound: SocketAddr,
    /// What other sidecars hand to this one.
    pub(crate) inbound: SocketAddr,
    /// The sidecar's /live, /ready and /metrics.
    pub(crate) sidecar_admin: SocketAddr,
}

impl Addresses {
    /// Where users find the gateway.
    pub(crate) fn public(&self) -> SocketAddr {
        self.public
    }

    /// The workload of a replica of a service.
    pub(crate) fn pod(&self, service: &str, replica: u32) -> Pod {
        let position = SERVICES.iter().position(|name| *name == service);
        let position = position.unwrap_or(SERVICES.len());
        let number = 10 + position * 10 + usize::try_from(replica).unwrap_or(9).min(9);
        self.numbered(u8::try_from(number).unwrap_or(u8::MAX))
    }

    /// The workload of whoever operates the system: a sidecar without an app.
    pub(crate) fn operator(&self) -> Pod {
        self.numbered(OPERATOR_NUMBER)
    }

    /// Where the control plane serves.
    pub(crate) fn control(&self) -> SocketAddr {
        match self.place {
            Place::Loopback { .. } | Place::Namespace => self.address(CONTROL_NUMBER, 0, CONTROL),
            Place::Ports { .. } => self.address(CONTROL_NUMBER, 0, GRPC),
        }
    }

    /// The control plane's /live, /ready and /metrics.
    pub(crate) fn control_admin(&self) -> SocketAddr {
        self.address(CONTROL_NUMBER, 1, ADMIN)
    }

    /// Where the control plane serves Consul's API when its usual place is another's.
    fn own_consul(&self) -> SocketAddr {
        self.address(CONTROL_NUMBER, 2, CONSUL)
    }

    /// Where the control plane serves Consul's API: at its usual place for a system with a public port of its own, when
    /// nobody is there.
    pub(crate) fn consul(&self, port: u16) -> SocketAddr {
        let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, CONSUL));
        if port != 0 && choice::free(usual) {
            usual
        } else {
            self.own_consul()
        }
    }

    fn numbered(&self, number: u8) -> Pod {
        let address = |index: u16, port| self.address(number, index, port);
        Pod {
            grpc: address(0, GRPC),
            http: address(0, HTTP),
            admin: address(1, ADMIN),
            outbound: address(2, OUTBOUND),
            inbound: address(3, INBOUND),
            sidecar_admin: address(4, SIDECAR_ADMIN),
        }
    }

    /// The address of a workload's port: `port` where it has an address of its own, its `index`th elsewhere.
    fn address(&self, number: u8, index: u16, port: u16) -> SocketAddr {
        match self.place {
            Place::Loopback { b, c } => (Ipv4Addr::new(127, b, c, number), port).into(),
            Place::Ports { first } => {
                let port = first + u16::from(number) * PORTS_PER_WORKLOAD + index;
                (Ipv4Addr::LOCALHOST, port).into()
            }
            // Linkerd's proxy talks to a control plane without TLS only on loopback.
            Place::Namespace if number == CONTROL_NUMBER => (Ipv4Addr::LOCALHOST, port).into(),
            Place::Namespace => (Ipv4Addr::new(10, 99, 0, number), port).into(),
        }
    }

    /// The addresses that a network of the system's own must have.
    pub(crate) fn of_own_network() -> impl Iterator<Item = String> {
        (OPERATOR_NUMBER..=CLAIM_NUMBER).map(|number| format!("10.99.0.{number}"))
    }

    #[cfg(test)]
    pub(crate) fn for_test(linux: bool) -> Addresses {
        let place = if linux {
            Place::Loopback { b: 70, c: 9 }
        } else {
            Place::Ports {
                first: choice::FIRST_PORT,
            }
        };
        Addresses {
            place,
            public: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        }
    }
}

impl Pod {
    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.grpc.ip()
    }
}

#[cfg(test)]
mod tests;
