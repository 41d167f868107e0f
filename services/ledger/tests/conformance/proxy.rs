//! A TCP proxy that breaks connections, or swallows what they carry, at a chosen moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const WHOLE: u8 = 0;
const CUT_AT_ANSWER: u8 = 1;
const CUT_AT_QUESTION: u8 = 2;
const HOLE_AT_ANSWER: u8 = 3;
const HOLE_AT_QUESTION: u8 = 4;

/// What becomes of the connections.
#[derive(Clone)]
struct Path {
    mode: Arc<AtomicU8>,
    /// Raised to break all connections that are open.
    cuts: watch::Sender<u64>,
    /// While it is there nothing goes through, and nobody is told. Connections that were there then stay like that for ever.
    hole: watch::Sender<bool>,
}

impl Path {
    /// Whether it is time for this, once.
    fn is_time(&self, mode: u8) -> bool {
        let (order, changed) = (Ordering::SeqCst, WHOLE);
        self.mode
            .compare_exchange(mode, changed, order, order)
            .is_ok()
    }
}

pub(crate) struct Proxy {
    address: SocketAddr,
    database: String,
    path: Path,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(url: &str) -> Self {
        let rest = url.split_once('@').expect("a user in the URL").1;
        let (server, database) = rest.split_once('/').expect("a database in the URL");
        let server: SocketAddr = server.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = Path {
            mode: Arc::new(AtomicU8::new(WHOLE)),
            cuts: watch::Sender::new(0),
            hole: watch::Sender::new(false),
        };
        let shared = path.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server)
                    .await
                    .expect("PostgreSQL listens");
                tokio::spawn(forward(client, server, shared.clone()));
            }
        });
        Self {
            address,
            database: database.to_owned(),
            path,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/{}", self.address, self.database)
    }

    /// Breaks all connections now.
    pub(crate) fn cut(&self) {
        self.path.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks all connections instead of delivering the next answer that writes a batch.
    pub(crate) fn cut_at_next_answer(&self) {
        self.path.mode.store(CUT_AT_ANSWER, Ordering::SeqCst);
    }

    /// Breaks all connections instead of delivering the next statement that writes a batch.
    pub(crate) fn cut_at_next_question(&self) {
        self.path.mode.store(CUT_AT_QUESTION, Ordering::SeqCst);
    }

    /// Swallows the next answer that writes a batch, and everything after it.
    pub(crate) fn swallow_from_next_answer(&self) {
        self.path.mode.store(HOLE_AT_ANSWER, Ordering::SeqCst);
    }

    /// Swallows the next statement that writes a batch, and everything after it.
    pub(crate) fn swallow_from_next_question(&self) {
        self.path.mode.store(HOLE_AT_QUESTION, Ordering::SeqCst);
    }

    /// Swallows everything from now on.
    pub(crate) fn swallow(&self) {
        self.path.hole.send_replace(true);
    }

    /// Waits until everything is swallowed.
    pub(crate) async fn swallows(&self) {
        let mut hole = self.path.hole.subscribe();
        hole.wait_for(|hole| *hole).await.expect("a proxy");
    }

    /// New connections go through again.
    pub(crate) fn mend(&self) {
        self.path.hole.send_replace(false);
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, path: Path) {
    let (mut cut, mut hole) = (path.cuts.subscribe(), path.hole.subscribe());
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut appending = false;
    loop {
        if *hole.borrow_and_update() {
            return std::future::pending().await;
        }
        tokio::select! {
            _ = cut.changed() => return,
            _ = hole.changed() => return std::future::pending().await,
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                // Only batches carry this type name.
                let append = asked[..read].windows(10).any(|window| window == b"test.Added");
                appending |= append;
                if append && path.is_time(CUT_AT_QUESTION) {
                    path.cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                if append && path.is_time(HOLE_AT_QUESTION) {
                    path.hole.send_replace(true);
                    continue;
                }
                if server.write_all(&asked[..read]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                let answer = std::mem::take(&mut appending);
                if answer && path.is_time(CUT_AT_ANSWER) {
                    path.cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                if answer && path.is_time(HOLE_AT_ANSWER) {
                    path.hole.send_replace(true);
                    continue;
                }
                if client.write_all(&answered[..read]).await.is_err() { return }
            }
        }
    }
}
