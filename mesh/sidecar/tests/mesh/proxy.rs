//! The sidecar of a pod: this crate's, or Linkerd's proxy in its place.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use mesh_sidecar::testing::{ControlPlane, linkerd};
use mesh_sidecar::{Config, Sidecar};

/// Names Linkerd's proxy.
pub(crate) const BINARY: &str = "LINKERD2_PROXY";
/// Says in which pods it stands: `both`, `client` (the gateway's) or `server` (all others).
pub(crate) const SIDES: &str = "SAGAMESH_TEST_LINKERD_SIDES";

/// A sidecar.
pub(crate) enum Proxy {
    Embedded(Sidecar),
    Linkerd(linkerd::Process),
}

impl Proxy {
    pub(crate) async fn start(control: &ControlPlane, config: Config, workload: &str) -> Self {
        match linkerd_for(workload) {
            Some(binary) => {
                Self::Linkerd(linkerd::Process::start(&binary, control, config).unwrap())
            }
            None => Self::Embedded(Sidecar::start(config).await.unwrap()),
        }
    }

    pub(crate) fn inbound_addr(&self) -> SocketAddr {
        match self {
            Self::Embedded(sidecar) => sidecar.inbound_addr(),
            Self::Linkerd(process) => process.inbound,
        }
    }

    pub(crate) fn outbound_addr(&self) -> SocketAddr {
        match self {
            Self::Embedded(sidecar) => sidecar.outbound_addr(),
            Self::Linkerd(process) => process.outbound,
        }
    }

    pub(crate) fn admin_addr(&self) -> SocketAddr {
        match self {
            Self::Embedded(sidecar) => sidecar.admin_addr(),
            Self::Linkerd(process) => process.admin,
        }
    }

    /// What it counted. Of a process it is asked for without letting go of this thread: it needs nobody else to answer.
    pub(crate) fn metrics(&self) -> String {
        let process = match self {
            Self::Embedded(sidecar) => return sidecar.metrics(),
            Self::Linkerd(process) => process,
        };
        let mut stream = std::net::TcpStream::connect(process.admin).unwrap();
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) async fn ready(&self) {
        match self {
            Self::Embedded(sidecar) => sidecar.ready().await,
            Self::Linkerd(process) => process.ready().await,
        }
    }

    /// Whether it takes requests, as it changes: of this crate's alone.
    pub(crate) fn serving(&self) -> tokio::sync::watch::Receiver<bool> {
        match self {
            Self::Embedded(sidecar) => sidecar.serving(),
            Self::Linkerd(_) => panic!("a process says it on /ready alone"),
        }
    }

    pub(crate) async fn shutdown(self) {
        match self {
            Self::Embedded(sidecar) => sidecar.shutdown().await,
            Self::Linkerd(process) => process.shutdown().await.unwrap(),
        }
    }
}

/// Says why a test, or a part of it, is not for Linkerd's proxy.
pub(crate) fn skipped(why: &str) {
    eprintln!("not for Linkerd's proxy: {why}");
}

/// Whether the pod of `workload` has Linkerd's proxy.
pub(crate) fn is_linkerd(workload: &str) -> bool {
    linkerd_for(workload).is_some()
}

fn linkerd_for(workload: &str) -> Option<PathBuf> {
    if !linkerd::is_inside() {
        return None;
    }
    let side = if workload == "gateway" {
        "client"
    } else {
        "server"
    };
    let sides = std::env::var(SIDES).unwrap_or_default();
    let binary = std::env::var_os(BINARY)?;
    (sides == side || sides == "both").then(|| binary.into())
}

/// The addresses of Services that are redirected to one pod's proxy.
pub(crate) struct Services {
    control: ControlPlane,
    range: u8,
    known: Mutex<HashMap<String, SocketAddr>>,
}

impl Services {
    pub(crate) fn redirect(control: &ControlPlane, outbound: u16) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let range = NEXT.fetch_add(1, Ordering::Relaxed);
        linkerd::redirect(&format!("10.96.{range}.0/24"), outbound).unwrap();
        Self {
            control: control.clone(),
            range,
            known: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, destination: &str) -> SocketAddr {
        let mut known = self.known.lock().unwrap();
        if let Some(service) = known.get(destination) {
            return *service;
        }
        let number = u8::try_from(known.len() + 1).unwrap();
        let service = SocketAddr::new(Ipv4Addr::new(10, 96, self.range, number).into(), 50051);
        self.control.set_service(service, destination);
        known.insert(destination.to_owned(), service);
        service
    }
}
