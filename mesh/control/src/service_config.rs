//! The gRPC service config that says what the policy files say of calls: for clients outside of the mesh, which have no sidecar to
//! set timeouts and to repeat calls for them. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::policy::{CallMatch, GrpcConditions, Policy, Retry, Route};

/// The most attempts that gRPC's clients make, whatever a service config says.
const MOST_ATTEMPTS: u16 = 5;

/// The service config: one entry for each outbound route that names services and sets a timeout or retries. Other methods, streams
/// above all, have no entry and so neither.
#[must_use]
pub fn service_config(policy: &Policy) -> Value {
    let mut methods = Vec::new();
    // A method may be named once; the first route that names it has it.
    let mut named = BTreeSet::new();
    for service in policy.services.values() {
        for route in &service.routes {
            let mut names = names(route);
            names.retain(|name| named.insert(name.to_string()));
            let retry = route.retry.as_ref().or(service.retry.as_ref());
            let retry = retry.and_then(retry_policy);
            let timeout = route.timeouts.request;
            if names.is_empty() || (retry.is_none() && timeout.is_none()) {
                continue;
            }
            let mut method = json!({ "name": names });
            if let Some(timeout) = timeout {
                method["timeout"] = json!(seconds(timeout));
            }
            if let Some(retry) = retry {
                method["retryPolicy"] = retry;
            }
            methods.push(method);
        }
    }
    json!({ "methodConfig": methods })
}

/// What a route matches, as far as a service config can say so: services and methods, whatever the headers.
fn names(route: &Route) -> Vec<Value> {
    let matches = route.rules.iter().flat_map(|rule| &rule.matches);
    let calls = matches.filter(|found| found.headers.is_empty());
    calls
        .filter_map(|found| match &found.call {
            CallMatch::Rpc {
                service: Some(service),
                method: Some(method),
            } => Some(json!({ "service": service, "method": method })),
            CallMatch::Rpc {
                service: Some(service),
                method: None,
            } => Some(json!({ "service": service })),
            CallMatch::Rpc { service: None, .. } | CallMatch::Http { .. } => None,
        })
        .collect()
}

/// Retries as gRPC's clients do them: with a backoff, which they insist on.
fn retry_policy(retry: &Retry) -> Option<Value> {
    let codes = codes(retry.grpc);
    if codes.is_empty() || retry.limit == 0 {
        return None;
    }
    Some(json!({
        "maxAttempts": retry.limit.saturating_add(1).min(MOST_ATTEMPTS),
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": codes,
    }))
}

fn codes(conditions: GrpcConditions) -> Vec<&'static str> {
    let GrpcConditions {
        cancelled,
        deadline_exceeded,
        internal,
        resource_exhausted,
        unavailable,
    } = conditions;
    let all = [
        (cancelled, "CANCELLED"),
        (deadline_exceeded, "DEADLINE_EXCEEDED"),
        (internal, "INTERNAL"),
        (resource_exhausted, "RESOURCE_EXHAUSTED"),
        (unavailable, "UNAVAILABLE"),
    ];
    all.into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
}

/// A duration in protobuf's JSON.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
