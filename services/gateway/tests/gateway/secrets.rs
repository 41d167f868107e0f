//! What must never be written down: the whole gateway runs as a process of its own, logs everything it can, and its log
//! is searched.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Outcome;
use crate::rig::{Rig, request};

#[tokio::test]
async fn tokens_and_personal_data_are_not_logged() -> Outcome {
    let rig = Rig::start(&[]).await;
    let folder = tempfile::tempdir()?;
    let (addresses, log) = (
        folder.path().join("addresses.json"),
        folder.path().join("log"),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args([
            "--exit-with-parent",
            "--log-filter",
            "trace",
            "--orders",
            &rig.backend_url,
        ])
        .arg("--data-dir")
        .arg(&rig.folder)
        .arg("--addresses-file")
        .arg(&addresses)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !addresses.exists() {
        assert!(
            Instant::now() < deadline,
            "{}",
            std::fs::read_to_string(&log)?
        );
        tokio::task::yield_now().await;
    }
    let bound: Value = serde_json::from_slice(&std::fs::read(&addresses)?)?;
    let base = format!("http://{}", bound["grpc"].as_str().ok_or("an address")?);

    let token = rig.token("ann");
    let bearer = format!("Bearer {token}");
    let order = json!({
        "lines": [{"sku": "tea", "quantity": 1}], "currency": "EUR",
        "payment_method": "pm_4242secret", "contact_email": "ann@private.example",
    });
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let placed = request(
        &base,
        Method::POST,
        "/v1/orders",
        &headers,
        &order.to_string(),
    )
    .await;
    assert_eq!(placed.status, StatusCode::ACCEPTED, "{placed:?}");
    // What is refused is the likelier to be logged.
    let mut wrong = order.clone();
    wrong["contact_email"] = json!(["ann@private.example"]);
    let refused = request(
        &base,
        Method::POST,
        "/v1/orders",
        &headers,
        &wrong.to_string(),
    )
    .await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let forged = format!("Bearer {token}x");
    let refused = request(
        &base,
        Method::GET,
        "/v1/orders",
        &[("authorization", &forged)],
        "",
    )
    .await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);

    drop(child.stdin.take());
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    let log = std::fs::read_to_string(&log)?;
    assert!(status.success(), "{log}");
    assert!(log.contains("TRACE"), "it does log everything");
    let signature = token.rsplit('.').next().ok_or("a signature")?;
    for secret in [
        token.as_str(),
        signature,
        "pm_4242secret",
        "private.example",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
    rig.stop().await;
    Ok(())
}
