//! The load: closed loops of unary calls, or one stream with so many messages in flight.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The bytes of one message: its gRPC prefix and 100 bytes.
const MESSAGE: [u8; 105] = {
    let mut message = [b'x'; 105];
    [message[0], message[1], message[2], message[3], message[4]] = [0, 0, 0, 0, 100];
    message
};

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// As the table says it.
    pub(crate) name: &'static str,
    /// What is called.
    pub(crate) destination: &'static str,
    /// Calls at one time on each connection.
    pub(crate) streams: usize,
    /// Connections.
    pub(crate) connections: usize,
    /// One stream instead, with so many messages in flight.
    pub(crate) bidi: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Calls or messages.
    pub(crate) count: usize,
    /// Of them, each second.
    pub(crate) rate: f64,
    /// The median of their times.
    pub(crate) p50_us: u64,
    /// The 99th percentile.
    pub(crate) p99_us: u64,
}

impl Load {
    /// Runs it against `address` for `time`, after `warm_up`.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        warm_up: Duration,
        time: Duration,
    ) -> anyhow::Result<Measured> {
        if !warm_up.is_zero() {
            Box::pin(self.run(address, Duration::ZERO, warm_up)).await?;
        }
        let times = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let until = start + time;
        let mut loops = Vec::new();
        for _ in 0..self.connections {
            let sender = connect(address).await?;
            for _ in 0..self.streams {
                let (sender, times, authority) =
                    (sender.clone(), Arc::clone(&times), self.destination);
                let in_flight = self.bidi;
                loops.push(tokio::spawn(async move {
                    let own = match in_flight {
                        None => unary(sender, authority, until).await,
                        Some(in_flight) => stream(sender, authority, until, in_flight).await,
                    }?;
                    times
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(own);
                    anyhow::Ok(())
                }));
            }
        }
        for each in loops {
            each.await??;
        }
        let took = start.elapsed();
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times.sort_unstable();
        let at = |share: f64| {
            times
                .get((times.len() as f64 * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        Ok(Measured {
            count: times.len(),
            rate: times.len() as f64 / took.as_secs_f64(),
            p50_us: at(0.5).into(),
            p99_us: at(0.99).into(),
        })
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Body>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // The calls on it say what went wrong.
        let _ = connection.await;
    });
    Ok(sender)
}

fn request(authority: &str, body: Body) -> anyhow::Result<Request<Body>> {
    Ok(Request::post(format!("http://{authority}/bench.Echo/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "bench-mesh")
        .body(body)?)
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

async fn unary(
    mut sender: SendRequest<Body>,
    authority: &str,
    until: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let begin = Instant::now();
        let body = Full::new(Bytes::from_static(&MESSAGE)).boxed();
        let response = sender.send_request(request(authority, body)?).await?;
        let failed = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await?;
        let status = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .cloned()
            .or(failed);
        anyhow::ensure!(
            status.as_ref().is_some_and(|status| status == "0"),
            "a call failed: {status:?}"
        );
        times.push(micros(begin));
    }
    Ok(times)
}

async fn stream(
    mut sender: SendRequest<Body>,
    authority: &str,
    until: Instant,
    in_flight: usize,
) -> anyhow::Result<Vec<u32>> {
    let (messages, receiver) =
        tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(in_flight);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed();
    let mut answers = sender
        .send_request(request(authority, body)?)
        .await?
        .into_body();
    let mut begun = std::collections::VecDeque::new();
    let mut times = Vec::new();
    let message = || Ok(Frame::data(Bytes::from_static(&MESSAGE)));
    for _ in 0..in_flight {
        begun.push_back(Instant::now());
        messages.send(message()).await.context("the stream ended")?;
    }
    let mut bytes = 0;
    while Instant::now() < until {
        let frame = answers.frame().await.context("the stream ended")??;
        bytes += frame.data_ref().map_or(0, Bytes::len);
        // Frames need not be messages: whole messages are counted.
        while bytes >= MESSAGE.len() {
            bytes -= MESSAGE.len();
            times.extend(begun.pop_front().map(micros));
            begun.push_back(Instant::now());
            messages.send(message()).await.context("the stream ended")?;
        }
    }
    Ok(times)
}
