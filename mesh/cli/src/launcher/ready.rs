//! Asks a process whether it is ready: `GET /ready` on its admin address.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns once the process answers that it is ready.
pub(crate) async fn until_ready(admin: &str) {
    while !is_ready(admin).await {
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether the process says that it is ready.
pub(crate) async fn is_ready(admin: &str) -> bool {
    matches!(
        tokio::time::timeout(PATIENCE, ask(admin)).await,
        Ok(Ok(true))
    )
}

async fn ask(admin: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    Ok(&start[8..] == b" 200")
}
