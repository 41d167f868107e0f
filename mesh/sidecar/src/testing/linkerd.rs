//! Linkerd's own proxy, where its binary is at hand: the environment it takes, and a network in which it works.
//!
//! It asks the kernel where a connection was meant to go, which is answered only where connections are tracked: so it
//! runs in a network namespace of its own, in which the addresses of Services are redirected to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command as StdCommand;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{ControlPlane, policies};
use crate::Config;
use crate::config::DefaultPolicy;

/// Set inside of the namespace.
const INSIDE: &str = "SAGAMESH_TEST_NAMESPACE";
/// Addresses of pods are 10.99.0.0/16, of Services 10.96.0.0/16: all of them are this machine's.
const NETWORK: &str = "ip link set lo up && ip route add local 10.99.0.0/16 dev lo \
    && ip route add local 10.96.0.0/16 dev lo \
    && nft 'add table ip mesh; add chain ip mesh output { type nat hook output priority -100; policy accept; }' \
    && exec \"$0\" \"$@\"";

/// `program` with what follows, in a network namespace of its own.
pub fn in_namespace(program: &Path) -> StdCommand {
    let mut command = StdCommand::new("unshare");
    command
        .args(["-Urn", "sh", "-c", NETWORK])
        .arg(program)
        .env(INSIDE, "1");
    command
}

/// Whether this process is in such a namespace.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Sends connections to `services`, a range of addresses, to `outbound` of 127.0.0.1.
///
/// # Errors
/// If the rule is refused.
pub fn redirect(services: &str, outbound: u16) -> anyhow::Result<()> {
    let rule = format!(
        "add rule ip mesh output ip daddr {services} meta l4proto tcp redirect to :{outbound}"
    );
    let output = StdCommand::new("nft")
        .arg(&rule)
        .output()
        .context("cannot run nft")?;
    ensure!(
        output.status.success(),
        "nft refuses `{rule}`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// What a proxy, Linkerd's or this crate's, is told by its environment to be what `config` says.
pub fn environment(config: &Config) -> Vec<(String, String)> {
    let join = |all: Vec<String>| all.join(",");
    let default_policy = match config.inbound.default_policy {
        DefaultPolicy::AllUnauthenticated => "all-unauthenticated",
        DefaultPolicy::AllAuthenticated => "all-authenticated",
        DefaultPolicy::Deny => "deny",
    };
    let outbound = &config.outbound;
    [
        (
            "DESTINATION_SVC_ADDR",
            config.control.destination.to_string(),
        ),
        ("POLICY_SVC_ADDR", config.control.policy.to_string()),
        ("IDENTITY_SVC_ADDR", config.control.identity.to_string()),
        ("POLICY_WORKLOAD", config.control.workload.clone()),
        (
            "DESTINATION_CONTEXT",
            config.control.destination_context.clone(),
        ),
        (
            "IDENTITY_TOKEN_FILE",
            config.identity.token_file.display().to_string(),
        ),
        (
            "IDENTITY_TRUST_ANCHORS",
            config.identity.trust_anchors.clone(),
        ),
        ("IDENTITY_LOCAL_NAME", config.identity.local_name.clone()),
        ("INBOUND_LISTEN_ADDR", config.inbound.listen.to_string()),
        (
            "INBOUND_IPS",
            join(config.inbound.ips.iter().map(IpAddr::to_string).collect()),
        ),
        (
            "INBOUND_PORTS",
            join(config.inbound.ports.iter().map(u16::to_string).collect()),
        ),
        ("INBOUND_DEFAULT_POLICY", default_policy.to_owned()),
        ("OUTBOUND_LISTEN_ADDR", outbound.listen[0].to_string()),
        (
            "OUTBOUND_DISCOVERY_IDLE_TIMEOUT",
            format!("{}ms", outbound.discovery_idle.as_millis()),
        ),
        ("ADMIN_LISTEN_ADDR", config.admin_listen.to_string()),
        (
            "SHUTDOWN_GRACE_PERIOD",
            format!("{}ms", config.shutdown_grace.as_millis()),
        ),
        ("LOG", config.log.clone()),
        ("CORES", config.cores.to_string()),
    ]
    .map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value))
    .into()
}

/// A port of `ip` that is free now.
///
/// # Errors
/// If the address is not this machine's.
pub fn free_port(ip: IpAddr) -> std::io::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

/// A proxy as a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where peers connect.
    pub inbound: SocketAddr,
    /// Where the app's connections are redirected to.
    pub outbound: SocketAddr,
    /// Where /live, /ready and /metrics are served.
    pub admin: SocketAddr,
    _identity: IdentityFolder,
}

impl Process {
    /// Starts the proxy `binary`, which takes Linkerd's environment, with free ports in place of those that `config`
    /// leaves open. `control` is told of its admin port, for which Linkerd's proxy asks for a policy too. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        binary: &Path,
        control: &ControlPlane,
        mut config: Config,
    ) -> anyhow::Result<Self> {
        // Where a redirected connection of this machine's own arrives, and whom everybody lets in.
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        if is_inside() {
            config.outbound.listen[0].set_ip(localhost);
            config.admin_listen.set_ip(localhost);
        }
        let open = [
            &mut config.inbound.listen,
            &mut config.outbound.listen[0],
            &mut config.admin_listen,
        ];
        for address in open {
            if address.port() == 0 {
                address.set_port(free_port(address.ip())?);
            }
        }
        control.set_server(
            &config.control.workload,
            config.admin_listen.port(),
            policies::admin_server(),
        );
        let identity = IdentityFolder::new(&config.identity.local_name)?;
        // For whoever looks for the reason of a failure.
        let log = std::env::var("SAGAMESH_TEST_PROXY_LOG").map(|log| ("LINKERD2_PROXY_LOG", log));
        let child = Command::new(binary)
            .envs(environment(&config))
            .env("LINKERD2_PROXY_IDENTITY_DIR", &identity.0)
            .envs(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self {
            child,
            inbound: config.inbound.listen,
            outbound: config.outbound.listen[0],
            admin: config.admin_listen,
            _identity: identity,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        while !matches!(get(self.admin, "/ready").await, Ok(answer) if answer.starts_with("HTTP/1.1 200"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// If it is not a process any more.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status().await?;
        ensure!(status.success(), "cannot signal process {pid}");
        self.child.wait().await?;
        Ok(())
    }
}

/// What the admin server of a proxy answers, with its headers.
///
/// # Errors
/// If nobody answers.
pub async fn get(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The key and the signing request that Linkerd's proxy finds at its start: in a cluster another program makes them.
#[derive(Debug)]
struct IdentityFolder(std::path::PathBuf);

impl IdentityFolder {
    fn new(name: &str) -> anyhow::Result<Self> {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = format!("sagamesh-identity-{}-{number}", std::process::id());
        let folder = Self(std::env::temp_dir().join(folder));
        std::fs::create_dir_all(&folder.0)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        std::fs::write(folder.0.join("key.p8"), key.serialize_der())?;
        std::fs::write(
            folder.0.join("csr.der"),
            params.serialize_request(&key)?.der(),
        )?;
        Ok(folder)
    }
}

impl Drop for IdentityFolder {
    fn drop(&mut self) {
        // Left behind in the folder for temporary files, at worst.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
