//! Bodies of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::registry::spec::{CheckKind, CheckSpec, Health, InstanceSpec};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest time after which an instance is removed for being critical.
const SHORTEST_CRITICAL: Duration = Duration::from_secs(60);
/// Deeper than anything that is registered.
const MAX_DEPTH: usize = 16;

/// A registration. Consul takes field names in any case, and clients use that.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Registration {
    id: Option<String>,
    name: String,
    tags: Option<Vec<String>>,
    address: Option<String>,
    port: u16,
    meta: Option<BTreeMap<String, String>>,
    kind: Option<String>,
    check: Option<Check>,
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    checkid: Option<String>,
    id: Option<String>,
    name: Option<String>,
    status: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    ttl: Option<String>,
    http: Option<String>,
    method: Option<String>,
    header: Option<Value>,
    body: Option<String>,
    tcp: Option<String>,
    grpc: Option<String>,
    grpcusetls: bool,
    tcpusetls: bool,
    args: Option<Vec<String>>,
    script: Option<String>,
    dockercontainerid: Option<String>,
    shell: Option<String>,
    h2ping: Option<String>,
    udp: Option<String>,
    aliasnode: Option<String>,
    aliasservice: Option<String>,
    deregistercriticalserviceafter: Option<String>,
}

/// The instance that a body registers.
pub(super) fn registration(body: &[u8]) -> Result<InstanceSpec, String> {
    let read: Registration = lenient(body)?;
    if read.name.is_empty() {
        return Err("Missing service name".to_owned());
    }
    if let Some(kind) = read.kind.filter(|kind| !kind.is_empty()) {
        return Err(format!(
            "services of kind `{kind}` are not supported here: only plain ones"
        ));
    }
    let id = given(read.id).unwrap_or_else(|| read.name.clone());
    let address = given(read.address).unwrap_or_else(|| "127.0.0.1".to_owned());
    // A check that says nothing is none: clients send it empty.
    let checks: Vec<Check> = read
        .check
        .into_iter()
        .chain(read.checks.into_iter().flatten())
        .collect();
    let mut specs = Vec::new();
    let alone = checks.len() == 1;
    for (index, check) in checks.into_iter().enumerate() {
        let default_id = if alone {
            format!("service:{id}")
        } else {
            format!("service:{id}:{}", index + 1)
        };
        specs.push(check_spec(check, default_id, &read.name)?);
    }
    let spec = InstanceSpec {
        service: read.name,
        id,
        address,
        port: read.port,
        tags: read.tags.unwrap_or_default(),
        meta: read.meta.unwrap_or_default(),
        checks: specs,
        pod: None,
        lease: None,
    };
    let wrong = spec.violations();
    let all: Vec<String> = wrong
        .iter()
        .map(|(field, message)| format!("{field}: {message}"))
        .collect();
    if all.is_empty() {
        Ok(spec)
    } else {
        Err(format!("Invalid service: {}", all.join("; ")))
    }
}

fn check_spec(check: Check, default_id: String, service: &str) -> Result<CheckSpec, String> {
    let unsupported = [
        ("Args", check.args.is_some_and(|args| !args.is_empty())),
        ("Script", given(check.script).is_some()),
        (
            "DockerContainerID",
            given(check.dockercontainerid).is_some(),
        ),
        ("Shell", given(check.shell).is_some()),
        ("H2PING", given(check.h2ping).is_some()),
        ("UDP", given(check.udp).is_some()),
        ("AliasNode", given(check.aliasnode).is_some()),
        ("AliasService", given(check.aliasservice).is_some()),
        ("GRPCUseTLS", check.grpcusetls),
        ("TCPUseTLS", check.tcpusetls),
        (
            "Header",
            check
                .header
                .is_some_and(|header| header.as_object().is_some_and(|all| !all.is_empty())),
        ),
        ("Body", given(check.body).is_some()),
        (
            "Method",
            given(check.method).is_some_and(|method| method != "GET"),
        ),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, is_set)| *is_set) {
        return Err(format!(
            "Invalid check: {field} is not supported here: use TTL, HTTP with GET, TCP or GRPC without TLS"
        ));
    }
    let ttl = given(check.ttl).map(|ttl| go_duration(&ttl)).transpose()?;
    let kinds = [
        ttl.map(|ttl| CheckKind::Ttl { ttl }),
        given(check.http).map(|url| CheckKind::Http { url }),
        given(check.tcp).map(|target| CheckKind::Tcp { target }),
        given(check.grpc).map(|target| {
            let (target, service) = target.split_once('/').unwrap_or((&target, ""));
            CheckKind::Grpc {
                target: target.to_owned(),
                service: service.to_owned(),
            }
        }),
    ];
    let mut kinds = kinds.into_iter().flatten();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err("Invalid check: exactly one of TTL, HTTP, TCP and GRPC must be set".to_owned());
    };
    let interval = match (given(check.interval), &kind) {
        (Some(text), _) => go_duration(&text)?,
        (None, CheckKind::Ttl { .. }) => Duration::ZERO,
        (None, _) => {
            return Err(
                "Invalid check: Interval must be > 0 for HTTP, TCP and GRPC checks".to_owned(),
            );
        }
    };
    let timeout = match given(check.timeout) {
        Some(text) => go_duration(&text)?,
        None => DEFAULT_TIMEOUT,
    };
    let critical_limit = match given(check.deregistercriticalserviceafter) {
        Some(text) => Some(go_duration(&text)?),
        None => None,
    }
    // As Consul has it: nothing says never, and no instance goes before it had a chance to recover.
    .filter(|limit| !limit.is_zero())
    .map(|limit| limit.max(SHORTEST_CRITICAL));
    Ok(CheckSpec {
        critical_limit,
        id: given(check.checkid)
            .or(given(check.id))
            .unwrap_or(default_id),
        name: given(check.name).unwrap_or_else(|| format!("Service '{service}' check")),
        interval,
        timeout,
        initial: match given(check.status) {
            Some(status) => health(&status)?,
            None => Health::Critical,
        },
        kind,
    })
}

/// The result that a body reports.
pub(super) fn check_update(body: &[u8]) -> Result<(Health, String), String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Update {
        status: String,
        output: Option<String>,
    }
    let update: Update = lenient(body)?;
    Ok((health(&update.status)?, update.output.unwrap_or_default()))
}

fn health(status: &str) -> Result<Health, String> {
    match status {
        "passing" => Ok(Health::Passing),
        "warning" => Ok(Health::Warning),
        "critical" => Ok(Health::Critical),
        other => Err(format!(
            "Invalid check status: {other:?}: write passing, warning or critical"
        )),
    }
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Reads a body with field names in lower case.
fn lenient<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let failed = |error: serde_json::Error| format!("Request decode failed: {error}");
    let value: Value = serde_json::from_slice(body).map_err(failed)?;
    serde_json::from_value(lower(value, MAX_DEPTH)).map_err(failed)
}

fn lower(value: Value, depth: usize) -> Value {
    match value {
        Value::Object(map) if depth > 0 => Value::Object(
            map.into_iter()
                .map(|(key, value)| {
                    // Python's names have underscores.
                    let key = key.to_ascii_lowercase().replace('_', "");
                    // These are not fields but what the caller calls them.
                    let own = key == "meta" || key == "header";
                    let value = if own { value } else { lower(value, depth - 1) };
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) if depth > 0 => Value::Array(
            items
                .into_iter()
                .map(|item| lower(item, depth - 1))
                .collect(),
        ),
        other => other,
    }
}

/// A duration as Go writes it: `10s`, `1m30s`, `1.5h`, `250ms`.
pub(super) fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write for example 250ms, 10s or 1m30s");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" if text == "0" => 0.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(go_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(go_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(go_duration("300000ms"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "-1s", "1x", "1s1", "1e400s"] {
            assert!(go_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_in_any_case() {
        let body = br#"{"NAME":"shop","port":80,"Meta":{"Owner":"Me"},"check":{"HTTP":"http://x/","interval":"1s","CheckID":"c"}}"#;
        let spec = registration(body).expect("good");
        assert_eq!(spec.meta["Owner"], "Me");
        assert_eq!(spec.checks[0].id, "c");
        assert_eq!(spec.id, "shop");
    }

    #[test]
    fn each_check_says_how_long_it_may_be_critical_and_none_says_at_once() {
        let body = br#"{"Name":"shop","Port":80,"Checks":[
            {"TTL":"5s","DeregisterCriticalServiceAfter":"0s"},
            {"TTL":"5s","DeregisterCriticalServiceAfter":"1s"},
            {"TTL":"5s","DeregisterCriticalServiceAfter":"2m"},
            {"TTL":"5s"}]}"#;
        let spec = registration(body).expect("good");
        let limits = spec.checks.iter().map(|check| check.critical_limit);
        let seconds: Vec<_> = limits
            .map(|limit| limit.map(|time| time.as_secs()))
            .collect();
        assert_eq!(seconds, [None, Some(60), Some(120), None]);
    }
}
