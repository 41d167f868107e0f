//! An app behind a sidecar: gRPC by hand, so that a test sees each frame, and HTTP/1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// An app, which ends when dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    _end: DropGuard,
}

#[derive(Default)]
pub(crate) struct State {
    /// Requests that came.
    pub(crate) calls: watch::Sender<usize>,
    /// So many calls of Flaky fail with UNAVAILABLE from here on.
    pub(crate) failures: AtomicUsize,
    /// Ends calls of Slow, each its own.
    pub(crate) release: Notify,
    /// Told when a call of Slow has come.
    pub(crate) slow: Notify,
}

type Body = BoxBody<Bytes, hyper::Error>;

impl App {
    pub(crate) async fn start(ip: std::net::IpAddr) -> Self {
        Self::start_on(SocketAddr::new(ip, 0)).await
    }

    pub(crate) async fn start_on(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let end = CancellationToken::new();
        let (ended, shared) = (end.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = ended.cancelled() => return,
                };
                let (state, ended) = (Arc::clone(&shared), ended.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(answer(&state, request).await) }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            state,
            _end: end.drop_guard(),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        *self.state.calls.borrow()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn called(&self, times: usize) {
        let mut calls = self.state.calls.subscribe();
        let called = calls.wait_for(|calls| *calls >= times);
        let called = tokio::time::timeout(Duration::from_secs(20), called).await;
        called.expect("it is not called as often").unwrap();
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Body> {
    state.calls.send_modify(|calls| *calls += 1);
    let mut response = match request.uri().path().rsplit('/').next().unwrap_or_default() {
        // Answers with the whole request, once it is there.
        "Unary" => {
            let headers = request.headers().clone();
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let mut response = grpc(vec![Frame::data(body)], 0);
            for name in ["l5d-client-id", "traceparent"] {
                let values: Vec<_> = headers
                    .get_all(name)
                    .iter()
                    .filter_map(|value| value.to_str().ok())
                    .collect();
                response.headers_mut().insert(
                    http::HeaderName::from_bytes(format!("saw-{name}").as_bytes()).unwrap(),
                    values.join(",").parse().unwrap(),
                );
            }
            response
        }
        // Answers each frame as it comes.
        "Stream" => {
            let mut body = request.into_body();
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    if let Ok(data) = frame.into_data()
                        && sender.send(Ok(Frame::data(data))).await.is_err()
                    {
                        return;
                    }
                }
                let _ = sender.send(Ok(Frame::trailers(status(0)))).await;
            });
            Response::new(
                StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed(),
            )
        }
        // Fails as often as it was told to.
        "Flaky" => {
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let left = state
                .failures
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
            match left {
                Ok(_) => {
                    let mut response =
                        Response::new(Full::default().map_err(|never| match never {}).boxed());
                    response.headers_mut().extend(status(14));
                    response
                }
                Err(_) => grpc(vec![Frame::data(body)], 0),
            }
        }
        // Waits until it is released.
        "Slow" => {
            state.slow.notify_one();
            state.release.notified().await;
            grpc(vec![], 0)
        }
        // Answers at once, and never ends.
        "Endless" => {
            let frames = tokio_stream::once(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"))));
            let frames = tokio_stream::StreamExt::chain(frames, tokio_stream::pending());
            Response::new(StreamBody::new(frames).boxed())
        }
        // Sends as much as is taken.
        "Flood" => {
            let chunk = || Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])));
            Response::new(
                StreamBody::new(tokio_stream::iter(std::iter::repeat_with(chunk))).boxed(),
            )
        }
        // For REST.
        _ => {
            let (parts, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let host = parts
                .headers
                .get("host")
                .map_or("", |host| host.to_str().unwrap());
            let text = format!(
                "{} {} {:?} host={host} client={} body={}",
                parts.method,
                parts.uri,
                parts.version,
                parts
                    .headers
                    .get("l5d-client-id")
                    .map_or("", |id| id.to_str().unwrap()),
                String::from_utf8_lossy(&body)
            );
            return Response::new(Full::from(text).map_err(|never| match never {}).boxed());
        }
    };
    response
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    response
}

fn status(code: u8) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers
}

fn grpc(mut frames: Vec<Frame<Bytes>>, code: u8) -> Response<Body> {
    frames.push(Frame::trailers(status(code)));
    let frames = tokio_stream::iter(frames.into_iter().map(Ok));
    Response::new(StreamBody::new(frames).boxed())
}
