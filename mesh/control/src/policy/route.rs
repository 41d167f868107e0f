//! Routes, and what they are attached to.

use super::annotation::{Allowed, annotations};
use super::build::Objects;
use super::condition::{grpc_match, http_match};
use super::document::Document;
use super::fault::{Fault, Path, at};
use super::manifest::{BackendRefSpec, Manifest, ParentRefSpec};
use super::model::{
    AppProtocol, Backend, InboundRoute, Key, Match, Policy, Route, RouteKind, Rule, ServerProtocol,
};

/// What the cluster accepts at most.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 8;

/// Attaches every route to its parents.
pub(super) fn attach(objects: &Objects<'_>, policy: &mut Policy, faults: &mut Vec<Fault>) {
    for (kind, name) in [
        (RouteKind::Grpc, "GRPCRoute"),
        (RouteKind::Http, "HTTPRoute"),
    ] {
        for (key, document) in objects.of_kind(name) {
            attach_one(kind, key, document, policy, faults);
        }
    }
}

fn attach_one(
    kind: RouteKind,
    key: &Key,
    document: &Document,
    policy: &mut Policy,
    faults: &mut Vec<Fault>,
) {
    let (parents, rules): (_, Vec<(Vec<Match>, &[BackendRefSpec])>) = match &document.manifest {
        Manifest::GrpcRoute(object) => {
            let rules = object.spec.rules.iter().enumerate().map(|(index, rule)| {
                let path = at("spec.rules").index(index).key("matches");
                let matches = rule.matches.iter().enumerate();
                let matches = matches
                    .map(|(index, one)| grpc_match(document, &path.index(index), one, faults))
                    .collect();
                (matches, rule.backend_refs.as_slice())
            });
            (&object.spec.parent_refs, rules.collect())
        }
        Manifest::HttpRoute(object) => {
            let rules = object.spec.rules.iter().enumerate().map(|(index, rule)| {
                let path = at("spec.rules").index(index).key("matches");
                let matches = rule.matches.iter().enumerate();
                let matches = matches
                    .map(|(index, one)| http_match(document, &path.index(index), one, faults))
                    .collect();
                (matches, rule.backend_refs.as_slice())
            });
            (&object.spec.parent_refs, rules.collect())
        }
        _ => return,
    };
    if parents.is_empty() {
        faults.push(document.fault(
            &at("spec.parentRefs"),
            "is empty: attach the route to something",
        ));
        return;
    }
    sizes(document, &rules, faults);
    let inbound = parents.iter().all(|parent| parent.kind == "Server");
    if inbound {
        annotations(document, Allowed::Nothing, faults);
        for (index, (_, backends)) in rules.iter().enumerate() {
            if !backends.is_empty() {
                let path = at("spec.rules").index(index).key("backendRefs");
                faults
                    .push(document.fault(&path, "means nothing on a Server's route: leave it out"));
            }
        }
        let route = InboundRoute {
            kind,
            key: key.clone(),
            rules: rules.into_iter().map(|(matches, _)| matches).collect(),
            authorizations: Vec::new(),
        };
        for (index, parent) in parents.iter().enumerate() {
            to_server(document, index, parent, &route, policy, faults);
        }
        return;
    }
    let said = annotations(document, Allowed::OutboundRoute, faults);
    let mut built = Vec::new();
    for (index, (matches, specs)) in rules.into_iter().enumerate() {
        let path = at("spec.rules").index(index).key("backendRefs");
        let backends = backends(document, &path, key, specs, policy, faults);
        built.push(Rule { matches, backends });
    }
    let route = Route {
        kind,
        key: key.clone(),
        port: None,
        rules: built,
        timeouts: said.timeouts,
        retry: said.retry,
    };
    for (index, parent) in parents.iter().enumerate() {
        to_service(document, index, parent, &route, policy, faults);
    }
}

fn sizes(document: &Document, rules: &[(Vec<Match>, &[BackendRefSpec])], faults: &mut Vec<Fault>) {
    if rules.is_empty() || rules.len() > MAX_RULES {
        let message = format!(
            "has {} rules: the cluster takes 1 to {MAX_RULES}",
            rules.len()
        );
        faults.push(document.fault(&at("spec.rules"), message));
    }
    for (index, (matches, _)) in rules.iter().enumerate() {
        if matches.len() > MAX_MATCHES {
            let path = at("spec.rules").index(index).key("matches");
            let message = format!(
                "has {} matches: the cluster takes at most {MAX_MATCHES}, use another rule",
                matches.len()
            );
            faults.push(document.fault(&path, message));
        }
    }
}

/// The key of a parent, if it may be one.
fn parent_key(
    document: &Document,
    path: &Path,
    parent: &ParentRefSpec,
    wanted: (&str, &str),
    faults: &mut Vec<Fault>,
) -> Option<Key> {
    if (parent.group.as_str(), parent.kind.as_str()) != wanted {
        let message = format!(
            "`{}` of group `{}` is not understood: write Service with group \"\", or Server with group policy.linkerd.io, and do not mix \
             them",
            parent.kind, parent.group
        );
        faults.push(document.fault(&path.key("kind"), message));
        return None;
    }
    let own = &document.manifest.metadata().namespace;
    match &parent.namespace {
        Some(other) if other != own => {
            let message = "is another namespace: attach routes to parents of their own namespace";
            faults.push(document.fault(&path.key("namespace"), message));
            None
        }
        _ => Some(Key::new(own, &parent.name)),
    }
}

fn to_server(
    document: &Document,
    index: usize,
    parent: &ParentRefSpec,
    route: &InboundRoute,
    policy: &mut Policy,
    faults: &mut Vec<Fault>,
) {
    let path = at("spec.parentRefs").index(index);
    let wanted = ("policy.linkerd.io", "Server");
    let Some(key) = parent_key(document, &path, parent, wanted, faults) else {
        return;
    };
    if parent.port.is_some() {
        let message = "means nothing for a Server, which has one port: leave it out";
        faults.push(document.fault(&path.key("port"), message));
    }
    let Some(server) = policy.servers.get_mut(&key) else {
        faults.push(document.fault(&path.key("name"), format!("there is no Server {key}")));
        return;
    };
    let fits = match route.kind {
        RouteKind::Grpc => server.protocol == ServerProtocol::Grpc,
        RouteKind::Http => matches!(
            server.protocol,
            ServerProtocol::Detect | ServerProtocol::Http1 | ServerProtocol::Http2
        ),
    };
    if !fits {
        let message = format!(
            "Server {key} does not look at {}s: gRPC takes GRPCRoutes, unknown, HTTP/1 and HTTP/2 take HTTPRoutes",
            route.kind.as_str()
        );
        faults.push(document.fault(&path.key("name"), message));
        return;
    }
    server.routes.push(route.clone());
}

fn to_service(
    document: &Document,
    index: usize,
    parent: &ParentRefSpec,
    route: &Route,
    policy: &mut Policy,
    faults: &mut Vec<Fault>,
) {
    let path = at("spec.parentRefs").index(index);
    let Some(key) = parent_key(document, &path, parent, ("", "Service"), faults) else {
        return;
    };
    let Some(service) = policy.services.get_mut(&key) else {
        faults.push(document.fault(&path.key("name"), format!("there is no Service {key}")));
        return;
    };
    if let Some(port) = parent.port {
        match service.port(port).map(|port| port.protocol) {
            None => {
                let message = format!("Service {key} has no port {port}");
                faults.push(document.fault(&path.key("port"), message));
                return;
            }
            Some(AppProtocol::Opaque) => {
                let message =
                    format!("port {port} of Service {key} is opaque: no route is looked at there");
                faults.push(document.fault(&path.key("port"), message));
                return;
            }
            Some(AppProtocol::Http1) if route.kind == RouteKind::Grpc => {
                let message =
                    format!("port {port} of Service {key} speaks HTTP/1, and gRPC is HTTP/2");
                faults.push(document.fault(&path.key("port"), message));
                return;
            }
            Some(_) => {}
        }
    }
    if service.routes.iter().any(|other| other.kind != route.kind) {
        let message = format!(
            "Service {key} has routes of the other kind too: a GRPCRoute hides HTTPRoutes, use one kind"
        );
        faults.push(document.fault(&path.key("name"), message));
        return;
    }
    service.routes.push(Route {
        port: parent.port,
        ..route.clone()
    });
}

fn backends(
    document: &Document,
    path: &Path,
    route: &Key,
    specs: &[BackendRefSpec],
    policy: &Policy,
    faults: &mut Vec<Fault>,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let path = path.index(index);
        if (spec.group.as_str(), spec.kind.as_str()) != ("", "Service") {
            let message = format!("`{}` is not understood: write Service", spec.kind);
            faults.push(document.fault(&path.key("kind"), message));
            continue;
        }
        let namespace = spec.namespace.as_ref().unwrap_or(&route.namespace);
        let key = Key::new(namespace, &spec.name);
        match policy.services.get(&key) {
            None => {
                faults
                    .push(document.fault(&path.key("name"), format!("there is no Service {key}")));
            }
            Some(service) if service.port(spec.port).is_none() => {
                let message = format!("Service {key} has no port {}", spec.port);
                faults.push(document.fault(&path.key("port"), message));
            }
            Some(_) => backends.push(Backend {
                service: key,
                port: spec.port,
                weight: spec.weight,
            }),
        }
    }
    // A proxy that is given weights of zero alone fails badly.
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        faults.push(document.fault(
            path,
            "has weights of 0 alone: nothing would be sent anywhere",
        ));
    }
    if specs.iter().any(|spec| spec.weight > 1_000_000) {
        faults.push(document.fault(path, "has a weight above 1000000"));
    }
    backends
}
