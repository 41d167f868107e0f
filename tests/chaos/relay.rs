//! Connections that can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Hands connections on to a server, except while they are cut.
pub(crate) struct Relay {
    address: SocketAddr,
    /// Whether they are cut.
    cut: watch::Sender<bool>,
}

impl Relay {
    pub(crate) async fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let relay = Self {
            address: listener.local_addr()?,
            cut: watch::Sender::new(false),
        };
        let cut = relay.cut.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, cut.clone()));
            }
        });
        Ok(relay)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections, and refuses new ones for this time.
    pub(crate) async fn cut(&self, time: Duration) {
        self.cut.send_replace(true);
        tokio::time::sleep(time).await;
        self.cut.send_replace(false);
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut cut: watch::Receiver<bool>) {
    let passing = async {
        let mut server = TcpStream::connect(server).await?;
        // A commit is several small packets.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        // Either end closing it is what an end is.
        _ = passing => {}
        // Its sender lives as long as the program.
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
