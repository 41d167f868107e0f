//! The addresses of one system: a block that no other system has, recorded in the data folder so that a restart keeps it.
//!
//! A workload is an address of its own, as a pod is in a cluster, so that everybody listens on the same ports as there.
//! Linux answers on all of 127.0.0.0/8; elsewhere, and where another program holds one of those ports on every address, a
//! workload is a range of ports on 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::launcher::plan::SERVICES;

/// Ports of a workload, the same as in a cluster: its own two, and its sidecar's three.
const GRPC: u16 = 50_051;
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

/// Blocks of addresses are 127.B.C.0/24 with B from here on.
const FIRST_B: u8 = 64;
const LOOPBACK_BLOCKS: u16 = 64 * 256;
/// Another program on one of the ports at every address shows in each block alike.
const LOOPBACK_TRIES: u16 = 8;
/// Blocks of ports lie below the ports that operating systems give to outgoing connections.
const FIRST_PORT: u16 = 20_000;
const PORTS_PER_BLOCK: u16 = (CLAIM_NUMBER as u16 + 1) * PORTS_PER_WORKLOAD;
const PORT_BLOCKS: u16 = 33;
/// Public ports for `--port 0`: above those, and below those of outgoing connections.
const FIRST_PUBLIC: u16 = 32_000;
const PUBLIC_PORTS: u16 = 760;
/// A listener here is a system's claim to a public port.
const PUBLIC_CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 127, 127, 127);
/// How long processes of a killed launcher may still hold their addresses.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// The app's /live, /ready and /metrics.
    pub(crate) admin: SocketAddr,
    /// What the app hands to its sidecar.
    pub(crate) outbound: SocketAddr,
    /// What other sidecars hand to this one.
    pub(crate) inbound: SocketAddr,
    /// The sidecar's /live, /ready and /metrics.
    pub(crate) sidecar_admin: SocketAddr,
}

/// Keeps a block, and a public port that was chosen here, from other systems, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _listeners: Vec<TcpListener>,
}

impl Addresses {
    /// The recorded block, or a free one that is recorded now. `port` is the gateway's on 127.0.0.1; 0 takes a free one.
    /// `listens` says which addresses will be listened on.
    pub(crate) fn choose(
        data_dir: &Path,
        port: u16,
        own_network: bool,
        listens: impl Fn(&Addresses) -> Vec<(String, SocketAddr)>,
    ) -> anyhow::Result<(Addresses, Claim)> {
        let path = data_dir.join("addresses.json");
        let spread = spread(data_dir);
        let recorded = read(&path)?;
        let (public, door) = match (port, recorded) {
            (0, recorded) => any_public(recorded, spread)?,
            _ => (port, Vec::new()),
        };
        let public = SocketAddr::from((Ipv4Addr::LOCALHOST, public));
        let wanted = listens(&Addresses::at(public));
        if port != 0 && !free(public) && wanted.iter().any(|(_, address)| *address == public) {
            return Err(Failure::new(
                Exit::Failed,
                format!("port {port} of the gateway is in use by another program"),
            )
            .hint(
                "Choose another one with --port (0 takes any free one), or stop the other program.",
            )
            .into());
        }
        let at = |place| Addresses { place, public };
        let recorded = match own_network {
            true => Some(at(Place::Namespace)),
            false => recorded,
        };
        let again = recorded.and_then(|recorded| {
            let addresses = at(recorded.place);
            addresses.claim().map(|claim| (addresses, claim))
        });
        let chosen = match again {
            Some((addresses, claim)) => {
                addresses.when_free(&listens, &path)?;
                (addresses, claim)
            }
            None => candidates(spread)
                .map(at)
                .find_map(|addresses| {
                    let claim = addresses.claim()?;
                    let taken = taken(&listens(&addresses));
                    taken.is_none().then_some((addresses, claim))
                })
                .ok_or_else(|| {
                    Failure::new(
                        Exit::Failed,
                        "no block of free addresses in 127.64.0.0/10, and no block of free ports from 20000 to 32000",
                    )
                })?,
        };
        std::fs::write(&path, serde_json::to_string(&chosen.0)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        let (addresses, block) = chosen;
        let listeners = door.into_iter().chain([block]).collect();
        let claim = Claim {
            _listeners: listeners,
        };
        Ok((addresses, claim))
    }

    /// Any block: for questions that do not depend on it.
    fn at(public: SocketAddr) -> Addresses {
        let place = Place::Loopback { b: FIRST_B, c: 0 };
        Addresses { place, public }
    }

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
        if port != 0 && free(usual) {
            usual
        } else {
            self.own_consul()
        }
    }

    fn numbered(&self, number: u8) -> Pod {
        let address = |index: u16, port| self.address(number, index, port);
        Pod {
            grpc: address(0, GRPC),
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

    fn claim(&self) -> Option<TcpListener> {
        TcpListener::bind(self.address(CLAIM_NUMBER, 0, CONTROL)).ok()
    }

    /// Waits until what a killed launcher left has let go of them.
    fn when_free(
        &self,
        listens: impl Fn(&Addresses) -> Vec<(String, SocketAddr)>,
        path: &Path,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let wanted = listens(self);
        while let Some((name, address)) = taken(&wanted) {
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "{address} of {name}, recorded in {}, is in use by another program",
                        path.display()
                    ),
                )
                .hint(format!(
                    "Stop that program, or delete {} to let the system choose other addresses.",
                    path.display()
                ))
                .into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn for_test(linux: bool) -> Addresses {
        let place = if linux {
            Place::Loopback { b: 70, c: 9 }
        } else {
            Place::Ports { first: FIRST_PORT }
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

/// What was recorded; nothing for a new folder.
fn read(path: &Path) -> anyhow::Result<Option<Addresses>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let wrong = || {
                format!(
                    "{} is not what `sagamesh up` writes: delete it",
                    path.display()
                )
            };
            Ok(Some(serde_json::from_str(&text).with_context(wrong)?))
        }
        Err(_) => Ok(None),
    }
}

/// Blocks to try, the best first.
fn candidates(spread: u64) -> impl Iterator<Item = Place> {
    let loopback = if cfg!(target_os = "linux") {
        LOOPBACK_TRIES
    } else {
        0
    };
    let step = move |step: u16, of: u16| {
        u16::try_from(spread.wrapping_add(u64::from(step)) % u64::from(of)).unwrap_or(0)
    };
    let loopback = (0..loopback).map(move |at| {
        let [b, c] = step(at, LOOPBACK_BLOCKS).to_be_bytes();
        Place::Loopback { b: FIRST_B + b, c }
    });
    let ports = (0..PORT_BLOCKS).map(move |at| Place::Ports {
        first: FIRST_PORT + step(at, PORT_BLOCKS) * PORTS_PER_BLOCK,
    });
    loopback.chain(ports)
}

/// A public port for a system that takes any: the one that it had, or a free one; and the claim to it.
fn any_public(recorded: Option<Addresses>, spread: u64) -> anyhow::Result<(u16, Vec<TcpListener>)> {
    let had = recorded.map(|recorded| recorded.public.port());
    if let Some(port) = had
        && let Some(door) = claim_public(port)
    {
        return Ok((port, door));
    }
    (0..PUBLIC_PORTS)
        .filter_map(|step| {
            u16::try_from(spread.wrapping_add(u64::from(step)) % u64::from(PUBLIC_PORTS)).ok()
        })
        .map(|offset| FIRST_PUBLIC + offset)
        .filter(|port| free((Ipv4Addr::LOCALHOST, *port).into()))
        .find_map(|port| Some((port, claim_public(port)?)))
        .ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                "no free port from 32000 to 32759 for the gateway",
            )
            .hint("Name one with --port.")
            .into()
        })
}

/// Keeps a public port from other systems that take any; the gateway itself will listen on it. Only where there is an
/// address for that: elsewhere that it was free must do.
fn claim_public(port: u16) -> Option<Vec<TcpListener>> {
    if cfg!(target_os = "linux") {
        let listener = TcpListener::bind((PUBLIC_CLAIMS, port)).ok()?;
        Some(vec![listener])
    } else {
        Some(Vec::new())
    }
}

fn taken(wanted: &[(String, SocketAddr)]) -> Option<(String, SocketAddr)> {
    wanted.iter().find(|(_, address)| !free(*address)).cloned()
}

fn free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Where to begin to look: different for different folders (FNV-1a), so that systems started together do not meet.
fn spread(data_dir: &Path) -> u64 {
    data_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
        // Its low bits alone would be poor.
        >> 20
}

#[cfg(test)]
mod tests;
