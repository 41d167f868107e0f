//! Every RPC that the contracts know, resolved once: whether it streams, and its metric handles.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use metrics::{Counter, Gauge, Histogram};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// The paths of the contracts' methods that stream in one direction or both.
static STREAMING: LazyLock<HashMap<String, bool>> = LazyLock::new(|| {
    let mut all = HashMap::new();
    for (service, method, streaming) in described(sagamesh_api::FILE_DESCRIPTOR_SET) {
        all.insert(format!("/{service}/{method}"), streaming);
    }
    for (service, method, streaming) in INFRASTRUCTURE {
        all.insert(format!("/{service}/{method}"), streaming);
    }
    all
});

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

/// Whether the method at this path (`/package.Service/Method`) streams; unknown methods are taken as unary.
pub fn is_streaming(path: &str) -> bool {
    STREAMING.get(path).copied().unwrap_or(false)
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
        for (service, method, streaming) in served.chain(INFRASTRUCTURE) {
            by_path.insert(
                format!("/{service}/{method}"),
                Arc::new(Method::new(service, method, streaming)),
            );
        }
        // One label for whatever else is asked for: a stranger cannot make metrics grow.
        Self {
            by_path,
            unknown: Arc::new(Method::new("unknown", "unknown", false)),
        }
    }

    pub(crate) fn get(&self, path: &str) -> &Arc<Method> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

/// A method that is served.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) streaming: bool,
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: Gauge,
    calls: [Counter; CODES.len()],
}

impl Method {
    fn new(service: &str, name: &str, streaming: bool) -> Self {
        let labels = [("service", service.to_owned()), ("method", name.to_owned())];
        Self {
            service: service.to_owned(),
            name: name.to_owned(),
            streaming,
            seconds: metrics::histogram!("grpc_server_duration_seconds", &labels),
            in_flight: metrics::gauge!("grpc_server_in_flight", &labels),
            calls: std::array::from_fn(
                |code| metrics::counter!("grpc_server_calls_total", "service" => service.to_owned(), "method" => name.to_owned(), "code" => CODES[code]),
            ),
        }
    }

    pub(crate) fn count(&self, code: Code) {
        if let Some(counter) = usize::try_from(i32::from(code))
            .ok()
            .and_then(|code| self.calls.get(code))
        {
            counter.increment(1);
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
    }

    #[test]
    fn strangers_share_one_label() {
        let methods = Methods::new(&["saga.v1.SagaService"]);
        assert_eq!(
            methods.get("/saga.v1.SagaService/StartSaga").name,
            "StartSaga"
        );
        assert_eq!(methods.get("/a/b").service, "unknown");
        assert_eq!(
            methods
                .get("/shop.orders.v1.OrderService/PlaceOrder")
                .service,
            "unknown",
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
