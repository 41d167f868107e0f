//! `Identity`: certificates for workloads that prove who they are.
//!
//! A workload's token is `POD.SECRET`. The launcher wrote SHA-256 of SECRET (its bytes as they are) into the pod's record,
//! and the token into a file that only the workload's sidecar reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use chassis::{Env, Problem};
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use tonic::{Code, Request, Response, Status};

use super::ERRORS;
use crate::ca::{Authority, Refusal};
use crate::workload::{Workload, Workloads};

const MAX_TOKEN: usize = 1024;
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
        let workload = self.authenticate(&request.token)?;
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

    /// The workload whose token this is. Every failure looks the same from outside.
    fn authenticate(&self, token: &[u8]) -> Result<Workload, Problem> {
        let refused = || {
            ERRORS.problem(
                Code::Unauthenticated,
                "TOKEN_REFUSED",
                "the token is not that of a pod on record",
            )
        };
        let (pod, secret) = Some(token)
            .filter(|token| token.len() <= MAX_TOKEN)
            .and_then(|token| std::str::from_utf8(token).ok())
            .and_then(|token| token.trim_end_matches(['\r', '\n']).split_once('.'))
            .filter(|(_, secret)| !secret.is_empty())
            .ok_or_else(refused)?;
        let workload = self
            .workloads
            .get(pod)
            .map_err(|error| {
                tracing::error!(pod, %error, "a workload's record cannot be read");
                refused()
            })?
            .ok_or_else(refused)?;
        let expected = decode_hex(&workload.token_sha256).ok_or_else(|| {
            tracing::error!(
                pod,
                "token_sha256 of a workload's record is not 64 hexadecimal digits"
            );
            refused()
        })?;
        let actual = digest(&SHA256, secret.as_bytes());
        verify_slices_are_equal(actual.as_ref(), &expected).map_err(|_| {
            tracing::warn!(pod, "a token was refused");
            refused()
        })?;
        Ok(workload)
    }
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, index) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(index..index + 2)?, 16).ok()?;
    }
    Some(bytes)
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
