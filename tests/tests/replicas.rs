//! Several of one service: the others go on when one is killed, and nobody's order fails.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use ledger::testing;
use sagamesh_tests::{Options, System, binaries, books, rest};
use serde_json::json;

/// The longest that something may take that is sure to come.
const PATIENCE: Duration = Duration::from_secs(60);

async fn two_gateways(more: &[&str]) -> anyhow::Result<System> {
    let fixed = ["--replicas", "gateway=2"];
    let arguments = fixed.iter().chain(more).map(|word| (*word).to_owned());
    System::start_with(Options {
        arguments: arguments.collect(),
        ..Default::default()
    })
    .await
}

/// Sends a request until it is answered, as a client does whose connection broke: under the same key. What is answered counts,
/// whatever it is.
async fn ask(
    base: &str,
    path: &str,
    token: &str,
    key: &str,
    body: Option<&serde_json::Value>,
) -> anyhow::Result<rest::Answer> {
    let method = if body.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let headers = [("idempotency-key", key), ("prefer", "wait=30")];
    let begun = Instant::now();
    loop {
        let body = body.map(serde_json::Value::to_string);
        match rest::send(method.clone(), base, path, Some(token), &headers, body).await {
            Ok(answer) => return Ok(answer),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn key() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn tea(payment_method: &str) -> serde_json::Value {
    json!({"lines": [{"sku": "tea", "quantity": 1}], "payment_method": payment_method, "currency": "EUR"})
}

#[tokio::test]
async fn the_public_port_outlives_a_gateway() -> anyhow::Result<()> {
    let system = two_gateways(&[]).await?;
    let (public, token) = (system.gateway()?, system.token("alice").await?);
    let said = format!(
        "The public port is {public}: each connection goes to one of gateway-0, gateway-1."
    );
    assert!(system.greeting.contains(&said), "{}", system.greeting);
    system.restock("tea", 100, 450).await?;

    // Both are in the mesh, with their identity.
    let services = system.sagamesh(&["mesh", "services"]).await?;
    assert!(services.contains("gateway-0, gateway-1"), "{services}");
    let instances = system.sagamesh(&["mesh", "instances"]).await?;
    for pod in ["gateway-0", "gateway-1"] {
        let line = instances.lines().find(|line| line.contains(pod));
        let line = line.with_context(|| format!("no {pod} in {instances}"))?;
        assert!(
            line.contains("gateway.sagamesh") && line.contains("passing"),
            "{line}"
        );
    }

    // A token and a key hold at both: what was placed at one is the same order at the other.
    let again = key();
    let mut ids = Vec::new();
    for gateway in ["gateway-0", "gateway-1", "gateway-0"] {
        let url = system.url(gateway)?;
        let placed = ask(&url, "/v1/orders", &token, &again, Some(&tea("pm_ok"))).await?;
        assert_eq!(placed.status, 201, "{}", placed.text);
        ids.push(
            placed.json["order_id"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");

    let items = ask(&public, "/v1/items", &token, "", None).await?;
    assert_eq!(items.status, 200, "{}", items.text);
    for gateway in ["gateway-0", "gateway-1"] {
        // The order takes three seconds: it is under way when the gateway dies.
        let pending = rest::post(&public, "/v1/orders", Some(&token), &tea("pm_slow")).await?;
        assert_eq!(pending.status, 202, "{}", pending.text);
        let id = pending.json["order_id"].as_str().unwrap_or_default();
        let before = system.kill(gateway).await?;
        for _ in 0..8 {
            let placed = ask(&public, "/v1/orders", &token, &key(), Some(&tea("pm_ok"))).await?;
            assert_eq!(
                (placed.status, placed.json["status"].as_str()),
                (201, Some("CONFIRMED")),
                "{}",
                placed.text
            );
        }
        // Who followed it connects again, and is told how it is and how it ends.
        let path = format!("/v1/orders/{id}/events");
        let events = ask(&public, &path, &token, "", None).await?;
        assert!(
            events.text.contains("\"CONFIRMED\"") && events.text.contains("event: end"),
            "{}",
            events.text
        );
        system.until_back(gateway, before).await?;
    }
    // 2 * 9 and the first one: a repeated request never was a second order.
    assert_eq!(books::settled(&system, PATIENCE).await?.len(), 19);
    books::check(&system, &[("tea", 100)]).await?;
    system.sagamesh(&["mesh", "check"]).await?;
    let (_folder, printed) = system.stop().await?;
    assert_eq!(printed, "");
    Ok(())
}

#[tokio::test]
async fn without_a_mesh_there_may_be_several_gateways_too() -> anyhow::Result<()> {
    let system = two_gateways(&["--sidecar", "none"]).await?;
    system.restock("tea", 5, 450).await?;
    let (public, token) = (system.gateway()?, system.token("alice").await?);
    system.kill("gateway-1").await?;
    for _ in 0..4 {
        let placed = ask(&public, "/v1/orders", &token, &key(), Some(&tea("pm_ok"))).await?;
        assert_eq!(placed.status, 201, "{}", placed.text);
    }
    books::check(&system, &[("tea", 5)]).await?;
    system.stop().await?;
    Ok(())
}

/// What the demo says of replicas is judged by the demo itself.
#[tokio::test]
async fn the_demo_kills_one_of_two_and_finds_no_order_failed() -> anyhow::Result<()> {
    let output = tokio::process::Command::new(binaries::path("sagamesh")?)
        .args(["demo", "--only", "one of two", "--start-timeout", "100"])
        .env("SAGAMESH_BIN_DIR", binaries::folder()?)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    assert!(
        printed.contains("under the same Idempotency-Key"),
        "{printed}"
    );
    if testing::postgres().await.is_some() {
        assert!(
            printed.contains("in the registry: payments-1, "),
            "{printed}"
        );
    } else {
        assert!(printed.contains("apt-get install postgresql"), "{printed}");
    }
    Ok(())
}
