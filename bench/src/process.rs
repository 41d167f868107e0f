//! Processes of a measurement: starting them, and what they cost.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Clock ticks per second in `/proc/<pid>/stat`: 100 on every Linux.
const TICKS: f64 = 100.0;
/// How long a process may take to be ready.
const START: Duration = Duration::from_secs(60);

/// A child process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) pid: u32,
}

impl Running {
    /// Starts `command` with its log in `log`.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)?;
        command
            .stdin(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true);
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "warn");
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let pid = child.id().context("the process ended at once")?;
        Ok(Self { child, pid })
    }

    /// Waits for a line on its standard output.
    pub(crate) async fn line(&mut self, expected: &str) -> anyhow::Result<()> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("its standard output is not piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let found = async {
            while let Some(line) = lines.next_line().await? {
                if line == expected {
                    return Ok(());
                }
            }
            bail!("the process ended before it said `{expected}`")
        };
        tokio::time::timeout(START, found)
            .await
            .with_context(|| format!("it did not say `{expected}` in {START:?}"))?
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// User and system time that it has used so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(&self.pid.to_string())
    }

    /// Its resident memory now, in MB (10^6 bytes).
    pub(crate) fn rss_mb(&self) -> f64 {
        rss_bytes(&self.pid.to_string()) / 1e6
    }
}

/// Resident memory of a process now.
pub(crate) fn rss_bytes(pid: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0 kB");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<f64>();
    kibibytes.unwrap_or(0.0) * 1024.0
}

/// User and system time of a process (`self` for this one).
pub(crate) fn cpu(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses and may hold anything; 12 and 13 fields after it come utime and stime.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Duration::from_secs_f64(ticks / TICKS)
}

/// Addresses that a process has written once it was bound.
pub(crate) async fn addresses(file: &Path) -> anyhow::Result<(String, String)> {
    let started = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(file) {
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let address = |name: &str| {
                json[name]
                    .as_str()
                    .map(str::to_owned)
                    .context("no such address")
            };
            return Ok((address("grpc")?, address("admin")?));
        }
        if started.elapsed() > START {
            bail!(
                "{} was not written in {START:?}; its log says why",
                file.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// GET over HTTP/1.0: status and body.
pub(crate) async fn get(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no HTTP status")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Waits until `/ready` of an admin address answers 200.
pub(crate) async fn ready(admin: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if matches!(get(admin, "/ready").await, Ok((200, _))) {
            return Ok(());
        }
        if started.elapsed() > START {
            bail!("{admin} was not ready in {START:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The sum of a counter or gauge over all its labels.
pub(crate) async fn counter(admin: &str, name: &str) -> anyhow::Result<f64> {
    let (_, metrics) = get(admin, "/metrics").await?;
    let of_name = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    let values = metrics
        .lines()
        .filter(of_name)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}

/// A binary beside this one.
pub(crate) fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!(
            "{} is not there: build it, or say where it is (--help)",
            path.display()
        );
    }
    Ok(path)
}
