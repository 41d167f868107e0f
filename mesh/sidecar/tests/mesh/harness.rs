//! Pods: an app, its sidecar and an address of their own.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use linkerd2_proxy_api::destination::WeightedAddr;
use linkerd2_proxy_api::outbound::FailureAccrual;
use linkerd2_proxy_api::outbound::grpc_route::Rule;
use mesh_sidecar::Config;
use mesh_sidecar::testing::{ControlPlane, TOKEN, identity_of, linkerd, policies};

use crate::app::App;
use crate::client::Client;
use crate::proxy::{Proxy, Services};

/// The destination that tests call.
pub(crate) const ORDERS: &str = "orders.sagamesh.svc.cluster.local:50051";
/// An RPC that echoes.
pub(crate) const UNARY: &str = "/test.Echo/Unary";

/// A pod.
pub(crate) struct Pod {
    pub(crate) app: App,
    pub(crate) sidecar: Proxy,
    services: Option<Services>,
    _token: tempfile::NamedTempFile,
}

impl Pod {
    pub(crate) async fn start(control: &ControlPlane, workload: &str) -> Self {
        Self::start_with(control, workload, |_| {}).await
    }

    pub(crate) async fn start_with(
        control: &ControlPlane,
        workload: &str,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let ip = next_ip();
        let app = App::start(ip).await;
        let mut token = tempfile::NamedTempFile::new().unwrap();
        token.write_all(TOKEN.as_bytes()).unwrap();
        let mut config = control.config(workload, ip, token.path());
        config.inbound.ports = vec![app.address.port()];
        adjust(&mut config);
        let sidecar = Proxy::start(control, config, workload).await;
        let services = match &sidecar {
            Proxy::Embedded(_) => None,
            Proxy::Linkerd(proxy) => Some(Services::redirect(control, proxy.outbound.port())),
        };
        Self {
            app,
            sidecar,
            services,
            _token: token,
        }
    }

    /// As the Destination API names it.
    pub(crate) fn endpoint(&self, workload: &str) -> WeightedAddr {
        policies::endpoint(
            self.app.address,
            self.sidecar.inbound_addr().port(),
            &identity_of(workload),
        )
    }

    /// A client in this pod.
    pub(crate) fn client(&self, destination: &str) -> Client {
        Client::new(self.dial(destination), destination)
    }

    /// Where an app of this pod connects for `destination`.
    pub(crate) fn dial(&self, destination: &str) -> SocketAddr {
        match &self.services {
            Some(services) => services.of(destination),
            None => self.sidecar.outbound_addr(),
        }
    }
}

/// A client's pod and one of `orders`, which lets every client of the mesh in.
pub(crate) struct Mesh {
    pub(crate) control: ControlPlane,
    pub(crate) gateway: Pod,
    pub(crate) orders: Pod,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::start_with(vec![policies::grpc_rule("", ORDERS)], None).await
    }

    pub(crate) async fn start_with(rules: Vec<Rule>, accrual: Option<FailureAccrual>) -> Self {
        let control = ControlPlane::start().await.unwrap();
        Self::start_on(control, rules, accrual).await
    }

    pub(crate) async fn start_on(
        control: ControlPlane,
        rules: Vec<Rule>,
        accrual: Option<FailureAccrual>,
    ) -> Self {
        let orders = Pod::start(&control, "orders").await;
        let gateway = Pod::start(&control, "gateway").await;
        Self::of(control, gateway, orders, rules, accrual).await
    }

    /// With another configuration of the sidecar of orders.
    pub(crate) async fn with_orders(adjust: impl FnOnce(&mut Config)) -> Self {
        let control = ControlPlane::start().await.unwrap();
        let orders = Pod::start_with(&control, "orders", adjust).await;
        let gateway = Pod::start(&control, "gateway").await;
        let rules = vec![policies::grpc_rule("", ORDERS)];
        Self::of(control, gateway, orders, rules, None).await
    }

    /// With another configuration of the sidecar of the gateway.
    pub(crate) async fn with_gateway(adjust: impl FnOnce(&mut Config)) -> Self {
        let control = ControlPlane::start().await.unwrap();
        let orders = Pod::start(&control, "orders").await;
        let gateway = Pod::start_with(&control, "gateway", adjust).await;
        let rules = vec![policies::grpc_rule("", ORDERS)];
        Self::of(control, gateway, orders, rules, None).await
    }

    async fn of(
        control: ControlPlane,
        gateway: Pod,
        orders: Pod,
        rules: Vec<Rule>,
        accrual: Option<FailureAccrual>,
    ) -> Self {
        control.set_policy(ORDERS, policies::grpc(rules, accrual));
        control.set_endpoints(ORDERS, vec![orders.endpoint("orders")]);
        control.set_server(
            "orders",
            orders.app.address.port(),
            policies::grpc_server(Vec::new(), vec![policies::authz("all", &[])]),
        );
        orders.sidecar.ready().await;
        gateway.sidecar.ready().await;
        Self {
            control,
            gateway,
            orders,
        }
    }

    /// A client in the gateway's pod that calls orders.
    pub(crate) fn client(&self) -> Client {
        self.gateway.client(ORDERS)
    }
}

/// The value of the series of `name` whose labels contain all of `labels`, summed.
pub(crate) fn metric(sidecar: &Proxy, name: &str, labels: &[&str]) -> f64 {
    let text = sidecar.metrics();
    let series = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")));
    series
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Waits until `condition` holds; a test that waits in vain fails by its own time limit.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(
            tokio::time::Instant::now() < limit,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address that no other test uses.
pub(crate) fn next_ip() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    if linkerd::is_inside() {
        // Everybody lets in who comes from 127.0.0.1, which is where connections to 127.0.0.0/8 come from.
        return Ipv4Addr::new(10, 99, high, low).into();
    }
    let block = 64 + (std::process::id() % 128) as u8;
    Ipv4Addr::new(127, block, high, low).into()
}

/// The address of something that does not answer.
pub(crate) fn nowhere() -> SocketAddr {
    SocketAddr::new(next_ip(), 1)
}
