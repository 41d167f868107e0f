//! Clients that others wrote, unchanged, and those that `make stubs` generates, on a running system.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use sagamesh_tests::System;
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Says that a test was left out because something is missing, and what to do; with `SAGAMESH_REQUIRE_CLIENTS=1` that is a failure.
fn not_tested(sentence: &str) -> anyhow::Result<()> {
    ensure!(
        std::env::var_os("SAGAMESH_REQUIRE_CLIENTS").is_none(),
        "{sentence}"
    );
    eprintln!("NOT TESTED: {sentence}");
    Ok(())
}

/// A program: named by a variable, or the machine's own.
fn program(variable: &str, name: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| name.into())
}

/// The Python that has a library: `SAGAMESH_PYTHON`, or that of `make stubs-python`, or the machine's own.
async fn python(library: &str, how: &str) -> anyhow::Result<Option<String>> {
    let stubs = root().join("clients/python/.venv/bin/python");
    let default = if stubs.exists() {
        stubs.display().to_string()
    } else {
        "python3".into()
    };
    let python = program("SAGAMESH_PYTHON", &default);
    if works(&python, &["-c", &format!("import {library}")]).await {
        return Ok(Some(python));
    }
    not_tested(&format!(
        "{python} has no library {library}: {how}, and name another Python in SAGAMESH_PYTHON"
    ))?;
    Ok(None)
}

async fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// Runs a command to its end, which must be a good one, and returns what it printed.
async fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {:?}", command.as_std()))?;
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{:?} ended with {}:\n{out}{errors}",
        command.as_std(),
        output.status
    );
    Ok(out.into_owned())
}

#[tokio::test]
async fn consuls_python_client_uses_the_registry_unchanged() -> anyhow::Result<()> {
    let Some(python) = python("consul", "install it (pip install py-consul)").await? else {
        return Ok(());
    };
    let system = System::start().await?;
    let record = system.record()?;
    let address = record["mesh"]["consul"]
        .as_str()
        .context("no address of Consul's API")?;
    let (host, port) = address
        .trim_start_matches("http://")
        .split_once(':')
        .context("an address without port")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/registry.py");
    output(Command::new(python).arg(script).args([host, port])).await?;
    system.stop().await?;
    Ok(())
}

/// The example of each language whose tools are here.
async fn examples() -> anyhow::Result<Vec<(&'static str, Command)>> {
    let clients = root().join("clients");
    let mut examples = Vec::new();
    let library = "saga.v1.saga_pb2_grpc, google.rpc.error_details_pb2, grpc_status";
    if let Some(python) = python(library, "run `make stubs-python`").await? {
        let mut command = Command::new(python);
        command.arg(clients.join("python/examples/place_order.py"));
        examples.push(("Python", command));
    }
    let npm = program("SAGAMESH_NPM", "npm");
    let generated = clients.join("typescript/gen").is_dir();
    if generated && works(&npm, &["--version"]).await {
        let mut command = Command::new(npm);
        command.args(["run", "--silent", "place-order"]);
        command.current_dir(clients.join("typescript"));
        examples.push(("TypeScript", command));
    } else {
        not_tested(
            "the TypeScript example needs Node.js (SAGAMESH_NPM names npm) and `make stubs-typescript`",
        )?;
    }
    let go = program("SAGAMESH_GO", "go");
    let generated = clients.join("go/gen").is_dir();
    if generated && works(&go, &["version"]).await {
        let mut command = Command::new(go);
        command.args(["run", "./examples/placeorder"]);
        command.current_dir(clients.join("go"));
        examples.push(("Go", command));
    } else {
        not_tested("the Go example needs Go (SAGAMESH_GO names it) and `make stubs-go`")?;
    }
    Ok(examples)
}

#[tokio::test]
async fn generated_clients_place_orders_watch_their_sagas_and_read_error_details()
-> anyhow::Result<()> {
    let examples = examples().await?;
    if examples.is_empty() {
        return Ok(());
    }
    let system = System::start().await?;
    system.restock("keyboard", 100, 4_990).await?;
    let token = system.token("alice").await?;
    let gateway = system.gateway()?.replace("http://", "");
    let (operator, _) = system.sidecar("operator-0")?;
    // What each prints, in this order, with other lines in between.
    let expected = [
        "  started",
        "  succeeded send-confirmation",
        "saga COMPLETED",
        "order CONFIRMED",
        "  rejected authorize-payment",
        "  succeeded reserve-stock (undoing)",
        "saga COMPENSATED",
        "order REJECTED CARD_DECLINED",
        "no such quantity: INVALID_ARGUMENT; INVALID_ARGUMENT of orders.sagamesh; lines[0].quantity: must be from 1 to 10,000",
        "more than there is: FAILED_PRECONDITION; INSUFFICIENT_STOCK of orders.sagamesh",
        "no token: UNAUTHENTICATED; TOKEN_MISSING of gateway.sagamesh",
    ];
    for (language, mut command) in examples {
        command.env("SAGAMESH_TOKEN", &token);
        command.env("SAGAMESH_GATEWAY", &gateway);
        command.env("SAGAMESH_OPERATOR", &operator);
        let text = output(&mut command).await.context(language)?;
        let mut lines = text.lines();
        for line in expected {
            ensure!(
                lines.any(|printed| printed == line),
                "{language}: `{line}` is missing, or at another place, in\n{text}"
            );
        }
    }
    system.stop().await?;
    Ok(())
}
