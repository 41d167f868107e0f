//! New ids: UUIDv7 from the environment's clock and randomness, so that simulations repeat them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chassis::Env;
use uuid::Builder;

/// Bits of an id that count within a millisecond (RFC 9562, 6.2, method 1).
const COUNTER_BITS: u32 = 12;

/// Makes ids that are ordered by time, and by when they were made within a millisecond. Clones share the order.
#[derive(Clone)]
pub(crate) struct Ids {
    env: Env,
    /// The milliseconds and the counter of the last id.
    last: Arc<AtomicU64>,
}

impl Ids {
    pub(crate) fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            last: Arc::default(),
        }
    }

    /// A new id. A clock that goes back, or more ids than a millisecond can count, borrow from the next one.
    pub(crate) fn next(&self) -> String {
        let now = u64::try_from(self.env.clock.now_millis()).unwrap_or(0) << COUNTER_BITS;
        let next = |last: u64| (last + 1).max(now);
        let (Ok(last) | Err(last)) =
            self.last
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                    Some(next(last))
                });
        let (millis, counter) = (
            next(last) >> COUNTER_BITS,
            next(last) & ((1 << COUNTER_BITS) - 1),
        );
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&u16::try_from(counter).unwrap_or(0).to_be_bytes());
        bytes[2..].copy_from_slice(&self.env.entropy.next_u64().to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &bytes)
            .into_uuid()
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_and_say_when() {
        let ids = Ids::new(&Env::system());
        let made: Vec<_> = (0..20_000).map(|_| ids.next()).collect();
        assert!(made.is_sorted_by(|one, other| one < other));
        let id = uuid::Uuid::parse_str(&made[0]).expect("a UUID");
        assert_eq!(
            (id.get_version_num(), id.get_variant()),
            (7, uuid::Variant::RFC4122)
        );
        let (seconds, _) = id.get_timestamp().expect("a time").to_unix();
        let now = u64::try_from(Env::system().clock.now_millis()).expect("after 1970") / 1_000;
        assert!(now.abs_diff(seconds) < 60);
    }
}
