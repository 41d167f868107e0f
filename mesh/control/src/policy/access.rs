//! Who may call what, and how often.

use super::annotation::{Allowed, annotations};
use super::build::Objects;
use super::document::Document;
use super::fault::{Fault, Path, at};
use super::manifest::{LocalRef, Manifest, OverrideSpec};
use super::model::{
    Authorization, Clients, Key, Network, Policy, RateLimit, RouteKind, ServerProtocol,
    all_networks, identity_of,
};
use super::value::cidr;

const LINKERD: &str = "policy.linkerd.io";
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

struct Checking<'a, 'b> {
    objects: &'b Objects<'a>,
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

    /// All of the references together: at most one says who, at most one says from where.
    fn authentications(
        &self,
        key: &Key,
        document: &Document,
        refs: &[LocalRef],
        faults: &mut Vec<Fault>,
    ) -> Authorization {
        let place = at("spec.requiredAuthenticationRefs");
        if refs.is_empty() {
            let message = "is empty: say who is let in, or leave the policy out";
            faults.push(document.fault(&place, message));
        }
        let (mut clients, mut from) = (None, None);
        for (index, reference) in refs.iter().enumerate() {
            let path = place.index(index);
            let Some(name) = local(document, &path, reference, faults) else {
                continue;
            };
            let twice = match (reference.group.as_str(), reference.kind.as_str()) {
                (LINKERD, "MeshTLSAuthentication") => {
                    let Some(found) = self.objects.get("MeshTLSAuthentication", &name) else {
                        let message = format!("there is no MeshTLSAuthentication {name}");
                        faults.push(document.fault(&path.key("name"), message));
                        continue;
                    };
                    clients
                        .replace(self.clients(found, &mut Vec::new()))
                        .is_some()
                }
                ("", "ServiceAccount") => {
                    let names = self.identity(document, &path, reference, faults);
                    let one = Clients::Identities {
                        names: names.into_iter().collect(),
                        suffixes: Vec::new(),
                    };
                    clients.replace(one).is_some()
                }
                (LINKERD, "NetworkAuthentication") => {
                    let Some(found) = self.objects.get("NetworkAuthentication", &name) else {
                        let message = format!("there is no NetworkAuthentication {name}");
                        faults.push(document.fault(&path.key("name"), message));
                        continue;
                    };
                    from.replace(networks(found, &mut Vec::new())).is_some()
                }
                (group, kind) => {
                    let message = format!(
                        "{kind} of group `{group}` is not understood: write MeshTLSAuthentication or NetworkAuthentication ({LINKERD}), \
                         or ServiceAccount"
                    );
                    faults.push(document.fault(&path.key("kind"), message));
                    continue;
                }
            };
            if twice {
                let message = "asks a second time for the same kind: at most one says who, and one from where";
                faults.push(document.fault(&path, message));
            }
        }
        Authorization {
            policy: Some(key.clone()),
            default: "",
            networks: from.unwrap_or_else(all_networks),
            clients: clients.unwrap_or(Clients::Unauthenticated),
        }
    }

    fn clients(&self, document: &Document, faults: &mut Vec<Fault>) -> Clients {
        let (mut names, mut suffixes) = (Vec::new(), Vec::new());
        let Manifest::MeshTlsAuthentication(object) = &document.manifest else {
            return Clients::Identities { names, suffixes };
        };
        let spec = &object.spec;
        if spec.identities.is_empty() == spec.identity_refs.is_empty() {
            let message = "needs identities or identityRefs, and not both";
            faults.push(document.fault(&at("spec"), message));
        }
        for (index, identity) in spec.identities.iter().enumerate() {
            match identity.strip_prefix('*') {
                Some("") => suffixes.push(Vec::new()),
                Some(rest) if rest.starts_with('.') && is_identity(&rest[1..]) => {
                    suffixes.push(rest[1..].split('.').map(str::to_owned).collect());
                }
                None if is_identity(identity) => names.push(identity.clone()),
                _ => {
                    let message =
                        format!("`{identity}` is not an identity: write a name, `*.suffix` or `*`");
                    faults.push(document.fault(&at("spec.identities").index(index), message));
                }
            }
        }
        for (index, reference) in spec.identity_refs.iter().enumerate() {
            let path = at("spec.identityRefs").index(index);
            match (reference.group.as_str(), reference.kind.as_str()) {
                ("", "ServiceAccount") => {
                    names.extend(self.identity(document, &path, reference, faults));
                }
                ("", "Namespace") => {
                    if self.objects.has_namespace(&reference.name) {
                        let suffix = format!(
                            "{}.serviceaccount.identity.linkerd.cluster.local",
                            reference.name
                        );
                        suffixes.push(suffix.split('.').map(str::to_owned).collect());
                    } else {
                        let message = format!("nothing is in a namespace {}", reference.name);
                        faults.push(document.fault(&path.key("name"), message));
                    }
                }
                (group, kind) => {
                    let message = format!(
                        "{kind} of group `{group}` is not understood: write ServiceAccount or Namespace"
                    );
                    faults.push(document.fault(&path.key("kind"), message));
                }
            }
        }
        Clients::Identities { names, suffixes }
    }

    /// The identity of the service account that is referred to.
    fn identity(
        &self,
        document: &Document,
        path: &Path,
        reference: &LocalRef,
        faults: &mut Vec<Fault>,
    ) -> Option<String> {
        let own = &document.manifest.metadata().namespace;
        let key = Key::new(reference.namespace.as_ref().unwrap_or(own), &reference.name);
        if self.objects.get("ServiceAccount", &key).is_none() {
            let message = format!("there is no ServiceAccount {key}");
            faults.push(document.fault(&path.key("name"), message));
            return None;
        }
        Some(identity_of(&key))
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

/// The key of a reference that must stay within its namespace.
fn local(
    document: &Document,
    path: &Path,
    reference: &LocalRef,
    faults: &mut Vec<Fault>,
) -> Option<Key> {
    let own = &document.manifest.metadata().namespace;
    match &reference.namespace {
        Some(other) if other != own => {
            faults.push(document.fault(
                &path.key("namespace"),
                "must be this object's own namespace",
            ));
            None
        }
        _ => Some(Key::new(own, &reference.name)),
    }
}

fn networks(document: &Document, faults: &mut Vec<Fault>) -> Vec<Network> {
    let Manifest::NetworkAuthentication(object) = &document.manifest else {
        return Vec::new();
    };
    if object.spec.networks.is_empty() {
        faults.push(document.fault(&at("spec.networks"), "is empty: name networks"));
    }
    let mut networks = Vec::new();
    for (index, spec) in object.spec.networks.iter().enumerate() {
        let path = at("spec.networks").index(index);
        let mut except = Vec::new();
        for (index, text) in spec.except.iter().enumerate() {
            match cidr(text) {
                Ok(net) => except.push(net),
                Err(message) => {
                    faults.push(document.fault(&path.key("except").index(index), message));
                }
            }
        }
        match cidr(&spec.cidr) {
            Ok(net) => networks.push(Network { net, except }),
            Err(message) => faults.push(document.fault(&path.key("cidr"), message)),
        }
    }
    networks
}

fn is_identity(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            !label.is_empty()
                && label
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}
