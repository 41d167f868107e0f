//! Channels to the services of a running system.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use chassis::Env;
pub(crate) use chassis::PeerChannel as Channel;

use crate::system::System;

/// The longest that an ordinary call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A channel to an address, connected when it is first used.
pub(crate) fn channel(url: &str) -> Channel {
    chassis::channel(&Env::system(), url)
}

/// A channel to a service of a system: through the mesh, as the operator, where there is one.
pub(crate) fn service(system: &System, name: &str) -> anyhow::Result<Channel> {
    match &system.mesh {
        Some(mesh) => through(system, mesh.outbound, name),
        None => Ok(channel(&system.url(name)?)),
    }
}

/// A channel to a service through this sidecar, and so with its workload's identity.
pub(crate) fn through(
    system: &System,
    outbound: SocketAddr,
    name: &str,
) -> anyhow::Result<Channel> {
    let env = Env::system().through(Some(outbound));
    Ok(chassis::channel(&env, &system.url(name)?))
}

/// A request with the deadline of an ordinary call.
pub(crate) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// A request in the name of the holder of a token; without a deadline, for streams.
pub(crate) fn stream<T>(message: T, token: &str) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {token}")
        .parse()
        .context("the token has characters that no token has")?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

/// A request in the name of the holder of a token.
pub(crate) fn authorized<T>(message: T, token: &str) -> anyhow::Result<tonic::Request<T>> {
    let mut request = stream(message, token)?;
    request.set_timeout(CALL_TIMEOUT);
    Ok(request)
}
