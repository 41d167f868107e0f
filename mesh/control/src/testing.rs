//! What somebody who writes policy files can do to the control plane, for tests with random bytes and for fuzzers.

use std::collections::BTreeMap;

use crate::policy::explain::{Call, explain};
use crate::policy::{self, Policy, Source};
use crate::translate::inbound::{self, Pod};
use crate::translate::outbound;

/// Name of the file.
const FILE: &str = "hostile.yaml";

/// A policy file of any bytes: it is refused with faults that lead to their place, or it is taken up, and then everything
/// that proxies are told of it can be said. Returns that; nothing for a file that is refused.
///
/// # Panics
/// If that does not hold.
pub fn policy_file(bytes: &[u8]) -> Told {
    // A file that is no text is refused before it gets here.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Told::default();
    };
    // YAML ends lines with a carriage return alone, too.
    let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count();
    let source = Source {
        file: FILE.to_owned(),
        text: text.to_owned(),
    };
    match policy::read(std::slice::from_ref(&source)) {
        Ok(policy) => {
            // What is recorded as the last good one must be good after a restart.
            assert_eq!(policy::read(&[source]).as_ref(), Ok(&policy));
            tell(&policy)
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= 50, "{}", faults.len());
            for fault in faults {
                assert_eq!(fault.file, FILE);
                assert!(!fault.message.is_empty(), "{fault:?}");
                let line = usize::try_from(fault.line).unwrap_or(usize::MAX);
                assert!(line <= lines, "{fault:?} of {lines} lines");
            }
            Told::default()
        }
    }
}

/// What proxies are told of a policy.
#[derive(Debug, Default)]
pub struct Told {
    /// Of the ports that somebody is called on.
    pub inbound: Vec<linkerd2_proxy_api::inbound::Server>,
    /// Of the destinations that somebody calls.
    pub outbound: Vec<linkerd2_proxy_api::outbound::OutboundPolicy>,
}

fn tell(policy: &Policy) -> Told {
    let mut told = Told::default();
    let ports = BTreeMap::from([("grpc".to_owned(), 50_051), ("admin".to_owned(), 9_090)]);
    let call = Call {
        identity: Some("orders.sagamesh.serviceaccount.identity.linkerd.cluster.local"),
        service: "a.A",
        method: "Get",
    };
    for service in policy.services.values() {
        let pod = Pod {
            namespace: &service.key.namespace,
            labels: &service.selector,
            ports: &ports,
        };
        for port in &service.ports {
            told.outbound.push(outbound::policy(service, port));
            let verdict = explain(policy, service, port, &ports, call);
            assert!(!verdict.reason.is_empty());
            if let Some(number) = port.target.number(&ports) {
                told.inbound.push(inbound::server(policy, pod, number));
            }
        }
    }
    told
}
