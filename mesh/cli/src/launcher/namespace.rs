//! A network of the system's own, for Linkerd's proxy: it lets everybody in who comes from 127.0.0.1, and asks the kernel
//! where a connection was meant to go, which is answered only where connections are tracked.
//!
//! The launcher starts itself again inside (`unshare`, which needs no privileges where user namespaces are allowed), gives
//! every workload an address of 10.99.0.0/24, and runs the system there. The one outside hands public connections in
//! through a Unix socket; commands join the network of the launcher that `system.json` names.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::Command;

use crate::failure::{Exit, Failure};
use crate::launcher::interrupted;
use crate::system::{System, private_folder};

/// Set inside: the folder of the socket to which the launcher outside hands public connections.
const INSIDE: &str = "SAGAMESH_NAMESPACE";
/// Set inside: the public port.
const PORT: &str = "SAGAMESH_NAMESPACE_PORT";
/// Connections to Services' addresses are redirected, as in a cluster; with that the kernel tracks all connections.
const RULES: &str = "table ip sagamesh {
  chain output {
    type nat hook output priority -100; policy accept;
    ip daddr 10.96.0.0/16 meta l4proto tcp redirect to :4140
  }
}
";

/// Whether this process runs inside.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The gateway's port as users see it; `given` outside of any namespace.
pub(crate) fn port(given: u16) -> u16 {
    let inside = std::env::var(PORT).ok();
    inside.and_then(|port| port.parse().ok()).unwrap_or(given)
}

/// Runs this program inside, with the same arguments, and hands connections to `port` of 127.0.0.1 in. Returns its exit
/// code.
pub(crate) async fn enter(port: u16) -> anyhow::Result<ExitCode> {
    check().await?;
    let public = TcpListener::bind(("127.0.0.1", port)).await.map_err(|_| {
        let message = format!("port {port} of the gateway is in use by another program");
        Failure::new(Exit::Failed, message).hint(
            "Choose another one with --port (0 takes any free one), or stop the other program.",
        )
    })?;
    // Not in the data folder: its path may be longer than a socket's may be.
    let folder = std::env::temp_dir().join(format!("sagamesh-{}", std::process::id()));
    private_folder(&folder)?;
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let mut child = Command::new("unshare")
        .arg("-Urn")
        .arg("--")
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &folder)
        .env(PORT, public.local_addr()?.port().to_string())
        // Its end means "shut down", as for every child.
        .stdin(Stdio::piped())
        // A Ctrl-C in the terminal reaches this process alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start unshare")?;
    let mut stdin = child.stdin.take();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Ok((stream, _)) = public.accept() => {
                tokio::spawn(hand_in(stream, folder.join("public")));
            }
            () = interrupted() => {
                if stdin.take().is_none() {
                    // The second time.
                    child.start_kill()?;
                }
            }
        }
    };
    // What is left of it is an empty folder of the temporary ones.
    let _ = std::fs::remove_dir_all(&folder);
    let code = status?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// What must be there, said before anything is started.
async fn check() -> anyhow::Result<()> {
    for tool in ["unshare", "ip", "nft", "setpriv", "nsenter"] {
        let found = Command::new(tool)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        // Some of them know no such option; what counts is that they are there.
        if found.is_err() {
            return Err(Failure::new(
                Exit::Failed,
                format!("--sidecar linkerd needs the program {tool}"),
            )
            .hint("On Debian: apt-get install util-linux iproute2 nftables.")
            .into());
        }
    }
    let allowed = Command::new("unshare")
        .args(["-Urn", "true"])
        .output()
        .await?;
    if !allowed.status.success() {
        let why = String::from_utf8_lossy(&allowed.stderr);
        return Err(Failure::new(
            Exit::Failed,
            format!("no network namespace can be made: {}", why.trim()),
        )
        .hint(
            "This machine keeps them from users: allow them (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0), or run this command as root.",
        )
        .into());
    }
    Ok(())
}

async fn hand_in(mut stream: TcpStream, socket: PathBuf) {
    // A gateway that is not there yet, or no more: the connection ends, as it would without a hand in between.
    let Ok(mut inside) = UnixStream::connect(socket).await else {
        return;
    };
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
}

/// Inside: takes public connections to the gateway, for as long as this process runs.
pub(crate) fn take_public(gateway: std::net::SocketAddr) -> anyhow::Result<()> {
    let folder = std::env::var_os(INSIDE).context("not in a namespace")?;
    let listener = UnixListener::bind(Path::new(&folder).join("public"))
        .context("cannot listen for public connections")?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut gateway) = TcpStream::connect(gateway).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut gateway).await;
                }
            });
        }
    });
    Ok(())
}

/// Inside: resolves when the launcher outside asks this one to end, or is gone. Once: the second time it kills it.
pub(crate) async fn asked_to_end() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    if !is_inside() || ASKED.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    let mut byte = [0];
    while tokio::io::stdin()
        .read(&mut byte)
        .await
        .is_ok_and(|read| read > 0)
    {}
    ASKED.store(true, Ordering::Relaxed);
}

/// Inside: makes the network.
pub(crate) async fn prepare(addresses: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut batch = "link set lo up\n".to_owned();
    for address in addresses {
        batch.push_str(&format!("address add {address}/32 dev lo\n"));
    }
    tell("ip", &["-batch", "-"], &batch).await?;
    tell("nft", &["-f", "-"], RULES).await
}

async fn tell(tool: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {tool}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "{tool} cannot set up the system's network: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Goes on with this command inside the network of a system that has one of its own. Returns when there is nothing to
/// join.
pub(crate) fn join(data_dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;

    let Ok(system) = System::find(data_dir) else {
        // The command itself says so.
        return Ok(());
    };
    if is_inside() || !system.mesh.is_some_and(|mesh| mesh.own_network) {
        return Ok(());
    }
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let error = std::process::Command::new("nsenter")
        .args(["--preserve-credentials", "-U", "-n", "-t"])
        .arg(system.launcher_pid.to_string())
        .arg("--")
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "joined")
        .exec();
    Err(error).context("cannot join the system's network with nsenter")
}
