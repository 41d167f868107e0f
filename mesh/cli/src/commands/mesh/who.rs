//! Who is there: services, instances, identities.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use sagamesh_api::mesh::v1::{
    Health, Instance, ListInstancesRequest, ListInstancesResponse, ListServicesRequest,
    ListWorkloadsRequest, ListWorkloadsResponse, Workload,
};

use super::{control, registry};
use crate::args::Common;
use crate::connect;
use crate::failure::from_status;
use crate::output::{self, Format, short};
use crate::system::Mesh;

pub(super) async fn services(common: &Common, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let answer = control(mesh)
        .list_services(connect::request(ListServicesRequest {}))
        .await;
    let list = answer
        .map_err(|status| from_status("meshd", "listing services", &status))?
        .into_inner();
    if common.output == Format::Json {
        output::line(&output::json("mesh.v1.ListServicesResponse", &list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = output::table(&["service", "address", "speaks", "endpoints", "breaker"]);
    for service in &list.services {
        for port in &service.ports {
            let pods: Vec<_> = port.endpoints.iter().map(|one| one.pod.as_str()).collect();
            table.add_row([
                service.name.clone(),
                format!("{}:{}", service.cluster_ip, port.port),
                port.protocol.clone(),
                or_dash(pods.join(", ")),
                or_dash(service.failure_accrual.clone()),
            ]);
        }
    }
    output::line(&output::text(&table));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn instances(common: &Common, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let instances = all_instances(mesh).await?;
    if common.output == Format::Json {
        let list = ListInstancesResponse {
            instances,
            next_page_token: String::new(),
        };
        output::line(&output::json("mesh.v1.ListInstancesResponse", &list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let identities = identities(mesh).await?;
    let mut table = output::table(&[
        "service", "instance", "address", "identity", "health", "since", "check",
    ]);
    for instance in &instances {
        let spec = instance.spec.clone().unwrap_or_default();
        let identity = spec.pod.and_then(|pod| identities.get(&pod.name).cloned());
        table.add_row([
            spec.service,
            spec.instance_id,
            format!("{}:{}", spec.address, spec.port),
            or_dash(identity.unwrap_or_default()),
            short(instance.health().as_str_name(), "HEALTH_").to_lowercase(),
            output::time(instance.register_time.as_ref()),
            or_dash(complaint(instance)),
        ]);
    }
    output::line(&output::text(&table));
    Ok(ExitCode::SUCCESS)
}

/// Who each pod is, without what all identities end with.
async fn identities(mesh: &Mesh) -> anyhow::Result<BTreeMap<String, String>> {
    let short = |identity: String| match identity.split_once(".serviceaccount.") {
        Some((account, _)) => account.to_owned(),
        None => identity,
    };
    let workloads = workloads(mesh).await?.workloads.into_iter();
    Ok(workloads
        .map(|workload| (workload.pod, short(workload.identity)))
        .collect())
}

async fn workloads(mesh: &Mesh) -> anyhow::Result<ListWorkloadsResponse> {
    let answer = control(mesh)
        .list_workloads(connect::request(ListWorkloadsRequest {}))
        .await;
    Ok(answer
        .map_err(|status| from_status("meshd", "listing workloads", &status))?
        .into_inner())
}

/// Every instance of the registry.
pub(super) async fn all_instances(mesh: &Mesh) -> anyhow::Result<Vec<Instance>> {
    let mut client = registry(mesh);
    let mut request = ListInstancesRequest {
        page_size: 1_000,
        ..ListInstancesRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let answer = client
            .list_instances(connect::request(request.clone()))
            .await;
        let page = answer
            .map_err(|status| from_status("meshd", "listing instances", &status))?
            .into_inner();
        all.extend(page.instances);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

/// What checks that do not pass say.
pub(super) fn complaint(instance: &Instance) -> String {
    let bad = instance
        .checks
        .iter()
        .filter(|check| check.health() != Health::Passing);
    bad.map(|check| check.output.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

pub(super) async fn identity(common: &Common, mesh: &Mesh) -> anyhow::Result<ExitCode> {
    let list = workloads(mesh).await?;
    if common.output == Format::Json {
        output::line(&output::json("mesh.v1.ListWorkloadsResponse", &list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let now = now_millis();
    let mut table = output::table(&["workload", "address", "identity", "certificate"]);
    for workload in &list.workloads {
        let valid = match left_millis(workload, now) {
            None => "none yet".into(),
            Some(left) if left <= 0 => "EXPIRED".into(),
            Some(left) => format!("valid for {}", output::span(left)),
        };
        table.add_row([
            workload.pod.clone(),
            workload.ip.clone(),
            workload.identity.clone(),
            valid,
        ]);
    }
    output::line(&output::text(&table));
    Ok(ExitCode::SUCCESS)
}

/// How long a workload's certificate is still valid.
pub(super) fn left_millis(workload: &Workload, now: i64) -> Option<i64> {
    let until = workload.certificate_expire_time.as_ref()?;
    Some(output::millis(until) - now)
}

pub(super) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
