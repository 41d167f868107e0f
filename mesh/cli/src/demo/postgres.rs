//! A PostgreSQL server for the demo alone, where PostgreSQL is installed: on a socket in a folder of its own, gone with the
//! demo.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, ChildStdin, Command};

/// The longest that it may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that it may take to end.
const END: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the server until standard input ends, which it also does when the demo is killed. PostgreSQL refuses to run as root:
/// `$3` is the user to become then.
const SCRIPT: &str = r#"
set -e
dir=$1 bin=$2 user=$3 as=""
trap 'rm -rf "$dir"' EXIT
trap '' INT TERM HUP
if [ -n "$user" ]; then
    chown "$user" "$dir"
    as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
fi
cd "$dir"
$as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --no-sync --locale=C --encoding=UTF8 </dev/null
$as "$bin/postgres" -D "$dir/data" -h '' -k "$dir" -c fsync=off -c max_connections=200 </dev/null &
pid=$!
cat >/dev/null || true
kill -INT $pid 2>/dev/null || true
wait $pid || true
"#;

/// A running server.
pub(super) struct Server {
    script: Child,
    stdin: Option<ChildStdin>,
    /// For `--postgres`.
    pub(super) url: String,
}

impl Server {
    /// Starts one in a new folder.
    pub(super) async fn start(bin: &Path, folder: &Path) -> anyhow::Result<Server> {
        crate::system::private_folder(folder)?;
        let log = folder.with_extension("log");
        let file = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .args([folder, bin])
            .arg(other_user())
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A Ctrl-C in the terminal is the demo's to handle.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let stdin = script.stdin.take();
        let url = format!(
            "postgres:///postgres?host={}&user=postgres",
            folder.display()
        );
        let mut server = Server { script, stdin, url };
        server.until_ready().await.with_context(|| {
            format!(
                "PostgreSQL does not start; what it said is in {}",
                log.display()
            )
        })?;
        std::fs::remove_file(log).context("cannot remove PostgreSQL's log")?;
        Ok(server)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match PgConnection::connect(&self.url).await {
                Ok(connection) => return Ok(connection.close().await?),
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.script.try_wait()? {
                bail!("it ended with {status}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it, and removes its folder.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stdin = None;
        let ended = tokio::time::timeout(END, self.script.wait()).await;
        ended.context("PostgreSQL does not end")??;
        Ok(())
    }
}

/// The folder with initdb and postgres: the newest in /usr/lib/postgresql, where Debian has them, else from PATH.
pub(super) fn find() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter();
    let mut installed: Vec<PathBuf> = versions
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(complete)
        .collect();
    installed.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    installed
        .pop()
        .or_else(|| std::env::split_paths(&path).find(complete))
}

/// Whom root becomes; empty for everybody else.
fn other_user() -> &'static str {
    use std::os::unix::fs::MetadataExt as _;

    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is_user = |name: &&str| {
        users
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let found = ["postgres", "nobody"].into_iter().find(is_user);
    found.filter(|_| root).unwrap_or("")
}
