//! For the tests of this and other crates: a temporary PostgreSQL cluster.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A PostgreSQL cluster that ends with this process, even on kill -9, and leaves nothing behind.
pub struct TemporaryPostgres {
    bin: PathBuf,
    port: u16,
    /// Its standard input ends with this process; the script around the server waits for that.
    script: Mutex<Child>,
}

/// Runs the server until standard input ends, and then removes the folder. Lines of it crash the server and start it again.
const SCRIPT: &str = r#"
set -e
dir=$1 bin=$2 port=$3 user=$4
as=""
mkdir -p "$dir"
trap 'rm -rf "$dir"' EXIT
trap '' INT TERM HUP
if [ -n "$user" ]; then
    chown "$user" "$dir"
    as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
fi
cd "$dir"
$as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --no-sync --locale=C --encoding=UTF8 >"$dir/initdb.log" 2>&1 </dev/null
serve() {
    $as "$bin/postgres" -D "$dir/data" -h 127.0.0.1 -p "$port" -k "$dir" -c fsync=off -c max_connections=300 -c shared_buffers=32MB \
        >>"$dir/postgres.log" 2>&1 </dev/null &
    pid=$!
}
serve
while read -r command; do
    case $command in
    crash) kill -QUIT $pid 2>/dev/null || true; wait $pid || true ;;
    start) serve ;;
    esac
done
kill -INT $pid 2>/dev/null || true
wait $pid || true
"#;

static CLUSTER: OnceCell<Option<TemporaryPostgres>> = OnceCell::const_new();

/// The cluster of this process, started when it is first asked for. `None` when PostgreSQL is not on this machine: this is then said loudly, and is a panic if
/// `SAGAMESH_REQUIRE_POSTGRES=1`.
///
/// # Panics
/// When PostgreSQL is required and missing, or does not start.
pub async fn postgres() -> Option<&'static TemporaryPostgres> {
    let cluster = CLUSTER.get_or_init(|| async {
        let Some(bin) = find() else {
            let required = std::env::var("SAGAMESH_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
            assert!(!required, "SAGAMESH_REQUIRE_POSTGRES=1, but neither PATH nor /usr/lib/postgresql has initdb and postgres: install PostgreSQL");
            eprintln!("##############################################################################");
            eprintln!("## PostgreSQL is not on this machine: ITS TESTS ARE LEFT OUT                ##");
            eprintln!("##############################################################################");
            return None;
        };
        Some(TemporaryPostgres::start(&bin).await)
    });
    cluster.await.as_ref()
}

impl TemporaryPostgres {
    async fn start(bin: &Path) -> Self {
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .expect("a free port")
                .port();
            let dir = std::env::temp_dir().join(format!("sagamesh-postgres-{}", Uuid::now_v7()));
            let script = Command::new("sh")
                .args(["-c", SCRIPT, "sh"])
                .arg(&dir)
                .arg(bin)
                .args([port.to_string(), other_user()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("sh starts");
            let mut cluster = Self {
                bin: bin.to_owned(),
                port,
                script: Mutex::new(script),
            };
            if cluster.ready().await {
                return cluster;
            }
            // Another process may have taken the port meanwhile.
        }
        panic!(
            "PostgreSQL did not start; try {}/initdb by hand",
            bin.display()
        );
    }

    async fn ready(&mut self) -> bool {
        for _ in 0..600 {
            if let Ok(connection) = PgConnection::connect(&self.url("postgres")).await {
                return connection.close().await.is_ok();
            }
            let script = self.script.get_mut().expect("no panic while it was held");
            if script.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// A program of the same version: `pg_dump`, `pg_restore`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Crashes the server, and starts it again after this time. Returns when it answers.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn crash(&self, away: Duration) -> std::io::Result<()> {
        self.tell("crash")?;
        tokio::time::sleep(away).await;
        self.tell("start")?;
        for _ in 0..600 {
            if let Ok(connection) = PgConnection::connect(&self.url("postgres")).await {
                return connection.close().await.map_err(std::io::Error::other);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(std::io::Error::other(
            "PostgreSQL does not come back after its crash",
        ))
    }

    fn tell(&self, command: &str) -> std::io::Result<()> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = script.stdin.as_mut();
        writeln!(stdin.expect("the script has a standard input"), "{command}")
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database; returns its URL.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.url("postgres"))
            .await
            .expect("PostgreSQL answers");
        let create = sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")));
        create
            .execute(&mut connection)
            .await
            .expect("a database is created");
        connection.close().await.expect("PostgreSQL answers");
        self.url(&name)
    }
}

/// The folder with initdb and postgres: the newest in /usr/lib/postgresql, else from PATH.
fn find() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(complete)
        .collect();
    installed.sort();
    installed
        .pop()
        .or_else(|| std::env::split_paths(&std::env::var_os("PATH")?).find(complete))
}

/// PostgreSQL refuses to run as root: the user to become, or nothing.
fn other_user() -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let user = ["postgres", "nobody"].into_iter().find(|user| {
        passwd
            .lines()
            .any(|line| line.starts_with(&format!("{user}:")))
    });
    if root {
        user.unwrap_or_default().to_owned()
    } else {
        String::new()
    }
}
