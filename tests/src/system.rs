//! A system under test.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chassis::{Env, PeerChannel};
use sagamesh_api::shop::inventory::v1::RestockRequest;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::v1::Money;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::binaries;

/// The longest that a start may take on a busy machine.
const START: Duration = Duration::from_secs(120);
/// The longest that the launcher may take to end everything, by its own promise.
const END: Duration = Duration::from_secs(11);

/// How to start a system.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Arguments of `sagamesh up` beyond those of every test.
    pub arguments: Vec<String>,
    /// Environment of the launcher, and so of the services, beyond that of every test.
    pub environment: Vec<(&'static str, &'static str)>,
    /// A folder to use instead of a new one.
    pub folder: Option<PathBuf>,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    launcher: Child,
    output: BufReader<ChildStdout>,
    /// What `sagamesh up` printed until it was up.
    pub greeting: String,
    folder: PathBuf,
    owned: Option<TempDir>,
}

impl System {
    /// Starts a system with an empty shop, in a new folder.
    ///
    /// # Errors
    /// What the launcher said.
    pub async fn start() -> anyhow::Result<System> {
        System::start_with(Options::default()).await
    }

    /// Starts a system.
    ///
    /// # Errors
    /// What the launcher said.
    pub async fn start_with(options: Options) -> anyhow::Result<System> {
        let (folder, owned) = match options.folder {
            Some(folder) => (folder, None),
            None => {
                let mut owned = tempfile::Builder::new()
                    .prefix("sagamesh-test-")
                    .tempdir()?;
                if std::env::var_os("SAGAMESH_KEEP").is_some() {
                    owned.disable_cleanup(true);
                    eprintln!("the system's folder is {}", owned.path().display());
                }
                (owned.path().to_owned(), Some(owned))
            }
        };
        let mut command = Command::new(binaries::path("sagamesh")?);
        command
            .args(["up", "--port", "0", "--empty", "--start-timeout", "100"])
            .args(&options.arguments)
            .env("SAGAMESH_DATA_DIR", &folder)
            .env("SAGAMESH_BIN_DIR", binaries::folder()?)
            .envs(options.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut launcher = command.spawn().context("cannot start the launcher")?;
        let mut output = BufReader::new(launcher.stdout.take().context("no stdout")?);
        let mut errors = launcher.stderr.take().context("no stderr")?;
        let errors = tokio::spawn(async move {
            let mut text = String::new();
            // What cannot be read is not shown.
            let _ = errors.read_to_string(&mut text).await;
            text
        });
        let greeting = tokio::time::timeout(START, greeting(&mut output))
            .await
            .context("the system does not come up")??;
        if greeting.contains("Ctrl-C ends the system.") {
            return Ok(System {
                launcher,
                output,
                greeting,
                folder,
                owned,
            });
        }
        let status = launcher.wait().await?;
        anyhow::bail!("the launcher ended with {status}: {}", errors.await?)
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `system.json` as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn record(&self) -> anyhow::Result<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.join("system.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Address of the gateway: `http://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// When `system.json` cannot be read.
    pub fn gateway(&self) -> anyhow::Result<String> {
        Ok(self.record()?["gateway"]
            .as_str()
            .context("no gateway")?
            .to_owned())
    }

    /// URL of one process of a service, past any mesh.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn url(&self, name: &str) -> anyhow::Result<String> {
        let record = self.record()?;
        let url = process(&record, name)?["url"].as_str();
        Ok(url.context("a process without URL")?.to_owned())
    }

    /// A channel to a service, as the operator.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn channel(&self, service: &str) -> anyhow::Result<PeerChannel> {
        self.channel_as("operator-0", service)
    }

    /// A channel to a service through the sidecar of a workload, and so with its identity; straight when the system has no
    /// mesh.
    ///
    /// # Errors
    /// When there is no such service or workload.
    pub fn channel_as(&self, pod: &str, service: &str) -> anyhow::Result<PeerChannel> {
        let record = self.record()?;
        let process = process(&record, service)?;
        if record["mesh"].is_null() {
            let url = process["url"].as_str().context("a process without URL")?;
            return Ok(chassis::channel(&Env::system(), url));
        }
        let (outbound, _) = self.sidecar(pod)?;
        let env = Env::system().through(Some(outbound.parse()?));
        let url = format!("http://{service}.sagamesh.svc.cluster.local:50051");
        Ok(chassis::channel(&env, &url))
    }

    /// Where a workload's sidecar takes requests (`host:port`), and the URL of its admin side.
    ///
    /// # Errors
    /// When there is no such workload.
    pub fn sidecar(&self, pod: &str) -> anyhow::Result<(String, String)> {
        let record = self.record()?;
        let sidecar = process(&record, &format!("{pod}-sidecar"))?;
        let text = |name: &str| sidecar[name].as_str().context("a sidecar without address");
        let outbound = text("url")?.trim_start_matches("http://").to_owned();
        Ok((outbound, text("admin")?.to_owned()))
    }

    /// Runs the `sagamesh` command on this system.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binaries::path("sagamesh")?);
        command
            .args(arguments)
            .env("SAGAMESH_DATA_DIR", &self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command.output().await?)
    }

    /// The same, with its stdout; it must end well.
    ///
    /// # Errors
    /// When it ends otherwise; names what it printed.
    pub async fn sagamesh(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "sagamesh {} ended with {}: {errors}",
            arguments.join(" "),
            output.status
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A token of a customer who may also fill the stock.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn token(&self, subject: &str) -> anyhow::Result<String> {
        let scopes = "orders:read orders:write inventory:read inventory:write";
        Ok(self
            .sagamesh(&["token", "--sub", subject, "--scopes", scopes])
            .await?
            .trim()
            .to_owned())
    }

    /// Puts an item in stock; prices are in cents of EUR.
    ///
    /// # Errors
    /// What inventory said.
    pub async fn restock(&self, sku: &str, quantity: u64, cents: i64) -> anyhow::Result<()> {
        let mut inventory = InventoryServiceClient::new(self.channel("inventory")?);
        let request = RestockRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            sku: sku.into(),
            quantity,
            name: sku.into(),
            unit_price: Some(Money {
                minor_units: cents,
                currency: "EUR".into(),
            }),
        };
        inventory.restock(request).await?;
        Ok(())
    }

    /// Process id of a service as it runs now; none while it is away.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn pid(&self, service: &str) -> anyhow::Result<Option<u64>> {
        Ok(process(&self.record()?, service)?["pid"].as_u64())
    }

    /// `kill -9` of a service; returns the process id that is no more.
    ///
    /// # Errors
    /// When it does not run just now.
    pub async fn kill(&self, service: &str) -> anyhow::Result<u64> {
        let pid = self
            .pid(service)?
            .with_context(|| format!("{service} does not run"))?;
        kill_9(pid).await?;
        Ok(pid)
    }

    /// Stops a service as its own operator would (`kill -TERM`); the launcher starts it again. Returns the process id that ends.
    ///
    /// # Errors
    /// When it does not run just now.
    pub async fn roll(&self, service: &str) -> anyhow::Result<u64> {
        let pid = self
            .pid(service)?
            .with_context(|| format!("{service} does not run"))?;
        signal("-TERM", pid).await?;
        Ok(pid)
    }

    /// Waits until a service runs with another process id than `before` and says that it is ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn until_back(&self, service: &str, before: u64) -> anyhow::Result<()> {
        let back = async {
            loop {
                if self.pid(service)?.is_some_and(|pid| pid != before)
                    && self.is_ready(service).await?
                {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START, back)
            .await
            .with_context(|| format!("{service} does not come back"))?
    }

    async fn is_ready(&self, service: &str) -> anyhow::Result<bool> {
        let record = self.record()?;
        let admin = process(&record, service)?["admin"]
            .as_str()
            .context("a process without admin address")?;
        let answer = crate::rest::get(admin, "/ready", None).await;
        Ok(answer.is_ok_and(|answer| answer.status == 200))
    }

    /// `kill -9` of the launcher itself.
    ///
    /// # Errors
    /// When it had ended already.
    pub async fn kill_launcher(mut self) -> anyhow::Result<PathBuf> {
        self.launcher.kill().await?;
        Ok(match self.owned.take() {
            Some(owned) => owned.keep(),
            None => self.folder.clone(),
        })
    }

    /// Ends it as Ctrl-C does. Returns its folder, which lives as long as the answer, and what it printed meanwhile.
    ///
    /// # Errors
    /// When it takes longer than promised, or ends with an error.
    pub async fn stop(mut self) -> anyhow::Result<(Option<TempDir>, String)> {
        let pid = self
            .launcher
            .id()
            .context("the launcher has ended by itself")?;
        let sent = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        ensure!(sent.success(), "cannot signal the launcher");
        let status = tokio::time::timeout(END, self.launcher.wait())
            .await
            .context("the system takes too long to end")??;
        ensure!(status.success(), "the launcher ended with {status}");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).await?;
        Ok((self.owned.take(), rest))
    }
}

/// `kill -9` of a process.
///
/// # Errors
/// When there is no such process.
pub async fn kill_9(pid: u64) -> anyhow::Result<()> {
    signal("-KILL", pid).await
}

/// Sends a signal to a process: `-STOP`, for example.
///
/// # Errors
/// When there is no such process.
pub async fn signal(signal: &str, pid: u64) -> anyhow::Result<()> {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .await?;
    ensure!(sent.success(), "cannot send {signal} to process {pid}");
    Ok(())
}

/// Whether a process runs. (A zombie does not.)
///
/// # Errors
/// When `ps` cannot be run.
pub async fn runs(pid: u64) -> anyhow::Result<bool> {
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .await?;
    let state = String::from_utf8_lossy(&output.stdout);
    Ok(!state.trim().is_empty() && !state.trim().starts_with('Z'))
}

/// The first process of a service; or a process by its own name, such as `meshd` or `orders-0-sidecar`.
fn process<'a>(record: &'a serde_json::Value, name: &str) -> anyhow::Result<&'a serde_json::Value> {
    let processes = record["processes"].as_array().context("no processes")?;
    processes
        .iter()
        .find(|process| {
            process["label"] == name || (process["service"] == name && process["role"] == "service")
        })
        .with_context(|| format!("no {name}"))
}

/// Reads until the greeting is complete, or the launcher has ended.
async fn greeting(output: &mut BufReader<ChildStdout>) -> anyhow::Result<String> {
    let mut text = String::new();
    loop {
        let before = text.len();
        let read = output.read_line(&mut text).await?;
        if read == 0 || text[before..].contains("Ctrl-C ends the system.") {
            return Ok(text);
        }
    }
}
