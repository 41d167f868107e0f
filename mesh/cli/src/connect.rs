//! Channels to the services of a running system.

use std::time::Duration;

use anyhow::Context as _;
pub(crate) use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// The longest that an ordinary call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A channel to a service, connected when it is first used.
pub(crate) fn channel(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url} is no address of a service"))?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .connect_lazy())
}

/// A request with the deadline of an ordinary call.
pub(crate) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The same in the name of the holder of a token.
pub(crate) fn authorized<T>(message: T, token: &str) -> anyhow::Result<tonic::Request<T>> {
    let mut request = request(message);
    let value = format!("Bearer {token}")
        .parse()
        .context("the token has characters that no token has")?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}
