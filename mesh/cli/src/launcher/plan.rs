//! What a launcher starts: which services, how many of each, in which order, with which environment. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};
use crate::launcher::ports::Ports;

/// The services, in the order in which they are shown.
pub(crate) const SERVICES: [&str; 6] = [
    "coordinator",
    "orders",
    "inventory",
    "payments",
    "notifications",
    "gateway",
];

/// Most replicas of one service: what a block of ports has room for.
pub(crate) const MAX_REPLICAS: u32 = 5;

/// Variables that no process inherits from the user's shell: each is for one process, and the launcher sets it or leaves
/// it unset; or it is for the command `sagamesh` alone, and may be a secret.
pub(crate) const OWN_VARIABLES: [&str; 18] = [
    "SAGAMESH_LISTEN",
    "SAGAMESH_ADMIN_LISTEN",
    "SAGAMESH_ADDRESSES_FILE",
    "SAGAMESH_DATA_DIR",
    "SAGAMESH_DATABASE_URL",
    "SAGAMESH_DRAIN_DELAY",
    "SAGAMESH_DRAIN_TIMEOUT",
    "SAGAMESH_EXIT_WITH_PARENT",
    "SAGAMESH_REPLICA",
    "SAGAMESH_COORDINATOR",
    "SAGAMESH_ORDERS",
    "SAGAMESH_INVENTORY",
    "SAGAMESH_PAYMENTS",
    "SAGAMESH_NOTIFICATIONS",
    "SAGAMESH_BIN_DIR",
    "SAGAMESH_PORT",
    "SAGAMESH_POSTGRES",
    "SAGAMESH_TOKEN",
];

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Each service that is started, with the number of its replicas.
    pub(crate) replicas: Vec<(&'static str, u32)>,
}

/// One process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Name of the service, and of its binary.
    pub(crate) service: &'static str,
    /// Which replica, from 0.
    pub(crate) replica: u32,
    /// Name to show and to call its files by.
    pub(crate) label: String,
    /// Its own environment, on top of the launcher's.
    pub(crate) environment: BTreeMap<String, String>,
    /// `host:port` of its public side.
    pub(crate) listen: String,
    /// `host:port` of its admin side.
    pub(crate) admin: String,
    /// Its log file.
    pub(crate) log: PathBuf,
}

impl Plan {
    /// Checks `--services` and `--replicas`.
    pub(crate) fn new(
        only: &[String],
        replicas: &[(String, u32)],
        postgres: bool,
    ) -> Result<Plan, Failure> {
        for name in only.iter().chain(replicas.iter().map(|(name, _)| name)) {
            if !SERVICES.contains(&name.as_str()) {
                return Err(
                    Failure::new(Exit::Usage, format!("there is no service named {name}"))
                        .hint(format!("The services are {}.", SERVICES.join(", "))),
                );
            }
        }
        for (name, count) in replicas {
            check_replicas(name, *count, postgres)?;
        }
        let count = |service: &str| {
            replicas
                .iter()
                .find(|(name, _)| name == service)
                .map_or(1, |(_, count)| *count)
        };
        let chosen = |service: &&str| only.is_empty() || only.iter().any(|name| name == service);
        Ok(Plan {
            replicas: SERVICES
                .into_iter()
                .filter(chosen)
                .map(|service| (service, count(service)))
                .collect(),
        })
    }

    /// The processes to start.
    pub(crate) fn instances(
        &self,
        data_dir: &Path,
        ports: &Ports,
        postgres: Option<&BTreeMap<&str, String>>,
    ) -> Vec<Instance> {
        let peers = peers(ports);
        let mut instances = Vec::new();
        for &(service, count) in &self.replicas {
            for replica in 0..count {
                let label = if count > 1 {
                    format!("{service}-{replica}")
                } else {
                    service.to_owned()
                };
                let listen = ports.listen(service, replica);
                let admin = ports.admin(service, replica);
                let mut environment = peers.clone();
                environment.insert("SAGAMESH_LISTEN".into(), listen.clone());
                environment.insert("SAGAMESH_ADMIN_LISTEN".into(), admin.clone());
                environment.insert("SAGAMESH_EXIT_WITH_PARENT".into(), "true".into());
                // Within the launcher's own 10 s: the gateway ends first, then all others at once.
                let drain = if service == "gateway" { "3s" } else { "5s" };
                environment.insert("SAGAMESH_DRAIN_TIMEOUT".into(), drain.into());
                environment.insert("SAGAMESH_DATA_DIR".into(), data_dir.display().to_string());
                if let Some(url) = postgres.and_then(|urls| urls.get(service)) {
                    environment.insert("SAGAMESH_DATABASE_URL".into(), url.clone());
                }
                let log = data_dir.join("logs").join(format!("{label}.log"));
                instances.push(Instance {
                    service,
                    replica,
                    label,
                    environment,
                    listen,
                    admin,
                    log,
                });
            }
        }
        instances
    }
}

/// Where every service finds the others; also those that are not started, which may be run by hand.
fn peers(ports: &Ports) -> BTreeMap<String, String> {
    let name = |service: &str| format!("SAGAMESH_{}", service.to_uppercase());
    SERVICES
        .iter()
        .filter(|service| **service != "gateway")
        .map(|service| {
            (
                name(service),
                format!("http://{}", ports.listen(service, 0)),
            )
        })
        .collect()
}

fn check_replicas(name: &str, count: u32, postgres: bool) -> Result<(), Failure> {
    if count == 0 || count > MAX_REPLICAS {
        return Err(Failure::new(
            Exit::Usage,
            format!("--replicas {name}={count} is not possible: 1 to {MAX_REPLICAS} are"),
        )
        .hint(format!(
            "To leave {name} out, list the other services with --services."
        )));
    }
    if count == 1 {
        return Ok(());
    }
    match name {
        "gateway" => Err(Failure::new(Exit::Usage, "--replicas gateway: the gateway owns the one public port, so there is one of it")
            .hint("Start a second system with another --data-dir and --port to have a second gateway.")),
        "coordinator" => Err(Failure::new(Exit::Usage, "--replicas coordinator: there is one coordinator per system for now")
            .hint("Leave it at 1; the other services may have several replicas with --postgres.")),
        _ if !postgres => Err(Failure::new(
            Exit::Usage,
            format!("--replicas {name}={count} needs --postgres: replicas of a service that has a database need one that they can share"),
        )
        .hint("Add --postgres URL; on SQLite every service runs once.")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(only: &[&str], replicas: &[(&str, u32)], postgres: bool) -> String {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        Plan::new(&only, &replicas, postgres)
            .map(|plan| format!("{plan:?}"))
            .unwrap_or_else(|failure| failure.message)
    }

    #[test]
    fn replicas_need_a_shared_database() {
        assert!(refused(&[], &[("orders", 2)], false).contains("needs --postgres"));
        assert!(refused(&[], &[("coordinator", 2)], true).contains("one coordinator"));
        assert!(refused(&[], &[("gateway", 2)], true).contains("public port"));
        assert!(refused(&[], &[("orders", 0)], true).contains("1 to 5"));
        assert!(refused(&[], &[("order", 2)], true).contains("no service named order"));
        assert!(refused(&["gatway"], &[], true).contains("no service named gatway"));
    }

    #[test]
    fn what_the_launcher_sets_is_never_inherited() -> Result<(), Failure> {
        let plan = Plan::new(&[], &[], false)?;
        let instances = plan.instances(Path::new("/data"), &Ports::for_test(20_000, 8080), None);
        for name in instances.iter().flat_map(|one| one.environment.keys()) {
            assert!(OWN_VARIABLES.contains(&name.as_str()), "{name}");
        }
        Ok(())
    }

    #[test]
    fn each_replica_has_its_own_ports_log_and_one_database() -> Result<(), Failure> {
        let plan = Plan::new(&["orders".into()], &[("orders".into(), 2)], true)?;
        let urls = BTreeMap::from([("orders", "postgres://localhost/sagamesh_orders".to_owned())]);
        let instances = plan.instances(
            Path::new("/data"),
            &Ports::for_test(20_000, 8080),
            Some(&urls),
        );
        assert_eq!(instances.len(), 2);
        assert_eq!(instances[1].log, Path::new("/data/logs/orders-1.log"));
        assert_ne!(instances[0].listen, instances[1].listen);
        assert_eq!(
            instances[0].environment["SAGAMESH_DATABASE_URL"],
            instances[1].environment["SAGAMESH_DATABASE_URL"]
        );
        assert_eq!(
            instances[0].environment["SAGAMESH_COORDINATOR"],
            "http://127.0.0.1:20000"
        );
        Ok(())
    }
}
