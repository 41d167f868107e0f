//! Choosing a block of addresses, and keeping it from other systems.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Addresses, CLAIM_NUMBER, CONTROL, PORTS_PER_WORKLOAD, Place};
use crate::failure::{Exit, Failure};

/// Blocks of addresses are 127.B.C.0/24 with B from here on.
const FIRST_B: u8 = 64;
const LOOPBACK_BLOCKS: u16 = 64 * 256;
/// Another program on one of the ports at every address shows in each block alike.
const LOOPBACK_TRIES: u16 = 8;
/// Blocks of ports lie below the ports that operating systems give to outgoing connections.
pub(super) const FIRST_PORT: u16 = 20_000;
pub(super) const PORTS_PER_BLOCK: u16 = (CLAIM_NUMBER as u16 + 1) * PORTS_PER_WORKLOAD;
pub(super) const PORT_BLOCKS: u16 = 33;
/// Public ports for `--port 0`: above those, and below those of outgoing connections.
pub(super) const FIRST_PUBLIC: u16 = 32_000;
const PUBLIC_PORTS: u16 = 760;
/// A listener here is a system's claim to a public port.
const PUBLIC_CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 127, 127, 127);
/// How long processes of a killed launcher may still hold their addresses.
const PATIENCE: Duration = Duration::from_secs(10);

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
        // Beside and renamed: half of it, after a crash, would keep the system from starting.
        let beside = path.with_extension("tmp");
        std::fs::write(&beside, serde_json::to_string(&chosen.0)? + "\n")
            .and_then(|()| std::fs::rename(&beside, &path))
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

pub(super) fn free(address: SocketAddr) -> bool {
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
