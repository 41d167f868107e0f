//! Places for whoever shows no valid token: few, fewer still for one address, and never for long. So strangers cannot
//! take what callers need.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::ERRORS;
use crate::config::LimitConfig;

/// The places of requests without a caller.
#[derive(Debug)]
pub(crate) struct Anonymous {
    total: usize,
    per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    by_id: BTreeMap<u64, (IpAddr, Instant)>,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A place; given back when this is dropped, or when its time is over: a peer that does not read its answer keeps the
/// answer's body alive, but not the place.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    of: Arc<Anonymous>,
}

impl Anonymous {
    pub(crate) fn new(config: &LimitConfig) -> Self {
        Self {
            total: config.max_anonymous,
            per_address: config.max_anonymous_per_address,
            taken: Mutex::default(),
        }
    }

    /// A place for at most so long.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is none left, or none for this address.
    pub(crate) fn begin(
        self: &Arc<Self>,
        address: IpAddr,
        longest: Duration,
    ) -> Result<Place, chassis::Problem> {
        let now = Instant::now();
        let mut taken = self.lock();
        if taken.by_id.len() >= self.total || taken.count(address) >= self.per_address {
            taken.forget_until(now);
        }
        let text = if taken.count(address) >= self.per_address {
            "this address has as many requests without a token under way as it may: end one first"
        } else if taken.by_id.len() >= self.total {
            "the gateway handles as many requests without a token as it may: try again later"
        } else {
            let id = taken.next;
            taken.next += 1;
            taken.by_id.insert(id, (address, now + longest));
            *taken.by_address.entry(address).or_insert(0) += 1;
            return Ok(Place {
                id,
                of: Arc::clone(self),
            });
        };
        Err(ERRORS
            .problem(Code::ResourceExhausted, "OVERLOADED", text)
            .retry_after(Duration::from_secs(1)))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn count(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    /// Takes back the places whose time is over; there are few enough to look at each.
    fn forget_until(&mut self, now: Instant) {
        let over = |(id, (_, until)): (&u64, &(IpAddr, Instant))| (*until <= now).then_some(*id);
        let over: Vec<u64> = self.by_id.iter().filter_map(over).collect();
        for id in over {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some((address, _)) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_few_for_one_address_and_not_kept_for_ever() {
        let places = Arc::new(Anonymous {
            total: 3,
            per_address: 2,
            taken: Mutex::default(),
        });
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let longest = Duration::from_secs(30);
        let begin = |address| places.begin(address, longest);
        let first = begin(one).expect("a place");
        let _second = begin(one).expect("a place");
        let refused = begin(one).expect_err("one too many of this address");
        assert_eq!(refused.reason(), "OVERLOADED");
        let _third = begin(other).expect("another address has its own");
        begin(other).expect_err("none left for anybody");
        drop(first);
        let _fourth = begin(other).expect("one was given back");
        tokio::time::advance(longest).await;
        let late = begin(one).expect("those whose time is over are taken back");
        drop((_second, _third, _fourth));
        assert_eq!(places.lock().by_id.len(), 1, "nothing is given back twice");
        drop(late);
        assert!(places.lock().by_address.is_empty());
    }
}
