//! Conditions of routes.

use super::document::Document;
use super::fault::{Fault, Path};
use super::manifest::{
    GrpcMatchSpec, HeaderMatchSpec, HttpMatchSpec, HttpMethodSpec, PathMatchKindSpec,
};
use super::model::{CallMatch, Match, PathMatch};
use super::value::is_rpc_name;

impl Match {
    /// Whether it matches every request.
    pub fn is_all(&self) -> bool {
        self.headers.is_empty()
            && match &self.call {
                CallMatch::Rpc { service, method } => service.is_none() && method.is_none(),
                CallMatch::Http { path, method } => {
                    method.is_none()
                        && match path {
                            None => true,
                            Some(PathMatch::Prefix(prefix)) => prefix == "/",
                            Some(PathMatch::Exact(_)) => false,
                        }
                }
            }
    }
}

fn headers(
    document: &Document,
    path: &Path,
    specs: &[HeaderMatchSpec],
    faults: &mut Vec<Fault>,
) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if spec.name.is_empty() || spec.name.len() > 256 || !spec.name.chars().all(token) {
            let message = format!("`{}` is not the name of a header", spec.name);
            faults.push(document.fault(&path.key("headers").index(index).key("name"), message));
        }
        headers.push((spec.name.to_ascii_lowercase(), spec.value.clone()));
    }
    headers
}

/// A condition of a GRPCRoute.
pub(super) fn grpc_match(
    document: &Document,
    path: &Path,
    spec: &GrpcMatchSpec,
    faults: &mut Vec<Fault>,
) -> Match {
    let mut call = CallMatch::Rpc {
        service: None,
        method: None,
    };
    if let Some(spec) = &spec.method {
        let path = path.key("method");
        if spec.service.is_none() && spec.method.is_none() {
            faults.push(document.fault(&path, "names neither a service nor a method"));
        }
        for (field, name) in [("service", &spec.service), ("method", &spec.method)] {
            if let Some(name) = name
                && !is_rpc_name(name)
            {
                let message = format!("`{name}` is not the name of a gRPC {field}");
                faults.push(document.fault(&path.key(field), message));
            }
        }
        call = CallMatch::Rpc {
            service: spec.service.clone(),
            method: spec.method.clone(),
        };
    }
    Match {
        call,
        headers: headers(document, path, &spec.headers, faults),
    }
}

/// A condition of an HTTPRoute.
pub(super) fn http_match(
    document: &Document,
    path: &Path,
    spec: &HttpMatchSpec,
    faults: &mut Vec<Fault>,
) -> Match {
    if let Some(spec) = &spec.path
        && (!spec.value.starts_with('/') || spec.value.len() > 1024 || spec.value.contains("//"))
    {
        let message = format!(
            "`{}` is not a path: write for example /package.Service/Method",
            spec.value
        );
        faults.push(document.fault(&path.key("path").key("value"), message));
    }
    Match {
        call: CallMatch::Http {
            path: spec.path.as_ref().map(|spec| match spec.kind {
                PathMatchKindSpec::Exact => PathMatch::Exact(spec.value.clone()),
                PathMatchKindSpec::PathPrefix => PathMatch::Prefix(spec.value.clone()),
            }),
            method: spec.method.map(|method| match method {
                HttpMethodSpec::Get => "GET",
                HttpMethodSpec::Post => "POST",
                HttpMethodSpec::Put => "PUT",
                HttpMethodSpec::Delete => "DELETE",
                HttpMethodSpec::Patch => "PATCH",
                HttpMethodSpec::Options => "OPTIONS",
                HttpMethodSpec::Head => "HEAD",
            }),
        },
        headers: headers(document, path, &spec.headers, faults),
    }
}
