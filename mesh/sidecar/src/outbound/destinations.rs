//! The destinations that one thread knows: found by the name that a request gives, built when first asked for,
//! forgotten when nobody asks any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use http::header::HeaderName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::profile::Profile;
use crate::control::Known;
use crate::error::ProxyError;
use crate::http::{Request, Response, Serve, orig_proto};

const DST_OVERRIDE: HeaderName = HeaderName::from_static("l5d-dst-override");

/// How long a request waits for the control plane to say something of its destination.
const DISCOVERY: Duration = Duration::from_secs(3);

/// The destinations that one thread knows.
#[derive(Debug)]
pub(crate) struct Destinations {
    shared: Arc<Shared>,
    known: Mutex<HashMap<Arc<str>, Destination>>,
}

#[derive(Debug)]
struct Destination {
    updates: watch::Receiver<Known>,
    profile: Option<Arc<Profile>>,
    last_used: Instant,
}

impl Destinations {
    /// None yet.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            known: Mutex::default(),
        }
    }

    async fn find(&self, authority: &str) -> Result<Arc<Profile>, ProxyError> {
        match self.look(authority)? {
            Ok(profile) => Ok(profile),
            // Boxed, so that requests for known destinations do not carry this future's size.
            Err(updates) => Box::pin(self.wait(authority, updates)).await,
        }
    }

    async fn wait(
        &self,
        authority: &str,
        mut updates: watch::Receiver<Known>,
    ) -> Result<Arc<Profile>, ProxyError> {
        let limit = Instant::now() + DISCOVERY;
        loop {
            if !matches!(
                tokio::time::timeout_at(limit, updates.changed()).await,
                Ok(Ok(()))
            ) {
                return Err(ProxyError::FailFast(authority.into()));
            }
            updates = match self.look(authority)? {
                Ok(profile) => return Ok(profile),
                Err(updates) => updates,
            };
        }
    }

    /// The profile, or what to wait for.
    fn look(
        &self,
        authority: &str,
    ) -> Result<Result<Arc<Profile>, watch::Receiver<Known>>, ProxyError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !known.contains_key(authority) {
            let updates = self
                .shared
                .control
                .watch_policy(authority)
                .ok_or(ProxyError::LoadShed("too many destinations"))?;
            known.insert(
                authority.into(),
                Destination {
                    updates,
                    profile: None,
                    last_used: now,
                },
            );
        }
        let name: Arc<str> = match known.get_key_value(authority) {
            Some((
                _,
                Destination {
                    updates,
                    profile: Some(profile),
                    ..
                },
            )) if !updates.has_changed().unwrap_or(false) => {
                let profile = Arc::clone(profile);
                if let Some(destination) = known.get_mut(authority) {
                    destination.last_used = now;
                }
                return Ok(Ok(profile));
            }
            Some((name, _)) => Arc::clone(name),
            None => authority.into(),
        };
        let Some(destination) = known.get_mut(authority) else {
            return Err(ProxyError::NoDestination);
        };
        destination.last_used = now;
        let said = destination.updates.borrow_and_update().clone();
        match said {
            Known::NotYet => Ok(Err(destination.updates.clone())),
            Known::Unknown => Err(ProxyError::UnknownDestination(name)),
            Known::Invalid(why) => Err(ProxyError::InvalidPolicy(why)),
            Known::Policy(policy) => {
                let profile =
                    Profile::new(&self.shared, &name, &policy, destination.profile.as_deref());
                let profile = Arc::new(profile);
                destination.profile = Some(Arc::clone(&profile));
                Ok(Ok(profile))
            }
        }
    }

    /// Forgets destinations without requests. Not while the control plane is away: they could not be learned again.
    pub(crate) fn forget_idle(&self, now: Instant) {
        if self.shared.control.is_healthy() {
            let idle = self.shared.discovery_idle;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, destination| {
                let used = now.saturating_duration_since(destination.last_used) < idle;
                used || destination
                    .profile
                    .as_ref()
                    .is_some_and(|profile| Arc::strong_count(profile) > 1)
            });
        }
    }
}

impl Serve for Destinations {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        // The override says where a request goes and is not for the peer; the authority stays as the app wrote it.
        let named = request.headers_mut().remove(DST_OVERRIDE);
        let named = named.as_ref().and_then(|value| value.to_str().ok());
        let profile = match named {
            Some(name) => self.find(name.trim()).await?,
            None => {
                let authority = match request.uri().authority() {
                    Some(authority) => authority.clone(),
                    None => orig_proto::host(request.headers()).ok_or(ProxyError::NoDestination)?,
                };
                if authority.port().is_some() {
                    self.find(authority.as_str()).await?
                } else {
                    self.find(&format!("{authority}:{}", default_port(request.uri())))
                        .await?
                }
            }
        };
        profile.call(request).await
    }
}

fn default_port(uri: &Uri) -> u16 {
    if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
        443
    } else {
        80
    }
}
