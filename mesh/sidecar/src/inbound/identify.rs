//! The layer that tells the app who is calling: from the certificate, whatever the request says.

use http::header::{HeaderName, HeaderValue};
use tower::Layer;

use super::accept::Peer;
use crate::error::ProxyError;
use crate::http::{Request, Response, Serve};

const CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");

/// Makes [`Identify`].
#[derive(Clone, Debug)]
pub(crate) struct IdentifyLayer(Option<HeaderValue>);

/// Sets `l5d-client-id`.
#[derive(Debug)]
pub(crate) struct Identify<S> {
    inner: S,
    client: Option<HeaderValue>,
}

impl IdentifyLayer {
    /// For one connection.
    pub(super) fn new(peer: &Peer) -> Self {
        Self(HeaderValue::from_str(&peer.identity).ok())
    }
}

impl<S> Layer<S> for IdentifyLayer {
    type Service = Identify<S>;

    fn layer(&self, inner: S) -> Identify<S> {
        Identify {
            inner,
            client: self.0.clone(),
        }
    }
}

impl<S: Serve> Serve for Identify<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        match &self.client {
            // `insert` replaces all values that a client put there.
            Some(client) => drop(request.headers_mut().insert(CLIENT_ID, client.clone())),
            None => drop(request.headers_mut().remove(CLIENT_ID)),
        }
        self.inner.call(request).await
    }
}
