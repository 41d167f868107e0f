//! A server's local rate limit: in all, for each identity, and for identities named apart.
//!
//! Each limit is a GCRA in one atomic word (the time at which the next request would be on schedule), shared by all
//! threads. A limit allows a burst of one second's requests, as Linkerd's does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use linkerd2_proxy_api::inbound as proto;
use tokio::time::Instant;

use super::convert::Invalid;
use super::meta::Meta;

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The limit of all requests.
    Total,
    /// The limit of each identity.
    Identity,
    /// The limit of an identity named apart.
    Override,
}

impl Scope {
    /// The `ratelimit_scope` label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Identity => "identity",
            Self::Override => "override",
        }
    }
}

/// A server's local rate limit.
#[derive(Debug)]
pub(crate) struct RateLimit {
    start: Instant,
    total: Option<Gcra>,
    identity: Option<(Duration, RwLock<Clients>)>,
    overrides: HashMap<String, Arc<Gcra>>,
    /// The resource that says so, where it is named.
    pub(crate) meta: Option<Meta>,
}

/// The limit of each identity that has called; `None` is a client without one.
type Clients = HashMap<Option<String>, Arc<Gcra>>;

/// So many identities are counted apart; the rest share one limit. Identities come from certificates of the mesh, so
/// this is far above what there can be.
const MAX_IDENTITIES: usize = 4096;

impl RateLimit {
    /// What the control plane says. `None` if it limits nothing.
    pub(crate) fn from_proto(
        limit: Option<proto::HttpLocalRateLimit>,
    ) -> Result<Option<Self>, Invalid> {
        let Some(limit) = limit else { return Ok(None) };
        let interval =
            |limit: proto::http_local_rate_limit::Limit| interval(limit.requests_per_second);
        let meta = limit
            .metadata
            .map(|meta| Meta::from_proto(Some(meta)))
            .transpose()?;
        let mut overrides = HashMap::new();
        for each in limit.overrides {
            let gcra = Arc::new(Gcra::new(interval(
                each.limit.ok_or(Invalid::missing("limit of an override"))?,
            )?));
            for identity in each.clients.unwrap_or_default().identities {
                overrides.insert(identity.name, Arc::clone(&gcra));
            }
        }
        let total = limit.total.map(interval).transpose()?.map(Gcra::new);
        let identity = limit
            .identity
            .map(interval)
            .transpose()?
            .map(|interval| (interval, RwLock::default()));
        if total.is_none() && identity.is_none() && overrides.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            start: Instant::now(),
            total,
            identity,
            overrides,
            meta,
        }))
    }

    /// Counts a request of `client`.
    ///
    /// # Errors
    /// The scope of the limit that is exceeded.
    pub(crate) fn check(&self, client: Option<&str>, now: Instant) -> Result<(), Scope> {
        let now = now.saturating_duration_since(self.start);
        if let Some(gcra) = client.and_then(|client| self.overrides.get(client)) {
            gcra.check(now).then_some(()).ok_or(Scope::Override)?;
        } else if let Some((interval, clients)) = &self.identity {
            let gcra = of_client(clients, client, *interval);
            gcra.check(now).then_some(()).ok_or(Scope::Identity)?;
        }
        match &self.total {
            Some(gcra) if !gcra.check(now) => Err(Scope::Total),
            _ => Ok(()),
        }
    }
}

fn of_client(clients: &RwLock<Clients>, client: Option<&str>, interval: Duration) -> Arc<Gcra> {
    let key = client.map(str::to_owned);
    if let Some(gcra) = clients
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get(&key)
    {
        return Arc::clone(gcra);
    }
    let mut clients = clients
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let key = if clients.len() < MAX_IDENTITIES {
        key
    } else {
        None
    };
    Arc::clone(
        clients
            .entry(key)
            .or_insert_with(|| Arc::new(Gcra::new(interval))),
    )
}

fn interval(requests_per_second: u32) -> Result<Duration, Invalid> {
    if requests_per_second == 0 {
        return Err(Invalid::value("requests per second", "must be more than 0"));
    }
    Ok(Duration::from_secs(1) / requests_per_second)
}

#[derive(Debug)]
struct Gcra {
    interval_nanos: u64,
    /// Nanoseconds since the start at which the next request would be on schedule.
    next: AtomicU64,
}

const BURST_NANOS: u64 = 1_000_000_000;

impl Gcra {
    fn new(interval: Duration) -> Self {
        Self {
            interval_nanos: interval.as_nanos() as u64,
            next: AtomicU64::new(0),
        }
    }

    fn check(&self, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        let counted = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                let next = next.max(now) + self.interval_nanos;
                (next <= now + BURST_NANOS).then_some(next)
            });
        counted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(total: u32, identity: u32, of_orders: u32) -> RateLimit {
        use proto::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
        let limit = |requests_per_second| {
            Some(Limit {
                requests_per_second,
            })
        };
        RateLimit::from_proto(Some(proto::HttpLocalRateLimit {
            metadata: None,
            total: limit(total),
            identity: limit(identity),
            overrides: vec![Override {
                limit: limit(of_orders),
                clients: Some(ClientIdentities {
                    identities: vec![proto::Identity {
                        name: "orders".into(),
                    }],
                }),
            }],
        }))
        .unwrap()
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_scope_refuses_at_its_own_limit() {
        let limit = limit(10, 2, 3);
        let check = |client| limit.check(client, Instant::now());
        assert_eq!(
            [check(Some("a")), check(Some("a")), check(Some("a"))],
            [Ok(()), Ok(()), Err(Scope::Identity)]
        );
        let orders: Vec<_> = (0..4).map(|_| check(Some("orders"))).collect();
        assert_eq!(orders, [Ok(()), Ok(()), Ok(()), Err(Scope::Override)]);
        for client in ["b", "b", "c", "c", "d"] {
            assert_eq!(check(Some(client)), Ok(()));
        }
        assert_eq!(check(Some("e")), Err(Scope::Total));

        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(check(Some("a")), Ok(()));
        assert_eq!(check(Some("a")), Err(Scope::Identity));
    }
}
