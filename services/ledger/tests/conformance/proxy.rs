//! A TCP proxy that breaks connections at a chosen moment.

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

pub(crate) struct Proxy {
    address: SocketAddr,
    database: String,
    mode: Arc<AtomicU8>,
    /// Raised to break all connections that are open.
    cuts: watch::Sender<u64>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(url: &str) -> Self {
        let rest = url.split_once('@').expect("a user in the URL").1;
        let (server, database) = rest.split_once('/').expect("a database in the URL");
        let server: SocketAddr = server.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mode = Arc::new(AtomicU8::new(WHOLE));
        let cuts = watch::Sender::new(0);
        let (shared, cutting) = (Arc::clone(&mode), cuts.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server)
                    .await
                    .expect("PostgreSQL listens");
                tokio::spawn(forward(
                    client,
                    server,
                    Arc::clone(&shared),
                    cutting.clone(),
                ));
            }
        });
        Self {
            address,
            database: database.to_owned(),
            mode,
            cuts,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/{}", self.address, self.database)
    }

    /// Breaks all connections now.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks all connections instead of delivering the next answer that writes a batch.
    pub(crate) fn cut_at_next_answer(&self) {
        self.mode.store(CUT_AT_ANSWER, Ordering::SeqCst);
    }

    /// Breaks all connections instead of delivering the next statement that writes a batch.
    pub(crate) fn cut_at_next_question(&self) {
        self.mode.store(CUT_AT_QUESTION, Ordering::SeqCst);
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    mode: Arc<AtomicU8>,
    cuts: watch::Sender<u64>,
) {
    let mut cut = cuts.subscribe();
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut appending = false;
    loop {
        tokio::select! {
            _ = cut.changed() => return,
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                // Only batches carry this type name.
                let append = asked[..read].windows(10).any(|window| window == b"test.Added");
                appending |= append;
                if append && mode.compare_exchange(CUT_AT_QUESTION, WHOLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                if server.write_all(&asked[..read]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if std::mem::take(&mut appending) && mode.compare_exchange(CUT_AT_ANSWER, WHOLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                if client.write_all(&answered[..read]).await.is_err() { return }
            }
        }
    }
}
