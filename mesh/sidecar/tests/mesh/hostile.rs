//! Clients that mean harm, at the outbound listener, where any process of the pod may connect.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::frames::{
    CANCEL, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RESET, SETTINGS, bomb,
    frame, headers,
};
use crate::harness::{Mesh, UNARY, eventually, metric};

const SLOW: &str = "/test.Echo/Slow";

/// Sends all of it, then reads until the sidecar hangs up. What it sent.
async fn attack(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let send = async {
        // It may hang up before all is sent: that is the point.
        let _ = write.write_all(PREFACE).await;
        let _ = write.write_all(bytes).await;
    };
    let receive = async {
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::join!(send, receive);
    answer
}

async fn still_works(mesh: &Mesh) {
    mesh.client().unary(UNARY, b"x").await.unwrap();
}

fn ended(mesh: &Mesh, error: &str) -> f64 {
    let labels = [&*format!("error=\"{error}\""), "direction=\"outbound\""];
    metric(
        &mesh.gateway.sidecar,
        "sidecar_http_connection_errors_total",
        &labels,
    )
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let mesh = Mesh::start().await;
    let mut bytes = Vec::new();
    for n in 0..2000_u32 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &headers(SLOW)));
        bytes.extend(frame(RESET, 0, 2 * n + 1, &CANCEL.to_be_bytes()));
    }
    attack(mesh.gateway.sidecar.outbound_addr(), &bytes).await;
    eventually("it is counted", || ended(&mesh, "ENHANCE_YOUR_CALM") == 1.0).await;
    still_works(&mesh).await;
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let mesh = Mesh::start().await;
    let mut bytes = frame(HEADERS, 0, 1, &headers(SLOW));
    for _ in 0..20_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']));
    }
    attack(mesh.gateway.sidecar.outbound_addr(), &bytes).await;
    eventually("it is counted", || ended(&mesh, "any") == 1.0).await;
    still_works(&mesh).await;
}

#[tokio::test]
async fn a_bomb_of_headers_is_refused() {
    let mesh = Mesh::start().await;
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb(SLOW));
    let mut stream = TcpStream::connect(mesh.gateway.sidecar.outbound_addr())
        .await
        .unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // 431 as the whole answer, or a reset; in no case a request that goes on.
    assert_eq!(mesh.orders.app.calls(), 0);
    still_works(&mesh).await;
}

#[tokio::test]
async fn a_flood_of_settings_and_pings_without_reading_is_contained() {
    let mesh = Mesh::start().await;
    let mut stream = TcpStream::connect(mesh.gateway.sidecar.outbound_addr())
        .await
        .unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let flood = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])]
        .concat()
        .repeat(1000);
    // Nothing is read: sooner or later the sidecar stops reading too, or hangs up.
    let mut sent = 0;
    while sent < 200_000_000 {
        tokio::select! {
            written = stream.write(&flood) => match written {
                Ok(written) => sent += written,
                Err(_) => break,
            },
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => break,
        }
    }
    assert!(sent < 200_000_000, "it was never pushed back on");
    still_works(&mesh).await;
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    let mesh = Mesh::start().await;
    attack(mesh.gateway.sidecar.outbound_addr(), &[0xff; 100]).await;
    eventually("it is counted", || ended(&mesh, "any") == 1.0).await;
    still_works(&mesh).await;
}
