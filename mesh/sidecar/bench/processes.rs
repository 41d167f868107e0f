//! The processes of a measurement, and what they cost.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mesh_sidecar::testing::{ControlPlane, TOKEN, identity_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Clock ticks per second in `/proc/<pid>/stat`: 100 on every Linux.
const TICKS: f64 = 100.0;
/// How long a process may take to be ready.
const START: Duration = Duration::from_secs(20);

/// A port that is free now.
pub(crate) fn free_port(ip: IpAddr) -> anyhow::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

/// The app's process; killed when dropped.
pub(crate) struct App(#[expect(dead_code, reason = "held for its drop")] Child);

impl App {
    pub(crate) async fn start(binary: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let child = Command::new(binary)
            .arg("app")
            .arg(address.to_string())
            .kill_on_drop(true)
            .spawn()?;
        wait_for("the app", || async move {
            TcpStream::connect(address).await.is_ok()
        })
        .await?;
        Ok(Self(child))
    }
}

/// The two sidecars; killed when dropped.
pub(crate) struct Sidecars {
    children: [Child; 2],
    /// Where the load goes.
    pub(crate) outbound: SocketAddr,
    /// Where the other one takes it.
    pub(crate) inbound: SocketAddr,
    _token: tempfile_path::Token,
}

impl Sidecars {
    pub(crate) async fn start(
        binary: &Path,
        control: &ControlPlane,
        pods: [IpAddr; 2],
        app_port: u16,
    ) -> anyhow::Result<Self> {
        let token = tempfile_path::Token::new()?;
        let mut children = Vec::new();
        let mut addresses = Vec::new();
        for (workload, pod) in ["client", "app"].into_iter().zip(pods) {
            let [inbound, outbound, admin] = [free_port(pod)?, free_port(pod)?, free_port(pod)?]
                .map(|port| SocketAddr::new(pod, port));
            let control_address = control.address().to_string();
            let mut command = Command::new(binary);
            for (name, value) in [
                ("DESTINATION_SVC_ADDR", control_address.clone()),
                ("POLICY_SVC_ADDR", control_address.clone()),
                ("IDENTITY_SVC_ADDR", control_address),
                ("POLICY_WORKLOAD", workload.to_owned()),
                ("IDENTITY_TOKEN_FILE", token.0.display().to_string()),
                ("IDENTITY_TRUST_ANCHORS", control.authority().anchors()),
                ("IDENTITY_LOCAL_NAME", identity_of(workload)),
                ("INBOUND_LISTEN_ADDR", inbound.to_string()),
                ("OUTBOUND_LISTEN_ADDR", outbound.to_string()),
                ("ADMIN_LISTEN_ADDR", admin.to_string()),
                ("INBOUND_IPS", pod.to_string()),
                ("INBOUND_PORTS", app_port.to_string()),
                ("INBOUND_DEFAULT_POLICY", "deny".to_owned()),
                ("LOG", "warn".to_owned()),
                (
                    "CORES",
                    std::env::var("LINKERD2_PROXY_CORES").unwrap_or_else(|_| "1".to_owned()),
                ),
            ] {
                command.env(format!("LINKERD2_PROXY_{name}"), value);
            }
            let child = command.kill_on_drop(true).spawn();
            children.push(child.with_context(|| format!("cannot start {}", binary.display()))?);
            wait_for("a sidecar", || is_ready(admin)).await?;
            addresses.push((inbound, outbound));
        }
        let children =
            <[Child; 2]>::try_from(children).map_err(|_| anyhow::anyhow!("two sidecars"))?;
        Ok(Self {
            children,
            outbound: addresses[0].1,
            inbound: addresses[1].0,
            _token: token,
        })
    }

    /// User and system time that each has used so far.
    pub(crate) fn cpu(&self) -> [Duration; 2] {
        self.children
            .each_ref()
            .map(|child| cpu(child.id().unwrap_or_default()))
    }

    /// The larger one's resident memory, in MB (10^6 bytes).
    pub(crate) fn rss_mb(&self) -> f64 {
        let each = self
            .children
            .each_ref()
            .map(|child| rss_mb(child.id().unwrap_or_default()));
        each[0].max(each[1])
    }
}

fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or_default()
    };
    Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS)
}

fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    kib.unwrap_or(0.0) * 1024.0 / 1e6
}

async fn is_ready(admin: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}

async fn wait_for<F: Future<Output = bool>>(
    what: &str,
    condition: impl Fn() -> F,
) -> anyhow::Result<()> {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START, wait)
        .await
        .with_context(|| format!("{what} was not ready in {START:?}"))
}

mod tempfile_path {
    //! The token's file, removed when dropped.

    use std::path::PathBuf;

    /// The token's file.
    pub(crate) struct Token(pub(crate) PathBuf);

    impl Token {
        pub(crate) fn new() -> std::io::Result<Self> {
            let path =
                std::env::temp_dir().join(format!("bench-mesh-{}.token", std::process::id()));
            std::fs::write(&path, super::TOKEN)?;
            Ok(Self(path))
        }
    }

    impl Drop for Token {
        fn drop(&mut self) {
            // Left behind in the folder for temporary files, at worst.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
