//! Who may call what, and how often.

use super::annotation::{Allowed, annotations};
use super::authentication::{Checking, LINKERD, local, networks};
use super::build::Objects;
use super::document::Document;
use super::fault::{Fault, Path, at};
use super::manifest::{Manifest, OverrideSpec};
use super::model::{Key, Policy, RateLimit, RouteKind, ServerProtocol};

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// Attaches every AuthorizationPolicy and rate limit to what it is for.
pub(super) fn attach(objects: &Objects<'_>, policy: &mut Policy, faults: &mut Vec<Fault>) {
    let checking = Checking { objects };
    // Checked also where nothing refers to them.
    for (_, document) in objects.of_kind("MeshTLSAuthentication") {
        annotations(document, Allowed::Nothing, faults);
        checking.clients(document, faults);
    }
    for (_, document) in objects.of_kind("NetworkAuthentication") {
        annotations(document, Allowed::Nothing, faults);
        networks(document, faults);
    }
    for (key, document) in objects.of_kind("AuthorizationPolicy") {
        annotations(document, Allowed::Nothing, faults);
        checking.authorize(key, document, policy, faults);
    }
    for (key, document) in objects.of_kind("HTTPLocalRateLimitPolicy") {
        annotations(document, Allowed::Nothing, faults);
        checking.limit(key, document, policy, faults);
    }
}

impl Checking<'_, '_> {
    fn authorize(
        &self,
        key: &Key,
        document: &Document,
        policy: &mut Policy,
        faults: &mut Vec<Fault>,
    ) {
        let Manifest::AuthorizationPolicy(object) = &document.manifest else {
            return;
        };
        let authorization = self.authentications(
            key,
            document,
            &object.spec.required_authentication_refs,
            faults,
        );
        let path = at("spec.targetRef");
        let target = &object.spec.target_ref;
        let Some(name) = local(document, &path, target, faults) else {
            return;
        };
        let missing = |faults: &mut Vec<Fault>| {
            let message = format!(
                "there is no {} {name} with a Server for a parent",
                target.kind
            );
            faults.push(document.fault(&path.key("name"), message));
        };
        let kind = match (target.group.as_str(), target.kind.as_str()) {
            (LINKERD, "Server") => {
                match policy.servers.get_mut(&name) {
                    Some(server) => server.authorizations.push(authorization),
                    None => faults.push(
                        document.fault(&path.key("name"), format!("there is no Server {name}")),
                    ),
                }
                return;
            }
            (LINKERD, "Namespace") => {
                let message = "Namespace is too wide to be understood here: name a Server, an HTTPRoute or a GRPCRoute";
                faults.push(document.fault(&path.key("kind"), message));
                return;
            }
            (GATEWAY_API, "HTTPRoute") => RouteKind::Http,
            (GATEWAY_API, "GRPCRoute") => RouteKind::Grpc,
            (group, kind) => {
                let message = format!(
                    "{kind} of group `{group}` is not understood: write Server ({LINKERD}), HTTPRoute or GRPCRoute ({GATEWAY_API})"
                );
                faults.push(document.fault(&path.key("kind"), message));
                return;
            }
        };
        let mut found = false;
        for server in policy.servers.values_mut() {
            for route in &mut server.routes {
                if route.kind == kind && route.key == name {
                    route.authorizations.push(authorization.clone());
                    found = true;
                }
            }
        }
        if !found {
            missing(faults);
        }
    }

    fn limit(&self, key: &Key, document: &Document, policy: &mut Policy, faults: &mut Vec<Fault>) {
        let Manifest::RateLimit(object) = &document.manifest else {
            return;
        };
        let spec = &object.spec;
        let path = at("spec.targetRef");
        if (
            spec.target_ref.group.as_str(),
            spec.target_ref.kind.as_str(),
        ) != (LINKERD, "Server")
        {
            let message = format!(
                "{} is not understood: write Server ({LINKERD})",
                spec.target_ref.kind
            );
            faults.push(document.fault(&path.key("kind"), message));
            return;
        }
        let total = spec.total.as_ref().map(|limit| limit.requests_per_second);
        let identity = spec
            .identity
            .as_ref()
            .map(|limit| limit.requests_per_second);
        if total.is_none() && identity.is_none() && spec.overrides.is_empty() {
            faults.push(document.fault(&at("spec"), "limits nothing"));
        }
        let bounded = |path: Path, rate: u32, faults: &mut Vec<Fault>| {
            if rate == 0 {
                faults.push(document.fault(
                    &path,
                    "is 0: nothing could be called; take an authorization away instead",
                ));
            } else if total.is_some_and(|total| rate > total) {
                faults.push(document.fault(&path, "is more than the total"));
            }
        };
        for (field, rate) in [("total", total), ("identity", identity)] {
            if let Some(rate) = rate {
                bounded(at("spec").key(field).key("requestsPerSecond"), rate, faults);
            }
        }
        let mut overrides = Vec::new();
        for (index, one) in spec.overrides.iter().enumerate() {
            let path = at("spec.overrides").index(index);
            bounded(
                path.key("requestsPerSecond"),
                one.requests_per_second,
                faults,
            );
            overrides.push((
                one.requests_per_second,
                self.override_clients(document, &path, one, faults),
            ));
        }
        let Some(name) = local(document, &path, &spec.target_ref, faults) else {
            return;
        };
        let Some(server) = policy.servers.get_mut(&name) else {
            faults.push(document.fault(&path.key("name"), format!("there is no Server {name}")));
            return;
        };
        let message = match server.protocol {
            ServerProtocol::Detect | ServerProtocol::Http1 | ServerProtocol::Http2 => {
                if server.rate_limit.is_none() {
                    server.rate_limit = Some(RateLimit {
                        key: key.clone(),
                        total,
                        identity,
                        overrides,
                    });
                    return;
                }
                format!("Server {name} has a rate limit already")
            }
            ServerProtocol::Grpc | ServerProtocol::Opaque | ServerProtocol::Tls => format!(
                "a rate limit has no effect on Server {name}: give it proxyProtocol HTTP/2 and HTTPRoutes"
            ),
        };
        faults.push(document.fault(&path.key("name"), message));
    }

    fn override_clients(
        &self,
        document: &Document,
        path: &Path,
        spec: &OverrideSpec,
        faults: &mut Vec<Fault>,
    ) -> Vec<String> {
        let path = path.key("clientRefs");
        if spec.client_refs.is_empty() {
            faults.push(document.fault(&path, "is empty: say whose rate this is"));
        }
        let mut identities = Vec::new();
        for (index, reference) in spec.client_refs.iter().enumerate() {
            let path = path.index(index);
            if (reference.group.as_str(), reference.kind.as_str()) == ("", "ServiceAccount") {
                identities.extend(self.identity(document, &path, reference, faults));
            } else {
                let message = format!("{} is not understood: write ServiceAccount", reference.kind);
                faults.push(document.fault(&path.key("kind"), message));
            }
        }
        identities
    }
}
