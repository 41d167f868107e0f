//! What each object may be alone and all of them together may not.

use super::document::Document;
use super::fault::{Fault, at};
use super::manifest::Manifest;
use super::model::{Key, Policy};

/// Checks a document against the policy that it is part of.
pub(super) fn check(policy: &Policy, document: &Document, faults: &mut Vec<Fault>) {
    match &document.manifest {
        Manifest::Service(_) => must_end_in_a_catch_all(policy, document, faults),
        Manifest::Server(_) => must_be_alone(policy, document, faults),
        _ => {}
    }
}

/// One route of a Service hides the default that takes everything: without a rule for the rest, the rest would fail.
fn must_end_in_a_catch_all(policy: &Policy, document: &Document, faults: &mut Vec<Fault>) {
    let metadata = document.manifest.metadata();
    let key = Key::new(&metadata.namespace, &metadata.name);
    let Some(service) = policy.services.get(&key) else {
        return;
    };
    for port in &service.ports {
        let routes: Vec<_> = service.routes_for(port.port).collect();
        let catches = routes.iter().any(|route| {
            route
                .rules
                .iter()
                .any(|rule| rule.matches.is_empty() || rule.matches.iter().any(|one| one.is_all()))
        });
        if !routes.is_empty() && !catches {
            let message = format!(
                "port {} of this Service has routes and none that takes the rest: add one whose rule has no matches",
                port.port
            );
            faults.push(document.fault(&at("spec.ports"), message));
        }
    }
}

/// Which of two Servers of one port would decide is chance: told at the second one.
fn must_be_alone(policy: &Policy, document: &Document, faults: &mut Vec<Fault>) {
    let metadata = document.manifest.metadata();
    let key = Key::new(&metadata.namespace, &metadata.name);
    let Some(server) = policy.servers.get(&key) else {
        return;
    };
    let earlier = policy.servers.range(..&key).map(|(_, other)| other);
    for other in earlier.filter(|other| other.key.namespace == key.namespace) {
        // Pods are not known here; the Services say which there are to be.
        let both = policy.services.values().find(|service| {
            service.key.namespace == key.namespace
                && server.port == other.port
                && server.selector.selects(&service.selector)
                && other.selector.selects(&service.selector)
        });
        if let Some(service) = both {
            let message = format!(
                "this Server and {} both select the pods of Service {} and the same port",
                other.key.name, service.key.name
            );
            faults.push(document.fault(&at("spec.podSelector"), message));
        }
    }
}
