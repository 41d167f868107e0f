//! Without an operating system: listener and connector are channels in memory.

use std::net::SocketAddr;
use std::sync::Arc;

use chassis::env::{BoxIo, Connector, Env};
use chassis::{Listener, Process};
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_server::NotificationServiceServer;
use tokio::sync::{Mutex, mpsc};

use crate::fake::{Fake, SERVICES, ask};

/// A network of one host: what connects comes out of the listener.
fn network(address: SocketAddr) -> (Connector, Listener) {
    let (dialled, accepted) = mpsc::unbounded_channel::<BoxIo>();
    let accepted = Arc::new(Mutex::new(accepted));
    let listener = Listener::new(address, move || {
        let accepted = Arc::clone(&accepted);
        async move {
            match accepted.lock().await.recv().await {
                Some(io) => Ok((io, SocketAddr::from(([10, 0, 0, 1], 1)))),
                None => std::future::pending().await,
            }
        }
    });
    let connector = Connector::new(move |_uri| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let sent = dialled.send(Box::new(far)).is_ok();
        async move {
            let near: BoxIo = Box::new(near);
            sent.then_some(near)
                .ok_or_else(|| std::io::Error::other("the host is down"))
        }
    });
    (connector, listener)
}

#[tokio::test]
async fn a_process_runs_on_a_network_that_was_passed_in() {
    let address = "10.0.0.2:50051".parse().expect("an address");
    let (connector, listener) = network(address);
    let (_, admin) = network("10.0.0.2:9090".parse().expect("an address"));
    let mut env = Env::system();
    env.connector = connector;
    let process = Process::with_listeners(
        "simulated",
        env.clone(),
        chassis::ChassisConfig::default(),
        listener,
        admin,
    );
    let process = process.expect("bound");
    assert_eq!(process.grpc_addr(), address);
    let tasks = process.tasks.clone();
    let routes = tonic::service::Routes::new(NotificationServiceServer::new(Fake::default()));
    let served = tokio::spawn(process.serve(routes, &SERVICES[..1]));
    let mut client = NotificationServiceClient::new(chassis::channel(&env, "10.0.0.2:50051"));
    client
        .list_notifications(ask("ok"))
        .await
        .expect("an answer");
    tasks.begin_drain();
    served.await.expect("no panic").expect("drained");
}
