//! The manifests as they are written, field by field. Nothing that is not here is understood.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::document::{Misfit, typed};

/// A document of one of the kinds that are understood.
#[derive(Debug)]
pub(super) enum Manifest {
    Service(Object<ServiceSpec>),
    ServiceAccount(Bare),
    Server(Object<ServerSpec>),
    GrpcRoute(Object<GrpcRouteSpec>),
    HttpRoute(Object<HttpRouteSpec>),
    AuthorizationPolicy(Object<AuthorizationPolicySpec>),
    MeshTlsAuthentication(Object<MeshTlsAuthenticationSpec>),
    NetworkAuthentication(Object<NetworkAuthenticationSpec>),
    RateLimit(Object<RateLimitSpec>),
}

type Reader = fn(&str) -> Result<Manifest, Misfit>;

impl Manifest {
    pub(super) const KINDS: &'static str = "write v1 Service or ServiceAccount, policy.linkerd.io/v1beta3 Server, \
        gateway.networking.k8s.io/v1 GRPCRoute or HTTPRoute, policy.linkerd.io/v1alpha1 AuthorizationPolicy, MeshTLSAuthentication, \
        NetworkAuthentication or HTTPLocalRateLimitPolicy";

    /// What reads manifests of this kind.
    pub(super) fn reader(api_version: &str, kind: &str) -> Option<Reader> {
        Some(match (api_version, kind) {
            ("v1", "Service") => |text| typed(text).map(Self::Service),
            ("v1", "ServiceAccount") => |text| typed(text).map(Self::ServiceAccount),
            ("policy.linkerd.io/v1beta3", "Server") => |text| typed(text).map(Self::Server),
            ("gateway.networking.k8s.io/v1", "GRPCRoute") => {
                |text| typed(text).map(Self::GrpcRoute)
            }
            ("gateway.networking.k8s.io/v1", "HTTPRoute") => {
                |text| typed(text).map(Self::HttpRoute)
            }
            ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy") => {
                |text| typed(text).map(Self::AuthorizationPolicy)
            }
            ("policy.linkerd.io/v1alpha1", "MeshTLSAuthentication") => {
                |text| typed(text).map(Self::MeshTlsAuthentication)
            }
            ("policy.linkerd.io/v1alpha1", "NetworkAuthentication") => {
                |text| typed(text).map(Self::NetworkAuthentication)
            }
            ("policy.linkerd.io/v1alpha1", "HTTPLocalRateLimitPolicy") => {
                |text| typed(text).map(Self::RateLimit)
            }
            _ => return None,
        })
    }

    pub(super) fn metadata(&self) -> &Metadata {
        match self {
            Self::Service(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Server(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::MeshTlsAuthentication(object) => &object.metadata,
            Self::NetworkAuthentication(object) => &object.metadata,
            Self::RateLimit(object) => &object.metadata,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::Server(_) => "Server",
            Self::GrpcRoute(_) => "GRPCRoute",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::AuthorizationPolicy(_) => "AuthorizationPolicy",
            Self::MeshTlsAuthentication(_) => "MeshTLSAuthentication",
            Self::NetworkAuthentication(_) => "NetworkAuthentication",
            Self::RateLimit(_) => "HTTPLocalRateLimitPolicy",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: S,
}

/// An object without a spec.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bare {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    /// For people and tools; the mesh does not ask for them.
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(default, rename = "type")]
    _type: ServiceType,
    #[serde(default)]
    pub(super) selector: BTreeMap<String, String>,
    pub(super) ports: Vec<ServicePortSpec>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServicePortSpec {
    #[serde(default)]
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) target_port: Option<PortRef>,
    #[serde(default, rename = "protocol")]
    _protocol: TransportProtocol,
    pub(super) app_protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) enum TransportProtocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
}

/// A port by number or by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServerSpec {
    pub(super) pod_selector: LabelSelectorSpec,
    pub(super) port: PortRef,
    #[serde(default)]
    pub(super) proxy_protocol: ProxyProtocolSpec,
    #[serde(default)]
    pub(super) access_policy: AccessPolicySpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LabelSelectorSpec {
    #[serde(default)]
    pub(super) match_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) match_expressions: Vec<LabelExpressionSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LabelExpressionSpec {
    pub(super) key: String,
    pub(super) operator: LabelOperatorSpec,
    #[serde(default)]
    pub(super) values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum LabelOperatorSpec {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum ProxyProtocolSpec {
    #[default]
    #[serde(rename = "unknown")]
    Unknown,
    #[serde(rename = "HTTP/1")]
    Http1,
    #[serde(rename = "HTTP/2")]
    Http2,
    #[serde(rename = "gRPC")]
    Grpc,
    #[serde(rename = "opaque")]
    Opaque,
    #[serde(rename = "TLS")]
    Tls,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum AccessPolicySpec {
    #[default]
    #[serde(rename = "deny")]
    Deny,
    #[serde(rename = "all-authenticated")]
    AllAuthenticated,
    #[serde(rename = "all-unauthenticated")]
    AllUnauthenticated,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GrpcRouteSpec {
    pub(super) parent_refs: Vec<ParentRefSpec>,
    pub(super) rules: Vec<GrpcRuleSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpRouteSpec {
    pub(super) parent_refs: Vec<ParentRefSpec>,
    pub(super) rules: Vec<HttpRuleSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ParentRefSpec {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GrpcRuleSpec {
    #[serde(default)]
    pub(super) matches: Vec<GrpcMatchSpec>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRefSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GrpcMatchSpec {
    pub(super) method: Option<GrpcMethodSpec>,
    #[serde(default)]
    pub(super) headers: Vec<HeaderMatchSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrpcMethodSpec {
    #[serde(default, rename = "type")]
    _type: Exactly,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) enum Exactly {
    #[default]
    Exact,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderMatchSpec {
    #[serde(default, rename = "type")]
    _type: Exactly,
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpRuleSpec {
    #[serde(default)]
    pub(super) matches: Vec<HttpMatchSpec>,
    #[serde(default)]
    pub(super) backend_refs: Vec<BackendRefSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpMatchSpec {
    pub(super) path: Option<PathMatchSpec>,
    #[serde(default)]
    pub(super) headers: Vec<HeaderMatchSpec>,
    pub(super) method: Option<HttpMethodSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathMatchSpec {
    #[serde(default, rename = "type")]
    pub(super) kind: PathMatchKindSpec,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum PathMatchKindSpec {
    Exact,
    #[default]
    PathPrefix,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum HttpMethodSpec {
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
    #[serde(rename = "PATCH")]
    Patch,
    #[serde(rename = "OPTIONS")]
    Options,
    #[serde(rename = "HEAD")]
    Head,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendRefSpec {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default = "service_kind")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: u16,
    #[serde(default = "one")]
    pub(super) weight: u32,
}

fn service_kind() -> String {
    "Service".to_owned()
}

fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AuthorizationPolicySpec {
    pub(super) target_ref: LocalRef,
    pub(super) required_authentication_refs: Vec<LocalRef>,
}

/// A reference to an object, of the same namespace unless it says otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalRef {
    #[serde(default)]
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct MeshTlsAuthenticationSpec {
    #[serde(default)]
    pub(super) identities: Vec<String>,
    #[serde(default)]
    pub(super) identity_refs: Vec<LocalRef>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkAuthenticationSpec {
    pub(super) networks: Vec<NetworkSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkSpec {
    pub(super) cidr: String,
    #[serde(default)]
    pub(super) except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RateLimitSpec {
    pub(super) target_ref: LocalRef,
    pub(super) total: Option<LimitSpec>,
    pub(super) identity: Option<LimitSpec>,
    #[serde(default)]
    pub(super) overrides: Vec<OverrideSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LimitSpec {
    pub(super) requests_per_second: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct OverrideSpec {
    pub(super) requests_per_second: u32,
    pub(super) client_refs: Vec<LocalRef>,
}
