//! Which route a request takes: the most specific match wins, as in the Gateway API; the first among equals.

use std::cmp::Ordering;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use linkerd2_proxy_api::{grpc_route, http_route};
use regex::Regex;

use super::convert::Invalid;

/// A request's host.
#[derive(Clone, Debug)]
pub(crate) enum HostMatch {
    /// This name.
    Exact(String),
    /// Any name under this one; with its dot.
    Suffix(String),
}

/// How a path is compared.
#[derive(Clone, Debug)]
pub(crate) enum PathMatch {
    /// The whole path.
    Exact(String),
    /// The path, or a path under it.
    Prefix(String),
    /// The whole path matches.
    Regex(Regex),
    /// A gRPC service, and a method of it; an empty text is any.
    Rpc {
        /// Full name of the service.
        service: String,
        /// Name of the method.
        method: String,
    },
}

/// How a header is compared.
#[derive(Clone, Debug)]
pub(crate) enum HeaderMatch {
    /// The whole value.
    Exact(HeaderName, HeaderValue),
    /// The whole value matches.
    Regex(HeaderName, Regex),
}

/// How a parameter of the query is compared.
#[derive(Clone, Debug)]
pub(crate) enum QueryMatch {
    /// The whole value.
    Exact(String, String),
    /// The whole value matches.
    Regex(String, Regex),
}

/// All that one match of a rule asks for.
#[derive(Clone, Debug)]
pub(crate) struct RequestMatch {
    path: PathMatch,
    headers: Vec<HeaderMatch>,
    query: Vec<QueryMatch>,
    method: Option<Method>,
}

/// How specific a match was: larger is more so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    host: (u8, usize),
    path: (u8, usize, usize),
    method: bool,
    headers: usize,
    query: usize,
}

/// A route as far as matching is concerned.
pub(crate) trait Matchable {
    /// Its hosts; none is any.
    fn hosts(&self) -> &[HostMatch];
    /// The matches of each of its rules; none is any.
    fn rules(&self) -> impl Iterator<Item = &[RequestMatch]>;
}

/// The route and the rule that the request takes.
pub(crate) fn find<B, R: Matchable>(
    routes: &[R],
    request: &http::Request<B>,
) -> Option<(usize, usize)> {
    // The common case, a single route without conditions, needs no comparison.
    if let [only] = routes
        && only.hosts().is_empty()
    {
        let mut rules = only.rules();
        if let (Some([]), None) = (rules.next(), rules.next()) {
            return Some((0, 0));
        }
    }
    let host = request.uri().host().or_else(|| {
        let host = request.headers().get(http::header::HOST)?.to_str().ok()?;
        Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
    });
    let mut best: Option<(Specificity, (usize, usize))> = None;
    for (route_index, route) in routes.iter().enumerate() {
        let Some(by_host) = match_host(route.hosts(), host) else {
            continue;
        };
        for (rule_index, matches) in route.rules().enumerate() {
            let found = if matches.is_empty() {
                Some(Specificity {
                    host: by_host,
                    path: (0, 0, 0),
                    method: false,
                    headers: 0,
                    query: 0,
                })
            } else {
                matches
                    .iter()
                    .filter_map(|one| one.matches(by_host, request))
                    .max()
            };
            if let Some(found) = found
                && best.is_none_or(|(best, _)| found.cmp(&best) == Ordering::Greater)
            {
                best = Some((found, (route_index, rule_index)));
            }
        }
    }
    best.map(|(_, at)| at)
}

fn match_host(hosts: &[HostMatch], host: Option<&str>) -> Option<(u8, usize)> {
    if hosts.is_empty() {
        return Some((0, 0));
    }
    let host = host?.trim_end_matches('.');
    hosts
        .iter()
        .filter_map(|one| match one {
            HostMatch::Exact(name) => host.eq_ignore_ascii_case(name).then_some((2, name.len())),
            HostMatch::Suffix(suffix) => {
                let at = host.len().checked_sub(suffix.len())?;
                let tail = host.get(at..)?;
                (at > 0 && tail.eq_ignore_ascii_case(suffix)).then_some((1, suffix.len()))
            }
        })
        .max()
}

impl RequestMatch {
    fn matches<B>(&self, host: (u8, usize), request: &http::Request<B>) -> Option<Specificity> {
        let path = self.path.matches(request.uri().path())?;
        if self
            .method
            .as_ref()
            .is_some_and(|method| method != request.method())
        {
            return None;
        }
        if !self.headers.iter().all(|one| one.matches(request)) {
            return None;
        }
        if !self.query.is_empty() {
            let query = request.uri().query().unwrap_or_default();
            if !self.query.iter().all(|one| one.matches(query)) {
                return None;
            }
        }
        Some(Specificity {
            host,
            path,
            method: self.method.is_some(),
            headers: self.headers.len(),
            query: self.query.len(),
        })
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> Option<(u8, usize, usize)> {
        match self {
            Self::Exact(exact) => (path == exact).then_some((3, exact.len(), 0)),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some((2, prefix.len(), 0))
            }
            Self::Regex(regex) => regex.is_match(path).then_some((1, regex.as_str().len(), 0)),
            Self::Rpc { service, method } => {
                let (its_service, its_method) = path.strip_prefix('/')?.split_once('/')?;
                let fits = (service.is_empty() || service == its_service)
                    && (method.is_empty() || method == its_method);
                fits.then_some((2, service.len(), method.len()))
            }
        }
    }
}

impl HeaderMatch {
    fn matches<B>(&self, request: &http::Request<B>) -> bool {
        match self {
            Self::Exact(name, expected) => request
                .headers()
                .get_all(name)
                .iter()
                .any(|value| value == expected),
            Self::Regex(name, regex) => request
                .headers()
                .get_all(name)
                .iter()
                .any(|value| value.to_str().is_ok_and(|text| regex.is_match(text))),
        }
    }
}

impl QueryMatch {
    fn matches(&self, query: &str) -> bool {
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .any(|(its_name, value)| match self {
                Self::Exact(name, expected) => its_name == name && value == expected,
                Self::Regex(name, regex) => its_name == name && regex.is_match(value),
            })
    }
}

/// A regular expression that must match the whole text; a small one, so that no policy can exhaust memory.
fn regex(text: &str) -> Result<Regex, Invalid> {
    regex::RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(1 << 20)
        .build()
        .map_err(|error| Invalid::value("regex", error))
}

/// The hosts of a route.
pub(crate) fn hosts(hosts: Vec<http_route::HostMatch>) -> Result<Vec<HostMatch>, Invalid> {
    use http_route::host_match::Match;
    hosts
        .into_iter()
        .map(
            |host| match host.r#match.ok_or(Invalid::missing("host match"))? {
                Match::Exact(name) => Ok(HostMatch::Exact(name)),
                Match::Suffix(suffix) => {
                    let labels: Vec<String> = suffix.reverse_labels.into_iter().rev().collect();
                    Ok(HostMatch::Suffix(format!(".{}", labels.join("."))))
                }
            },
        )
        .collect()
}

/// The matches of a gRPC rule.
pub(crate) fn grpc(matches: Vec<grpc_route::GrpcRouteMatch>) -> Result<Vec<RequestMatch>, Invalid> {
    matches
        .into_iter()
        .map(|one| {
            let rpc = one.rpc.ok_or(Invalid::missing("RPC match"))?;
            Ok(RequestMatch {
                path: PathMatch::Rpc {
                    service: rpc.service,
                    method: rpc.method,
                },
                headers: headers(one.headers)?,
                query: Vec::new(),
                method: None,
            })
        })
        .collect()
}

/// The matches of an HTTP rule.
pub(crate) fn http(matches: Vec<http_route::HttpRouteMatch>) -> Result<Vec<RequestMatch>, Invalid> {
    use http_route::path_match::Kind;
    matches
        .into_iter()
        .map(|one| {
            let path = match one.path {
                None => PathMatch::Prefix("/".to_owned()),
                Some(path) => match path.kind.ok_or(Invalid::missing("path match"))? {
                    Kind::Exact(path) => PathMatch::Exact(path),
                    Kind::Prefix(path) => PathMatch::Prefix(path),
                    Kind::Regex(text) => PathMatch::Regex(regex(&text)?),
                },
            };
            Ok(RequestMatch {
                path,
                headers: headers(one.headers)?,
                query: one
                    .query_params
                    .into_iter()
                    .map(query)
                    .collect::<Result<_, _>>()?,
                method: one
                    .method
                    .map(Method::try_from)
                    .transpose()
                    .map_err(|error| Invalid::value("method", error))?,
            })
        })
        .collect()
}

fn headers(matches: Vec<http_route::HeaderMatch>) -> Result<Vec<HeaderMatch>, Invalid> {
    use http_route::header_match::Value;
    matches
        .into_iter()
        .map(|one| {
            let name: HeaderName = one
                .name
                .parse()
                .map_err(|error| Invalid::value("header name", error))?;
            match one.value.ok_or(Invalid::missing("header value"))? {
                Value::Exact(value) => HeaderValue::from_bytes(&value)
                    .map(|value| HeaderMatch::Exact(name, value))
                    .map_err(|error| Invalid::value("header value", error)),
                Value::Regex(text) => Ok(HeaderMatch::Regex(name, regex(&text)?)),
            }
        })
        .collect()
}

fn query(one: http_route::QueryParamMatch) -> Result<QueryMatch, Invalid> {
    use http_route::query_param_match::Value;
    match one.value.ok_or(Invalid::missing("query parameter value"))? {
        Value::Exact(value) => Ok(QueryMatch::Exact(one.name, value)),
        Value::Regex(text) => Ok(QueryMatch::Regex(one.name, regex(&text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Route(Vec<HostMatch>, Vec<Vec<RequestMatch>>);

    impl Matchable for Route {
        fn hosts(&self) -> &[HostMatch] {
            &self.0
        }

        fn rules(&self) -> impl Iterator<Item = &[RequestMatch]> {
            self.1.iter().map(Vec::as_slice)
        }
    }

    fn rpc(service: &str, method: &str) -> Vec<RequestMatch> {
        grpc(vec![grpc_route::GrpcRouteMatch {
            rpc: Some(grpc_route::GrpcRpcMatch {
                service: service.into(),
                method: method.into(),
            }),
            headers: Vec::new(),
        }])
        .unwrap()
    }

    fn path(kind: http_route::path_match::Kind) -> Vec<RequestMatch> {
        http(vec![http_route::HttpRouteMatch {
            path: Some(http_route::PathMatch { kind: Some(kind) }),
            ..Default::default()
        }])
        .unwrap()
    }

    fn request(path: &str) -> http::request::Builder {
        http::Request::builder().uri(format!(
            "http://orders.sagamesh.svc.cluster.local:50051{path}"
        ))
    }

    fn found(routes: &[Route], path: &str) -> Option<(usize, usize)> {
        find(routes, &request(path).body(()).unwrap())
    }

    #[test]
    fn the_most_specific_rpc_wins_wherever_it_stands() {
        let routes = [
            Route(vec![], vec![rpc("", "")]),
            Route(
                vec![],
                vec![rpc("shop.Orders", ""), rpc("shop.Orders", "Get")],
            ),
        ];
        assert_eq!(found(&routes, "/shop.Orders/Get"), Some((1, 1)));
        assert_eq!(found(&routes, "/shop.Orders/Place"), Some((1, 0)));
        assert_eq!(found(&routes, "/other.Service/Get"), Some((0, 0)));
        assert_eq!(found(&routes[1..], "/other.Service/Get"), None);
    }

    #[test]
    fn paths() {
        use http_route::path_match::Kind;
        let routes = [
            Route(vec![], vec![path(Kind::Prefix("/".into()))]),
            Route(vec![], vec![path(Kind::Prefix("/a".into()))]),
            Route(vec![], vec![path(Kind::Exact("/a/b".into()))]),
            Route(vec![], vec![path(Kind::Regex("/x[0-9]+".into()))]),
        ];
        assert_eq!(found(&routes, "/a/b"), Some((2, 0)));
        assert_eq!(found(&routes, "/a/c"), Some((1, 0)));
        assert_eq!(found(&routes, "/ab"), Some((0, 0)));
        assert_eq!(found(&routes[3..], "/x12"), Some((0, 0)));
        assert_eq!(found(&routes[3..], "/x12/y"), None);
    }

    #[test]
    fn hosts_and_headers() {
        let exact = HostMatch::Exact("orders.sagamesh.svc.cluster.local".into());
        let suffix = HostMatch::Suffix(".sagamesh.svc.cluster.local".into());
        let other = HostMatch::Exact("payments".into());
        let routes = [
            Route(vec![suffix], vec![vec![]]),
            Route(vec![exact, other.clone()], vec![vec![]]),
        ];
        assert_eq!(found(&routes, "/"), Some((1, 0)));
        assert_eq!(found(&routes[..1], "/"), Some((0, 0)));
        assert_eq!(found(&[Route(vec![other], vec![vec![]])], "/"), None);

        let header = http_route::HeaderMatch {
            name: "x-test".into(),
            value: Some(http_route::header_match::Value::Exact(b"1".to_vec())),
        };
        let matches = http(vec![http_route::HttpRouteMatch {
            headers: vec![header],
            ..Default::default()
        }])
        .unwrap();
        let routes = [Route(vec![], vec![matches])];
        assert_eq!(found(&routes, "/"), None);
        assert_eq!(
            find(
                &routes,
                &request("/").header("x-test", "1").body(()).unwrap()
            ),
            Some((0, 0))
        );
    }
}
