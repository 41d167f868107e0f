//! What the policy says to one call: the answer to "why is this refused?".

use std::collections::BTreeMap;

use super::annotation::in_words;
use super::model::{
    Accrual, Authorization, CallMatch, GrpcConditions, InboundRoute, Key, Match, PathMatch, Policy,
    Port, Retry, Route, Server, Service, ServicePort, Timeouts,
};

/// A call that may or may not be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller's identity; `None` outside of the mesh.
    pub identity: Option<&'a str>,
    /// Full name of the gRPC service.
    pub service: &'a str,
    /// Name of the method.
    pub method: &'a str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// The Server that decides.
    pub server: Option<Key>,
    /// The inbound route that matches, as KIND/NAME.
    pub route: Option<String>,
    /// The AuthorizationPolicy that allows it.
    pub policy: Option<Key>,
}

/// Whether `call` is allowed on `port` of `service`. `ports` are those of a workload of it, if there is one.
pub fn explain(
    policy: &Policy,
    service: &Service,
    port: &ServicePort,
    ports: &BTreeMap<String, u16>,
    call: Call<'_>,
) -> Verdict {
    let server = server_for(
        policy,
        &service.key.namespace,
        &service.selector,
        |server| {
            server.port == port.target
                || (server.port.number(ports).is_some()
                    && server.port.number(ports) == port.target.number(ports))
        },
    );
    let Some(server) = server else {
        return Verdict {
            allowed: false,
            reason: format!(
                "no Server selects the pods of {} and their port {}: without one, everything is refused",
                service.key,
                name_of(&port.target)
            ),
            server: None,
            route: None,
            policy: None,
        };
    };
    let who = call.identity.unwrap_or("a caller outside of the mesh");
    let route = inbound_route(server, call);
    let verdict = |allowed, reason, policy| Verdict {
        allowed,
        reason,
        server: Some(server.key.clone()),
        route: route.map(|route| format!("{}/{}", route.kind.as_str(), route.key.name)),
        policy,
    };
    if route.is_none() && !server.routes.is_empty() {
        let reason = format!(
            "no route of Server {} matches /{}/{}: what no route matches is refused",
            server.key.name, call.service, call.method
        );
        return verdict(false, reason, None);
    }
    let of_route = route.map_or(&[][..], |route| route.authorizations.as_slice());
    let allowing = server
        .authorizations
        .iter()
        .chain(of_route)
        .find(|authorization| authorization.clients.include(call.identity));
    match allowing {
        Some(authorization) => {
            let name = name(authorization);
            verdict(
                true,
                format!("{name} allows {who}"),
                authorization.policy.clone(),
            )
        }
        None => {
            let place = route.map_or_else(
                || format!("Server {}", server.key.name),
                |route| format!("{} {}", route.kind.as_str(), route.key.name),
            );
            let reason = format!("no AuthorizationPolicy of {place} allows {who}");
            verdict(false, reason, None)
        }
    }
}

fn name(authorization: &Authorization) -> String {
    match &authorization.policy {
        Some(key) => format!("AuthorizationPolicy {}", key.name),
        None => format!("access policy {}", authorization.default),
    }
}

fn name_of(port: &Port) -> String {
    match port {
        Port::Number(number) => number.to_string(),
        Port::Name(name) => name.clone(),
    }
}

/// The Server that selects pods with these labels and whose port is right. Of several, the first by name.
pub fn server_for<'a>(
    policy: &'a Policy,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    is_port: impl Fn(&Server) -> bool,
) -> Option<&'a Server> {
    policy.servers.values().find(|server| {
        server.key.namespace == namespace && server.selector.selects(labels) && is_port(server)
    })
}

/// The route of a Server that a call takes: the most specific one, of equals the first.
pub fn inbound_route<'a>(server: &'a Server, call: Call<'_>) -> Option<&'a InboundRoute> {
    most_specific(server.routes.iter().flat_map(|route| {
        route
            .rules
            .iter()
            .filter_map(move |matches| Some((specificity(matches, call)?, route)))
    }))
}

/// The route of a Service that a call takes.
pub fn outbound_route<'a>(service: &'a Service, port: u16, call: Call<'_>) -> Option<&'a Route> {
    most_specific(service.routes_for(port).flat_map(|route| {
        route
            .rules
            .iter()
            .filter_map(move |rule| Some((specificity(&rule.matches, call)?, route)))
    }))
}

fn most_specific<T>(candidates: impl Iterator<Item = (usize, T)>) -> Option<T> {
    let mut best: Option<(usize, T)> = None;
    for (specificity, candidate) in candidates {
        if best.as_ref().is_none_or(|(known, _)| specificity > *known) {
            best = Some((specificity, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How closely any of `matches` describes the call; `None` if none does. Conditions on headers cannot be known here and
/// count as met.
fn specificity(matches: &[Match], call: Call<'_>) -> Option<usize> {
    if matches.is_empty() {
        return Some(0);
    }
    let path = format!("/{}/{}", call.service, call.method);
    matches
        .iter()
        .filter_map(|one| match &one.call {
            CallMatch::Rpc { service, method } => {
                let fits = service.as_ref().is_none_or(|name| name == call.service)
                    && method.as_ref().is_none_or(|name| name == call.method);
                let length = |name: &Option<String>| name.as_ref().map_or(0, String::len);
                fits.then(|| length(service) + length(method))
            }
            CallMatch::Http { path: None, method } => {
                method.is_none_or(|method| method == "POST").then_some(0)
            }
            CallMatch::Http {
                path: Some(wanted),
                method,
            } => {
                let fits = method.is_none_or(|method| method == "POST")
                    && match wanted {
                        PathMatch::Exact(exact) => *exact == path,
                        PathMatch::Prefix(prefix) => {
                            let prefix = prefix.trim_end_matches('/');
                            path.strip_prefix(prefix)
                                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        }
                    };
                let length = match wanted {
                    // An exact path beats any prefix.
                    PathMatch::Exact(exact) => exact.len() + 1_000_000,
                    PathMatch::Prefix(prefix) => prefix.len(),
                };
                fits.then_some(length)
            }
        })
        .max()
}

/// What a route does to a call, in words; empty when it does nothing.
pub fn behaviour(service: &Service, route: Option<&Route>) -> String {
    let mut words = Vec::new();
    if let Some(route) = route {
        words.extend(timeouts_in_words(&route.timeouts));
    }
    let retry = route
        .and_then(|route| route.retry.as_ref())
        .or(service.retry.as_ref());
    words.extend(retry.map(retry_in_words));
    words.extend(
        service
            .accrual
            .as_ref()
            .map(|accrual| format!("endpoint out after {}", accrual_in_words(accrual))),
    );
    words.join("; ")
}

/// Failure accrual in words.
pub fn accrual_in_words(accrual: &Accrual) -> String {
    format!(
        "{} failures, {} to {}",
        accrual.max_failures,
        in_words(accrual.min_penalty),
        in_words(accrual.max_penalty)
    )
}

/// Timeouts in words.
pub fn timeouts_in_words(timeouts: &Timeouts) -> Vec<String> {
    [
        ("timeout", timeouts.request),
        ("response timeout", timeouts.response),
        ("idle timeout", timeouts.idle),
    ]
    .into_iter()
    .filter_map(|(name, duration)| Some(format!("{name} {}", in_words(duration?))))
    .collect()
}

/// Retries in words.
pub fn retry_in_words(retry: &Retry) -> String {
    let GrpcConditions {
        cancelled,
        deadline_exceeded,
        internal,
        resource_exhausted,
        unavailable,
    } = retry.grpc;
    let mut conditions: Vec<String> = [
        ("CANCELLED", cancelled),
        ("DEADLINE_EXCEEDED", deadline_exceeded),
        ("INTERNAL", internal),
        ("RESOURCE_EXHAUSTED", resource_exhausted),
        ("UNAVAILABLE", unavailable),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(name, _)| name.to_owned())
    .collect();
    conditions.extend(retry.http.iter().map(|(from, to)| {
        if from == to {
            from.to_string()
        } else {
            format!("{from}-{to}")
        }
    }));
    let mut words = format!("up to {} retries on {}", retry.limit, conditions.join(", "));
    if let Some(timeout) = retry.timeout {
        words += &format!(", {} a try", in_words(timeout));
    }
    words
}
