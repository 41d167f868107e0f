//! Between the registry's own types and the API's.

use std::time::Duration;

use chassis::{Problem, Violations, timestamp};
use sagamesh_api::mesh::v1 as api;
use sagamesh_api::mesh::v1::check::Kind;

use super::super::ERRORS;
use crate::registry::spec::{CheckKind, CheckSpec, Health, InstanceSpec, MAX_CHECKS};
use crate::registry::table::Entry;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// A checked instance.
pub(super) fn spec(given: &api::InstanceSpec) -> Result<InstanceSpec, Problem> {
    let mut wrong = Violations::new();
    let port = u16::try_from(given.port).unwrap_or(0);
    let own = InstanceSpec::own_target(&given.address, port);
    let mut checks = Vec::new();
    for (index, check) in given.checks.iter().enumerate().take(MAX_CHECKS + 1) {
        match check_spec(check, index, &own) {
            Ok(check) => checks.push(check),
            Err((field, message)) => wrong.add(format!("checks[{index}].{field}"), message),
        }
    }
    let mut lease = None;
    if let Some(ttl) = &given.lease_ttl {
        lease = timestamp::to_duration(ttl);
        if lease.is_none() {
            wrong.add("lease_ttl", "must be from 1 second to 1 hour");
        }
    }
    let spec = InstanceSpec {
        service: given.service.clone(),
        id: given.instance_id.clone(),
        address: given.address.clone(),
        port,
        tags: given.tags.clone(),
        meta: given.meta.clone(),
        checks,
        pod: given.pod.as_ref().map(|pod| pod.name.clone()),
        lease,
    };
    let mut all = Violations::new();
    for (field, message) in wrong.iter().chain(spec.violations().iter()) {
        all.add(format!("instance.{field}"), message);
    }
    all.into_result(ERRORS)?;
    Ok(spec)
}

fn check_spec(
    check: &api::Check,
    index: usize,
    own: &str,
) -> Result<CheckSpec, (&'static str, &'static str)> {
    let duration = |given: &Option<prost_types::Duration>, default, field| match given {
        None => Ok(default),
        Some(given) => timestamp::to_duration(given).ok_or((field, "must not be negative")),
    };
    let target = |given: &String| {
        if given.is_empty() {
            own.to_owned()
        } else {
            given.clone()
        }
    };
    let kind = match &check.kind {
        None => return Err(("kind", "is missing: choose grpc, http, tcp or ttl")),
        Some(Kind::Grpc(grpc)) => CheckKind::Grpc {
            target: target(&grpc.target),
            service: grpc.service.clone(),
        },
        Some(Kind::Http(http)) => CheckKind::Http {
            url: http.url.clone(),
        },
        Some(Kind::Tcp(tcp)) => CheckKind::Tcp {
            target: target(&tcp.target),
        },
        Some(Kind::Ttl(ttl)) => CheckKind::Ttl {
            ttl: duration(&ttl.ttl, Duration::ZERO, "ttl.ttl")?,
        },
    };
    let id = if check.check_id.is_empty() {
        (index + 1).to_string()
    } else {
        check.check_id.clone()
    };
    Ok(CheckSpec {
        critical_limit: None,
        name: id.clone(),
        id,
        interval: duration(&check.interval, DEFAULT_INTERVAL, "interval")?,
        timeout: duration(&check.timeout, DEFAULT_TIMEOUT, "timeout")?,
        initial: Health::Critical,
        kind,
    })
}

/// An instance for an answer.
pub(super) fn instance(entry: &Entry) -> api::Instance {
    let spec = &entry.spec;
    let checks = spec.checks.iter().zip(&entry.results);
    api::Instance {
        spec: Some(api::InstanceSpec {
            service: spec.service.clone(),
            instance_id: spec.id.clone(),
            address: spec.address.clone(),
            port: u32::from(spec.port),
            tags: spec.tags.clone(),
            meta: spec.meta.clone(),
            checks: spec.checks.iter().map(api_check).collect(),
            pod: spec.pod.as_ref().map(|name| api::PodRef {
                name: name.clone(),
                ..api::PodRef::default()
            }),
            lease_ttl: spec.lease.map(timestamp::from_duration),
        }),
        health: api_health(entry.health()).into(),
        checks: checks
            .map(|(check, result)| api::CheckResult {
                check_id: check.id.clone(),
                health: api_health(result.health).into(),
                output: result.output.clone(),
            })
            .collect(),
        load: entry.load,
        register_time: Some(timestamp::from_millis(entry.registered_at)),
    }
}

fn api_check(check: &CheckSpec) -> api::Check {
    let kind = match &check.kind {
        CheckKind::Grpc { target, service } => Kind::Grpc(api::GrpcCheck {
            target: target.clone(),
            service: service.clone(),
        }),
        CheckKind::Http { url } => Kind::Http(api::HttpCheck { url: url.clone() }),
        CheckKind::Tcp { target } => Kind::Tcp(api::TcpCheck {
            target: target.clone(),
        }),
        CheckKind::Ttl { ttl } => Kind::Ttl(api::TtlCheck {
            ttl: Some(timestamp::from_duration(*ttl)),
        }),
    };
    api::Check {
        check_id: check.id.clone(),
        interval: Some(timestamp::from_duration(check.interval)),
        timeout: Some(timestamp::from_duration(check.timeout)),
        kind: Some(kind),
    }
}

fn api_health(health: Health) -> api::Health {
    match health {
        Health::Passing => api::Health::Passing,
        Health::Warning => api::Health::Warning,
        Health::Critical => api::Health::Critical,
    }
}

/// The registry's own health, if one is given.
pub(super) fn health(given: api::Health) -> Option<Health> {
    match given {
        api::Health::Unspecified => None,
        api::Health::Passing => Some(Health::Passing),
        api::Health::Warning => Some(Health::Warning),
        api::Health::Critical => Some(Health::Critical),
    }
}
