//! Reading policy: the real files, and what is wrong with others.

use mesh_control::policy::explain::{Call, explain};
use mesh_control::policy::{self, Fault, Key, Policy, Source};

use crate::rig::{Rig, real_policy};

fn faults(text: &str) -> Vec<Fault> {
    let source = Source {
        file: "test.yaml".to_owned(),
        text: text.to_owned(),
    };
    policy::read(&[source]).expect_err("it is wrong")
}

/// The one fault of a text, as (line, field, message).
fn fault(text: &str) -> (u32, String, String) {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let fault = faults.into_iter().next().expect("one");
    assert_eq!(fault.file, "test.yaml");
    (fault.line, fault.field, fault.message)
}

const ACCOUNT: &str = "apiVersion: v1
kind: ServiceAccount
metadata:
  name: orders
  namespace: sagamesh
---
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: orders
  namespace: sagamesh
spec:
  selector:
    app: orders
  ports:
    - name: grpc
      port: 50051
      appProtocol: kubernetes.io/h2c
---
";

fn real() -> Policy {
    policy::read(&real_policy()).expect("the policy of this repository is good")
}

#[test]
fn the_real_policy_is_read() {
    let policy = real();
    let names: Vec<&str> = policy
        .services
        .keys()
        .map(|key| key.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "coordinator",
            "coordinator-0",
            "coordinator-1",
            "coordinator-2",
            "gateway",
            "inventory",
            "notifications",
            "orders",
            "payments"
        ]
    );
    assert_eq!(policy.service_accounts.len(), 7);
    assert_eq!(policy.servers.len(), 7);
}

#[test]
fn every_file_is_applied_to_a_cluster_too() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy");
    let text = std::fs::read_to_string(folder.join("kustomization.yaml")).expect("it is there");
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .collect();
    let files = real_policy();
    let files: Vec<&str> = files.iter().map(|source| source.file.as_str()).collect();
    assert_eq!(listed, files);
}

/// Whether a service account may call a method.
fn may(policy: &Policy, source: &str, service: &str, method: &str) -> bool {
    let service = &policy.services[&Key::new("sagamesh", service)];
    let identity = policy::identity_of(&Key::new("sagamesh", source));
    let (rpc, method) = method.split_once('/').expect("service/method");
    let call = Call {
        identity: Some(&identity),
        service: rpc,
        method,
    };
    explain(
        policy,
        service,
        &service.ports[0],
        &Default::default(),
        call,
    )
    .allowed
}

#[test]
fn least_privilege() {
    let policy = real();
    let all = [
        "gateway",
        "orders",
        "inventory",
        "payments",
        "notifications",
        "coordinator",
        "operator",
    ];
    let table: &[(&str, &str, &[&str])] = &[
        (
            "orders",
            "shop.orders.v1.OrderService/PlaceOrder",
            &["gateway"],
        ),
        (
            "orders",
            "shop.orders.v1.OrderService/WatchOrder",
            &["gateway"],
        ),
        (
            "orders",
            "ledger.v1.FeedService/Subscribe",
            &["notifications"],
        ),
        ("orders", "grpc.health.v1.Health/Check", &["operator"]),
        (
            "orders",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            &["operator"],
        ),
        (
            "inventory",
            "shop.inventory.v1.InventoryService/CheckAvailability",
            &["gateway", "orders"],
        ),
        (
            "inventory",
            "shop.inventory.v1.InventoryService/Restock",
            &["gateway", "operator"],
        ),
        (
            "inventory",
            "shop.inventory.v1.InventoryService/GetItem",
            &["gateway"],
        ),
        ("inventory", "ledger.v1.FeedService/Subscribe", &[]),
        (
            "payments",
            "shop.payments.v1.PaymentService/GetPayment",
            &["gateway"],
        ),
        (
            "payments",
            "shop.payments.v1.PaymentService/GetTrialBalance",
            &["gateway", "operator"],
        ),
        (
            "notifications",
            "shop.notifications.v1.NotificationService/ListNotifications",
            &["gateway"],
        ),
        (
            "coordinator",
            "saga.v1.SagaService/StartSaga",
            &["orders", "coordinator", "operator"],
        ),
        (
            "coordinator",
            "saga.v1.SagaService/GetSaga",
            &["gateway", "orders", "inventory", "coordinator", "operator"],
        ),
        (
            "coordinator",
            "saga.v1.SagaService/WatchSaga",
            &["coordinator", "operator"],
        ),
        (
            "coordinator",
            "saga.v1.DefinitionService/ActivateDefinition",
            &["orders", "coordinator", "operator"],
        ),
        (
            "coordinator",
            "saga.v1.OperatorService/ActOnSteps",
            &["coordinator", "operator"],
        ),
        (
            "coordinator-0",
            "saga.v1.ParticipantService/Participate",
            &[
                "orders",
                "inventory",
                "payments",
                "notifications",
                "coordinator",
            ],
        ),
    ];
    for (service, method, allowed) in table {
        for source in all {
            assert_eq!(
                may(&policy, source, service, method),
                allowed.contains(&source),
                "{source} -> {service} {method}"
            );
        }
    }
}

#[test]
fn an_unknown_kind_is_refused() {
    let text = format!(
        "{ACCOUNT}apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata:\n  name: x\n"
    );
    let (line, field, message) = fault(&text);
    assert_eq!((line, field.as_str()), (8, "kind"));
    assert!(message.contains("ServiceProfile"), "{message}");
}

#[test]
fn an_unknown_field_is_refused() {
    let text = SERVICE.replace(
        "      port: 50051\n",
        "      port: 50051\n      nodePort: 1\n",
    );
    let (line, field, message) = fault(&text);
    assert_eq!((line, field.as_str()), (12, "spec.ports[0].nodePort"));
    assert!(message.contains("unknown field"), "{message}");
}

#[test]
fn an_unknown_value_is_refused() {
    let text = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata:
  name: orders
  namespace: sagamesh
spec:
  podSelector: {}
  port: grpc
  proxyProtocol: grpc
";
    let (line, field, message) = fault(text);
    assert_eq!((line, field.as_str()), (9, "spec.proxyProtocol"));
    assert!(message.contains("unknown variant"), "{message}");
}

#[test]
fn the_protocol_that_looks_like_grpc_and_is_opaque_is_refused() {
    let (line, field, message) = fault(&SERVICE.replace("kubernetes.io/h2c", "grpc"));
    assert_eq!((line, field.as_str()), (12, "spec.ports[0].appProtocol"));
    assert!(message.contains("opaque"), "{message}");
}

fn route(annotation: &str, backend: &str) -> String {
    format!(
        "{SERVICE}apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: orders
  namespace: sagamesh
  annotations:
    {annotation}
spec:
  parentRefs:
    - group: \"\"
      kind: Service
      name: orders
      port: 50051
  rules:
    - backendRefs:
        - name: {backend}
          port: 50051
"
    )
}

#[test]
fn a_bad_duration_is_refused() {
    let (line, field, message) = fault(&route("timeout.linkerd.io/request: 1.5s", "orders"));
    assert_eq!(
        (line, field.as_str()),
        (20, "metadata.annotations[\"timeout.linkerd.io/request\"]")
    );
    assert!(message.contains("`1.5s` is not a duration"), "{message}");
}

#[test]
fn an_unknown_annotation_is_refused() {
    let (line, field, message) = fault(&route("retry.linkerd.io/grcp: unavailable", "orders"));
    assert_eq!(
        (line, field.as_str()),
        (20, "metadata.annotations[\"retry.linkerd.io/grcp\"]")
    );
    assert!(message.contains("not understood"), "{message}");
}

#[test]
fn timeouts_on_a_service_are_refused() {
    let text = SERVICE.replace(
        "  namespace: sagamesh\n",
        "  namespace: sagamesh\n  annotations:\n    timeout.linkerd.io/request: 5s\n",
    );
    let (line, _, message) = fault(&text);
    assert_eq!(line, 7);
    assert!(message.contains("put it on the routes"), "{message}");
}

#[test]
fn references_that_lead_nowhere_are_refused() {
    let (line, field, message) = fault(&route("timeout.linkerd.io/request: 5s", "order"));
    assert_eq!(
        (line, field.as_str()),
        (29, "spec.rules[0].backendRefs[0].name")
    );
    assert_eq!(message, "there is no Service sagamesh/order");

    let text = format!(
        "{ACCOUNT}apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata:
  name: callers
  namespace: sagamesh
spec:
  identityRefs:
    - kind: ServiceAccount
      name: orders
    - kind: ServiceAccount
      name: gateway
"
    );
    let (line, field, message) = fault(&text);
    assert_eq!((line, field.as_str()), (17, "spec.identityRefs[1].name"));
    assert_eq!(message, "there is no ServiceAccount sagamesh/gateway");

    let text = "apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata:
  name: any
  namespace: sagamesh
spec:
  networks:
    - cidr: 0.0.0.0/0
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: any
  namespace: sagamesh
spec:
  targetRef:
    group: policy.linkerd.io
    kind: Server
    name: admin
  requiredAuthenticationRefs:
    - group: policy.linkerd.io
      kind: NetworkAuthentication
      name: any
";
    let (line, field, message) = fault(text);
    assert_eq!((line, field.as_str()), (19, "spec.targetRef.name"));
    assert_eq!(message, "there is no Server sagamesh/admin");
}

#[test]
fn a_service_whose_routes_leave_a_gap_is_refused() {
    let text = route("timeout.linkerd.io/request: 5s", "orders").replace(
        "    - backendRefs:",
        "    - matches:\n        - method:\n            service: a.B\n      backendRefs:",
    );
    let (line, field, message) = fault(&text);
    assert_eq!((line, field.as_str()), (9, "spec.ports"));
    assert!(message.contains("none that takes the rest"), "{message}");
}

#[test]
fn yaml_that_is_none_is_refused_with_its_line() {
    let (line, _, message) = fault(&format!("{ACCOUNT}a: [1\nb: 2\n"));
    assert!(line >= 7, "line {line}: {message}");
    let (line, field, message) = fault(&SERVICE.replace("port: 50051", "port: many"));
    assert_eq!(
        (line, field.as_str()),
        (11, "spec.ports[0].port"),
        "{message}"
    );
}

#[test]
fn two_servers_of_one_port_are_refused() {
    let server = |name: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata:
  name: {name}
  namespace: sagamesh
spec:
  podSelector:
    matchLabels:
      app: orders
  port: grpc
---
"
        )
    };
    let (line, field, message) = fault(&format!("{SERVICE}{}{}", server("a"), server("b")));
    assert_eq!((line, field.as_str()), (31, "spec.podSelector"));
    assert!(
        message.contains("this Server and a both select"),
        "{message}"
    );
}

#[test]
fn a_document_that_grows_without_end_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        text += &format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(", "));
    }
    let (_, _, message) = fault(&text);
    assert!(
        message.contains("alias") || message.contains("budget") || message.contains("limit"),
        "{message}"
    );
}

#[test]
fn a_document_that_is_too_deep_is_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        for levels in [100, 600, 5_000] {
            let text = format!("{}x{}", open.repeat(levels), close.repeat(levels));
            let (_, _, message) = fault(&text);
            let says = ["depth", "recursion"]
                .iter()
                .any(|word| message.contains(word));
            assert!(says, "{open} {levels} times: {message}");
        }
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = format!(
        "{}{}",
        SERVICE.replace("kubernetes.io/h2c", "grpc"),
        SERVICE.replace("orders", "Orders")
    );
    assert_eq!(faults(&text).len(), 2);
}

#[tokio::test]
async fn a_live_edit_takes_effect_and_a_bad_one_keeps_the_last_good_state() {
    let mut rig = Rig::started().await;
    assert!(rig.status().await.current);
    let file = rig.policy_dir().join("inventory.yaml");
    let good = std::fs::read_to_string(&file).expect("a text");

    std::fs::write(
        &file,
        good.replace(
            "timeout.linkerd.io/request: 5s",
            "timeout.linkerd.io/request: 7s",
        ),
    )
    .expect("written");
    let status = rig.status_when(|status| status.generation == 2).await;
    assert!(status.current);

    std::fs::write(
        &file,
        good.replace(
            "timeout.linkerd.io/request: 5s",
            "timeout.linkerd.io/request: soon",
        ),
    )
    .expect("written");
    let status = rig.status_when(|status| !status.current).await;
    assert_eq!(status.generation, 2);
    let error = status.errors.first().expect("an error");
    assert_eq!(error.file, "inventory.yaml");
    assert!(error.line > 0);
    assert!(
        error.field.contains("timeout.linkerd.io/request"),
        "{error:?}"
    );
    assert!(error.message.contains("`soon`"), "{error:?}");

    // A start with the bad file: the last good state again.
    rig.kill().await;
    rig.start().await;
    let status = rig.status().await;
    assert!(!status.current);
    let timeout = crate::proxies::inventory_timeout(&rig).await;
    assert_eq!(timeout, 7, "seconds, as in the last good file");

    std::fs::write(&file, &good).expect("written");
    let status = rig.status_when(|status| status.current).await;
    assert!(status.errors.is_empty());
    rig.drain().await;
}

#[tokio::test]
async fn a_first_start_with_bad_policy_says_what_is_wrong() {
    let rig = Rig::new();
    std::fs::write(
        rig.policy_dir().join("bad.yaml"),
        "apiVersion: v1\nkind: Secret\n",
    )
    .expect("written");
    let process = chassis::Process::for_test("meshd");
    let config = mesh_control::Config {
        chassis: Default::default(),
        options: mesh_control::Options {
            data_dir: rig.data_dir(),
            policy_dir: rig.policy_dir(),
            certificate_lifetime: std::time::Duration::from_secs(60),
            consul_listen: mesh_control::OptionalAddress(None),
        },
        print_service_config: false,
    };
    let error = mesh_control::run(config, process)
        .await
        .expect_err("refused");
    assert!(
        format!("{error:#}").contains("bad.yaml:2: kind: v1 Secret is not understood here"),
        "{error:#}"
    );
}
