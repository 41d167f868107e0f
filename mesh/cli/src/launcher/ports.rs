//! The ports of one system: a block that is free, recorded in the data folder so that a restart keeps it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::launcher::plan::{Plan, SERVICES};

/// Ports per block: ten for each service.
const BLOCK: u16 = 60;
/// Blocks lie below the ports that operating systems give to outgoing connections.
const FIRST: u16 = 20_000;
const BLOCKS: u16 = 200;
/// How long processes of a killed launcher may still hold their ports.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ports of one system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// First port of the block.
    block: u16,
    /// Port of the gateway.
    gateway: u16,
}

impl Ports {
    /// The recorded block, or a free one that is recorded now. `gateway` of 0 takes the gateway's port from the block too.
    pub(crate) fn choose(data_dir: &Path, gateway: u16, plan: &Plan) -> anyhow::Result<Ports> {
        let path = data_dir.join("ports.json");
        let recorded: Option<u16> = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let ports: Ports = serde_json::from_str(&text).with_context(|| {
                    format!(
                        "{} is not what `sagamesh up` writes: delete it",
                        path.display()
                    )
                })?;
                Some(ports.block)
            }
            Err(_) => None,
        };
        let ports = match recorded {
            Some(block) => Ports::at(block, gateway).when_free(plan, &path)?,
            None => {
                let first = spread(data_dir);
                (0..BLOCKS)
                    .map(|step| Ports::at(FIRST + (first + step) % BLOCKS * BLOCK, gateway))
                    .find(|ports| ports.taken_in_block(plan).is_none())
                    .ok_or_else(|| {
                        Failure::new(
                            Exit::Failed,
                            "no block of free ports between 20000 and 32000",
                        )
                    })?
            }
        };
        if ports.gateway == gateway
            && !free(gateway)
            && plan
                .replicas
                .iter()
                .any(|(service, _)| *service == "gateway")
        {
            return Err(Failure::new(
                Exit::Failed,
                format!("port {gateway} of the gateway is in use by another program"),
            )
            .hint(
                "Choose another one with --port (0 takes any free one), or stop the other program.",
            )
            .into());
        }
        std::fs::write(&path, serde_json::to_string(&ports)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ports)
    }

    fn at(block: u16, gateway: u16) -> Ports {
        let own = block + index("gateway") * 10;
        Ports {
            block,
            gateway: if gateway == 0 { own } else { gateway },
        }
    }

    /// `host:port` of the public side of a service.
    pub(crate) fn listen(&self, service: &str, replica: u32) -> String {
        let port = if service == "gateway" {
            self.gateway
        } else {
            self.port(service, replica)
        };
        format!("127.0.0.1:{port}")
    }

    /// `host:port` of the admin side of a service.
    pub(crate) fn admin(&self, service: &str, replica: u32) -> String {
        format!("127.0.0.1:{}", self.port(service, replica) + 1)
    }

    fn port(&self, service: &str, replica: u32) -> u16 {
        let replica = u16::try_from(replica).unwrap_or(u16::MAX);
        self.block + index(service) * 10 + replica * 2
    }

    /// The recorded block, once it is free.
    fn when_free(self, plan: &Plan, path: &Path) -> anyhow::Result<Ports> {
        let begun = Instant::now();
        while let Some((service, port)) = self.taken_in_block(plan) {
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "port {port} of {service}, recorded in {}, is in use by another program",
                        path.display()
                    ),
                )
                .hint(format!(
                    "Stop that program, or delete {} to let the system choose other ports.",
                    path.display()
                ))
                .into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(self)
    }

    fn taken_in_block(&self, plan: &Plan) -> Option<(&'static str, u16)> {
        plan.replicas
            .iter()
            .flat_map(|&(service, count)| {
                (0..count).map(move |replica| (service, self.port(service, replica)))
            })
            .flat_map(|(service, port)| [(service, port), (service, port + 1)])
            .find(|(_, port)| !free(*port))
    }

    #[cfg(test)]
    pub(crate) fn for_test(block: u16, gateway: u16) -> Ports {
        Ports::at(block, gateway)
    }
}

fn index(service: &str) -> u16 {
    let position = SERVICES
        .iter()
        .position(|name| *name == service)
        .unwrap_or(SERVICES.len());
    u16::try_from(position).unwrap_or(u16::MAX)
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Where to begin to look: different for different folders (FNV-1a), so that systems started together do not meet.
fn spread(data_dir: &Path) -> u16 {
    let hash = data_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    u16::try_from(hash % u64::from(BLOCKS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_its_ports_and_says_which_one_is_taken() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let plan = Plan::new(&[], &[], false)?;
        let ports = Ports::choose(folder.path(), 0, &plan)?;
        assert_eq!(Ports::choose(folder.path(), 0, &plan)?, ports);
        assert!(ports.listen("gateway", 0).starts_with("127.0.0.1:2"));
        Ok(())
    }

    #[test]
    fn a_taken_gateway_port_is_named() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = holder.local_addr()?.port();
        let plan = Plan::new(&[], &[], false)?;
        let message = Ports::choose(folder.path(), port, &plan)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert_eq!(
            message,
            format!("port {port} of the gateway is in use by another program")
        );
        Ok(())
    }

    #[test]
    fn no_two_processes_share_a_port() {
        let ports = Ports::for_test(FIRST, 0);
        let mut seen = std::collections::BTreeSet::new();
        for service in SERVICES {
            for replica in 0..crate::launcher::plan::MAX_REPLICAS {
                if service == "gateway" && replica > 0 {
                    continue;
                }
                assert!(seen.insert(ports.listen(service, replica)));
                assert!(seen.insert(ports.admin(service, replica)));
            }
        }
    }
}
