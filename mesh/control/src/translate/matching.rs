//! Conditions of routes, in Linkerd's messages.

use linkerd2_proxy_api::{grpc_route, http_route, http_types};

use crate::policy::{CallMatch, Match, PathMatch};

/// Conditions for a GRPCRoute. None means everything, and has to be said.
pub(super) fn grpc(matches: &[Match]) -> Vec<grpc_route::GrpcRouteMatch> {
    if matches.is_empty() {
        return vec![grpc_match(None, None, &[])];
    }
    matches
        .iter()
        .map(|one| match &one.call {
            CallMatch::Rpc { service, method } => {
                grpc_match(service.as_deref(), method.as_deref(), &one.headers)
            }
            // The reader builds conditions of the route's own kind.
            CallMatch::Http { .. } => grpc_match(None, None, &one.headers),
        })
        .collect()
}

fn grpc_match(
    service: Option<&str>,
    method: Option<&str>,
    headers: &[(String, String)],
) -> grpc_route::GrpcRouteMatch {
    grpc_route::GrpcRouteMatch {
        // Present even when it is empty: a match without it makes the whole policy invalid.
        rpc: Some(grpc_route::GrpcRpcMatch {
            service: service.unwrap_or_default().to_owned(),
            method: method.unwrap_or_default().to_owned(),
        }),
        headers: header_matches(headers),
    }
}

/// Conditions for an HTTPRoute.
pub(super) fn http(matches: &[Match]) -> Vec<http_route::HttpRouteMatch> {
    if matches.is_empty() {
        return vec![anything()];
    }
    matches.iter().map(http_match).collect()
}

/// The condition that every request meets.
pub(super) fn anything() -> http_route::HttpRouteMatch {
    http_route::HttpRouteMatch {
        path: Some(http_route::PathMatch {
            kind: Some(http_route::path_match::Kind::Prefix("/".to_owned())),
        }),
        ..http_route::HttpRouteMatch::default()
    }
}

fn http_match(one: &Match) -> http_route::HttpRouteMatch {
    let (path, method) = match &one.call {
        CallMatch::Http { path, method } => (path.as_ref(), *method),
        CallMatch::Rpc { .. } => (None, None),
    };
    http_route::HttpRouteMatch {
        path: Some(http_route::PathMatch {
            kind: Some(match path {
                Some(PathMatch::Exact(path)) => http_route::path_match::Kind::Exact(path.clone()),
                Some(PathMatch::Prefix(path)) => http_route::path_match::Kind::Prefix(path.clone()),
                None => http_route::path_match::Kind::Prefix("/".to_owned()),
            }),
        }),
        headers: header_matches(&one.headers),
        query_params: Vec::new(),
        method: method.map(http_method),
    }
}

fn http_method(name: &str) -> http_types::HttpMethod {
    use http_types::http_method::{Registered, Type};
    let registered = match name {
        "GET" => Registered::Get,
        "POST" => Registered::Post,
        "PUT" => Registered::Put,
        "DELETE" => Registered::Delete,
        "PATCH" => Registered::Patch,
        "OPTIONS" => Registered::Options,
        "HEAD" => Registered::Head,
        other => {
            return http_types::HttpMethod {
                r#type: Some(Type::Unregistered(other.to_owned())),
            };
        }
    };
    http_types::HttpMethod {
        r#type: Some(Type::Registered(registered.into())),
    }
}

fn header_matches(headers: &[(String, String)]) -> Vec<http_route::HeaderMatch> {
    headers
        .iter()
        .map(|(name, value)| http_route::HeaderMatch {
            name: name.clone(),
            value: Some(http_route::header_match::Value::Exact(
                value.clone().into_bytes(),
            )),
        })
        .collect()
}
