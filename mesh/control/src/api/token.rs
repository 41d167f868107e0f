//! Tokens, by which pods prove who they are.
//!
//! A workload's token is `POD.SECRET`. The launcher wrote SHA-256 of SECRET (its bytes as they are) into the pod's record,
//! and the token into a file that only the workload's sidecar and the launcher read.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use chassis::Problem;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::ERRORS;
use crate::workload::{Workload, Workloads};

const MAX_TOKEN: usize = 1024;

/// Who sent a request, as far as its metadata `authorization` proves it.
#[derive(Debug)]
pub(super) enum Caller {
    /// It proves nothing.
    Nobody,
    /// It should prove something, and does not.
    Refused(Problem),
    /// A pod.
    Pod(Box<Workload>),
}

impl Caller {
    /// The sender of a request with this metadata.
    pub(super) fn of(metadata: &MetadataMap, workloads: &Workloads) -> Self {
        let Some(value) = metadata.get("authorization") else {
            return Self::Nobody;
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim_start());
        let Some(token) = token else {
            return Self::Refused(unauthenticated(
                "the metadata `authorization` must be `Bearer POD.SECRET`",
            ));
        };
        match authenticate(workloads, token.as_bytes()) {
            Ok(workload) => Self::Pod(Box::new(workload)),
            Err(problem) => Self::Refused(problem),
        }
    }

    /// The pod that it is.
    pub(super) fn pod(&self) -> Option<&str> {
        match self {
            Self::Pod(workload) => Some(&workload.pod),
            Self::Nobody | Self::Refused(_) => None,
        }
    }

    /// The record of `pod`, if that is who it is.
    pub(super) fn must_be(self, pod: &str) -> Result<Workload, Problem> {
        match self {
            Self::Pod(workload) if workload.pod == pod => Ok(*workload),
            Self::Pod(workload) => Err(ERRORS.problem(
                Code::PermissionDenied,
                "OTHER_POD",
                format!(
                    "the token is that of the pod {}: it changes nothing of the pod {pod}",
                    workload.pod
                ),
            )),
            Self::Refused(problem) => Err(problem),
            Self::Nobody => Err(unauthenticated(format!(
                "the instance is the pod {pod}, and only who has its token may change it: send the metadata `authorization: Bearer POD.SECRET`"
            ))),
        }
    }
}

/// The workload whose token this is. Every failure looks the same from outside.
pub(super) fn authenticate(workloads: &Workloads, token: &[u8]) -> Result<Workload, Problem> {
    let refused = || unauthenticated("the token is not that of a pod on record");
    let (pod, secret) = Some(token)
        .filter(|token| token.len() <= MAX_TOKEN)
        .and_then(|token| std::str::from_utf8(token).ok())
        .and_then(|token| token.trim_end_matches(['\r', '\n']).split_once('.'))
        .filter(|(_, secret)| !secret.is_empty())
        .ok_or_else(refused)?;
    let workload = workloads
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

fn unauthenticated(message: impl Into<String>) -> Problem {
    ERRORS.problem(Code::Unauthenticated, "TOKEN_REFUSED", message)
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
