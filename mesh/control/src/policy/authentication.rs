//! Who is meant: identities and networks.

use super::build::Objects;
use super::document::Document;
use super::fault::{Fault, Path, at};
use super::manifest::{LocalRef, Manifest};
use super::model::{Authorization, Clients, Key, Network, all_networks, identity_of};
use super::value::cidr;

/// The group of Linkerd's own kinds.
pub(super) const LINKERD: &str = "policy.linkerd.io";

/// Looks up what is referred to.
pub(super) struct Checking<'a, 'b> {
    pub(super) objects: &'b Objects<'a>,
}

impl Checking<'_, '_> {
    /// All of the references together: at most one says who, at most one says from where.
    pub(super) fn authentications(
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

    /// The callers that a MeshTLSAuthentication means.
    pub(super) fn clients(&self, document: &Document, faults: &mut Vec<Fault>) -> Clients {
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
    pub(super) fn identity(
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
}

/// The key of a reference that must stay within its namespace.
pub(super) fn local(
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

/// The networks that a NetworkAuthentication means.
pub(super) fn networks(document: &Document, faults: &mut Vec<Fault>) -> Vec<Network> {
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
