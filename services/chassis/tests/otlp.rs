//! Spans reach a collector: from a whole process on its current-thread runtime, flushed when it ends. In a binary of
//! its own, since a process has one subscriber.
#![expect(clippy::expect_used, reason = "tests")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// What the collector got: path and body of each request.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector on a thread and a runtime of its own: the process under test must not need to be kind to it.
fn collector(received: &Received) -> std::net::SocketAddr {
    let received = Arc::clone(received);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            socket.set_nonblocking(true).expect("nonblocking");
            let socket = tokio::net::TcpListener::from_std(socket).expect("a listener");
            while let Ok((stream, _)) = socket.accept().await {
                let received = Arc::clone(&received);
                let service = hyper::service::service_fn(
                    move |request: http::Request<hyper::body::Incoming>| {
                        let received = Arc::clone(&received);
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request
                                .into_body()
                                .collect()
                                .await
                                .expect("a body")
                                .to_bytes();
                            received
                                .lock()
                                .expect("no panic")
                                .push((path, body.to_vec()));
                            let answer = http::Response::builder()
                                .header("content-type", "application/grpc")
                                .header("grpc-status", "0");
                            Ok::<_, Infallible>(
                                answer
                                    .body(Empty::<bytes::Bytes>::new())
                                    .expect("an answer"),
                            )
                        }
                    },
                );
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    address
}

#[test]
fn spans_are_sent_with_the_service_and_the_callers_trace() {
    let received = Received::default();
    let mut config = chassis::ChassisConfig::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_listen = config.server.listen;
    // Everything, the exporter's own transport included: it must not feed on itself.
    config.telemetry.log_filter = "trace".to_owned();
    config.telemetry.otlp_endpoint = Some(format!("http://{}", collector(&received)));

    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let ran = chassis::run("observed", config, move |process| async move {
        let url = format!("http://{}", process.grpc_addr());
        let (env, tasks) = (process.env.clone(), process.tasks.clone());
        let call = async move {
            let mut request = tonic::Request::new(HealthCheckRequest::default());
            let parent = format!("00-{trace_id}-b7ad6b7169203331-01");
            request
                .metadata_mut()
                .insert("traceparent", parent.parse().expect("ascii"));
            let mut client = HealthClient::new(chassis::channel(&env, &url));
            client.check(request).await.expect("serving");
            tasks.begin_drain();
        };
        let (served, ()) =
            tokio::join!(process.serve(tonic::service::Routes::default(), &[]), call);
        served
    });
    ran.expect("a clean end");

    // No waiting here: what is not sent by now is lost.
    let received = received.lock().expect("no panic");
    let holds = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|window| window == part);
    let trace_bytes: Vec<u8> = (0..16)
        .map(|i| u8::from_str_radix(&trace_id[2 * i..2 * i + 2], 16).expect("hex"))
        .collect();
    let expected: [&[u8]; 3] = [b"observed", b"grpc.health.v1.Health", &trace_bytes];
    let found = received.iter().any(|(path, body)| {
        path.ends_with("TraceService/Export") && expected.iter().all(|part| holds(body, part))
    });
    let itself = received
        .iter()
        .any(|(_, body)| holds(body, b"FramedWrite") || holds(body, b"hyper"));
    assert!(!itself, "the transport's spans are not exported");
    let paths: Vec<_> = received.iter().map(|(path, _)| path).collect();
    assert!(found, "the collector got {paths:?}");
}
