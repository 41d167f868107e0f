//! The processes of a measurement, and what they cost.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mesh_sidecar::testing::linkerd::Process;
use mesh_sidecar::testing::{ControlPlane, TOKEN};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Clock ticks per second in `/proc/<pid>/stat`: 100 on every Linux.
const TICKS: f64 = 100.0;
/// How long a process may take to be ready.
const START: Duration = Duration::from_secs(20);

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
    processes: [Process; 2],
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
        let cores = std::env::var("LINKERD2_PROXY_CORES").ok();
        let cores = cores.map_or(Ok(1), |cores| cores.parse());
        let cores = cores.context("LINKERD2_PROXY_CORES is no number")?;
        let start = |workload: &str, ip| {
            let mut config = control.config(workload, ip, &token.0);
            config.inbound.ports = vec![app_port];
            config.cores = cores;
            Process::start(binary, control, config)
        };
        let processes = [start("client", pods[0])?, start("app", pods[1])?];
        for process in &processes {
            tokio::time::timeout(START, process.ready())
                .await
                .with_context(|| format!("a sidecar was not ready in {START:?}"))?;
        }
        Ok(Self {
            outbound: processes[0].outbound,
            inbound: processes[1].inbound,
            processes,
            _token: token,
        })
    }

    /// User and system time that each has used so far.
    pub(crate) fn cpu(&self) -> [Duration; 2] {
        self.processes.each_ref().map(|process| cpu(process.pid()))
    }

    /// The larger one's resident memory, in MB (10^6 bytes).
    pub(crate) fn rss_mb(&self) -> f64 {
        let each = self
            .processes
            .each_ref()
            .map(|process| rss_mb(process.pid()));
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
