//! Peers that have a certificate of the mesh, and mean harm all the same. Each is met while another peer calls, which
//! must not notice.

use std::time::Duration;

use mesh_sidecar::testing::identity_of;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::frames::{
    self, CANCEL, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS,
    PING, PREFACE, RESET, SETTINGS, WINDOW_UPDATE, bomb, frame, headers,
};
use crate::harness::{Mesh, UNARY, eventually, metric};
use crate::peers::{Session, peer_called};

/// A connection of HTTP/2 to the app of orders.
async fn mallory(mesh: &Mesh) -> TlsStream<TcpStream> {
    let port = mesh.orders.app.address.port();
    let mut stream = peer_called("mallory", mesh, port, Session::Http2).await;
    stream.write_all(PREFACE).await.unwrap();
    stream
}

/// Sends all of it while it reads until it is hung up on. The frames that came.
async fn attack(mesh: &Mesh, bytes: &[u8]) -> Vec<Frame> {
    let (mut read, mut write) = tokio::io::split(mallory(mesh).await);
    let mut answer = Vec::new();
    let send = async {
        // It may be hung up on before all is sent: that is the point.
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
    };
    let receive = async {
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::join!(send, receive);
    frames::parse(&mut answer)
}

/// Calls of another peer, of which none may fail.
async fn others(mesh: &Mesh) {
    let client = mesh.client();
    for _ in 0..50 {
        client.unary(UNARY, b"x").await.unwrap();
    }
}

/// Connections of peers that ended for this reason.
fn ended(mesh: &Mesh, error: &str) -> f64 {
    let labels = [&*format!("error=\"{error}\""), "direction=\"inbound\""];
    metric(
        &mesh.orders.sidecar,
        "sidecar_http_connection_errors_total",
        &labels,
    )
}

/// Bytes that were read from the app or written to mallory.
fn moved(mesh: &Mesh, name: &str, labels: &[&str]) -> f64 {
    let labels = [labels, &["direction=\"inbound\""]].concat();
    metric(&mesh.orders.sidecar, name, &labels)
}

fn of_mallory() -> String {
    format!("client_id=\"{}\"", identity_of("mallory"))
}

fn told_to_go(frames: &[Frame]) -> Option<u32> {
    let last = frames.iter().rfind(|frame| frame.kind == GOAWAY)?;
    last.reason()
}

#[tokio::test]
async fn rapid_resets_end_the_connection_for_a_reason() {
    let mesh = Mesh::start().await;
    let mut bytes = Vec::new();
    for n in 0..2000_u32 {
        let block = headers("/test.Echo/Slow");
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &block));
        bytes.extend(frame(RESET, 0, 2 * n + 1, &CANCEL.to_be_bytes()));
    }
    let (answer, ()) = tokio::join!(attack(&mesh, &bytes), others(&mesh));
    assert_eq!(told_to_go(&answer), Some(ENHANCE_YOUR_CALM), "{answer:?}");
    eventually("it is counted", || ended(&mesh, "ENHANCE_YOUR_CALM") == 1.0).await;
    others(&mesh).await;
}

#[tokio::test]
async fn endless_continuations_end_the_connection_for_a_reason() {
    let mesh = Mesh::start().await;
    let mut bytes = frame(HEADERS, 0, 1, &headers("/test.Echo/Slow"));
    for _ in 0..20_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']));
    }
    let (answer, ()) = tokio::join!(attack(&mesh, &bytes), others(&mesh));
    assert_eq!(told_to_go(&answer), Some(ENHANCE_YOUR_CALM), "{answer:?}");
    eventually("it is counted", || ended(&mesh, "ENHANCE_YOUR_CALM") == 1.0).await;
    others(&mesh).await;
}

#[tokio::test]
async fn a_bomb_of_headers_never_reaches_the_app() {
    let mesh = Mesh::start().await;
    let flags = END_STREAM | END_HEADERS;
    let bytes = frame(HEADERS, flags, 1, &bomb("/test.Echo/Bomb"));
    let answer = attack(&mesh, &bytes).await;
    assert_eq!(told_to_go(&answer), Some(ENHANCE_YOUR_CALM), "{answer:?}");
    assert_eq!(mesh.orders.app.calls(), 0);
    others(&mesh).await;
}

#[tokio::test]
async fn a_flood_of_settings_and_pings_is_read_no_faster_than_answers_are() {
    const FLOOD: usize = 64 * 1024 * 1024;
    let mesh = Mesh::start().await;
    let mut stream = mallory(&mesh).await;
    let flood = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])]
        .concat()
        .repeat(1000);
    let mut sent = 0;
    while sent < FLOOD {
        tokio::select! {
            written = stream.write(&flood) => match written {
                Ok(written) => sent += written,
                Err(_) => break,
            },
            // Nothing is read here: sooner or later it stops reading there.
            () = tokio::time::sleep(Duration::from_secs(1)) => break,
        }
    }
    assert!(sent < FLOOD, "it was never pushed back on");
    let read = moved(&mesh, "tcp_read_bytes_total", &[&of_mallory()]);
    others(&mesh).await;
    let later = moved(&mesh, "tcp_read_bytes_total", &[&of_mallory()]);
    assert_eq!(read, later, "it is still read");
}

#[tokio::test]
async fn a_peer_that_does_not_read_makes_the_sidecar_hold_little() {
    const STREAMS: u32 = 32;
    // What waits to be sent on a stream, and what its window lets in from the app.
    const EACH: f64 = (64.0 + 64.0) * 1024.0;
    let mesh = Mesh::start().await;
    let mut stream = mallory(&mesh).await;
    // Windows as large as they can be: it is not the peer's that bound anything.
    let largest = i32::MAX.to_be_bytes();
    let window = [&[0, 4][..], &largest].concat();
    let mut bytes = frame(SETTINGS, 0, 0, &window);
    bytes.extend(frame(
        WINDOW_UPDATE,
        0,
        0,
        &(i32::MAX - 65_535).to_be_bytes(),
    ));
    let block = headers("/test.Echo/Flood");
    for n in 0..STREAMS {
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &block));
    }
    stream.write_all(&bytes).await.unwrap();
    let from_app = || moved(&mesh, "tcp_read_bytes_total", &["peer=\"dst\""]);
    let to_peer = || moved(&mesh, "tcp_write_bytes_total", &[&of_mallory()]);
    let all = f64::from(STREAMS) * EACH;
    eventually("it floods", || from_app() > all / 2.0).await;
    for _ in 0..4 {
        others(&mesh).await;
        let held = from_app() - to_peer();
        assert!(held < 1.25 * all, "{held} bytes are held");
    }
}

#[tokio::test]
async fn a_peer_that_sends_byte_by_byte_is_only_in_its_own_way() {
    let mesh = Mesh::start().await;
    let mut stream = mallory(&mesh).await;
    let request = frame(HEADERS, END_HEADERS, 1, &headers("/test.Echo/Unary"));
    for byte in &request {
        stream.write_all(&[*byte]).await.unwrap();
        mesh.client().unary(UNARY, b"x").await.unwrap();
    }
    // Its request came all the same, and waits for a body that does not.
    mesh.orders.app.called(request.len() + 1).await;
    others(&mesh).await;
    assert_eq!(mesh.orders.app.calls(), request.len() + 51);
}
