//! Answers in Consul's shapes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::query::answered;
use crate::registry::spec::{CheckKind, CheckSpec, Health};
use crate::registry::table::{CheckResult, Entry};

/// The one node and the one datacenter.
const NODE: &str = "meshd";
const NODE_ID: &str = "00000000-0000-0000-0000-000000000001";
const DATACENTER: &str = "dc1";
const ADDRESS: &str = "127.0.0.1";

/// A value with the headers that blocking queries go by.
pub(super) fn indexed(index: u64, value: Value) -> Response {
    let headers = [
        (
            HeaderName::from_static("x-consul-index"),
            HeaderValue::from(answered(index)),
        ),
        (
            HeaderName::from_static("x-consul-knownleader"),
            HeaderValue::from_static("true"),
        ),
        (
            HeaderName::from_static("x-consul-lastcontact"),
            HeaderValue::from_static("0"),
        ),
    ];
    (headers, axum::Json(value)).into_response()
}

fn status(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
    }
}

fn weights() -> Value {
    json!({"Passing": 1, "Warning": 1})
}

/// `/v1/health/service/:name`.
pub(super) fn health(entries: &[Entry]) -> Value {
    let all = entries.iter().map(|entry| {
        let checks = entry.spec.checks.iter().zip(&entry.results);
        let checks = checks.map(|(check, result)| of_check(entry, check, result));
        json!({
            "Node": {
                "ID": NODE_ID,
                "Node": NODE,
                "Address": ADDRESS,
                "Datacenter": DATACENTER,
                "TaggedAddresses": {"lan": ADDRESS, "wan": ADDRESS},
                "Meta": {},
                "CreateIndex": 1,
                "ModifyIndex": 1,
            },
            "Service": of_service(entry),
            "Checks": std::iter::once(of_node()).chain(checks).collect::<Vec<_>>(),
        })
    });
    all.collect()
}

fn of_service(entry: &Entry) -> Value {
    let spec = &entry.spec;
    json!({
        "ID": spec.id,
        "Service": spec.service,
        "Tags": spec.tags,
        "Address": spec.address,
        "Meta": spec.meta,
        "Port": spec.port,
        "Weights": weights(),
        "EnableTagOverride": false,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    })
}

/// The check that every node has.
fn of_node() -> Value {
    json!({
        "Node": NODE,
        "CheckID": "serfHealth",
        "Name": "Serf Health Status",
        "Status": "passing",
        "Notes": "",
        "Output": "Agent alive and reachable",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Definition": {},
        "CreateIndex": 1,
        "ModifyIndex": 1,
    })
}

fn of_check(entry: &Entry, check: &CheckSpec, result: &CheckResult) -> Value {
    let kind = match check.kind {
        CheckKind::Grpc { .. } => "grpc",
        CheckKind::Http { .. } => "http",
        CheckKind::Tcp { .. } => "tcp",
        CheckKind::Ttl { .. } => "ttl",
    };
    json!({
        "Node": NODE,
        "CheckID": check.id,
        "Name": check.name,
        "Status": status(result.health),
        "Notes": "",
        "Output": result.output,
        "ServiceID": entry.spec.id,
        "ServiceName": entry.spec.service,
        "ServiceTags": entry.spec.tags,
        "Type": kind,
        "Interval": format!("{}ms", check.interval.as_millis()),
        "Timeout": format!("{}ms", check.timeout.as_millis()),
        "Definition": {},
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    })
}

/// `/v1/catalog/services`: tags by service.
pub(super) fn services(entries: &[Entry]) -> Value {
    let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for entry in entries {
        services
            .entry(&entry.spec.service)
            .or_default()
            .extend(entry.spec.tags.iter().map(String::as_str));
    }
    json!(services)
}

/// `/v1/catalog/service/:name`.
pub(super) fn catalog(entries: &[Entry]) -> Value {
    let all = entries.iter().map(|entry| {
        let spec = &entry.spec;
        json!({
            "ID": NODE_ID,
            "Node": NODE,
            "Address": ADDRESS,
            "Datacenter": DATACENTER,
            "TaggedAddresses": {"lan": ADDRESS, "wan": ADDRESS},
            "NodeMeta": {},
            "ServiceKind": "",
            "ServiceID": spec.id,
            "ServiceName": spec.service,
            "ServiceTags": spec.tags,
            "ServiceAddress": spec.address,
            "ServiceWeights": weights(),
            "ServiceMeta": spec.meta,
            "ServicePort": spec.port,
            "ServiceEnableTagOverride": false,
            "CreateIndex": entry.create_index,
            "ModifyIndex": entry.modify_index,
        })
    });
    all.collect()
}

/// `/v1/agent/services`.
pub(super) fn agent_services(entries: &[Entry]) -> Value {
    let all = entries.iter().map(|entry| {
        let spec = &entry.spec;
        let value = json!({
            "ID": spec.id,
            "Service": spec.service,
            "Tags": spec.tags,
            "Meta": spec.meta,
            "Port": spec.port,
            "Address": spec.address,
            "Weights": weights(),
            "EnableTagOverride": false,
            "Datacenter": DATACENTER,
        });
        (spec.id.clone(), value)
    });
    Value::Object(all.collect())
}

/// `/v1/agent/checks`.
pub(super) fn agent_checks(entries: &[Entry]) -> Value {
    let all = entries.iter().flat_map(|entry| {
        let checks = entry.spec.checks.iter().zip(&entry.results);
        checks.map(|(check, result)| (check.id.clone(), of_check(entry, check, result)))
    });
    Value::Object(all.collect())
}

/// `/v1/agent/self`.
pub(super) fn agent_self(address: SocketAddr) -> Value {
    json!({
        "Config": {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": NODE,
            "NodeID": NODE_ID,
            "Server": true,
            "Revision": "",
            "Version": concat!("1.20.0+sagamesh.", env!("CARGO_PKG_VERSION")),
        },
        "Member": {
            "Name": NODE,
            "Addr": address.ip().to_string(),
            "Port": address.port(),
            "Tags": {"dc": DATACENTER, "role": "consul"},
            "Status": 1,
        },
        "Meta": {},
    })
}
