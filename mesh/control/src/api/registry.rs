//! `mesh.v1.RegistryService`.

mod convert;

use chassis::{Env, Problem, page};
use sagamesh_api::mesh::v1::registry_service_server::RegistryService;
use sagamesh_api::mesh::v1::{
    Choice, DeregisterRequest, DeregisterResponse, DiscoverRequest, DiscoverResponse,
    ListInstancesRequest, ListInstancesResponse, PodRef, RegisterRequest, RegisterResponse,
    RenewRequest, RenewResponse, WatchRequest, WatchResponse,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::token::Caller;
use super::{Answers, ERRORS};
use crate::registry::Registry;
use crate::registry::spec::{Health, InstanceSpec, MAX_CHECKS};
use crate::registry::table::{Denied, Entry, Refused};
use crate::workload::{Workload, Workloads};

/// Most instances in an answer.
const MAX_PAGE: u32 = 1000;

/// Serves `mesh.v1.RegistryService`.
#[derive(Clone, Debug)]
pub struct Registrations {
    registry: Registry,
    workloads: Workloads,
    env: Env,
    draining: CancellationToken,
}

impl Registrations {
    /// Of this registry; pods are looked up in `workloads`, streams end at `draining`.
    pub fn new(
        registry: Registry,
        workloads: Workloads,
        env: Env,
        draining: CancellationToken,
    ) -> Self {
        Self {
            registry,
            workloads,
            env,
            draining,
        }
    }

    fn caller<T>(&self, request: &Request<T>) -> Caller {
        Caller::of(request.metadata(), &self.workloads)
    }

    /// Healthy instances of a service, by id, and the index of the newest change.
    fn healthy(&self, service: &str, tag: &str) -> Vec<Entry> {
        healthy(&self.registry, service, tag)
    }
}

/// An instance that says it is a pod must be that pod: otherwise a pod could draw what is meant for another.
fn must_be_its_pod(pod: &PodRef, spec: &InstanceSpec, record: &Workload) -> Result<(), Problem> {
    let refused =
        |message: String| ERRORS.problem(Code::FailedPrecondition, "POD_MISMATCH", message);
    if !pod.identity.is_empty() && pod.identity != record.identity() {
        return Err(refused(format!(
            "the pod {} is {}",
            pod.name,
            record.identity()
        )));
    }
    if pod.inbound_port != 0 && pod.inbound_port != u32::from(record.inbound_port) {
        let message = format!(
            "the sidecar of {} listens on {}",
            pod.name, record.inbound_port
        );
        return Err(refused(message));
    }
    let own_port = record.ports.values().any(|port| *port == spec.port);
    if spec.address.parse() != Ok(record.ip) || !own_port {
        let message = format!(
            "{}:{} is not an address of the pod {}",
            spec.address, spec.port, pod.name
        );
        return Err(refused(message));
    }
    Ok(())
}

/// What `caller` is told when its change is denied.
fn denied(denied: &Denied, caller: Caller) -> Problem {
    match denied {
        Denied::Unknown => ERRORS.problem(Code::NotFound, "INSTANCE_NOT_FOUND", denied.to_string()),
        // What it sent for a token says more.
        Denied::OfPod(pod) => caller.must_be(pod).err().unwrap_or_else(|| {
            ERRORS.problem(Code::PermissionDenied, "OTHER_POD", denied.to_string())
        }),
        Denied::NotReported { place, .. } => {
            ERRORS.invalid_field(format!("reports[{place}].check_id"), denied.to_string())
        }
    }
}

fn healthy(registry: &Registry, service: &str, tag: &str) -> Vec<Entry> {
    let (entries, _) = registry.list(|entry| {
        entry.spec.service == service
            && entry.health() != Health::Critical
            && (tag.is_empty() || entry.spec.tags.iter().any(|own| own == tag))
    });
    entries
}

#[tonic::async_trait]
impl RegistryService for Registrations {
    type WatchStream = Answers<WatchResponse>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let caller = self.caller(&request);
        let api = request.into_inner().instance.unwrap_or_default();
        let spec = convert::spec(&api)?;
        if let Some(pod) = &api.pod {
            let record = caller.must_be(&pod.name)?;
            must_be_its_pod(pod, &spec, &record)?;
        }
        let entry = self.registry.register(spec).await.map_err(|refused| {
            let (code, reason) = match refused {
                Refused::Full => (Code::ResourceExhausted, "REGISTRY_FULL"),
                Refused::IsPod => (Code::FailedPrecondition, "POD_MISMATCH"),
            };
            ERRORS.problem(code, reason, refused.to_string())
        })?;
        Ok(Response::new(RegisterResponse {
            instance: Some(convert::instance(&entry)),
        }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let caller = self.caller(&request);
        let request = request.into_inner();
        if request.reports.len() > MAX_CHECKS {
            let message = format!("must be at most {MAX_CHECKS}");
            return Err(ERRORS.invalid_field("reports", message).into());
        }
        if request
            .load
            .is_some_and(|load| !(0.0..=1e12).contains(&load))
        {
            return Err(ERRORS.invalid_field("load", "must be 0 or more").into());
        }
        let mut reports = Vec::new();
        for (index, report) in request.reports.into_iter().enumerate() {
            let health = convert::health(report.health()).ok_or_else(|| {
                ERRORS.invalid_field(format!("reports[{index}].health"), "is missing")
            })?;
            reports.push((report.check_id, health, report.output));
        }
        let renewed = self
            .registry
            .renew(&request.instance_id, caller.pod(), request.load, &reports)
            .await
            .map_err(|refusal| denied(&refusal, caller))?;
        let now = self.env.clock.now();
        Ok(Response::new(RenewResponse {
            expire_time: renewed
                .remaining(Instant::now())
                .map(|remaining| prost_types::Timestamp::from(now + remaining)),
        }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterResponse>, Status> {
        let caller = self.caller(&request);
        let removed = self
            .registry
            .deregister(&request.into_inner().instance_id, caller.pod())
            .await
            .map_err(|refusal| denied(&refusal, caller))?;
        Ok(Response::new(DeregisterResponse { removed }))
    }

    async fn discover(
        &self,
        request: Request<DiscoverRequest>,
    ) -> Result<Response<DiscoverResponse>, Status> {
        let request = request.into_inner();
        let choice = Choice::try_from(request.choice)
            .map_err(|_| ERRORS.invalid_field("choice", "is not known"))?;
        let limit = limit(request.limit)?;
        let mut found: Vec<(u64, Entry)> = self
            .healthy(&request.service, &request.tag)
            .into_iter()
            .map(|entry| (self.env.entropy.next_u64(), entry))
            .collect();
        // A random order first: among equals chance decides.
        found.sort_by_key(|(random, _)| *random);
        if choice == Choice::LeastLoaded {
            found.sort_by(|(_, one), (_, other)| one.load.total_cmp(&other.load));
        }
        let instances = found
            .iter()
            .take(limit)
            .map(|(_, entry)| convert::instance(entry));
        Ok(Response::new(DiscoverResponse {
            instances: instances.collect(),
        }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let request = request.into_inner();
        let size = page::page_size(ERRORS, request.page_size, 100, MAX_PAGE)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let after = page::decode_token(ERRORS, &request.service, &request.page_token)?
            .map(|cursor| String::from_utf8_lossy(&cursor).into_owned());
        let (mut entries, _) = self
            .registry
            .list(|entry| request.service.is_empty() || entry.spec.service == request.service);
        entries.sort_by_cached_key(place);
        entries.retain(|entry| after.as_ref().is_none_or(|after| place(entry) > *after));
        let more = entries.len() > size;
        entries.truncate(size);
        let next_page_token = match entries.last() {
            Some(last) if more => page::encode_token(&request.service, place(last).as_bytes()),
            _ => String::new(),
        };
        Ok(Response::new(ListInstancesResponse {
            instances: entries.iter().map(convert::instance).collect(),
            next_page_token,
        }))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { service, tag } = request.into_inner();
        if service.is_empty() || service.len() > 63 {
            return Err(ERRORS
                .invalid_field("service", "must have 1 to 63 characters")
                .into());
        }
        let registry = self.registry.clone();
        let mut changes = registry.watch();
        changes.mark_changed();
        let draining = self.draining.clone();
        let state = (changes, None::<WatchResponse>);
        let stream = futures_util::stream::unfold(state, move |(mut changes, mut last)| {
            let (registry, draining) = (registry.clone(), draining.clone());
            let (service, tag) = (service.clone(), tag.clone());
            async move {
                loop {
                    draining
                        .run_until_cancelled(changes.changed())
                        .await?
                        .ok()?;
                    changes.borrow_and_update();
                    let entries = healthy(&registry, &service, &tag);
                    let message = WatchResponse {
                        instances: entries.iter().map(convert::instance).collect(),
                    };
                    if let Some(message) = super::when_new(&mut last, message).pop() {
                        return Some((Ok(message), (changes, last)));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Where an instance is in lists.
fn place(entry: &Entry) -> String {
    format!("{}\0{}", entry.spec.service, entry.spec.id)
}

fn limit(requested: i32) -> Result<usize, Problem> {
    let limit = u32::try_from(requested)
        .map_err(|_| ERRORS.invalid_field("limit", "must not be negative"))?;
    Ok(usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1))
}
