//! HTTP/1.1 between sidecars travels in HTTP/2: `l5d-orig-proto` says what it was, so that the other side can undo it.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{Uri, Version};

use super::{Request, Response};

const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Makes an HTTP/1 request fit for HTTP/2.
pub(crate) fn upgrade(request: &mut Request) {
    if request.version() > Version::HTTP_11 {
        return;
    }
    let absolute = request.uri().authority().is_some();
    let mut value = if request.version() == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    }
    .to_owned();
    if absolute {
        value.push_str("; absolute-form");
        // The form says which host is meant, whatever the header says.
        if let Some(host) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(host.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
    } else if let Some(authority) = host(request.headers()) {
        *request.uri_mut() = with_authority(request.uri(), Some(authority));
    }
    strip_connection_headers(request.headers_mut());
    // `Host` stays beside the authority: Linkerd's proxy does not make one on the other side.
    if let Ok(value) = HeaderValue::from_str(&value) {
        request.headers_mut().insert(ORIG_PROTO, value);
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Undoes [`upgrade`] on the other side. Whether there was something to undo.
pub(crate) fn downgrade(request: &mut Request) -> bool {
    let Some(value) = request.headers_mut().remove(ORIG_PROTO) else {
        return false;
    };
    *request.version_mut() = if value.as_bytes().starts_with(b"HTTP/1.0") {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let absolute = value.as_bytes().ends_with(b"absolute-form");
    to_http1(request, absolute);
    true
}

/// Makes a request fit for an HTTP/1 connection: `Host`, and a URI of the given form.
pub(crate) fn to_http1(request: &mut Request, absolute: bool) {
    if request.version() > Version::HTTP_11 {
        *request.version_mut() = Version::HTTP_11;
    }
    strip_connection_headers(request.headers_mut());
    if let Some(authority) = request.uri().authority().cloned() {
        if !request.headers().contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
        if !absolute {
            *request.uri_mut() = with_authority(request.uri(), None);
        }
    }
}

/// Marks the response to a request that was upgraded, with its own version.
pub(crate) fn mark(response: &mut Response) {
    let value = if response.version() == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    strip_connection_headers(response.headers_mut());
    response
        .headers_mut()
        .insert(ORIG_PROTO, HeaderValue::from_static(value));
    *response.version_mut() = Version::HTTP_2;
}

/// Gives a response the version that the request's client speaks.
pub(crate) fn restore(response: &mut Response, version: Version) {
    response.headers_mut().remove(ORIG_PROTO);
    if version <= Version::HTTP_11 {
        *response.version_mut() = version;
    }
}

/// What concerns one connection alone goes no further.
pub(crate) fn strip_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
}

/// The `Host` header as an authority.
pub(crate) fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

/// The same URI with another authority, or none.
pub(crate) fn with_authority(uri: &Uri, authority: Option<Authority>) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.scheme = authority.is_some().then_some(Scheme::HTTP);
    if authority.is_some() && parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    parts.authority = authority;
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}
