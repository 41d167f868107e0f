//! Which resource a policy comes from, as metrics and logs name it.

use std::sync::Arc;

use linkerd2_proxy_api::meta::{Metadata, metadata};

use super::convert::Invalid;
use crate::metrics::Labels;

/// A resource: a Service, a route, a Server, ...
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Meta {
    /// API group.
    pub(crate) group: Arc<str>,
    /// Kind, in lower case in Linkerd's labels.
    pub(crate) kind: Arc<str>,
    /// Namespace.
    pub(crate) namespace: Arc<str>,
    /// Name.
    pub(crate) name: Arc<str>,
    /// Section, for resources with several.
    pub(crate) section: Arc<str>,
    /// Port, where the resource has several; else 0.
    pub(crate) port: u32,
}

impl Meta {
    /// What the control plane says.
    pub(crate) fn from_proto(meta: Option<Metadata>) -> Result<Self, Invalid> {
        match meta
            .and_then(|meta| meta.kind)
            .ok_or(Invalid::missing("metadata"))?
        {
            metadata::Kind::Default(name) => Ok(Self::named("", "default", "", &name)),
            metadata::Kind::Resource(resource) => Ok(Self {
                section: resource.section.into(),
                port: resource.port,
                ..Self::named(
                    &resource.group,
                    &resource.kind,
                    &resource.namespace,
                    &resource.name,
                )
            }),
        }
    }

    /// A resource without a section and port.
    pub(crate) fn named(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            section: "".into(),
            port: 0,
        }
    }

    /// `<prefix>_group`, `<prefix>_kind`, `<prefix>_namespace`, `<prefix>_name`.
    pub(crate) fn labels(&self, prefix: &str) -> Labels {
        Labels::new()
            .with(&format!("{prefix}_group"), &self.group)
            .with(&format!("{prefix}_kind"), &self.kind)
            .with(&format!("{prefix}_namespace"), &self.namespace)
            .with(&format!("{prefix}_name"), &self.name)
    }

    /// `<prefix>_group`, `<prefix>_kind`, `<prefix>_name`: on the way in the namespace is the pod's own.
    pub(crate) fn inbound_labels(&self, prefix: &str) -> Labels {
        Labels::new()
            .with(&format!("{prefix}_group"), &self.group)
            .with(&format!("{prefix}_kind"), &self.kind)
            .with(&format!("{prefix}_name"), &self.name)
    }

    /// With the port and the section too, as parents and backends have them.
    pub(crate) fn labels_with_port(&self, prefix: &str) -> Labels {
        let port = match self.port {
            0 => String::new(),
            port => port.to_string(),
        };
        self.labels(prefix)
            .with(&format!("{prefix}_port"), port)
            .with(&format!("{prefix}_section_name"), &self.section)
    }
}

impl std::fmt::Display for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
        }
    }
}
