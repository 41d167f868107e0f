//! From documents to the policy: names, references, rules.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::access;
use super::annotation::{Allowed, annotations};
use super::document::{Document, documents};
use super::fault::{Fault, Path, at};
use super::manifest::{
    AccessPolicySpec, LabelOperatorSpec, LabelSelectorSpec, Manifest, PortRef, ProxyProtocolSpec,
};
use super::model::{
    AppProtocol, Authorization, Clients, Expression, Is, Key, Policy, Port, Selector, Server,
    ServerProtocol, Service, ServicePort, all_networks,
};
use super::value::is_name;
use super::{Source, route, rules};

/// Most faults that are told at once.
const MAX_FAULTS: usize = 50;

/// Reads the policy that these files say together.
///
/// # Errors
/// Everything that is wrong with them, at most 50.
pub fn read(sources: &[Source]) -> Result<Policy, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut all = Vec::new();
    for source in sources {
        all.extend(documents(source, &mut faults));
    }
    let objects = Objects::of(&all, &mut faults);
    let mut policy = Policy::default();
    for (key, document) in objects.of_kind("ServiceAccount") {
        annotations(document, Allowed::Nothing, &mut faults);
        policy.service_accounts.insert(key.clone());
    }
    for (key, document) in objects.of_kind("Service") {
        if let Some(service) = service(key, document, &mut faults) {
            policy.services.insert(key.clone(), service);
        }
    }
    for (key, document) in objects.of_kind("Server") {
        if let Some(server) = server(key, document, &mut faults) {
            policy.servers.insert(key.clone(), server);
        }
    }
    route::attach(&objects, &mut policy, &mut faults);
    access::attach(&objects, &mut policy, &mut faults);
    for document in &all {
        rules::check(&policy, document, &mut faults);
    }
    if faults.is_empty() {
        Ok(policy)
    } else {
        faults.truncate(MAX_FAULTS);
        Err(faults)
    }
}

/// Documents by kind and name.
#[derive(Debug, Default)]
pub(super) struct Objects<'a> {
    by_kind: BTreeMap<&'static str, BTreeMap<Key, &'a Document>>,
    namespaces: BTreeSet<String>,
}

impl<'a> Objects<'a> {
    fn of(documents: &'a [Document], faults: &mut Vec<Fault>) -> Self {
        let mut objects = Self::default();
        for document in documents {
            let metadata = document.manifest.metadata();
            let mut named = true;
            for (field, text) in [("name", &metadata.name), ("namespace", &metadata.namespace)] {
                if !is_name(text) {
                    let message = format!(
                        "`{text}` is not a name: write 1 to 63 characters of [a-z0-9-], with a letter or a digit at both ends"
                    );
                    faults.push(document.fault(&at("metadata").key(field), message));
                    named = false;
                }
            }
            if !named {
                continue;
            }
            let key = Key::new(&metadata.namespace, &metadata.name);
            let kind = document.manifest.kind();
            objects.namespaces.insert(metadata.namespace.clone());
            let known = objects.by_kind.entry(kind).or_default();
            match known.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(document);
                }
                Entry::Occupied(taken) => {
                    let message = format!(
                        "a {kind} {} is there already: names are unique",
                        taken.key()
                    );
                    faults.push(document.fault(&at("metadata.name"), message));
                }
            }
        }
        objects
    }

    /// All documents of a kind, by name.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&Key, &'a Document)> {
        self.by_kind
            .get(kind)
            .into_iter()
            .flatten()
            .map(|(key, document)| (key, *document))
    }

    /// The document of a kind and a name.
    pub(super) fn get(&self, kind: &str, key: &Key) -> Option<&'a Document> {
        self.by_kind.get(kind)?.get(key).copied()
    }

    /// Whether anything is in this namespace.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }
}

fn service(key: &Key, document: &Document, faults: &mut Vec<Fault>) -> Option<Service> {
    let Manifest::Service(object) = &document.manifest else {
        return None;
    };
    let said = annotations(document, Allowed::Service, faults);
    if object.spec.ports.is_empty() {
        faults.push(document.fault(&at("spec.ports"), "is empty: a Service has ports"));
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, spec) in object.spec.ports.iter().enumerate() {
        let path = at("spec.ports").index(index);
        if spec.port == 0 {
            faults.push(document.fault(&path.key("port"), "is 0: write 1 to 65535"));
        }
        if ports
            .iter()
            .any(|other| other.port == spec.port || other.name == spec.name)
        {
            let message = "has the name or the number of another port of this Service";
            faults.push(document.fault(&path, message));
        }
        let protocol = match spec.app_protocol.as_deref() {
            None => AppProtocol::Detect,
            Some("http") => AppProtocol::Http1,
            Some("kubernetes.io/h2c") => AppProtocol::Http2,
            Some("linkerd.io/opaque" | "linkerd.io/tcp") => AppProtocol::Opaque,
            Some(other) => {
                let message = format!(
                    "`{other}` would be taken as opaque bytes: write kubernetes.io/h2c for gRPC, http, linkerd.io/opaque, or leave it \
                     out to detect"
                );
                faults.push(document.fault(&path.key("appProtocol"), message));
                continue;
            }
        };
        ports.push(ServicePort {
            name: if spec.name.is_empty() {
                spec.port.to_string()
            } else {
                spec.name.clone()
            },
            port: spec.port,
            target: port(
                document,
                &path.key("targetPort"),
                spec.target_port
                    .as_ref()
                    .unwrap_or(&PortRef::Number(spec.port)),
                faults,
            ),
            protocol,
        });
    }
    Some(Service {
        key: key.clone(),
        selector: object.spec.selector.clone(),
        ports,
        accrual: said.accrual,
        retry: said.retry,
        routes: Vec::new(),
    })
}

fn port(document: &Document, path: &Path, spec: &PortRef, faults: &mut Vec<Fault>) -> Port {
    match spec {
        PortRef::Number(number) => {
            if *number == 0 {
                faults.push(document.fault(path, "is 0: write 1 to 65535, or a name"));
            }
            Port::Number(*number)
        }
        PortRef::Name(name) => {
            if !is_name(name) {
                faults.push(document.fault(path, format!("`{name}` is not the name of a port")));
            }
            Port::Name(name.clone())
        }
    }
}

fn server(key: &Key, document: &Document, faults: &mut Vec<Fault>) -> Option<Server> {
    let Manifest::Server(object) = &document.manifest else {
        return None;
    };
    annotations(document, Allowed::Nothing, faults);
    let spec = &object.spec;
    let default = |default, clients| {
        vec![Authorization {
            policy: None,
            default,
            networks: all_networks(),
            clients,
        }]
    };
    Some(Server {
        key: key.clone(),
        selector: selector(document, &spec.pod_selector, faults),
        port: port(document, &at("spec.port"), &spec.port, faults),
        protocol: match spec.proxy_protocol {
            ProxyProtocolSpec::Unknown => ServerProtocol::Detect,
            ProxyProtocolSpec::Http1 => ServerProtocol::Http1,
            ProxyProtocolSpec::Http2 => ServerProtocol::Http2,
            ProxyProtocolSpec::Grpc => ServerProtocol::Grpc,
            ProxyProtocolSpec::Opaque => ServerProtocol::Opaque,
            ProxyProtocolSpec::Tls => ServerProtocol::Tls,
        },
        authorizations: match spec.access_policy {
            AccessPolicySpec::Deny => Vec::new(),
            AccessPolicySpec::AllAuthenticated => {
                default("all-authenticated", Clients::any_identity())
            }
            AccessPolicySpec::AllUnauthenticated => {
                default("all-unauthenticated", Clients::Unauthenticated)
            }
        },
        routes: Vec::new(),
        rate_limit: None,
    })
}

fn selector(document: &Document, spec: &LabelSelectorSpec, faults: &mut Vec<Fault>) -> Selector {
    let mut expressions = Vec::new();
    for (index, expression) in spec.match_expressions.iter().enumerate() {
        let path = at("spec.podSelector.matchExpressions")
            .index(index)
            .key("values");
        let wants_values = matches!(
            expression.operator,
            LabelOperatorSpec::In | LabelOperatorSpec::NotIn
        );
        if wants_values == expression.values.is_empty() {
            let message = if wants_values {
                "is empty: In and NotIn need values"
            } else {
                "means nothing for Exists and DoesNotExist: leave it out"
            };
            faults.push(document.fault(&path, message));
        }
        let values = expression.values.clone();
        expressions.push(Expression {
            key: expression.key.clone(),
            is: match expression.operator {
                LabelOperatorSpec::In => Is::In(values),
                LabelOperatorSpec::NotIn => Is::NotIn(values),
                LabelOperatorSpec::Exists => Is::There,
                LabelOperatorSpec::DoesNotExist => Is::Missing,
            },
        });
    }
    Selector {
        labels: spec.match_labels.clone(),
        expressions,
    }
}
