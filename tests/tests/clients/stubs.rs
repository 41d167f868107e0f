//! The examples in `clients/`, on a running system.

use anyhow::{Context as _, ensure};
use sagamesh_tests::System;
use tokio::process::Command;

use crate::tools::{not_tested, output, program, python, root, works};

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
