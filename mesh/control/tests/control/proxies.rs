//! What Linkerd's proxies are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use linkerd2_proxy_api::destination::{GetDestination, update};
use linkerd2_proxy_api::inbound::{self, PortSpec};
use linkerd2_proxy_api::meta::metadata;
use linkerd2_proxy_api::net::TcpAddress;
use linkerd2_proxy_api::outbound::{self, TrafficSpec, proxy_protocol, traffic_spec};
use mesh_control::policy::{self, Key, Policy};
use mesh_control::translate;
use mesh_control::translate::inbound::Pod;
use sagamesh_api::mesh::v1::{ExplainRequest, ListRoutesRequest, ListServicesRequest};
use tonic::Code;

use crate::registrations::instance;
use crate::rig::{Rig, by, labels, real_policy};

fn real() -> Policy {
    policy::read(&real_policy()).expect("the policy of this repository is good")
}

fn outbound_of(policy: &Policy, name: &str) -> outbound::OutboundPolicy {
    let service = &policy.services[&Key::new("sagamesh", name)];
    translate::outbound::policy(service, &service.ports[0])
}

fn grpc(policy: outbound::OutboundPolicy) -> proxy_protocol::Grpc {
    match policy.protocol.and_then(|protocol| protocol.kind) {
        Some(proxy_protocol::Kind::Grpc(grpc)) => grpc,
        other => panic!("not gRPC: {other:?}"),
    }
}

/// What a proxy rejects in a backend: anything missing.
fn check_backend(backend: &outbound::Backend) {
    assert!(has_resource(backend.metadata.as_ref()));
    let queue = backend.queue.as_ref().expect("a queue");
    assert!(queue.capacity > 0 && queue.failfast_timeout.is_some());
    let Some(outbound::backend::Kind::Balancer(balancer)) = &backend.kind else {
        panic!("no balancer")
    };
    let Some(outbound::backend::balance_p2c::Load::PeakEwma(load)) = &balancer.load else {
        panic!("no load")
    };
    assert!(load.default_rtt.is_some() && load.decay.is_some());
    let Some(outbound::backend::endpoint_discovery::Kind::Dst(dst)) = balancer
        .discovery
        .as_ref()
        .and_then(|one| one.kind.as_ref())
    else {
        panic!("no discovery")
    };
    assert!(
        translate::authority::parse(&dst.path).is_ok(),
        "{}: a proxy panics on other paths",
        dst.path
    );
}

fn has_resource(metadata: Option<&linkerd2_proxy_api::meta::Metadata>) -> bool {
    match metadata.and_then(|metadata| metadata.kind.as_ref()) {
        Some(metadata::Kind::Default(name)) => !name.is_empty(),
        Some(metadata::Kind::Resource(resource)) => ![
            &resource.group,
            &resource.kind,
            &resource.name,
            &resource.namespace,
        ]
        .iter()
        .any(|part| part.is_empty()),
        None => false,
    }
}

#[test]
fn outbound_messages_have_everything_that_a_proxy_wants() {
    let policy = real();
    for key in policy.services.keys() {
        let message = outbound_of(&policy, &key.name);
        assert!(has_resource(message.metadata.as_ref()), "{key}");
        let kind = message.protocol.and_then(|protocol| protocol.kind);
        match kind.expect("a protocol") {
            proxy_protocol::Kind::Grpc(grpc) => {
                assert!(!grpc.routes.is_empty());
                for route in &grpc.routes {
                    assert!(has_resource(route.metadata.as_ref()));
                    for rule in &route.rules {
                        assert!(!rule.matches.is_empty());
                        assert!(rule.matches.iter().all(|one| one.rpc.is_some()));
                        if let Some(retry) = &rule.retry {
                            assert!(retry.conditions.is_some() && retry.max_retries > 0);
                        }
                        use outbound::grpc_route::distribution::Kind;
                        match rule.backends.as_ref().and_then(|one| one.kind.as_ref()) {
                            Some(Kind::FirstAvailable(first)) => {
                                let backend = first.backends[0].backend.as_ref();
                                check_backend(backend.expect("a backend"));
                            }
                            Some(Kind::RandomAvailable(random)) => {
                                assert!(random.backends.iter().any(|one| one.weight > 0));
                                for one in &random.backends {
                                    let backend = one.backend.as_ref().expect("a backend");
                                    check_backend(backend.backend.as_ref().expect("a backend"));
                                }
                            }
                            other => panic!("no backends: {other:?}"),
                        }
                    }
                }
                if let Some(accrual) = &grpc.failure_accrual {
                    let Some(outbound::failure_accrual::Kind::ConsecutiveFailures(consecutive)) =
                        &accrual.kind
                    else {
                        panic!("no accrual")
                    };
                    assert_eq!(consecutive.max_failures, 5);
                    assert!(consecutive.backoff.is_some());
                }
            }
            proxy_protocol::Kind::Detect(detect) => {
                assert_eq!(key.name, "gateway");
                assert!(detect.timeout.is_some());
                assert!(
                    detect
                        .opaque
                        .is_some_and(|opaque| !opaque.routes.is_empty())
                );
                assert!(detect.http1.is_some_and(|http| !http.routes.is_empty()));
                assert!(detect.http2.is_some_and(|http| !http.routes.is_empty()));
            }
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn timeouts_and_retries_are_where_they_belong() {
    let policy = real();
    let rule_of = |service: &str, route: &str| {
        let routes = grpc(outbound_of(&policy, service)).routes;
        let found = routes.into_iter().find(|one| {
            matches!(
                one.metadata.as_ref().and_then(|metadata| metadata.kind.as_ref()),
                Some(metadata::Kind::Resource(resource)) if resource.name == route
            )
        });
        found.expect("the route").rules.remove(0)
    };
    let seconds = |rule: &outbound::grpc_route::Rule| {
        rule.timeouts
            .as_ref()
            .and_then(|timeouts| timeouts.request.as_ref())
            .map(|request| request.seconds)
    };
    assert_eq!(
        seconds(&rule_of("inventory", "inventory-idempotent")),
        Some(5)
    );
    assert_eq!(seconds(&rule_of("payments", "payments-reads")), Some(10));
    assert_eq!(seconds(&rule_of("orders", "orders-once")), Some(10));
    assert!(rule_of("orders", "orders-once").retry.is_none());
    assert!(rule_of("orders", "orders-idempotent").retry.is_some());
    for (service, rest) in [
        ("orders", "orders-rest"),
        ("coordinator", "coordinator-rest"),
        ("coordinator-0", "coordinator-replicas"),
    ] {
        let rule = rule_of(service, rest);
        assert!(rule.timeouts.is_none() && rule.retry.is_none(), "{rest}");
    }
    for (service, accrues) in [
        ("inventory", true),
        ("payments", true),
        ("notifications", true),
        ("orders", false),
        ("coordinator", false),
        ("coordinator-0", false),
    ] {
        let accrual = grpc(outbound_of(&policy, service)).failure_accrual;
        assert_eq!(accrual.is_some(), accrues, "{service}");
    }
}

#[test]
fn inbound_messages_say_who_may_call_what() {
    let policy = real();
    let ports = BTreeMap::from([("grpc".to_owned(), 50051), ("admin".to_owned(), 9090)]);
    let server = |name: &str, port| {
        let labels = labels(name);
        let pod = Pod {
            namespace: "sagamesh",
            labels: &labels,
            ports: &ports,
        };
        translate::inbound::server(&policy, pod, port)
    };
    let kind = |server: &inbound::Server| {
        server
            .protocol
            .as_ref()
            .and_then(|protocol| protocol.kind.clone())
            .expect("a protocol")
    };

    let orders = server("orders", 50051);
    assert_eq!(orders.labels["name"], "orders-grpc");
    assert!(orders.authorizations.is_empty(), "only routes let in");
    let inbound::proxy_protocol::Kind::Http2(http2) = kind(&orders) else {
        panic!("not HTTP/2")
    };
    let limit = http2.local_rate_limit.expect("a rate limit");
    assert_eq!(limit.total.map(|rate| rate.requests_per_second), Some(8000));
    assert_eq!(http2.routes.len(), 3);
    for route in &http2.routes {
        assert!(has_resource(route.metadata.as_ref()));
        for authz in &route.authorizations {
            assert_eq!(authz.networks.len(), 2, "all networks, of both kinds");
            assert!(authz.authentication.is_some() && has_resource(authz.metadata.as_ref()));
        }
    }

    let coordinator = server("coordinator", 50051);
    let inbound::proxy_protocol::Kind::Grpc(grpc) = kind(&coordinator) else {
        panic!("not gRPC")
    };
    assert!(grpc.routes.iter().all(|route| {
        route
            .rules
            .iter()
            .all(|rule| rule.matches.iter().all(|one| one.rpc.is_some()))
    }));
    assert_eq!(coordinator.authorizations.len(), 1, "replicas");

    let admin = server("orders", 9090);
    assert_eq!(admin.labels["name"], "admin");
    assert!(matches!(
        admin.authorizations[0]
            .authentication
            .as_ref()
            .and_then(|authn| authn.permit.as_ref()),
        Some(inbound::authn::Permit::Unauthenticated(_))
    ));

    let proxy_admin = server("orders", 4191);
    assert_eq!(proxy_admin.labels["name"], "all-unauthenticated");
    assert!(matches!(
        kind(&proxy_admin),
        inbound::proxy_protocol::Kind::Detect(_)
    ));

    let unknown = server("orders", 1234);
    assert_eq!(unknown.labels["name"], "deny");
    assert!(unknown.authorizations.is_empty());
}

fn authority(name: &str) -> TrafficSpec {
    TrafficSpec {
        source_workload: r#"{"ns":"sagamesh","pod":"gateway-0"}"#.to_owned(),
        target: Some(traffic_spec::Target::Authority(name.to_owned())),
    }
}

/// The timeout of calls to inventory, in seconds, as proxies are told now.
pub(crate) async fn inventory_timeout(rig: &Rig) -> i64 {
    let name = "inventory.sagamesh.svc.cluster.local:50051";
    let policy = rig.outbound().get(authority(name)).await.expect("a policy");
    grpc(policy.into_inner())
        .routes
        .iter()
        .flat_map(|route| &route.rules)
        .find_map(|rule| rule.timeouts.as_ref()?.request.as_ref())
        .expect("a timeout")
        .seconds
}

#[tokio::test]
async fn a_service_is_found_by_name_and_by_address() {
    let mut rig = Rig::started().await;
    let services = rig
        .operator()
        .list_services(ListServicesRequest {})
        .await
        .expect("services")
        .into_inner()
        .services;
    let orders = services
        .iter()
        .find(|one| one.name == "orders")
        .expect("orders");
    let ip: std::net::IpAddr = orders.cluster_ip.parse().expect("an address");
    let by_name = rig
        .outbound()
        .get(authority("orders.sagamesh.svc.cluster.local:50051"))
        .await
        .expect("a policy");
    let by_address = rig
        .outbound()
        .get(TrafficSpec {
            source_workload: String::new(),
            target: Some(traffic_spec::Target::Addr(TcpAddress {
                ip: Some(ip.into()),
                port: 50051,
            })),
        })
        .await
        .expect("a policy");
    assert_eq!(by_name.into_inner(), by_address.into_inner());

    for (unknown, code) in [
        ("nobody.sagamesh.svc.cluster.local:50051", Code::NotFound),
        ("orders.sagamesh.svc.cluster.local:1", Code::NotFound),
        ("orders", Code::InvalidArgument),
    ] {
        let status = rig
            .outbound()
            .watch(authority(unknown))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), code, "{unknown}");
    }

    // The address is the same after a restart.
    rig.kill().await;
    rig.start().await;
    let again = rig
        .operator()
        .list_services(ListServicesRequest {})
        .await
        .expect("services")
        .into_inner()
        .services;
    assert_eq!(services, again);
    rig.drain().await;
}

fn destination(path: &str) -> GetDestination {
    GetDestination {
        scheme: String::new(),
        path: path.to_owned(),
        context_token: String::new(),
    }
}

fn address(addr: Option<&TcpAddress>) -> SocketAddr {
    let addr = addr.cloned().expect("an address");
    let ip = std::net::IpAddr::try_from(addr.ip.expect("an IP")).expect("an IP");
    SocketAddr::new(ip, u16::try_from(addr.port).expect("a port"))
}

#[tokio::test]
async fn endpoints_come_and_go_with_their_instances() {
    let mut rig = Rig::started().await;
    let mut names = Vec::new();
    for service in ["coordinator", "coordinator-0", "coordinator-1"] {
        let path = format!("{service}.sagamesh.svc.cluster.local:50051");
        let mut stream = rig
            .destination()
            .get(destination(&path))
            .await
            .expect("a stream")
            .into_inner();
        let first = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        assert!(matches!(
            first.update,
            Some(update::Update::NoEndpoints(ref none)) if none.exists
        ));
        names.push(stream);
    }
    let [mut all, mut first, _second] = <[_; 3]>::try_from(names).expect("three streams");
    let registration = instance("coordinator", "coordinator-0", "127.77.0.6");
    rig.registry()
        .register(by("coordinator-0", registration))
        .await
        .expect("registered");
    // One instance is in the Service of all replicas and in its own.
    for stream in [&mut all, &mut first] {
        let message = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        let Some(update::Update::Add(set)) = message.update else {
            panic!("no addition")
        };
        let endpoint = &set.addrs[0];
        assert_eq!(
            address(endpoint.addr.as_ref()),
            SocketAddr::from(([127, 77, 0, 6], 50051))
        );
        let tls = endpoint.tls_identity.as_ref().expect("an identity");
        assert_eq!(
            tls.server_name.as_ref().map(|name| name.name.as_str()),
            Some("coordinator.sagamesh.serviceaccount.identity.linkerd.cluster.local")
        );
        let hint = endpoint.protocol_hint.as_ref().expect("a hint");
        assert_eq!(
            hint.opaque_transport.as_ref().map(|one| one.inbound_port),
            Some(4143)
        );
        assert_eq!(endpoint.metric_labels["pod"], "coordinator-0");
    }
    rig.registry()
        .deregister(by(
            "coordinator-0",
            sagamesh_api::mesh::v1::DeregisterRequest {
                instance_id: "coordinator-0".to_owned(),
            },
        ))
        .await
        .expect("deregistered");
    let gone = all.message().await.expect("no error").expect("a message");
    assert!(matches!(gone.update, Some(update::Update::NoEndpoints(_))));
    rig.drain().await;
    // Streams end, so that the process can.
    assert!(matches!(all.message().await, Ok(None) | Err(_)));
}

#[tokio::test]
async fn routes_are_shown_with_what_they_do() {
    let mut rig = Rig::started().await;
    let routes = rig
        .operator()
        .list_routes(ListRoutesRequest {})
        .await
        .expect("an answer")
        .into_inner()
        .routes;
    let of = |parent: &str, name: &str| {
        routes
            .iter()
            .find(|route| route.parent == parent && route.name == name)
            .expect("the route")
    };
    let outbound = of("Service/inventory", "GRPCRoute/inventory-idempotent");
    assert_eq!(
        outbound.effects,
        ["timeout 5s", "up to 2 retries on UNAVAILABLE"]
    );
    assert_eq!(
        outbound.matches[0],
        "/shop.inventory.v1.InventoryService/CheckAvailability"
    );
    let inbound = of("Server/orders-grpc", "HTTPRoute/orders-feed");
    assert_eq!(inbound.matches, ["/ledger.v1.FeedService/Subscribe"]);
    assert_eq!(inbound.effects, ["notifications.sagamesh"]);
    assert_eq!(of("Service/orders", "GRPCRoute/orders-rest").matches, ["*"]);
    rig.drain().await;
}

#[tokio::test]
async fn profiles_of_services_pods_and_strangers() {
    let mut rig = Rig::started().await;
    let mut client = rig.destination();
    let mut profile = async |path: &str| {
        let answer = client
            .get_profile(destination(path))
            .await
            .expect("a stream");
        answer
            .into_inner()
            .message()
            .await
            .expect("no error")
            .expect("a message")
    };
    let orders = profile("orders.sagamesh.svc.cluster.local:50051").await;
    assert_eq!(
        orders.fully_qualified_name,
        "orders.sagamesh.svc.cluster.local"
    );
    assert!(orders.routes.is_empty() && orders.dst_overrides.is_empty());
    let pod = profile("127.77.0.2:50051").await;
    let endpoint = pod.endpoint.expect("an endpoint");
    assert!(endpoint.tls_identity.is_some());
    assert!(profile("192.0.2.1:443").await.endpoint.is_none());
    let status = rig
        .destination()
        .get(destination("orders"))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    rig.drain().await;
}

#[tokio::test]
async fn a_port_is_watched() {
    let mut rig = Rig::started().await;
    let spec = |pod: &str, port| PortSpec {
        workload: format!(r#"{{"ns":"sagamesh","pod":"{pod}"}}"#),
        port,
    };
    let mut stream = rig
        .inbound()
        .watch_port(spec("inventory-0", 50051))
        .await
        .expect("a stream")
        .into_inner();
    let first = stream
        .message()
        .await
        .expect("no error")
        .expect("a message");
    assert_eq!(first.labels["name"], "inventory-grpc");

    let file = rig.policy_dir().join("inventory.yaml");
    let text = std::fs::read_to_string(&file).expect("a text");
    let denied = text.replace("    - kind: ServiceAccount\n      name: orders\n", "");
    assert_ne!(text, denied);
    std::fs::write(&file, denied).expect("written");
    let second = stream
        .message()
        .await
        .expect("no error")
        .expect("a message");
    assert_ne!(first, second, "a change of policy is pushed");
    let explained = rig
        .operator()
        .explain(ExplainRequest {
            source: "orders".to_owned(),
            service: "inventory".to_owned(),
            method: "/shop.inventory.v1.InventoryService/CheckAvailability".to_owned(),
            port: 0,
        })
        .await
        .expect("an answer")
        .into_inner();
    assert!(!explained.allowed);
    assert_eq!(explained.server, "inventory-grpc");
    assert_eq!(explained.route, "HTTPRoute/inventory-availability");
    assert_eq!(explained.outbound_route, "GRPCRoute/inventory-idempotent");
    assert!(
        explained.outbound_behaviour.contains("timeout 5s"),
        "{explained:?}"
    );

    // A pod that is recorded while everything runs, and one that is not.
    rig.workload("latecomer", "127.77.0.99");
    let late = rig
        .inbound()
        .get_port(spec("latecomer-0", 50051))
        .await
        .expect("an answer");
    assert_eq!(late.into_inner().labels["name"], "deny");
    let status = rig
        .inbound()
        .get_port(spec("nobody-0", 50051))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    for wrong in ["", "orders-0", r#"{"ns":"sagamesh","pod":"../orders-0"}"#] {
        let spec = PortSpec {
            workload: wrong.to_owned(),
            port: 50051,
        };
        let status = rig.inbound().get_port(spec).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}");
    }
    rig.drain().await;
}
