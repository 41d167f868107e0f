//! `Identity`: certificates for workloads that prove who they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use chassis::{Env, Problem};
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use tonic::{Code, Request, Response, Status};

use super::{ERRORS, token};
use crate::ca::{Authority, Refusal};
use crate::workload::Workloads;

const MAX_REQUEST: usize = 16 * 1024;

/// Until when each pod's newest certificate is valid.
pub type Issued = Arc<Mutex<BTreeMap<String, SystemTime>>>;

/// Serves `io.linkerd.proxy.identity.Identity`.
#[derive(Clone, Debug)]
pub struct Identities {
    authority: Arc<Authority>,
    workloads: Workloads,
    issued: Issued,
    env: Env,
}

impl Identities {
    /// Certificates of `authority` for these workloads; what was issued is noted in `issued`.
    pub fn new(authority: Arc<Authority>, workloads: Workloads, issued: Issued, env: Env) -> Self {
        Self {
            authority,
            workloads,
            issued,
            env,
        }
    }

    fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Problem> {
        if request.certificate_signing_request.len() > MAX_REQUEST {
            let message = format!("is larger than {MAX_REQUEST} bytes");
            return Err(ERRORS.invalid_field("certificate_signing_request", message));
        }
        let workload = token::authenticate(&self.workloads, &request.token)?;
        if workload.identity() != request.identity {
            return Err(ERRORS.problem(
                Code::PermissionDenied,
                "OTHER_IDENTITY",
                format!(
                    "the pod {} is {} and can be certified as nothing else",
                    workload.pod,
                    workload.identity()
                ),
            ));
        }
        let serial = [self.env.entropy.next_u64(), self.env.entropy.next_u64()];
        let now = self.env.clock.now();
        let leaf = self
            .authority
            .sign(
                &request.identity,
                &request.certificate_signing_request,
                serial,
                now,
            )
            .map_err(|refusal| match refusal {
                Refusal::Unsigned(_) => {
                    ERRORS.problem(Code::Internal, "NOT_SIGNED", refusal.to_string())
                }
                _ => ERRORS.invalid_field("certificate_signing_request", refusal.to_string()),
            })?;
        tracing::info!(pod = workload.pod, identity = request.identity, "certified");
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        // Pods that are gone have nothing to show any more.
        issued.retain(|_, until| *until > now);
        issued.insert(workload.pod, leaf.valid_until);
        Ok(CertifyResponse {
            leaf_certificate: leaf.certificate,
            // The authority signs leaves itself: there is nothing between.
            intermediate_certificates: Vec::new(),
            valid_until: Some(prost_types::Timestamp::from(leaf.valid_until)),
        })
    }
}

#[tonic::async_trait]
impl Identity for Identities {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let outcome = Self::certify(self, request.into_inner());
        let label = if outcome.is_ok() { "issued" } else { "refused" };
        metrics::counter!("mesh_certificates_total", "outcome" => label).increment(1);
        outcome.map(Response::new).map_err(Status::from)
    }
}
