//! Every RPC that the contracts know, resolved once: whether it streams, and its metric handles.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// The contracts' methods by path.
static KNOWN: LazyLock<HashMap<String, Known>> = LazyLock::new(|| {
    let infrastructure =
        INFRASTRUCTURE
            .iter()
            .chain(&PROXY_API)
            .map(|(service, method, streaming)| {
                ((*service).to_owned(), (*method).to_owned(), *streaming)
            });
    let known = |(service, method, streaming): (String, String, bool)| {
        (
            format!("/{service}/{method}"),
            Known {
                service,
                method,
                streaming,
                calls: OnceLock::new(),
            },
        )
    };
    described(sagamesh_api::FILE_DESCRIPTOR_SET)
        .into_iter()
        .chain(infrastructure)
        .map(known)
        .collect()
});

struct Known {
    service: String,
    method: String,
    streaming: bool,
    /// Made at the first call: a process calls few of them.
    calls: OnceLock<Arc<Calls>>,
}

const INFRASTRUCTURE: [(&str, &str, bool); 4] = [
    ("grpc.health.v1.Health", "Check", false),
    ("grpc.health.v1.Health", "Watch", true),
    (
        "grpc.reflection.v1.ServerReflection",
        "ServerReflectionInfo",
        true,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
        true,
    ),
];

/// The API of Linkerd's proxies, which is described elsewhere: the mesh's control plane serves it, its sidecars call it.
const PROXY_API: [(&str, &str, bool); 7] = [
    ("io.linkerd.proxy.destination.Destination", "Get", true),
    (
        "io.linkerd.proxy.destination.Destination",
        "GetProfile",
        true,
    ),
    ("io.linkerd.proxy.outbound.OutboundPolicies", "Get", false),
    ("io.linkerd.proxy.outbound.OutboundPolicies", "Watch", true),
    (
        "io.linkerd.proxy.inbound.InboundServerPolicies",
        "GetPort",
        false,
    ),
    (
        "io.linkerd.proxy.inbound.InboundServerPolicies",
        "WatchPort",
        true,
    ),
    ("io.linkerd.proxy.identity.Identity", "Certify", false),
];

/// Whether the method at this path (`/package.Service/Method`) streams; unknown methods are taken as unary.
pub fn is_streaming(path: &str) -> bool {
    KNOWN.get(path).is_some_and(|known| known.streaming)
}

/// What a span of a call to this path is called: `package.Service/Method`, and `_OTHER` for what the contracts do not know.
pub(crate) fn span_name(path: &str) -> String {
    if KNOWN.contains_key(path) {
        path.trim_start_matches('/').to_owned()
    } else {
        "_OTHER".to_owned()
    }
}

/// The metrics of calls that this process makes to the method at this path, if the contracts know it.
pub(crate) fn outgoing(path: &str) -> Option<&'static Arc<Calls>> {
    let known = KNOWN.get(path)?;
    Some(
        known
            .calls
            .get_or_init(|| Arc::new(Calls::new("client", &known.service, &known.method))),
    )
}

/// Counts calls of one method by their end, and how long they took. Resolved once: nothing is hashed per call.
#[derive(Debug)]
pub(crate) struct Calls {
    by_code: [Counter; CODES.len()],
    seconds: Histogram,
}

impl Calls {
    fn new(side: &str, service: &str, method: &str) -> Self {
        let labels = [
            ("service", service.to_owned()),
            ("method", method.to_owned()),
        ];
        Self {
            by_code: std::array::from_fn(
                |code| metrics::counter!(format!("grpc_{side}_calls_total"), "service" => service.to_owned(), "method" => method.to_owned(), "code" => CODES[code]),
            ),
            seconds: metrics::histogram!(format!("grpc_{side}_duration_seconds"), &labels),
        }
    }

    pub(crate) fn ended(&self, code: Code, after: Duration) {
        if let Some(counter) = usize::try_from(i32::from(code))
            .ok()
            .and_then(|code| self.by_code.get(code))
        {
            counter.increment(1);
        }
        self.seconds.record(after.as_secs_f64());
    }
}

/// The methods of `services` (full names), as they are served.
#[derive(Debug)]
pub(crate) struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    unknown: Arc<Method>,
}

impl Methods {
    pub(crate) fn new(services: &[&str]) -> Self {
        let mut by_path = HashMap::new();
        let described = described(sagamesh_api::FILE_DESCRIPTOR_SET);
        let served = described
            .iter()
            .filter(|(service, ..)| services.contains(&service.as_str()));
        let served = served
            .map(|(service, method, streaming)| (service.as_str(), method.as_str(), *streaming));
        let of_proxies = PROXY_API
            .into_iter()
            .filter(|(service, ..)| services.contains(service));
        for (service, method, streaming) in served.chain(of_proxies).chain(INFRASTRUCTURE) {
            by_path.insert(
                format!("/{service}/{method}"),
                Arc::new(Method::new(service, method, streaming)),
            );
        }
        // One label for whatever else is asked for: a stranger cannot make metrics grow.
        Self {
            by_path,
            unknown: Arc::new(Method {
                full_name: "_OTHER".to_owned(),
                ..Method::new("unknown", "unknown", false)
            }),
        }
    }

    pub(crate) fn get(&self, path: &str) -> &Arc<Method> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

/// A method that is served.
#[derive(Debug)]
pub(crate) struct Method {
    /// `package.Service/Method`.
    pub(crate) full_name: String,
    pub(crate) streaming: bool,
    pub(crate) in_flight: Gauge,
    pub(crate) calls: Calls,
}

impl Method {
    fn new(service: &str, name: &str, streaming: bool) -> Self {
        let labels = [("service", service.to_owned()), ("method", name.to_owned())];
        Self {
            full_name: format!("{service}/{name}"),
            streaming,
            in_flight: metrics::gauge!("grpc_server_in_flight", &labels),
            calls: Calls::new("server", service, name),
        }
    }
}

/// The names of gRPC's codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a code, as metrics and logs write it.
pub fn code_name(code: Code) -> &'static str {
    usize::try_from(i32::from(code))
        .ok()
        .and_then(|code| CODES.get(code))
        .copied()
        .unwrap_or("UNKNOWN")
}

/// (service, method, streams) of every method in a descriptor set.
fn described(set: &[u8]) -> Vec<(String, String, bool)> {
    let files = FileDescriptorSet::decode(set).unwrap_or_default().file;
    let mut all = Vec::new();
    for file in &files {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            all.extend(service.method.iter().map(|method| {
                (
                    name.clone(),
                    method.name().to_owned(),
                    method.client_streaming() || method.server_streaming(),
                )
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_are_known() {
        assert!(is_streaming("/saga.v1.SagaService/WatchSaga"));
        assert!(!is_streaming("/saga.v1.SagaService/StartSaga"));
        assert!(is_streaming("/grpc.health.v1.Health/Watch"));
        assert!(!is_streaming("/nobody.Knows/This"));
        assert!(is_streaming(
            "/io.linkerd.proxy.outbound.OutboundPolicies/Watch"
        ));
    }

    #[test]
    fn strangers_share_one_label() {
        let methods = Methods::new(&["saga.v1.SagaService"]);
        assert_eq!(
            methods.get("/saga.v1.SagaService/StartSaga").full_name,
            "saga.v1.SagaService/StartSaga"
        );
        assert_eq!(methods.get("/a/b").full_name, "_OTHER");
        assert_eq!(
            methods
                .get("/shop.orders.v1.OrderService/PlaceOrder")
                .full_name,
            "_OTHER",
            "not served here"
        );
    }

    #[test]
    fn code_names() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::Unauthenticated), "UNAUTHENTICATED");
        assert_eq!(code_name(Code::ResourceExhausted), "RESOURCE_EXHAUSTED");
    }
}
