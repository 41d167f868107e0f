//! The policy of one port of the app: its protocol, routes, authorizations and rate limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use linkerd2_proxy_api::inbound as proto;

use super::authz::Authorization;
use super::convert::Invalid;
use super::filter::{self, Filter, HeaderChange, Redirect};
use super::matching::{self, HostMatch, Matchable, RequestMatch};
use super::meta::Meta;
use super::rate_limit::RateLimit;
use crate::config::DefaultPolicy;
use crate::error::ProxyError;

/// The policy of one port.
#[derive(Debug)]
pub(crate) struct ServerPolicy {
    /// The Server.
    pub(crate) meta: Meta,
    /// What the app speaks there.
    pub(crate) protocol: Protocol,
    /// Authorizations for every route.
    pub(crate) authorizations: Vec<Authorization>,
    /// Its local rate limit.
    pub(crate) rate_limit: Option<RateLimit>,
    /// The control plane said it. If not, it is the default until it does.
    pub(crate) answered: bool,
}

/// What the app speaks on a port.
#[derive(Debug)]
pub(crate) enum Protocol {
    /// HTTP of any version, with these routes.
    Http(Vec<Route>),
    /// HTTP with these routes, or else bytes: the first of them say which. This sidecar takes HTTP alone there.
    Detect(Vec<Route>),
    /// Bytes, of TLS that the app ends itself too.
    Opaque,
    /// The policy could not be understood.
    Invalid(Arc<str>),
}

/// A route of a server.
#[derive(Debug)]
pub(crate) struct Route {
    /// The route's resource.
    pub(crate) meta: Meta,
    /// It is a gRPC route.
    pub(crate) grpc: bool,
    hosts: Vec<HostMatch>,
    /// Authorizations for this route, beside the server's.
    pub(crate) authorizations: Vec<Authorization>,
    /// Its rules.
    pub(crate) rules: Vec<Rule>,
}

/// A rule of a route.
#[derive(Debug)]
pub(crate) struct Rule {
    matches: Vec<RequestMatch>,
    /// What it does to a request.
    pub(crate) filters: Vec<Filter>,
}

impl Protocol {
    /// The routes of HTTP requests.
    pub(crate) fn routes(&self) -> Result<&[Route], ProxyError> {
        match self {
            Self::Http(routes) | Self::Detect(routes) => Ok(routes),
            Self::Opaque => Err(ProxyError::InvalidPolicy("the port is opaque".into())),
            Self::Invalid(why) => Err(ProxyError::InvalidPolicy(Arc::clone(why))),
        }
    }
}

impl Matchable for Route {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }

    fn rules(&self) -> impl Iterator<Item = &[RequestMatch]> {
        self.rules.iter().map(|rule| rule.matches.as_slice())
    }
}

impl ServerPolicy {
    /// What applies until the control plane has answered.
    pub(crate) fn of_default(default: DefaultPolicy) -> Self {
        let (name, authorizations) = match default {
            DefaultPolicy::AllUnauthenticated => {
                let name = "all-unauthenticated";
                (name, vec![Authorization::of_default(name, false)])
            }
            DefaultPolicy::AllAuthenticated => {
                let name = "all-authenticated";
                (name, vec![Authorization::of_default(name, true)])
            }
            DefaultPolicy::Deny => ("deny", Vec::new()),
        };
        Self {
            meta: Meta::named("", "default", "", name),
            protocol: Protocol::Detect(vec![Route::of_default()]),
            authorizations,
            rate_limit: None,
            answered: false,
        }
    }

    /// The authorization that lets this client send bytes, or why it may not: a metric's label, and the log's words.
    /// The server's own authorizations decide, as there are no routes: where there are, bytes would pass them by.
    pub(crate) fn admits_bytes(
        &self,
        ip: IpAddr,
        identity: &str,
    ) -> Result<&Meta, (&'static str, &'static str)> {
        match &self.protocol {
            Protocol::Opaque => {}
            Protocol::Http(_) => return Err(("not_opaque", "bytes to a port that speaks HTTP")),
            Protocol::Detect(_) => {
                return Err((
                    "not_detected",
                    "bytes to a port whose protocol is to be detected, which this sidecar does not do",
                ));
            }
            Protocol::Invalid(_) => {
                return Err(("invalid_policy", "the port's policy is invalid"));
            }
        }
        self.authorizations
            .iter()
            .find(|authz| authz.admits(ip, Some(identity)))
            .map(|authz| &*authz.meta)
            .ok_or(("unauthorized", "no authorization admits this peer"))
    }

    /// A policy that fails every request: the control plane's could not be understood.
    pub(crate) fn invalid(why: &Invalid) -> Self {
        Self {
            meta: Meta::named("", "default", "", "invalid"),
            protocol: Protocol::Invalid(why.to_string().into()),
            authorizations: Vec::new(),
            rate_limit: None,
            answered: true,
        }
    }

    /// What the control plane says.
    pub(crate) fn from_proto(server: proto::Server) -> Result<Self, Invalid> {
        use proto::proxy_protocol::Kind;
        let protocol = server
            .protocol
            .and_then(|protocol| protocol.kind)
            .ok_or(Invalid::missing("protocol"))?;
        let mut limit = None;
        let protocol = match protocol {
            Kind::Detect(detect) => {
                limit = detect.http_local_rate_limit;
                Protocol::Detect(http_routes(detect.http_routes)?)
            }
            Kind::Http1(http) => {
                limit = http.local_rate_limit;
                Protocol::Http(http_routes(http.routes)?)
            }
            Kind::Http2(http) => {
                limit = http.local_rate_limit;
                Protocol::Http(http_routes(http.routes)?)
            }
            Kind::Grpc(grpc) => Protocol::Http(grpc_routes(grpc.routes)?),
            Kind::Opaque(_) | Kind::Tls(_) => Protocol::Opaque,
        };
        Ok(Self {
            meta: meta(&server.labels),
            protocol,
            authorizations: authorizations(server.authorizations)?,
            rate_limit: RateLimit::from_proto(limit)?,
            answered: true,
        })
    }
}

impl Route {
    fn of_default() -> Self {
        Self {
            meta: Meta::named("", "default", "", "default"),
            grpc: false,
            hosts: Vec::new(),
            authorizations: Vec::new(),
            rules: vec![Rule {
                matches: Vec::new(),
                filters: Vec::new(),
            }],
        }
    }
}

fn meta(labels: &HashMap<String, String>) -> Meta {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    Meta::named(label("group"), label("kind"), "", label("name"))
}

fn authorizations(list: Vec<proto::Authz>) -> Result<Vec<Authorization>, Invalid> {
    list.into_iter().map(Authorization::from_proto).collect()
}

fn http_routes(routes: Vec<proto::HttpRoute>) -> Result<Vec<Route>, Invalid> {
    use proto::http_route::filter::Kind;
    if routes.is_empty() {
        return Ok(vec![Route::of_default()]);
    }
    let convert =
        |filter: proto::http_route::Filter| match filter.kind.ok_or(Invalid::missing("filter"))? {
            Kind::FailureInjector(injector) => filter::inject_http(injector),
            Kind::RequestHeaderModifier(change) => {
                HeaderChange::new(change.add, change.set, change.remove).map(Filter::RequestHeaders)
            }
            Kind::Redirect(redirect) => Redirect::new(redirect).map(Filter::Redirect),
        };
    routes
        .into_iter()
        .map(|route| {
            let rules = route.rules.into_iter().map(|rule| {
                Ok(Rule {
                    matches: matching::http(rule.matches)?,
                    filters: rule
                        .filters
                        .into_iter()
                        .map(convert)
                        .collect::<Result<_, _>>()?,
                })
            });
            Ok(Route {
                meta: Meta::from_proto(route.metadata)?,
                grpc: false,
                hosts: matching::hosts(route.hosts)?,
                authorizations: authorizations(route.authorizations)?,
                rules: rules.collect::<Result<_, Invalid>>()?,
            })
        })
        .collect()
}

fn grpc_routes(routes: Vec<proto::GrpcRoute>) -> Result<Vec<Route>, Invalid> {
    use proto::grpc_route::filter::Kind;
    if routes.is_empty() {
        return Ok(vec![Route {
            grpc: true,
            ..Route::of_default()
        }]);
    }
    let convert =
        |filter: proto::grpc_route::Filter| match filter.kind.ok_or(Invalid::missing("filter"))? {
            Kind::FailureInjector(injector) => filter::inject_grpc(injector),
            Kind::RequestHeaderModifier(change) => {
                HeaderChange::new(change.add, change.set, change.remove).map(Filter::RequestHeaders)
            }
        };
    routes
        .into_iter()
        .map(|route| {
            let rules = route.rules.into_iter().map(|rule| {
                Ok(Rule {
                    matches: matching::grpc(rule.matches)?,
                    filters: rule
                        .filters
                        .into_iter()
                        .map(convert)
                        .collect::<Result<_, _>>()?,
                })
            });
            Ok(Route {
                meta: Meta::from_proto(route.metadata)?,
                grpc: true,
                hosts: matching::hosts(route.hosts)?,
                authorizations: authorizations(route.authorizations)?,
                rules: rules.collect::<Result<_, Invalid>>()?,
            })
        })
        .collect()
}
