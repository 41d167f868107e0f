//! What `docs/security.md` promises of a running system: who can reach it, who can read its files, and what it never
//! writes down.

mod files_and_sockets;
mod written_down;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

const CUSTOMER: &str = "customer-k7q2w9";
const EMAIL: &str = "kim.k7q2w9@private.example";
/// The longest that something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn processes(record: &Value) -> anyhow::Result<&Vec<Value>> {
    record["processes"].as_array().context("no processes")
}

fn process<'a>(record: &'a Value, label: &str) -> anyhow::Result<&'a Value> {
    let found = processes(record)?.iter().find(|one| one["label"] == label);
    found.with_context(|| format!("no {label}"))
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name}"))
}

fn order(method: &str) -> Value {
    json!({
        "lines": [{"sku": "tea", "quantity": 1}], "currency": "EUR",
        "payment_method": method, "contact_email": EMAIL,
    })
}
