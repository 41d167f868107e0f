//! The system through its mesh: encrypted, allowed or not, and alive while parts of the mesh are not.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use sagamesh_api::shop::payments::v1::{GetPaymentRequest, GetPaymentResponse};
use sagamesh_tests::{Options, System, binaries, rest};
use tonic::{Code, Response, Status};

/// The longest that a change may take to reach everybody on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn place(system: &System) -> anyhow::Result<()> {
    let placed = system
        .sagamesh(&["order", "place", "tea=1", "--wait"])
        .await?;
    anyhow::ensure!(placed.contains("CONFIRMED"), "{placed}");
    Ok(())
}

/// Asks payments for a payment that is not there, as a workload.
async fn ask_payments(system: &System, pod: &str) -> Result<Response<GetPaymentResponse>, Status> {
    let channel = system
        .channel_as(pod, "payments")
        .map_err(|error| Status::internal(error.to_string()))?;
    PaymentServiceClient::new(channel)
        .get_payment(GetPaymentRequest {
            payment_id: uuid::Uuid::now_v7().to_string(),
            min_position: 0,
        })
        .await
}

/// Asks again and again until the answer is this one.
async fn until_code(system: &System, pod: &str, code: Code) -> anyhow::Result<Status> {
    let begun = Instant::now();
    loop {
        let status = ask_payments(system, pod).await.err();
        let status = status.context("there is no such payment")?;
        if status.code() == code {
            return Ok(status);
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "not {code:?} but {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_hop_of_an_order_is_encrypted_and_known() -> anyhow::Result<()> {
    let system = System::start().await?;
    assert!(system.greeting.contains("mTLS"), "{}", system.greeting);
    system.restock("tea", 5, 450).await?;
    place(&system).await?;
    system.sagamesh(&["books"]).await?;

    let top = system
        .sagamesh(&["mesh", "top", "--once", "--output", "json"])
        .await?;
    let top: serde_json::Value = serde_json::from_str(&top)?;
    let edges = top["edges"].as_array().context("no edges")?;
    for (from, to) in [
        ("gateway", "orders"),
        ("orders", "coordinator"),
        ("operator", "inventory"),
        ("operator", "payments"),
    ] {
        assert!(
            edges
                .iter()
                .any(|edge| edge["from"] == from && edge["to"] == to),
            "no edge {from} -> {to}: {top}"
        );
    }
    // Participants' streams are seen while they go on.
    for participant in ["orders", "inventory", "payments"] {
        let stream = edges
            .iter()
            .find(|edge| edge["from"] == participant && edge["to"] == "coordinator-0");
        let live = stream.and_then(|edge| edge["live"].as_f64());
        assert!(live >= Some(1.0), "no stream of {participant}: {top}");
    }
    for edge in edges {
        let count = |name: &str| edge[name].as_f64().unwrap_or_default();
        assert_eq!(
            count("encrypted"),
            count("success") + count("failure"),
            "{edge}"
        );
    }
    for pod in ["coordinator-0", "orders-0", "inventory-0", "payments-0"] {
        let (_, admin) = system.sidecar(pod)?;
        let metrics = rest::get(&admin, "/metrics", None).await?.text;
        let inbound: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with("request_total{") && line.contains("\"inbound\""))
            .collect();
        assert!(!inbound.is_empty(), "{pod} was never called:\n{metrics}");
        for line in inbound {
            assert!(
                line.contains("tls=\"true\"") && line.contains("client_id="),
                "{pod}: {line}"
            );
        }
    }

    for (command, says) in [
        ("services", "coordinator-0"),
        ("instances", "passing"),
        ("policy", "OperatorService"),
        ("routes", "GetSaga"),
        (
            "identity",
            "orders.sagamesh.serviceaccount.identity.linkerd.cluster.local",
        ),
        ("check", "The mesh is well."),
    ] {
        let printed = system.sagamesh(&["mesh", command]).await?;
        assert!(printed.contains(says), "mesh {command}:\n{printed}");
    }
    system.stop().await?;
    Ok(())
}

/// Off Linux, and where a port is taken on every address, workloads are ports of one address. A recorded block forces that.
#[tokio::test]
async fn workloads_that_share_an_address_do_not_pass_by_the_mesh() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )?;
    // Of the last block, where systems that look for one begin last.
    std::fs::write(
        folder.path().join("addresses.json"),
        r#"{"place":{"ports":{"first":31360}},"public":"127.0.0.1:32741"}"#,
    )?;
    let system = System::start_with(Options {
        folder: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await?;
    let (outbound, _) = system.sidecar("orders-0")?;
    assert!(outbound.contains("127.0.0.1:31"), "{outbound}");
    system.restock("tea", 5, 450).await?;
    place(&system).await?;
    let denied = ask_payments(&system, "notifications-0").await.err();
    let denied = denied.context("notifications may not ask payments")?;
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    let check = system.sagamesh(&["mesh", "check"]).await?;
    assert!(
        check.contains("all that were answered went over mTLS"),
        "{check}"
    );
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn policy_decides_and_can_be_changed_while_everything_runs() -> anyhow::Result<()> {
    let system = System::start().await?;
    let denied = ask_payments(&system, "notifications-0").await.err();
    let denied = denied.context("notifications may not ask payments")?;
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    assert!(!denied.message().is_empty(), "{denied:?}");
    let explain = [
        "mesh",
        "policy",
        "--from",
        "notifications",
        "--to",
        "payments",
        "--method",
        "shop.payments.v1.PaymentService/GetPayment",
    ];
    let explained = system.run(&explain).await?;
    assert_eq!(explained.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&explained.stdout).contains("DENIED"));

    let folder = system.folder().join("mesh/policy");
    let allow = folder.join("notifications-may-ask-payments.yaml");
    std::fs::write(
        &allow,
        "apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata:
  name: notifications-alone
  namespace: sagamesh
spec:
  identityRefs:
    - kind: ServiceAccount
      name: notifications
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: notifications-may-ask-payments
  namespace: sagamesh
spec:
  targetRef:
    group: policy.linkerd.io
    kind: Server
    name: payments-grpc
  requiredAuthenticationRefs:
    - group: policy.linkerd.io
      kind: MeshTLSAuthentication
      name: notifications-alone
",
    )?;
    until_code(&system, "notifications-0", Code::NotFound).await?;
    assert!(system.run(&explain).await?.status.success());

    let broken = folder.join("broken.yaml");
    std::fs::write(
        &broken,
        "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata:\n  name: x\n  namespace: sagamesh\nspec:\n  prot: grpc\n",
    )?;
    let begun = Instant::now();
    loop {
        let check = system.run(&["mesh", "check"]).await?;
        let printed = String::from_utf8_lossy(&check.stdout);
        if !check.status.success() && printed.contains("broken.yaml:") {
            break;
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{printed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What was in force stays so.
    until_code(&system, "notifications-0", Code::NotFound).await?;

    std::fs::remove_file(broken)?;
    std::fs::remove_file(allow)?;
    until_code(&system, "notifications-0", Code::PermissionDenied).await?;
    system.sagamesh(&["mesh", "check"]).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn orders_go_on_while_parts_of_the_mesh_are_killed() -> anyhow::Result<()> {
    let system = System::start().await?;
    system.restock("tea", 20, 450).await?;
    place(&system).await?;

    let control = system.kill("meshd").await?;
    place(&system).await?;
    system.until_back("meshd", control).await?;
    place(&system).await?;

    for sidecar in ["orders-0-sidecar", "coordinator-0-sidecar"] {
        let before = system.kill(sidecar).await?;
        system.until_back(sidecar, before).await?;
        let begun = Instant::now();
        // A breaker or a stream may need a moment; an order that was accepted ends well in any case.
        while let Err(error) = place(&system).await {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "{error:#}");
        }
    }
    system.sagamesh(&["mesh", "check"]).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_mesh_services_talk_directly() -> anyhow::Result<()> {
    let system = System::start_with(sagamesh_tests::Options {
        arguments: vec!["--sidecar".into(), "none".into()],
        ..Default::default()
    })
    .await?;
    system.restock("tea", 5, 450).await?;
    place(&system).await?;
    let refused = system.run(&["mesh", "check"]).await?;
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--sidecar none"));
    system.stop().await?;
    Ok(())
}

/// With Linkerd's proxy when `SAGAMESH_TEST_LINKERD_PROXY` names it; else with this project's sidecar in its place, which
/// takes the same environment.
#[tokio::test]
async fn in_a_network_of_its_own_users_and_commands_still_reach_the_system() -> anyhow::Result<()> {
    let possible = tokio::process::Command::new("unshare")
        .args(["-Urn", "nft", "list", "ruleset"])
        .output()
        .await;
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: this machine has no nft, or lets users make no network namespace");
        return Ok(());
    }
    let proxy = match std::env::var("SAGAMESH_TEST_LINKERD_PROXY") {
        Ok(path) => path,
        Err(_) => binaries::path("sidecar")?.display().to_string(),
    };
    for gateways in ["gateway=1", "gateway=2"] {
        let more = ["--replicas", gateways, "--sidecar"].map(str::to_owned);
        let arguments = more.into_iter().chain([format!("linkerd:{proxy}")]);
        in_its_own_network(arguments.collect()).await?;
    }
    Ok(())
}

async fn in_its_own_network(arguments: Vec<String>) -> anyhow::Result<()> {
    let system = System::start_with(sagamesh_tests::Options {
        arguments,
        ..Default::default()
    })
    .await?;
    system
        .sagamesh(&[
            "stock", "restock", "tea", "5", "--name", "Tea", "--price", "450EUR",
        ])
        .await?;
    place(&system).await?;
    let token = system.token("alice").await?;
    for _ in 0..4 {
        let orders = rest::get(&system.gateway()?, "/v1/orders", Some(&token)).await?;
        assert_eq!(orders.status, 200, "{}", orders.text);
    }
    system.sagamesh(&["mesh", "check"]).await?;
    system.stop().await?;
    Ok(())
}
